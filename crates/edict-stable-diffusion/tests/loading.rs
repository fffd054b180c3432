//! Model folders as they are found: other names, other formats, damaged files.

mod support;

use std::fs;
use std::path::Path;

use edict_stable_diffusion::{
    Backend, DType, EmbeddedFiles, ImageSize, LoadError, ModelFolder, TextEncoder, UNet, Vae, WeightFile,
};
use ndarray::{Array2, ArrayD, IxDyn};
use proptest::prelude::*;
use safetensors::tensor::Dtype;
use serde_json::json;
use support::plain::Plain;
use support::weights::{self, Tensor};
use support::{Copy, golden};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";

fn wave(shape: &[usize]) -> ArrayD<f64> {
    ArrayD::from_shape_fn(IxDyn(shape), |i| {
        (0..shape.len()).map(|k| (i[k] * (k + 2)) as f64).sum::<f64>().sin()
    })
}

/// Everything a model computes, as one list of numbers.
fn run(path: &Path, dtype: DType) -> Result<Vec<f64>, LoadError> {
    run_folder(&ModelFolder::open(path)?, dtype)
}

fn run_folder(folder: &ModelFolder, dtype: DType) -> Result<Vec<f64>, LoadError> {
    let backend = Plain(dtype);
    let unet = UNet::load(&backend, folder.unet_weights(), folder.unet_config())?;
    let vae = Vae::load(&backend, folder.vae_weights(), folder.vae_config())?;
    let text = TextEncoder::load(&backend, folder.text_encoder_weights(), folder.text_encoder_config())?;
    let states = text.encode(Array2::from_shape_fn((1, 7), |(_, i)| 90 * i as u32).view()).unwrap();
    let context = unet.context(states.view()).unwrap();
    let latents = vae.encode(wave(&[1, 3, 16, 24]).view()).unwrap().mode();
    let prediction = unet.predict(latents.view(), 301, &context).unwrap();
    let image = vae.decode(prediction.view()).unwrap();
    Ok(states.into_iter().chain(latents).chain(prediction).chain(image).collect())
}

fn message(result: Result<Vec<f64>, LoadError>) -> String {
    result.expect_err("this model should be refused").to_string()
}

#[test]
fn reads_half_and_double_precision_weights_exactly() {
    let plain = run(&golden::model("tiny-sd1"), DType::F64).unwrap();
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F64] {
        let (stored, rounded) = (Copy::of("tiny-sd1"), Copy::of("tiny-sd1"));
        for file in [UNET, VAE, TEXT] {
            weights::edit(&stored.file(file), |tensor| tensor.to(dtype));
            weights::edit(&rounded.file(file), |tensor| tensor.rounded_to(dtype));
        }
        let found = run(stored.path(), DType::F64).unwrap();
        assert_eq!(found, run(rounded.path(), DType::F64).unwrap(), "{dtype:?}");
        assert_eq!(found == plain, dtype == Dtype::F64, "{dtype:?} holds less than f32");
    }
}

#[test]
fn finds_fp16_files_where_there_are_no_others_and_prefers_the_others() {
    let copy = Copy::of("tiny-sd2");
    let expected = run(copy.path(), DType::F64).unwrap();
    for file in [UNET, VAE, TEXT] {
        let other = file.replace(".safetensors", ".fp16.safetensors");
        fs::rename(copy.file(file), copy.file(&other)).unwrap();
    }
    assert_eq!(run(copy.path(), DType::F64).unwrap(), expected);
    for file in [UNET, VAE, TEXT] {
        fs::copy(golden::model("tiny-sd2").join(file), copy.file(file)).unwrap();
        fs::write(copy.file(&file.replace(".safetensors", ".fp16.safetensors")), b"rubbish").unwrap();
    }
    assert_eq!(run(copy.path(), DType::F64).unwrap(), expected);
}

#[test]
fn takes_the_text_encoder_with_and_without_its_prefix() {
    for (model, prefixed) in [("tiny-sd1", false), ("tiny-legacy", true)] {
        let copy = Copy::of(model);
        let expected = run(copy.path(), DType::F64).unwrap();
        weights::edit(&copy.file(TEXT), |tensor| {
            let name = match tensor.name.strip_prefix("text_model.") {
                Some(name) => name.to_owned(),
                None => format!("text_model.{}", tensor.name),
            };
            assert_eq!(tensor.name.starts_with("text_model."), prefixed);
            Tensor { name, ..tensor }
        });
        assert_eq!(run(copy.path(), DType::F64).unwrap(), expected, "{model}");
    }
}

const VAE_NAMES: [(&str, &str); 4] =
    [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

#[test]
fn takes_the_autoencoders_attention_under_old_and_new_names_and_as_convolutions() {
    for (model, old) in [("tiny-sd1", false), ("tiny-legacy", true)] {
        let copy = Copy::of(model);
        let expected = run(copy.path(), DType::F64).unwrap();
        let mut renamed = 0;
        for as_convolution in [false, true] {
            fs::copy(golden::model(model).join(VAE), copy.file(VAE)).unwrap();
            let tensors: Vec<Tensor> = weights::read(&copy.file(VAE))
                .into_iter()
                .map(|mut tensor| {
                    for (a, b) in VAE_NAMES {
                        let (from, to) = if old { (a, b) } else { (b, a) };
                        let place = format!("attentions.0.{from}.");
                        if tensor.name.contains(&place) {
                            tensor.name = tensor.name.replace(&place, &format!("attentions.0.{to}."));
                            renamed += 1;
                            if as_convolution && tensor.shape.len() == 2 {
                                tensor.shape.extend([1, 1]);
                            }
                        }
                    }
                    tensor
                })
                .collect();
            weights::write(&copy.file(VAE), &tensors);
            assert_eq!(run(copy.path(), DType::F64).unwrap(), expected, "{model}");
        }
        // Four maps of weight and bias, in encoder and decoder, twice.
        assert_eq!(renamed, 32);
    }
}

#[test]
fn takes_projections_as_convolutions_or_as_linear_maps() {
    for (model, linear) in [("tiny-sd1", false), ("tiny-sd2", true)] {
        let copy = Copy::of(model);
        let expected = run(copy.path(), DType::F64).unwrap();
        copy.set("unet/config.json", "use_linear_projection", json!(!linear));
        weights::edit(&copy.file(UNET), |mut tensor| {
            if tensor.name.ends_with("proj_in.weight") || tensor.name.ends_with("proj_out.weight") {
                let n = tensor.shape[0];
                tensor.shape = if linear { vec![n, n, 1, 1] } else { vec![n, n] };
            }
            tensor
        });
        assert_eq!(run(copy.path(), DType::F64).unwrap(), expected, "{model}");
    }
}

#[test]
fn leaves_tensors_the_network_does_not_use_alone() {
    let folder = ModelFolder::open(golden::model("tiny-legacy")).unwrap();
    let before = folder.text_encoder_weights().unread().len();
    assert_eq!(before, folder.text_encoder_weights().tensors().count());
    run_folder(&folder, DType::F64).unwrap();
    assert_eq!(folder.text_encoder_weights().unread(), ["text_model.embeddings.position_ids"]);
    assert!(folder.unet_weights().unread().is_empty());
    assert!(folder.vae_weights().unread().is_empty());
}

#[test]
fn refuses_a_required_tensor_that_is_not_floating_point() {
    let copy = Copy::of("tiny-sd1");
    weights::edit(&copy.file(UNET), |tensor| match tensor.name.as_str() {
        "conv_norm_out.bias" => Tensor { dtype: Dtype::I32, ..tensor },
        _ => tensor,
    });
    let message = message(run(copy.path(), DType::F64));
    assert!(
        message.contains(UNET) && message.contains("`conv_norm_out.bias`") && message.contains("I32"),
        "{message}"
    );
}

#[test]
fn names_file_and_tensor_where_one_is_missing_or_misshapen() {
    for (file, name) in [
        (UNET, "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
        (VAE, "decoder.up_blocks.3.resnets.1.conv2.bias"),
        (TEXT, "encoder.layers.1.mlp.fc2.weight"),
        (TEXT, "embeddings.token_embedding.weight"),
    ] {
        let copy = Copy::of("tiny-sd1");
        let all = weights::read(&copy.file(file));
        let kept: Vec<Tensor> = all.iter().filter(|tensor| tensor.name != name).cloned().collect();
        assert_eq!(kept.len() + 1, all.len());
        weights::write(&copy.file(file), &kept);
        let text = message(run(copy.path(), DType::F64));
        assert!(text.contains(file) && text.contains(&format!("`{name}` is missing")), "{text}");

        weights::write(&copy.file(file), &all);
        weights::edit(&copy.file(file), |mut tensor| {
            if tensor.name == name {
                tensor.shape.insert(0, 1);
            }
            tensor
        });
        let shape = &all.iter().find(|tensor| tensor.name == name).unwrap().shape;
        let found = [&[1], shape.as_slice()].concat();
        let text = message(run(copy.path(), DType::F64));
        let expected = format!("`{name}` should have shape {shape:?}, found {found:?}");
        assert!(text.contains(file) && text.contains(&expected), "{text}");
    }
}

#[test]
fn says_what_was_looked_for_where_a_file_is_missing() {
    for file in [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        UNET,
        VAE,
        TEXT,
    ] {
        let copy = Copy::of("tiny-sd1");
        fs::remove_file(copy.file(file)).unwrap();
        let text = message(run(copy.path(), DType::F64));
        assert!(text.contains(file) && text.contains(&copy.path().display().to_string()), "{text}");
    }
    let copy = Copy::of("tiny-sd1");
    fs::rename(copy.file(UNET), copy.file("unet/diffusion_pytorch_model.bin")).unwrap();
    let text = message(run(copy.path(), DType::F64));
    assert!(text.contains("diffusion_pytorch_model.bin") && text.contains("safetensors"), "{text}");

    let text = message(run(Path::new("/no/such/folder"), DType::F64));
    assert!(text.contains("/no/such/folder"), "{text}");
    let text = message(run(&golden::model("tiny-sd1").join("model_index.json"), DType::F64));
    assert!(text.contains("model_index.json"), "{text}");
}

#[test]
fn opens_a_folder_without_a_model_index() {
    let copy = Copy::of("tiny-sd1");
    fs::remove_file(copy.file("model_index.json")).unwrap();
    assert_eq!(run(copy.path(), DType::F64).unwrap(), run(&golden::model("tiny-sd1"), DType::F64).unwrap());
}

#[test]
fn refuses_pipelines_with_other_parts() {
    for (part, value) in [
        ("unet", json!(["diffusers", "UNet2DModel"])),
        ("vae", json!(["diffusers", "AutoencoderTiny"])),
        ("text_encoder", json!(["transformers", "T5EncoderModel"])),
        ("text_encoder_2", json!(["transformers", "CLIPTextModelWithProjection"])),
        ("controlnet", json!(["diffusers", "ControlNetModel"])),
    ] {
        let copy = Copy::of("tiny-sd1");
        copy.set("model_index.json", part, value);
        let text = message(run(copy.path(), DType::F64));
        assert!(text.contains("model_index.json") && text.contains(part), "{text}");
    }
    let copy = Copy::of("tiny-sd1");
    copy.set("model_index.json", "safety_checker", json!([null, null]));
    copy.set("model_index.json", "feature_extractor", json!(["transformers", "CLIPImageProcessor"]));
    copy.set("model_index.json", "requires_safety_checker", json!(true));
    run(copy.path(), DType::F64).unwrap();
}

#[test]
fn names_the_file_of_bad_json() {
    for file in [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ] {
        for bad in [&b""[..], b"{", b"[1, 2]", b"\xff\xfe", b"{\"a\": }", b"null"] {
            let copy = Copy::of("tiny-sd1");
            fs::write(copy.file(file), bad).unwrap();
            let text = message(run(copy.path(), DType::F64));
            assert!(text.contains(file), "{text}");
        }
    }
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let copy = Copy::of("tiny-sd1");
    copy.set("unet/config.json", "cross_attention_dim", json!(768));
    let text = message(run(copy.path(), DType::F64));
    assert!(text.contains("cross_attention_dim` is 768") && text.contains("hidden_size` is 32"), "{text}");
}

#[test]
fn notices_a_truncated_or_padded_file_when_the_folder_is_opened() {
    let bytes = fs::read(golden::model("tiny-sd1").join(TEXT)).unwrap();
    let copy = Copy::of("tiny-sd1");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let lengths = (0..16).chain((16..bytes.len()).step_by(997)).chain([
        header - 1,
        header,
        header + 1,
        bytes.len() - 1,
    ]);
    for length in lengths {
        fs::write(copy.file(TEXT), &bytes[..length]).unwrap();
        let error = ModelFolder::open(copy.path()).expect_err("a truncated file was opened");
        assert!(error.to_string().contains(TEXT), "{length} bytes: {error}");
    }
    fs::write(copy.file(TEXT), [&bytes[..], &[0]].concat()).unwrap();
    let error = ModelFolder::open(copy.path()).expect_err("a file with a byte too many was opened");
    assert!(matches!(error, LoadError::WeightFileLength { .. }), "{error}");
}

#[test]
fn a_file_that_shrinks_after_it_was_opened_is_an_error() {
    let copy = Copy::of("tiny-sd1");
    let folder = ModelFolder::open(copy.path()).unwrap();
    fs::File::options().write(true).open(copy.file(UNET)).unwrap().set_len(5000).unwrap();
    let text = message(run_folder(&folder, DType::F64));
    assert!(text.contains(UNET), "{text}");
}

/// A file with the header given and `data` bytes after it.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn refuses_inconsistent_headers_by_tensor() {
    let one = |entry: &str| {
        format!(r#"{{"a": {{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "b": {entry}}}"#)
    };
    for (header, data, named) in [
        (one(r#"{"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}"#), 12, "`b`"), // overlap
        (one(r#"{"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}"#), 20, "`b`"), // gap
        (one(r#"{"dtype": "F32", "shape": [3], "data_offsets": [8, 16]}"#), 16, "`b`"), // shape
        (one(r#"{"dtype": "F32", "shape": [2], "data_offsets": [16, 8]}"#), 16, "`b`"), // backwards
        (one(r#"{"dtype": "F32", "shape": [18446744073709551615, 8], "data_offsets": [8, 16]}"#), 16, "`b`"),
        (one(r#"{"dtype": "F32", "shape": [-1], "data_offsets": [8, 16]}"#), 16, "`b`"),
        (one(r#"{"dtype": "F32", "shape": [2]}"#), 16, "`b`"),
        (one("7"), 16, "`b`"),
        (one(r#"{"dtype": "F32", "shape": [2], "data_offsets": [8, 18446744073709551615]}"#), 16, "`b`"),
        ("[]".to_owned(), 0, "header"),
        ("{".to_owned(), 0, "header"),
        (String::new(), 0, "header"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        fs::write(&path, with_header(&header, data)).unwrap();
        let error = WeightFile::open(&path).expect_err(&header);
        let text = error.to_string();
        let of_header = matches!(error, LoadError::WeightHeader { .. }) && named == "header";
        assert!(
            text.contains("weights.safetensors") && (text.contains(named) || of_header),
            "{header}: {text}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    assert!(matches!(WeightFile::open(&path), Err(LoadError::WeightHeader { .. })));
}

proptest! {
    #[test]
    fn damaged_weight_files_never_panic(
        edits in proptest::collection::vec((0.0..1.0f64, any::<u8>()), 1..6),
        in_header in any::<bool>(),
    ) {
        let mut bytes = fs::read(golden::model("tiny-sd1").join(TEXT)).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let end = if in_header { header } else { bytes.len() };
        for (place, value) in edits {
            bytes[(place * end as f64) as usize] = value;
        }
        // Dropped at the end of the test's program; an embedded file must be static.
        let bytes: &'static [u8] = Box::leak(bytes.into_boxed_slice());
        let configs = ModelFolder::open(golden::model("tiny-sd1")).unwrap();
        if let Ok(file) = WeightFile::embedded(Path::new("damaged"), bytes) {
            let _ = TextEncoder::load(&Plain(DType::F64), &file, configs.text_encoder_config());
        }
    }
}

#[test]
fn an_embedded_model_is_the_model_and_needs_no_disk() {
    let root = golden::model("tiny-sd2");
    let mut files: Vec<(&'static str, &'static [u8])> = Vec::new();
    for part in ["", "unet", "vae", "text_encoder", "scheduler", "tokenizer"] {
        for entry in fs::read_dir(root.join(part)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                let name = entry.file_name().into_string().unwrap();
                let name = if part.is_empty() { name } else { format!("{part}/{name}") };
                files.push((name.leak(), fs::read(entry.path()).unwrap().leak()));
            }
        }
    }
    let files: EmbeddedFiles = files.leak();
    let embedded = ModelFolder::embedded("the model inside", files).unwrap();
    let on_disk = ModelFolder::open(&root).unwrap();
    assert_eq!(embedded.path(), Path::new("the model inside"));
    assert_eq!(run_folder(&embedded, DType::F64).unwrap(), run_folder(&on_disk, DType::F64).unwrap());
    assert_eq!(embedded.fingerprint().unwrap(), on_disk.fingerprint().unwrap());
    let prompt = "a small red circle";
    assert_eq!(
        embedded.tokenizer().unwrap().encode(prompt).unwrap(),
        on_disk.tokenizer().unwrap().encode(prompt).unwrap()
    );
    let error = ModelFolder::embedded("the model inside", &files[..3]).unwrap_err().to_string();
    assert!(error.contains("the model inside"), "{error}");
}

#[test]
fn the_fingerprint_changes_with_weights_and_settings_and_with_nothing_else() {
    let copy = Copy::of("tiny-legacy");
    let fingerprint = || ModelFolder::open(copy.path()).unwrap().fingerprint().unwrap();
    let original = fingerprint();
    assert_eq!(original.len(), 32);
    assert_eq!(original, ModelFolder::open(golden::model("tiny-legacy")).unwrap().fingerprint().unwrap());
    for file in [UNET, VAE, TEXT] {
        let bytes = fs::read(copy.file(file)).unwrap();
        for place in [bytes.len() - 1, bytes.len() / 2, bytes.len() - 100_001] {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            fs::write(copy.file(file), changed).unwrap();
            assert_ne!(fingerprint(), original, "{file} at {place}");
        }
        fs::write(copy.file(file), bytes).unwrap();
    }
    assert_eq!(fingerprint(), original);
    for (file, key, value) in [
        ("unet/config.json", "norm_eps", json!(2e-5)),
        ("vae/config.json", "scaling_factor", json!(0.13)),
        ("text_encoder/config.json", "hidden_act", json!("gelu")),
        ("scheduler/scheduler_config.json", "prediction_type", json!("v_prediction")),
    ] {
        let before = copy.json(file);
        copy.set(file, key, value);
        assert_ne!(fingerprint(), original, "{key}");
        fs::write(copy.file(file), serde_json::to_vec_pretty(&before).unwrap()).unwrap();
    }
    // The same settings in other words: defaults written out, notes, spaces.
    copy.set("vae/config.json", "scaling_factor", json!(0.18215));
    copy.set("unet/config.json", "sample_size", json!(64));
    copy.set("unet/config.json", "mid_block_scale_factor", json!(1.0));
    copy.set("scheduler/scheduler_config.json", "prediction_type", json!("epsilon"));
    copy.set("text_encoder/config.json", "torch_dtype", json!("float16"));
    assert_eq!(fingerprint(), original);
}

#[test]
fn the_size_of_pictures_is_that_of_training() {
    // The autoencoder makes pictures 8 times as wide as latents.
    for (sample_size, width, height) in
        [(json!(96), 768, 768), (json!([16, 40]), 320, 128), (json!(null), 512, 512)]
    {
        let copy = Copy::of("tiny-sd1");
        copy.set("unet/config.json", "sample_size", sample_size);
        assert_eq!(ModelFolder::open(copy.path()).unwrap().image_size(), ImageSize { width, height });
    }
}

#[test]
fn force_upcast_decides_where_the_back_end_has_16_bits() {
    for (written, element, expected) in [
        (json!(true), DType::F16, DType::F32),
        (json!(true), DType::BF16, DType::F32),
        (json!(false), DType::F16, DType::F16),
        (json!(false), DType::BF16, DType::BF16),
        (json!(true), DType::F32, DType::F32),
        (json!(true), DType::F64, DType::F64),
        (json!(false), DType::F64, DType::F64),
    ] {
        let copy = Copy::of("tiny-sd1");
        copy.set("vae/config.json", "force_upcast", written);
        let folder = ModelFolder::open(copy.path()).unwrap();
        let backend = Plain(element);
        let vae = Vae::load(&backend, folder.vae_weights(), folder.vae_config()).unwrap();
        assert_eq!(vae.dtype(), expected);
        assert_eq!(backend.dtype(), element);
    }
}
