//! Every key of every config takes effect, is refused by name, or is on the list of keys without effect.

#![recursion_limit = "256"] // for the long `json!` below

mod support;

use std::collections::BTreeMap;

use edict_stable_diffusion::{
    ConfigKey, DType, KeyRole, LoadError, ModelFolder, SCHEDULER_KEYS, TEXT_ENCODER_KEYS, TextEncoder,
    UNET_KEYS, UNet, VAE_KEYS, Vae,
};
use ndarray::{Array2, ArrayD, IxDyn};
use serde_json::{Value, json};
use support::Copy;
use support::plain::Plain;

const MODELS: [&str; 3] = ["tiny-sd1", "tiny-sd2", "tiny-legacy"];

const UNET: &str = "unet/config.json";
const VAE: &str = "vae/config.json";
const TEXT: &str = "text_encoder/config.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";

const PARTS: [(&str, &[ConfigKey]); 4] =
    [(UNET, UNET_KEYS), (VAE, VAE_KEYS), (TEXT, TEXT_ENCODER_KEYS), (SCHEDULER, SCHEDULER_KEYS)];

/// What a model does, as far as one part's config can tell.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// Numbers that the part computes.
    Result(Vec<f64>),
    /// The config is refused and the message names the key.
    Refused,
    /// The config asks for weights that the file does not have.
    OtherWeights,
}

fn ramp(shape: &[usize]) -> ArrayD<f64> {
    let n = shape.iter().product::<usize>() as f64;
    let mut i = 0.0;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        i += 1.0;
        (7.3 * i / n).sin()
    })
}

/// Runs the part a config belongs to: in f64, or in f16 for the keys that only a lower precision shows.
fn run(copy: &Copy, part: &str, key: &str) -> Result<Vec<f64>, LoadError> {
    let folder = ModelFolder::open(copy.path())?;
    let mut values = Vec::new();
    if part == SCHEDULER {
        let config = folder.scheduler_config();
        let schedule = config.noise_schedule().unwrap();
        // 30 steps do not divide 1000: the spacings differ.
        for step in config.trajectory(&schedule, 30, 1.0).unwrap().steps() {
            values.extend([step.timestep().get() as f64, step.alpha_bar_from(), step.alpha_bar_to()]);
        }
        values.push(f64::from(config.prediction_type as u8));
        return Ok(values);
    }
    let backend = Plain(if key.contains("upcast") { DType::F16 } else { DType::F64 });
    match part {
        UNET => {
            let unet = UNet::load(&backend, folder.unet_weights(), folder.unet_config())?;
            let context = unet.context((ramp(&[1, 6, 32]) * 2.0).view()).unwrap();
            values.extend(unet.predict(ramp(&[1, 4, 5, 6]).view(), 501, &context).unwrap());
        }
        VAE => {
            let vae = Vae::load(&backend, folder.vae_weights(), folder.vae_config())?;
            values.extend(vae.encode(ramp(&[1, 3, 16, 8]).view()).unwrap().mode());
            values.extend(vae.decode(ramp(&[1, 4, 2, 1]).view()).unwrap());
        }
        _ => {
            let (weights, config) = (folder.text_encoder_weights(), folder.text_encoder_config());
            let ids = Array2::from_shape_fn((1, 9), |(_, i)| 70 * i as u32);
            values.extend(TextEncoder::load(&backend, weights, config)?.encode(ids.view()).unwrap());
        }
    }
    Ok(values)
}

fn outcome(copy: &Copy, part: &str, key: &str) -> Outcome {
    match run(copy, part, key) {
        Ok(values) => Outcome::Result(values),
        Err(LoadError::MissingTensor { .. } | LoadError::TensorShape { .. }) => Outcome::OtherWeights,
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains(key), "{part}: {key} is refused without being named: {message}");
            Outcome::Refused
        }
    }
}

/// Other legal values of every key, by config and key: at least one differs from what the tiny models have.
fn other_values() -> BTreeMap<(&'static str, &'static str), Vec<Value>> {
    let unet = json!({
        "_class_name": ["UNet3DConditionModel"],
        "_diffusers_version": ["0.1.0"],
        "_name_or_path": ["elsewhere"],
        "sample_size": [16, [8, 16]],
        "in_channels": [8],
        "out_channels": [8],
        "center_input_sample": [true],
        "flip_sin_to_cos": [false],
        "freq_shift": [1],
        "down_block_types": [
            ["DownBlock2D", "DownBlock2D"], ["DownBlock2D", "CrossAttnDownBlock2D"],
            ["AttnDownBlock2D", "DownBlock2D"], ["SimpleCrossAttnDownBlock2D", "DownBlock2D"],
        ],
        "mid_block_type": ["UNetMidBlock2D", "UNetMidBlock2DSimpleCrossAttn", null],
        "up_block_types": [["UpBlock2D", "UpBlock2D"], ["AttnUpBlock2D", "UpBlock2D"]],
        "only_cross_attention": [true, [true, false]],
        "block_out_channels": [[64, 64], [32, 64, 64]],
        "layers_per_block": [2, [1, 2]],
        "downsample_padding": [0],
        "mid_block_scale_factor": [1.4],
        "dropout": [0.1],
        "act_fn": ["gelu", "mish", "relu"],
        "norm_num_groups": [4, null],
        "norm_eps": [1e-3],
        "cross_attention_dim": [64, [32, 64]],
        "transformer_layers_per_block": [2, [1, 2]],
        "reverse_transformer_layers_per_block": [[[1], [1]]],
        "encoder_hid_dim": [32],
        "encoder_hid_dim_type": ["text_proj"],
        "attention_head_dim": [1, [8, 16]],
        "num_attention_heads": [8],
        "dual_cross_attention": [true],
        "use_linear_projection": [true, false],
        "class_embed_type": ["timestep"],
        "addition_embed_type": ["text", "text_time"],
        "addition_time_embed_dim": [256],
        "addition_embed_type_num_heads": [32],
        "num_class_embeds": [10],
        "upcast_attention": [true],
        "resnet_time_scale_shift": ["scale_shift"],
        "resnet_skip_time_act": [true],
        "resnet_out_scale_factor": [2.0],
        "time_embedding_type": ["fourier"],
        "time_embedding_dim": [64],
        "time_embedding_act_fn": ["silu"],
        "timestep_post_act": ["silu"],
        "time_cond_proj_dim": [16],
        "conv_in_kernel": [1, 4, 5],
        "conv_out_kernel": [1, 4, 5],
        "projection_class_embeddings_input_dim": [32],
        "attention_type": ["gated"],
        "class_embeddings_concat": [true],
        "mid_block_only_cross_attention": [true],
        "cross_attention_norm": ["layer_norm"],
        "decay": [0.9],
        "inv_gamma": [2.0],
        "min_decay": [0.5],
        "optimization_step": [1000],
        "power": [0.7],
        "update_after_step": [10],
        "use_ema_warmup": [true],
    });
    let vae = json!({
        "_class_name": ["AutoencoderTiny"],
        "_diffusers_version": ["0.1.0"],
        "_name_or_path": ["elsewhere"],
        "in_channels": [1],
        "out_channels": [4],
        "down_block_types": [["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"]],
        "up_block_types": [["AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]],
        "block_out_channels": [[16, 16, 32, 64]],
        "layers_per_block": [2],
        "act_fn": ["relu", "gelu"],
        "latent_channels": [8],
        "norm_num_groups": [4],
        "sample_size": [512],
        "scaling_factor": [0.13025],
        "shift_factor": [0.1159],
        "latents_mean": [[0.0, 0.0, 0.0, 0.1]],
        "latents_std": [[1.0, 1.0, 1.0, 2.0]],
        "force_upcast": [false],
        "use_quant_conv": [false],
        "use_post_quant_conv": [false],
        "mid_block_add_attention": [false],
    });
    let text = json!({
        "vocab_size": [49408],
        "hidden_size": [64],
        "intermediate_size": [128],
        "num_hidden_layers": [1, 3],
        "num_attention_heads": [2, 8],
        "max_position_embeddings": [64],
        "hidden_act": ["gelu", "quick_gelu", "gelu_new", "relu"],
        "layer_norm_eps": [1e-3],
        "model_type": ["clip", "bert"],
        "pruned_heads": [{"0": [1]}],
    });
    let scheduler = json!({
        "_class_name": ["EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "LCMScheduler"],
        "_diffusers_version": ["0.1.0"],
        "num_train_timesteps": [500],
        "beta_start": [0.001],
        "beta_end": [0.02],
        "beta_schedule": ["linear", "squaredcos_cap_v2", "sigmoid"],
        "trained_betas": [vec![0.01; 1000], vec![0.01; 10]],
        "prediction_type": ["epsilon", "v_prediction", "sample", "flow_prediction"],
        "timestep_spacing": ["linspace", "trailing", "karras"],
        "steps_offset": [0, 2],
        "set_alpha_to_one": [true],
        "clip_sample": [true],
        "thresholding": [true],
        "rescale_betas_zero_snr": [true],
        "use_flow_sigmas": [true],
        "use_dynamic_shifting": [true],
        "timestep_type": ["continuous"],
    });
    let mut all = BTreeMap::new();
    for ((part, table), listed) in PARTS.into_iter().zip([unet, vae, text, scheduler]) {
        for key in table {
            let values = match listed.get(key.name) {
                Some(Value::Array(values)) => values.clone(),
                // Keys without effect take any value.
                _ if matches!(key.role, KeyRole::WithoutEffect(_)) => vec![json!(3), json!("another")],
                _ => panic!("{part}: this test has no other value for {}", key.name),
            };
            all.insert((part, key.name), values);
        }
    }
    all
}

/// Sets one key at a time; all keys of the model's own files and all that the tables know.
fn every_key_of(model: &str) {
    let others = other_values();
    for (part, table) in PARTS {
        let copy = Copy::of(model);
        let original = copy.json(part);
        let [in_f64, in_f16] = ["", "upcast"].map(|key| Outcome::Result(run(&copy, part, key).unwrap()));
        for name in original.keys() {
            assert!(table.iter().any(|key| key.name == name), "{model} {part}: {name} is in no table");
        }
        for key in table {
            let before = if key.name.contains("upcast") { &in_f16 } else { &in_f64 };
            let mut changed = false;
            for value in &others[&(part, key.name)] {
                let default: Value = serde_json::from_str(key.default).unwrap();
                if original.get(key.name).unwrap_or(&default) == value {
                    continue;
                }
                copy.set(part, key.name, value.clone());
                let after = outcome(&copy, part, key.name);
                let name = format!("{model} {part}: {} = {value}", key.name);
                match key.role {
                    KeyRole::WithoutEffect(reason) => {
                        assert_eq!(&after, before, "{name} has an effect, in spite of: {reason}");
                    }
                    // Another class of scheduler may be read the same.
                    KeyRole::Only(supported) if supported.contains(&value.to_string().as_str()) => {
                        assert_ne!(after, Outcome::Refused, "{name}");
                    }
                    KeyRole::Only(_) => assert_eq!(after, Outcome::Refused, "{name}"),
                    KeyRole::Honoured => assert_ne!(&after, before, "{name} is ignored"),
                }
                changed = true;
            }
            assert!(changed, "{model} {part}: {} was never set to another value", key.name);
            match original.get(key.name) {
                Some(value) => copy.set(part, key.name, value.clone()),
                None => copy.remove(part, key.name),
            }
        }
        assert_eq!(copy.json(part), original, "the test put every key back");
    }
}

#[test]
fn every_key_of_tiny_sd1_is_honoured_refused_or_known_to_have_no_effect() {
    every_key_of(MODELS[0]);
}

#[test]
fn every_key_of_tiny_sd2_is_honoured_refused_or_known_to_have_no_effect() {
    every_key_of(MODELS[1]);
}

#[test]
fn every_key_of_tiny_legacy_is_honoured_refused_or_known_to_have_no_effect() {
    every_key_of(MODELS[2]);
}

#[test]
fn unknown_keys_are_refused_unless_they_ask_for_nothing() {
    for (part, _) in PARTS {
        let copy = Copy::of("tiny-sd1");
        for (value, refused) in [
            (json!(true), true),
            (json!(0), true),
            (json!("on"), true),
            (json!([]), true),
            (Value::Null, false),
            (json!(false), false),
        ] {
            copy.set(part, "new_feature", value.clone());
            match ModelFolder::open(copy.path()) {
                Err(error @ LoadError::UnknownKey { .. }) if refused => {
                    let message = error.to_string();
                    assert!(message.contains("new_feature") && message.contains(part), "{message}");
                }
                Ok(_) if !refused => {}
                other => panic!("{part}: new_feature = {value} gave {other:?}"),
            }
        }
        copy.remove(part, "new_feature");
        // A note, as every key with an underscore.
        copy.set(part, "_use_default_values", json!(["shift_factor"]));
        ModelFolder::open(copy.path()).unwrap();
    }
}

/// Whether one of the odd values of the test below makes sense for a key after all.
fn legal(key: &str, value: &Value) -> bool {
    let Some(number) = value.as_f64() else { return false };
    match key {
        // Any number moves latents, if not to a useful place.
        "shift_factor" => true,
        // Below half the channels of the finest level, 32.
        "freq_shift" => number < 16.0,
        "norm_eps" | "layer_norm_eps" | "scaling_factor" | "mid_block_scale_factor" => number > 0.0,
        "downsample_padding" | "steps_offset" => number == 0.0,
        _ => false,
    }
}

#[test]
fn values_of_the_wrong_type_or_size_are_refused_by_name() {
    let enormous = json!(1u64 << 60);
    for (part, table) in PARTS {
        let copy = Copy::of("tiny-sd1");
        let original = copy.json(part);
        for key in table.iter().filter(|key| matches!(key.role, KeyRole::Honoured)) {
            for value in [
                json!({}),
                json!([]),
                json!([[1]]),
                json!("?"),
                json!(-1),
                json!(0),
                enormous.clone(),
                json!(1e300),
            ] {
                copy.set(part, key.name, value.clone());
                match ModelFolder::open(copy.path()) {
                    Err(
                        error @ (LoadError::InvalidValue { .. }
                        | LoadError::Unsupported { .. }
                        | LoadError::PartsDiffer { .. }
                        | LoadError::Schedule { .. }),
                    ) => {
                        let message = error.to_string();
                        assert!(
                            message.contains(key.name) || matches!(error, LoadError::Schedule { .. }),
                            "{part}: {} = {value}: {message}",
                            key.name
                        );
                    }
                    Ok(_) => assert!(legal(key.name, &value), "{part}: {} = {value} is accepted", key.name),
                    other => panic!("{part}: {} = {value}: {other:?}", key.name),
                }
            }
            match original.get(key.name) {
                Some(value) => copy.set(part, key.name, value.clone()),
                None => copy.remove(part, key.name),
            }
        }
    }
}
