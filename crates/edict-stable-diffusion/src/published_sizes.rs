//! The networks of the real models have as many parameters as their authors say.
//!
//! Weights of gigabytes are not needed for that: a back end that keeps nothing counts what a config makes a network ask for.

use std::cell::Cell;
use std::convert::Infallible;
use std::path::Path;

use ndarray::{ArrayD, ArrayView2, ArrayViewD};
use serde_json::{Value, json};

use crate::backend::{AttentionOptions, Backend, Conv2dGeometry, DType, RawTensor};
use crate::config::{TextEncoderConfig, UNetConfig, VaeConfig};
use crate::text_encoder::TextEncoder;
use crate::unet::UNet;
use crate::vae::Vae;
use crate::weights::WeightFile;

thread_local! {
    static PARAMETERS: Cell<usize> = const { Cell::new(0) };
}

/// Counts the elements of parameters; never run.
#[derive(Clone)]
struct Counter;

fn count(tensor: &RawTensor<'_>) {
    PARAMETERS.with(|n| n.set(n.get() + tensor.shape.iter().product::<usize>()));
}

type Done = Result<(), Infallible>;

impl Backend for Counter {
    type Tensor = ();
    type Conv2d = ();
    type Linear = ();
    type Norm = ();
    type Error = Infallible;

    fn dtype(&self) -> DType {
        DType::F32
    }
    fn with_dtype(&self, _: DType) -> Self {
        Self
    }
    fn load_conv2d(&self, weight: RawTensor<'_>, bias: Option<RawTensor<'_>>, _: Conv2dGeometry) -> Done {
        self.load_linear(weight, bias)
    }
    fn load_linear(&self, weight: RawTensor<'_>, bias: Option<RawTensor<'_>>) -> Done {
        count(&weight);
        bias.iter().for_each(count);
        Ok(())
    }
    fn load_norm(&self, weight: RawTensor<'_>, bias: RawTensor<'_>) -> Done {
        self.load_linear(weight, Some(bias))
    }
    fn load_table(&self, table: RawTensor<'_>) -> Done {
        self.load_linear(table, None)
    }
    fn upload(&self, _: ArrayViewD<'_, f64>) -> Done {
        Ok(())
    }
    fn download(&self, (): &()) -> Result<ArrayD<f64>, Infallible> {
        Ok(ArrayD::default(vec![0]))
    }
    fn conv2d(&self, (): &(), (): &()) -> Done {
        Ok(())
    }
    fn linear(&self, (): &(), (): &()) -> Done {
        Ok(())
    }
    fn group_norm(&self, (): &(), (): &(), _: usize, _: f64) -> Done {
        Ok(())
    }
    fn layer_norm(&self, (): &(), (): &(), _: f64) -> Done {
        Ok(())
    }
    fn attention(&self, (): &(), (): &(), (): &(), _: usize, _: AttentionOptions) -> Done {
        Ok(())
    }
    fn geglu(&self, (): &()) -> Done {
        Ok(())
    }
    fn gelu(&self, (): &()) -> Done {
        Ok(())
    }
    fn quick_gelu(&self, (): &()) -> Done {
        Ok(())
    }
    fn silu(&self, (): &()) -> Done {
        Ok(())
    }
    fn upsample_to(&self, (): &(), _: usize, _: usize) -> Done {
        Ok(())
    }
    fn concat_channels(&self, (): &(), (): &()) -> Done {
        Ok(())
    }
    fn add(&self, (): &(), (): &()) -> Done {
        Ok(())
    }
    fn add_channel_bias(&self, (): &(), (): &()) -> Done {
        Ok(())
    }
    fn scale(&self, (): &(), _: f64) -> Done {
        Ok(())
    }
    fn image_to_tokens(&self, (): &()) -> Done {
        Ok(())
    }
    fn tokens_to_image(&self, (): &(), _: usize, _: usize) -> Done {
        Ok(())
    }
    fn embed(&self, (): &(), _: ArrayView2<'_, u32>) -> Done {
        Ok(())
    }
    fn image_size(&self, (): &()) -> [usize; 2] {
        [1, 1]
    }
}

/// Counts what `load` asks of a file that has every tensor in every shape.
fn parameters<T>(load: impl FnOnce(&WeightFile) -> T) -> usize {
    PARAMETERS.with(|n| n.set(0));
    load(&WeightFile::boundless());
    PARAMETERS.with(Cell::get)
}

fn unet(config: &Value) -> usize {
    let config = UNetConfig::from_json(Path::new("unet/config.json"), config).unwrap();
    parameters(|file| UNet::load(&Counter, file, &config).unwrap())
}

fn text_encoder(config: &Value) -> usize {
    let config = TextEncoderConfig::from_json(Path::new("text_encoder/config.json"), config).unwrap();
    parameters(|file| TextEncoder::load(&Counter, file, &config).unwrap())
}

/// `unet/config.json` of Stable Diffusion 1.4 as published.
fn sd1_unet() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.2.2",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": false,
        "cross_attention_dim": 768,
        "down_block_types":
            ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
    })
}

/// `unet/config.json` of Stable Diffusion 2.1 as published.
fn sd2_unet() -> Value {
    let mut config = sd1_unet();
    for (key, value) in [
        ("_diffusers_version", json!("0.10.0.dev0")),
        ("attention_head_dim", json!([5, 10, 20, 20])),
        ("cross_attention_dim", json!(1024)),
        ("dual_cross_attention", json!(false)),
        ("num_class_embeds", Value::Null),
        ("only_cross_attention", json!(false)),
        ("sample_size", json!(96)),
        ("upcast_attention", json!(true)),
        ("use_linear_projection", json!(true)),
    ] {
        config[key] = value;
    }
    config
}

#[test]
fn unets_have_the_published_sizes() {
    // The training logs of CompVis and Stability say 859.52 M and 865.91 M.
    assert_eq!(unet(&sd1_unet()), 859_520_964);
    assert_eq!(unet(&sd2_unet()), 865_910_724);
    // diffusers' defaults are Stable Diffusion 1's but for the width of the text.
    let of_defaults = UNetConfig::from_json(Path::new("unet/config.json"), &json!({})).unwrap();
    let mut written = sd1_unet();
    written["cross_attention_dim"] = json!(1280);
    written["sample_size"] = Value::Null;
    assert_eq!(of_defaults, UNetConfig::from_json(Path::new("unet/config.json"), &written).unwrap());
}

#[test]
fn the_autoencoder_has_the_published_size() {
    let config = json!({
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.2.2",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types":
            ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "out_channels": 3,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]
    });
    let config = VaeConfig::from_json(Path::new("vae/config.json"), &config).unwrap();
    assert_eq!(parameters(|file| Vae::load(&Counter, file, &config).unwrap()), 83_653_863);
    // What the file leaves out.
    assert_eq!((config.norm_num_groups, config.scaling_factor), (32, 0.18215));
    assert_eq!((config.shift_factor, config.force_upcast, config.factor()), (0.0, true, 8));
}

#[test]
fn text_encoders_have_the_published_sizes() {
    let sd1 = json!({
        "_name_or_path": "openai/clip-vit-large-patch14",
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "torch_dtype": "float32",
        "transformers_version": "4.21.0.dev0",
        "vocab_size": 49408
    });
    assert_eq!(text_encoder(&sd1), 123_060_480);
    // ViT-H/14 of OpenCLIP has 354.0 M with its projection; Stable Diffusion 2 leaves out that and the last of 24 layers.
    let mut sd2 = sd1;
    for (key, value) in [
        ("hidden_act", json!("gelu")),
        ("hidden_size", json!(1024)),
        ("intermediate_size", json!(4096)),
        ("num_attention_heads", json!(16)),
        ("num_hidden_layers", json!(23)),
        ("projection_dim", json!(512)),
    ] {
        sd2[key] = value;
    }
    assert_eq!(text_encoder(&sd2), 340_387_840);
}
