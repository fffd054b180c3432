//! Inversion files: every bit comes back, and nothing else is accepted.

mod common;

use common::{checkpoints, inversion, inversions};
use edict_core::{Latents, UpdateOrder};
use edict_stable_diffusion::{AnyState, Checkpoint, Inversion, InversionFileError};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

fn bits(latents: &Latents) -> Vec<u64> {
    latents.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_bit_comes_back() {
    for strength in [0.0, 0.5, 1.0] {
        for alpha_one in [false, true] {
            for order in [UpdateOrder::Leapfrog, UpdateOrder::Fixed] {
                for interval in [None, Some([200, 800])] {
                    let written = inversion(strength, alpha_one, order, interval);
                    let read = Inversion::from_bytes(&written.to_bytes().unwrap()).unwrap();
                    assert_eq!(read, written);
                    // Equality of floats does not see the sign of zero.
                    let (read_pair, pair) = (read.latents().unwrap(), written.latents().unwrap());
                    assert_eq!(bits(&read_pair.x), bits(&pair.x));
                    assert_eq!(bits(&read_pair.y), bits(&pair.y));
                    assert_eq!(bits(&read.image_latent), bits(&written.image_latent));
                }
            }
        }
    }
}

/// Writes the tensors and metadata of a file again, after a change.
fn rewritten(
    change_tensors: impl Fn(&mut Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)>),
    change_metadata: impl Fn(&mut serde_json::Value),
) -> Vec<u8> {
    let bytes = inversion(0.5, false, UpdateOrder::Leapfrog, Some([200, 800])).to_bytes().unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let mut metadata: serde_json::Value =
        serde_json::from_str(&header.metadata().as_ref().unwrap()["edict"]).unwrap();
    change_metadata(&mut metadata);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = (file.tensors().into_iter())
        .map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    change_tensors(&mut tensors);
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let metadata = [("edict".to_owned(), metadata.to_string())].into();
    safetensors::serialize(views, Some(metadata)).unwrap()
}

#[test]
fn unknown_tensors_and_settings_are_ignored() {
    let bytes = rewritten(
        |tensors| tensors.push(("later.thing".to_owned(), safetensors::Dtype::I64, vec![1], vec![0; 8])),
        |metadata| metadata["later"] = "thing".into(),
    );
    let expected = inversion(0.5, false, UpdateOrder::Leapfrog, Some([200, 800]));
    assert_eq!(Inversion::from_bytes(&bytes).unwrap(), expected);
}

#[test]
fn a_missing_or_misshapen_tensor_is_named() {
    let names = [
        "x",
        "y",
        "image_latent",
        "run.alpha_bar",
        "run.timestep",
        "run.strength",
        "run.mixing_weight",
        "run.guidance",
        "run.training_alpha_bar",
    ];
    for name in names {
        let without = rewritten(|tensors| tensors.retain(|tensor| tensor.0 != name), |_| ());
        match Inversion::from_bytes(&without).unwrap_err() {
            InversionFileError::MissingTensor { name: found } => assert_eq!(found, name),
            other => panic!("{name}: {other}"),
        }
        let retyped = rewritten(
            |tensors| {
                tensors
                    .iter_mut()
                    .filter(|tensor| tensor.0 == name)
                    .for_each(|t| t.1 = safetensors::Dtype::I64);
            },
            |_| (),
        );
        let error = Inversion::from_bytes(&retyped).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor `{name}` should be F64")), "{error}");
        let reshaped = rewritten(
            |tensors| tensors.iter_mut().filter(|tensor| tensor.0 == name).for_each(|t| t.2.insert(0, 1)),
            |_| (),
        );
        let error = Inversion::from_bytes(&reshaped).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor `{name}` should be F64")), "{error}");
    }
}

#[test]
fn numbers_that_make_no_run_are_refused() {
    let with = |name: &str, values: &[f64]| {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let bytes = rewritten(
            |tensors| {
                let tensor = tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap();
                (tensor.2, tensor.3) = (vec![values.len()], data.clone());
            },
            |_| (),
        );
        Inversion::from_bytes(&bytes).unwrap_err().to_string()
    };
    for (name, values, message) in [
        ("run.mixing_weight", &[1.5][..], "mixing weight is 1.5"),
        ("run.mixing_weight", &[f64::NAN], "mixing weight is NaN"),
        ("run.guidance", &[f64::INFINITY], "guidance scale is inf"),
        ("run.strength", &[2.0], "strength is 2"),
        ("run.timestep", &[0.5], "run.timestep"),
        ("run.timestep", &[-1.0], "run.timestep"),
        ("run.timestep", &[1e300], "run.timestep"),
        ("run.timestep", &[3.0], "one level more than timesteps, found 17"),
        ("run.alpha_bar", &[0.5], "one level more than timesteps, found 1"),
        ("run.guidance_interval", &[800.0, 200.0], "is empty"),
        ("run.training_alpha_bar", &[0.0], "zero terminal SNR"),
        ("run.training_alpha_bar", &[], "at least one"),
        ("run.training_alpha_bar", &[0.9], "outside training"),
    ] {
        let error = with(name, values);
        assert!(error.contains(message), "{name}: {error:?} should contain {message:?}");
    }
}

#[test]
fn other_versions_and_settings_are_refused_by_name() {
    let with = |change: fn(&mut serde_json::Value)| {
        Inversion::from_bytes(&rewritten(|_| (), change)).unwrap_err().to_string()
    };
    assert!(with(|m| m["format"] = 2.into()).contains("inversion format 2 is newer than 1"));
    assert!(with(|m| m["sampler"] = "plms".into()).contains("setting `sampler` is \"plms\""));
    assert!(with(|m| m["mode"] = "loose".into()).contains("setting `mode` is \"loose\""));
    // A file in floats is not exact because it says so.
    assert!(with(|m| m["mode"] = "exact".into()).contains("tensor `state.v` is missing"));
    assert!(with(|m| m["sampler"] = "bdia".into()).contains("tensor `run.gamma` is missing"));
    assert!(with(|m| m["state"]["level"] = 1.into()).contains("stands at level 1"));
    assert!(with(|m| m["state"]["level"] = u64::MAX.into()).contains("stands at level"));
    assert!(with(|m| m["order"] = "spiral".into()).contains("setting `order` is \"spiral\""));
    assert!(with(|m| m["prompt"] = 3.into()).contains("metadata `edict` are damaged"));
    let plain = safetensors::serialize(
        [("x", TensorView::new(safetensors::Dtype::F64, vec![0], &[]).unwrap())],
        None,
    );
    let error = Inversion::from_bytes(&plain.unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("not an inversion"), "{error}");
}

#[test]
fn another_model_is_told_apart() {
    let inversion = inversion(0.5, false, UpdateOrder::Leapfrog, None);
    inversion.check_model("0123").unwrap();
    let error = inversion.check_model("0124").unwrap_err().to_string();
    assert!(error.contains("made with another model (fingerprint 0123, this model has 0124)"), "{error}");
}

#[test]
fn a_file_that_never_ends_is_refused() {
    let endless = std::path::Path::new("/dev/zero");
    if endless.exists() {
        let error = Inversion::read(endless).unwrap_err().to_string();
        assert!(error.starts_with("/dev/zero: longer than 1024 MiB"), "{error}");
    }
}

#[test]
fn every_sampler_comes_back_with_every_bit_of_its_state() {
    for written in inversions() {
        let bytes = written.to_bytes().unwrap();
        assert_eq!(Inversion::from_bytes(&bytes).unwrap(), written);
    }
}

#[test]
fn latents_of_an_exact_file_cannot_be_changed_by_hand() {
    let written = &inversions()[0];
    let bytes = written.to_bytes().unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for name in ["x", "y"] {
        let changed: Vec<_> = (file.tensors().into_iter())
            .map(|(key, view)| {
                let mut data = view.data().to_vec();
                if key == name {
                    data[8] ^= 1;
                }
                (key, view.dtype(), view.shape().to_vec(), data)
            })
            .collect();
        let views = changed.iter().map(|(key, dtype, shape, data)| {
            (key.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        let error =
            Inversion::from_bytes(&safetensors::serialize(views, metadata.clone()).unwrap()).unwrap_err();
        assert!(
            matches!(&error, InversionFileError::OtherLatents { name: found } if found == name),
            "{error}"
        );
    }
}

#[test]
fn checkpoints_come_back_and_are_told_from_inversions() {
    let mut carries = 0;
    for written in checkpoints() {
        let bytes = written.to_bytes().unwrap();
        assert_eq!(Checkpoint::from_bytes(&bytes).unwrap(), written);
        if let AnyState::LatticePair(pair) = &written.inversion.noise {
            carries = carries.max(pair.registers().carry().len());
        }
        let error = Inversion::from_bytes(&bytes).unwrap_err();
        assert!(error.to_string().contains("--resume"), "{error}");
    }
    // Or the test would not see that planes come back in order.
    assert!(carries > 1, "{carries}");
    let error = Checkpoint::from_bytes(&inversions()[0].to_bytes().unwrap()).unwrap_err();
    assert!(matches!(error, InversionFileError::NotACheckpoint), "{error}");
}

/// Most bits of the registers do not show in the latents, and all of them count on the way back.
#[test]
fn every_flipped_bit_of_an_exact_state_is_seen() {
    for checkpoint in checkpoints() {
        let bytes = checkpoint.to_bytes().unwrap();
        let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        for (name, info) in metadata.tensors() {
            if !name.contains("state.") {
                continue;
            }
            let (begin, end) = info.data_offsets;
            for at in (begin..end).step_by((end - begin).div_ceil(60).max(1)) {
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[8 + header + at] ^= 1 << bit;
                    Checkpoint::from_bytes(&flipped).expect_err(&name);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn damaged_files_are_errors_or_inversions(
        cut in 0usize..20_000, flips in prop::collection::vec((0usize..20_000, 0u8..8), 0..8),
    ) {
        let mut bytes = inversion(0.5, true, UpdateOrder::Leapfrog, None).to_bytes().unwrap();
        for (at, bit) in flips {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        if cut < bytes.len() {
            bytes.truncate(cut);
        }
        // Whatever the bytes: no panic, and what is accepted can be written again.
        if let Ok(read) = Inversion::from_bytes(&bytes) {
            read.to_bytes().unwrap();
        }
    }
}
