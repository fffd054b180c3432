//! Inversions and checkpoints of every sampler, made without a model.
#![allow(dead_code, unreachable_pub)]

use edict_core::{
    CoupledPair, Ddim, Edict, FnPredictor, Grid, Latents, LatticeEdict, LatticeTwoStep, MixingWeight,
    NoiseSchedule, Sampler, Timestep, Trajectory, TwoStep, TwoStepRule, UpdateOrder,
};
use edict_stable_diffusion::{
    AnySampler, AnyState, Checkpoint, Generation, GuidanceSettings, Inversion, Origin,
};

/// Values of every size and sign, among them a negative zero and a subnormal.
pub fn latents(batch: usize, seed: u64) -> Latents {
    let special = [-0.0, 5e-324, 1e300, -1e-300, 0.1];
    let mut bits = seed;
    Latents::from_shape_fn(vec![batch, 4, 2, 3], |i| {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = i[1] * 6 + i[2] * 3 + i[3];
        special.get(at).copied().unwrap_or((bits >> 11) as f64 / 2f64.powi(53) * 6.0 - 3.0)
    })
}

pub fn inversion(
    strength: f64,
    alpha_one: bool,
    order: UpdateOrder,
    interval: Option<[usize; 2]>,
) -> Inversion {
    let mut schedule = NoiseSchedule::scaled_linear(0.00085, 0.012, 1000).unwrap();
    if alpha_one {
        schedule = schedule.with_final_alpha_bar(1.0).unwrap();
    }
    Inversion {
        noise: AnyState::Pair(CoupledPair { x: latents(2, 1), y: latents(2, 2) }),
        sampler: AnySampler::Edict(
            Edict::new(MixingWeight::Fixed(0.93f64.powf(50.0 / 31.0)), order).unwrap(),
        ),
        image_latent: latents(2, 3),
        trajectory: Trajectory::builder(31).offset(1).strength(strength).build(&schedule).unwrap(),
        strength,
        schedule,
        guidance: GuidanceSettings { scale: 0.1 + 0.2, interval },
        prompt: "a \"cat\"\nüber 猫".to_owned(),
        negative: String::new(),
        origin: Origin {
            model: "0123".to_owned(),
            backend: "candle".to_owned(),
            device: "cpu".to_owned(),
            dtype: "f32".to_owned(),
            weights: Some("f16".to_owned()),
            threads: 2,
            instruction_set: "avx2".to_owned(),
        },
        predictions: vec![0, 1, u64::MAX],
    }
}

/// An inversion by each sampler, exact and in floats, that was really run: with a carry, where the sampler has one.
pub fn inversions() -> Vec<Inversion> {
    let base = inversion(0.5, false, UpdateOrder::Fixed, None);
    let two_step = |rule| TwoStep::new(rule).unwrap();
    let (belm, bdia) = (two_step(TwoStepRule::Belm), two_step(TwoStepRule::Bdia { gamma: 0.1 + 0.8 }));
    let lattice = LatticeEdict::new(MixingWeight::Fixed(0.6), UpdateOrder::Fixed).unwrap();
    let samplers = [
        AnySampler::LatticeEdict(lattice),
        AnySampler::LatticeEdict(lattice.with_grid(Grid::new(30, 3).unwrap())),
        AnySampler::Edict(Edict::default()),
        AnySampler::LatticeTwoStep(LatticeTwoStep::new(belm).unwrap()),
        AnySampler::LatticeTwoStep(LatticeTwoStep::new(bdia).unwrap()),
        AnySampler::TwoStep(belm),
        AnySampler::TwoStep(bdia),
        AnySampler::Ddim(Ddim),
    ];
    let model = FnPredictor::new(|z: ndarray::ArrayViewD<'_, f64>, _: Timestep, c: &f64| -> Latents {
        z.mapv(|v| (v * 3.0).sin() * c)
    });
    let image = latents(2, 5).mapv(|v| if v.abs() > 10.0 { 0.5 } else { v });
    let inverted = |sampler: AnySampler| {
        let start = sampler.state_from_noise(&image, &base.trajectory).unwrap();
        let end = sampler.generate(&start, &base.trajectory, &model, &0.9, &mut ()).unwrap();
        let noise = sampler.invert(&end, &base.trajectory, &model, &0.7, &mut ()).unwrap();
        let sampler = match sampler {
            // A file keeps a number.
            AnySampler::Edict(edict) => {
                let p = MixingWeight::Fixed(edict.mixing_weight().resolve(&base.trajectory));
                AnySampler::Edict(Edict::new(p, edict.order()).unwrap())
            }
            other => other,
        };
        Inversion { noise, sampler, ..base.clone() }
    };
    let mut all: Vec<_> = samplers.into_iter().map(inverted).collect();
    // Of an image in single precision, with values finer than the lattice.
    let image = image.mapv(|v| if v.abs() < 0.3 { v as f32 * 1e-9 } else { v as f32 });
    let start = lattice.state_from_f32(&image, &base.trajectory).unwrap();
    assert!(!start.registers().exceptions().is_empty());
    let noise = lattice.invert(&start, &base.trajectory, &model, &0.7, &mut ()).unwrap();
    let (sampler, noise) = (AnySampler::LatticeEdict(lattice), AnyState::LatticePair(noise));
    all.push(Inversion { noise, sampler, ..base });
    all
}

/// A checkpoint in the middle of each direction, of each sampler.
pub fn checkpoints() -> Vec<Checkpoint> {
    let model = FnPredictor::new(|z: ndarray::ArrayViewD<'_, f64>, _: Timestep, c: &f64| -> Latents {
        z.mapv(|v| v * c)
    });
    let mut all = Vec::new();
    for inversion in inversions() {
        let (noisy, _) = inversion.trajectory.split_at(7).unwrap();
        let state = inversion.sampler.generate(&inversion.noise, &noisy, &model, &0.1, &mut ()).unwrap();
        let origin = Origin { dtype: "bf16".to_owned(), ..inversion.origin.clone() };
        let generation = |state| Generation {
            prompts: vec!["a \"dog\"".to_owned(), "猫".to_owned()],
            negative: "blurred".to_owned(),
            guidance: GuidanceSettings { scale: 0.1 + 0.2, interval: Some([3, 700]) },
            origin: origin.clone(),
            noise_seed: Some(u64::MAX),
            finished: 1,
            state,
        };
        let command = "edit".to_owned();
        let generating = Some(generation(Some((state.clone(), 7))));
        all.push(Checkpoint {
            command: command.clone(),
            inversion: inversion.clone(),
            level: 0,
            generation: generating,
        });
        let inverting = Inversion { noise: state, ..inversion };
        all.push(Checkpoint {
            command: command.clone(),
            inversion: inverting.clone(),
            level: 7,
            generation: None,
        });
        all.push(Checkpoint { command, inversion: inverting, level: 7, generation: Some(generation(None)) });
    }
    all
}
