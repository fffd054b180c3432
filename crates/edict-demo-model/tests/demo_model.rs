//! That what is compiled in is whole, and is what it says it is. Nothing here depends on how well the model was trained.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use edict_candle::CandleBackend;
use edict_demo_model::{FILES, SAMPLES, folder, sample};
use edict_scenes::{HELD_OUT, Scene, Wording};
use edict_stable_diffusion::{DType, Picture, StableDiffusion};

/// Where the samples' scenes come from: drawn by `edict-scenes draw --seed SEED --out NAME.png`.
const SEEDS: [(&str, u64); 6] = [
    ("house", HELD_OUT + 760),
    ("car", HELD_OUT + 767),
    ("tree", HELD_OUT + 740),
    ("mushroom", HELD_OUT + 752),
    ("balloon", HELD_OUT + 706),
    ("star", HELD_OUT + 744),
];

/// Files below a folder, by their names with `/`.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().replace('\\', "/");
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn every_file_of_the_folder_is_compiled_in_and_all_fit_into_nine_megabytes() {
    let on_disk = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("model"));
    let compiled_in: BTreeMap<_, _> =
        FILES.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
    assert_eq!(compiled_in.keys().collect::<Vec<_>>(), on_disk.keys().collect::<Vec<_>>());
    assert!(compiled_in == on_disk);
    let bytes: usize = compiled_in.values().map(Vec::len).sum();
    assert!(bytes <= 9_000_000, "{bytes}");
}

#[test]
fn the_model_is_made_for_pictures_of_64_by_64_and_gives_finite_ones() {
    let folder = folder().unwrap();
    let [height, width] = folder.unet_config().sample_size.unwrap();
    let factor = folder.vae_config().factor();
    assert_eq!([height * factor, width * factor], [64, 64]);
    let model = StableDiffusion::load(&CandleBackend::cpu(DType::F32), &folder).unwrap();
    let picture = Picture::decode(SAMPLES[0].png, "sample").unwrap().prepare(None, factor).unwrap();
    let latents = model.encode_images(picture.view().into_dyn()).unwrap().mode();
    assert_eq!(latents.shape(), model.latent_shape(1, 64, 64));
    let decoded = model.decode(&latents).unwrap();
    assert_eq!(decoded.shape(), [1, 3, 64, 64]);
    assert!(decoded.iter().all(|value| value.is_finite()));
}

#[test]
fn every_tensor_of_the_folder_is_used() {
    let folder = folder().unwrap();
    StableDiffusion::load(&CandleBackend::cpu(DType::F32), &folder).unwrap();
    for weights in [folder.unet_weights(), folder.vae_weights(), folder.text_encoder_weights()] {
        assert_eq!(weights.unread(), Vec::<String>::new(), "{}", weights.path().display());
    }
}

#[test]
fn samples_are_held_out_scenes_and_their_captions_say_what_they_show() {
    assert_eq!(SAMPLES.map(|sample| sample.name), SEEDS.map(|(name, _)| name));
    for (name, seed) in SEEDS {
        let (scene, sample) = (Scene::from_seed(seed), sample(name).unwrap());
        assert_eq!(sample.caption, scene.caption(&Wording::COMPLETE), "{name}");
        assert_eq!(sample.name, scene.object.kind.word());
        let pixels = image::load_from_memory(sample.png).unwrap().into_rgb8();
        assert!(pixels.as_raw() == scene.render(64).unwrap().bytes(), "{name}");
    }
    assert_eq!(sample("House"), None);
}

#[test]
fn captions_fit_into_a_prompt_in_a_token_a_word() {
    let tokenizer = folder().unwrap().tokenizer().unwrap();
    for sample in SAMPLES {
        let encoded = tokenizer.encode(sample.caption).unwrap();
        assert_eq!(encoded.truncated, None);
        assert_eq!(encoded.used, 2 + sample.caption.split(' ').count(), "{}", sample.caption);
    }
}

#[test]
fn no_text_is_unknown_and_long_ones_are_cut() {
    let tokenizer = folder().unwrap().tokenizer().unwrap();
    for text in ["", "a zebra", "雪中的房子", "🏠 🌃", "A RED HOUSE", "  tabs\tand\nlines ", "éñß", "\u{0}"]
    {
        let encoded = tokenizer.encode(text).unwrap();
        assert_eq!(encoded.ids.len(), tokenizer.length(), "{text:?}");
    }
    assert_eq!(tokenizer.encode("A Red HOUSE").unwrap(), tokenizer.encode("a red house").unwrap());
    let long = "a red house ".repeat(500);
    let cut = tokenizer.encode(&long).unwrap().truncated.unwrap();
    assert!(long.ends_with(&cut) && cut.contains("house"), "{cut:?}");
}
