//! How the networks behave, whatever their weights.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use edict_stable_diffusion::{
    AttentionCall, AttentionKind, DType, ModelError, ModelFolder, TextEncoder, UNet, Vae,
};
use ndarray::{Array2, ArrayD, Axis, IxDyn, concatenate};
use support::golden::{Golden, RUNS, model, relative_error};
use support::plain::Plain;

fn folder(name: &str) -> ModelFolder {
    ModelFolder::open(model(name)).unwrap()
}

fn unet(name: &str, dtype: DType) -> UNet<Plain> {
    let folder = folder(name);
    UNet::load(&Plain(dtype), folder.unet_weights(), folder.unet_config()).unwrap()
}

fn vae(name: &str, dtype: DType) -> Vae<Plain> {
    let folder = folder(name);
    Vae::load(&Plain(dtype), folder.vae_weights(), folder.vae_config()).unwrap()
}

fn text_encoder(name: &str, dtype: DType) -> TextEncoder<Plain> {
    let folder = folder(name);
    TextEncoder::load(&Plain(dtype), folder.text_encoder_weights(), folder.text_encoder_config()).unwrap()
}

fn wave(shape: &[usize], phase: f64) -> ArrayD<f64> {
    ArrayD::from_shape_fn(IxDyn(shape), |i| {
        ((0..shape.len()).map(|k| (i[k] * (k + 2)) as f64).sum::<f64>() + phase).sin()
    })
}

fn stack(parts: &[&ArrayD<f64>]) -> ArrayD<f64> {
    concatenate(Axis(0), &parts.iter().map(|part| part.view()).collect::<Vec<_>>()).unwrap()
}

/// Plain loops add in an order that does not depend on the batch, but matrix products may: some ulps.
const BATCH_BOUND: f64 = 1e-13;

#[test]
fn a_batch_is_its_members_side_by_side() {
    let unet = unet("tiny-sd2", DType::F64);
    let vae = vae("tiny-sd2", DType::F64);
    let text = text_encoder("tiny-sd2", DType::F64);

    let ids = Array2::from_shape_fn((2, 9), |(b, i)| (60 * i + 31 * b) as u32);
    let both = text.encode(ids.view()).unwrap();
    let one = |b: usize| text.encode(ids.slice(ndarray::s![b..b + 1, ..])).unwrap();
    let (first, second) = (one(0), one(1));
    assert!(relative_error(&both, &stack(&[&first, &second])) < BATCH_BOUND);

    let (x, y) = (wave(&[1, 4, 6, 5], 0.0), wave(&[1, 4, 6, 5], 1.0));
    let predict = |latents: &ArrayD<f64>, states: &ArrayD<f64>| {
        unet.predict(latents.view(), 77, &unet.context(states.view()).unwrap()).unwrap()
    };
    let together = predict(&stack(&[&x, &y]), &both);
    assert!(relative_error(&together, &stack(&[&predict(&x, &first), &predict(&y, &second)])) < BATCH_BOUND);

    let (a, b) = (wave(&[1, 3, 8, 16], 0.0), wave(&[1, 3, 8, 16], 2.0));
    let encode = |images: &ArrayD<f64>| vae.encode(images.view()).unwrap().mode();
    let decode = |latents: &ArrayD<f64>| vae.decode(latents.view()).unwrap();
    assert!(relative_error(&encode(&stack(&[&a, &b])), &stack(&[&encode(&a), &encode(&b)])) < BATCH_BOUND);
    assert!(relative_error(&decode(&stack(&[&x, &y])), &stack(&[&decode(&x), &decode(&y)])) < BATCH_BOUND);
}

#[test]
fn equal_arguments_give_equal_bits() {
    let unet = unet("tiny-sd1", DType::F32);
    let context = unet.context(wave(&[2, 5, 32], 0.0).view()).unwrap();
    let latents = wave(&[2, 4, 7, 4], 0.0);
    let first = unet.predict(latents.view(), 999, &context).unwrap();
    assert_eq!(first, unet.predict(latents.view(), 999, &context).unwrap());
    assert_ne!(first, unet.predict(latents.view(), 998, &context).unwrap(), "the timestep counts");
}

#[test]
fn latents_of_any_size_keep_their_size() {
    let unet = unet("tiny-sd2", DType::F64);
    let vae = vae("tiny-sd1", DType::F64);
    let context = unet.context(wave(&[1, 4, 32], 0.0).view()).unwrap();
    for (height, width) in [(1, 1), (1, 2), (2, 3), (3, 1), (5, 7), (9, 11), (8, 1)] {
        let latents = wave(&[1, 4, height, width], 0.0);
        assert_eq!(unet.predict(latents.view(), 0, &context).unwrap().shape(), latents.shape());
    }
    for (height, width) in [(1, 1), (2, 3)] {
        let image = vae.decode(wave(&[1, 4, height, width], 0.0).view()).unwrap();
        assert_eq!(image.shape(), [1, 3, 8 * height, 8 * width]);
        assert_eq!(vae.encode(image.view()).unwrap().mode().shape(), [1, 4, height, width]);
    }
}

#[test]
fn shapes_that_do_not_fit_are_typed_errors() {
    let unet = unet("tiny-sd1", DType::F64);
    let vae = vae("tiny-sd1", DType::F64);
    let text = text_encoder("tiny-sd1", DType::F64);
    let zeros = |shape: &[usize]| ArrayD::<f64>::zeros(IxDyn(shape));
    for shape in [&[1, 77, 31][..], &[77, 32], &[0, 77, 32], &[1, 0, 32], &[]] {
        let error = unet.context(zeros(shape).view()).unwrap_err();
        assert!(matches!(error, ModelError::Shape { .. }) && error.to_string().contains("32]"), "{error}");
    }
    let context = unet.context(zeros(&[2, 77, 32]).view()).unwrap();
    for shape in [&[1, 4, 8, 8][..], &[2, 3, 8, 8], &[2, 4, 0, 8], &[2, 4, 8], &[2, 4, 8, 8, 1]] {
        let error = unet.predict(zeros(shape).view(), 1, &context).unwrap_err();
        assert!(matches!(error, ModelError::Shape { what: "latents", .. }), "{error}");
    }
    for (height, width) in [(60, 64), (64, 63), (7, 8)] {
        let error = vae.encode(zeros(&[1, 3, height, width]).view()).unwrap_err();
        assert!(matches!(error, ModelError::ImageSize { factor: 8, .. }), "{error}");
        assert!(error.to_string().contains(&format!("{width}x{height}")), "{error}");
    }
    for shape in [&[1, 4, 64, 64][..], &[3, 64, 64], &[0, 3, 64, 64], &[1, 3, 0, 8]] {
        assert!(matches!(vae.encode(zeros(shape).view()), Err(ModelError::Shape { what: "images", .. })));
    }
    assert!(matches!(
        vae.decode(zeros(&[1, 3, 8, 8]).view()),
        Err(ModelError::Shape { what: "latents", .. })
    ));

    let ids = |n: usize, id: u32| Array2::from_elem((1, n), id);
    assert!(matches!(text.encode(ids(78, 1).view()), Err(ModelError::PromptLength { found: 78, limit: 77 })));
    assert!(matches!(text.encode(ids(0, 1).view()), Err(ModelError::PromptLength { found: 0, .. })));
    assert!(matches!(text.encode(ids(3, 649).view()), Err(ModelError::Token { id: 649, vocabulary: 649 })));
    assert!(matches!(text.encode(Array2::zeros((0, 7)).view()), Err(ModelError::Shape { .. })));
    assert!(text.encode(ids(77, 648).view()).is_ok());
}

#[test]
fn a_token_sees_those_before_it_alone() {
    let text = text_encoder("tiny-sd1", DType::F64);
    let ids = Array2::from_shape_fn((1, 12), |(_, i)| 50 * i as u32);
    let mut other = ids.clone();
    other[[0, 7]] = 3;
    let (a, b) = (text.encode(ids.view()).unwrap(), text.encode(other.view()).unwrap());
    for i in 0..12 {
        let same = a.index_axis(Axis(1), i) == b.index_axis(Axis(1), i);
        assert_eq!(same, i < 7, "token {i}");
    }
}

#[test]
fn the_posterior_is_sampled_by_its_definition() {
    let vae = vae("tiny-sd1", DType::F64);
    let posterior = vae.encode(wave(&[1, 3, 16, 16], 0.0).view()).unwrap();
    let noise = wave(posterior.mean().shape(), 0.5);
    let sample = posterior.sample(noise.view()).unwrap();
    let by_hand = (posterior.mean() + &(posterior.standard_deviation() * &noise)) * 0.18215;
    assert!(relative_error(&sample, &by_hand) < 1e-15);
    assert_eq!(posterior.sample(ArrayD::zeros(noise.raw_dim()).view()).unwrap(), posterior.mode());
    assert!(posterior.sample(noise.index_axis(Axis(0), 0)).is_none());
    // Half of log-variances that are cut to [-30, 20].
    let bounds = (-15f64).exp()..=10f64.exp();
    assert!(posterior.standard_deviation().iter().all(|s| bounds.contains(s)));
}

/// What an observer saw: by site, its kind, heads and number of calls.
type Seen = BTreeMap<String, (AttentionKind, usize, usize)>;

fn note(seen: &mut Seen, call: &AttentionCall<'_, Plain>) {
    assert_eq!(call.query.shape(), call.output.shape());
    assert_eq!(call.key.shape(), call.value.shape());
    seen.entry(call.site.name.clone()).or_insert((call.site.kind, call.site.heads, 0)).2 += 1;
}

#[test]
fn every_attention_of_the_unet_can_be_watched() {
    for name in ["tiny-sd1", "tiny-sd2"] {
        let folder = folder(name);
        // The file names every attention layer: those that have a query map.
        let in_file: BTreeSet<&str> = folder
            .unet_weights()
            .tensors()
            .filter_map(|(tensor, _)| tensor.strip_suffix(".to_q.weight"))
            .collect();
        let unet = UNet::load(&Plain(DType::F64), folder.unet_weights(), folder.unet_config()).unwrap();
        let context = unet.context(wave(&[1, 7, 32], 0.0).view()).unwrap();
        let latents = wave(&[1, 4, 4, 6], 0.0);
        let mut seen = Seen::new();
        let mut widths = BTreeSet::new();
        let watched = unet
            .predict_watched(latents.view(), 9, &context, &mut |call: &AttentionCall<'_, Plain>| {
                note(&mut seen, call);
                let (queries, keys) = (call.query.shape()[1], call.key.shape()[1]);
                match call.site.kind {
                    AttentionKind::SelfAttention => assert_eq!(queries, keys),
                    AttentionKind::CrossAttention => assert_eq!(keys, 7),
                }
                widths.insert(queries);
            })
            .unwrap();
        assert_eq!(watched, unet.predict(latents.view(), 9, &context).unwrap(), "watching changes nothing");
        assert_eq!(seen.keys().map(String::as_str).collect::<BTreeSet<_>>(), in_file, "{name}");
        for (site, (kind, heads, calls)) in &seen {
            assert_eq!(*calls, 1, "{site}");
            assert_eq!(*kind == AttentionKind::CrossAttention, site.ends_with("attn2"), "{site}");
            // attention_head_dim: 4 everywhere in the first model, [2, 4] by level in the second.
            let finest = site.starts_with("down_blocks.0") || site.starts_with("up_blocks.1");
            assert_eq!(*heads, if name == "tiny-sd2" && finest { 2 } else { 4 }, "{site}");
        }
        assert_eq!(widths, BTreeSet::from([24, 6]));
    }
}

#[test]
fn attention_of_text_encoder_and_autoencoder_can_be_watched() {
    let mut seen = Seen::new();
    let ids = Array2::from_elem((2, 5), 1);
    text_encoder("tiny-legacy", DType::F64)
        .encode_watched(ids.view(), &mut |call: &AttentionCall<'_, Plain>| note(&mut seen, call))
        .unwrap();
    let expected = [0, 1]
        .map(|i| (format!("text_model.encoder.layers.{i}.self_attn"), (AttentionKind::SelfAttention, 4, 1)));
    assert_eq!(seen, Seen::from(expected));

    let mut seen = Seen::new();
    let vae = vae("tiny-legacy", DType::F64);
    let mut observer = |call: &AttentionCall<'_, Plain>| note(&mut seen, call);
    let latents = vae.encode_watched(wave(&[1, 3, 8, 8], 0.0).view(), &mut observer).unwrap().mode();
    vae.decode_watched(latents.view(), &mut observer).unwrap();
    let expected = ["encoder", "decoder"]
        .map(|half| (format!("{half}.mid_block.attentions.0"), (AttentionKind::SelfAttention, 1, 1)));
    assert_eq!(seen, Seen::from(expected));
}

#[test]
fn half_precision_stays_near_the_oracle() {
    // A bound with room: unit roundoff 2^-11 and 2^-8 through the tiny U-Net's forty or so rounded operations in a row.
    for (dtype, bound) in [(DType::F16, 40.0 / 2048.0), (DType::BF16, 40.0 / 256.0)] {
        for run in RUNS {
            let golden = Golden::open(run);
            let unet = unet(run.model, dtype);
            let context = unet.context(golden.tensor("text_source").view()).unwrap();
            let found = unet.predict(golden.tensor("image_latent").view(), 501, &context).unwrap();
            let error = relative_error(&found, &golden.tensor("unet_out"));
            println!("{} {dtype}: {error:.1e}", run.file);
            assert!(error < bound && error > 1e-6, "{} {dtype}: {error:e}, bound {bound:e}", run.file);
        }
    }
}

#[test]
fn a_wrong_network_misses_the_golden_values() {
    // The golden test's bound of 1e-9 would notice: the next timestep, the other prompt, a hair's breadth in one latent.
    let run = RUNS[0];
    let golden = Golden::open(run);
    let unet = unet(run.model, DType::F64);
    let (latents, expected) = (golden.tensor("image_latent"), golden.tensor("unet_out"));
    let context = unet.context(golden.tensor("text_source").view()).unwrap();
    let other = unet.context(golden.tensor("text_target").view()).unwrap();
    let mut nudged = latents.clone();
    nudged[[0, 0, 0, 0]] += 1e-3;
    for (latents, timestep, context) in
        [(&latents, 502, &context), (&latents, 501, &other), (&nudged, 501, &context)]
    {
        let found = unet.predict(latents.view(), timestep, context).unwrap();
        assert!(relative_error(&found, &expected) > 1e-7);
    }
}
