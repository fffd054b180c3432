//! Schedules, trajectories and what they refuse.

mod common;

use approx::assert_relative_eq;
use common::*;
use edict_core::*;
use proptest::prelude::*;

#[test]
fn schedules_have_the_published_values() {
    // By hand: beta_0 is the first beta, and two steps multiply.
    let linear = NoiseSchedule::linear(1e-4, 0.02, 1000).unwrap();
    assert_relative_eq!(linear.alpha_bars()[0], 1.0 - 1e-4, max_relative = 1e-15);
    let second = 1e-4 + (0.02 - 1e-4) / 999.0;
    assert_relative_eq!(linear.alpha_bars()[1], (1.0 - 1e-4) * (1.0 - second), max_relative = 1e-15);
    // Stable Diffusion's well-known extremes of sigma = sqrt((1 - A) / A): 0.0292 and 14.6146.
    let stable = schedule();
    let sigma = |bar: f64| ((1.0 - bar) / bar).sqrt();
    assert_relative_eq!(sigma(stable.alpha_bars()[0]), 0.0292, max_relative = 2e-3);
    assert_relative_eq!(sigma(stable.alpha_bars()[999]), 14.6146, max_relative = 1e-5);
    // The cosine schedule is a closed form until betas are capped.
    let cosine = NoiseSchedule::squared_cosine(1000).unwrap();
    let form = |i: f64| ((i / 1000.0 + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    for i in [0, 1, 10, 500, 900] {
        // A product of up to 900 factors, each of a few roundings.
        assert_relative_eq!(cosine.alpha_bars()[i], form(i as f64 + 1.0) / form(0.0), max_relative = 1e-12);
    }
    assert!(cosine.alpha_bars().windows(2).all(|w| w[1] < w[0]));
}

#[test]
fn schedules_refuse_what_cannot_be_inverted() {
    let refused = [
        (NoiseSchedule::from_betas(&[0.1, 1.0]), "zero terminal SNR"),
        (NoiseSchedule::from_alpha_bars(vec![0.9, 0.0]), "zero terminal SNR"),
        (NoiseSchedule::from_alpha_bars(vec![0.9, 5e-324]), "zero terminal SNR"),
        (NoiseSchedule::from_betas(&[0.1, -0.1]), "beta of training timestep 1 is -0.1"),
        (NoiseSchedule::from_betas(&[f64::NAN]), "NaN"),
        (NoiseSchedule::from_betas(&[1.5, 0.1]), "beta of training timestep 0 is 1.5"),
        (NoiseSchedule::from_betas(&[]), "at least one training timestep"),
        (NoiseSchedule::linear(0.1, 0.2, 0), "at least one training timestep"),
        (NoiseSchedule::squared_cosine(0), "at least one training timestep"),
        (NoiseSchedule::scaled_linear(-0.1, 0.2, 10), "beta of training timestep 0 is -0.1"),
        (NoiseSchedule::from_alpha_bars(vec![0.5, 0.6]), "alpha-bar of training timestep 1 is 0.6"),
        (NoiseSchedule::from_alpha_bars(vec![1.1, 0.6]), "alpha-bar of training timestep 0 is 1.1"),
        (NoiseSchedule::from_alpha_bars(vec![0.5, f64::NAN]), "training timestep 1 is NaN"),
        (schedule().with_final_alpha_bar(1.5), "final alpha-bar is 1.5"),
        (schedule().with_final_alpha_bar(0.5), "final alpha-bar is 0.5"),
        (schedule().with_final_alpha_bar(f64::NAN), "final alpha-bar is NaN"),
    ];
    for (result, message) in refused {
        let error = result.expect_err(message).to_string();
        assert!(error.contains(message), "{error:?} should contain {message:?}");
    }
}

#[test]
fn timesteps_are_those_of_the_common_spacings() {
    let timesteps = |steps, spacing, offset| -> Vec<usize> {
        let built = Trajectory::builder(steps).spacing(spacing).offset(offset).build(&schedule()).unwrap();
        built.steps().iter().map(|s| s.timestep().get()).collect()
    };
    // Table 2 of arXiv:2305.08891 counts from 1: its values less one.
    assert_eq!(timesteps(10, TimestepSpacing::Leading, 0), [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]);
    assert_eq!(timesteps(10, TimestepSpacing::Linspace, 0), [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]);
    assert_eq!(
        timesteps(10, TimestepSpacing::Trailing, 0),
        [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    );
    assert_eq!(timesteps(5, TimestepSpacing::Leading, 1), [801, 601, 401, 201, 1]);
    // Step counts that do not divide the schedule.
    assert_eq!(timesteps(3, TimestepSpacing::Leading, 0), [666, 333, 0]);
    assert_eq!(timesteps(3, TimestepSpacing::Trailing, 0), [999, 666, 332]);
    // Halves go to even: 499.5 becomes 500.
    assert_eq!(timesteps(3, TimestepSpacing::Linspace, 0), [999, 500, 0]);
    assert_eq!(timesteps(1, TimestepSpacing::Linspace, 0), [0]);
}

proptest! {
    #[test]
    fn steps_chain_and_count_from_the_noisy_end(
        steps in 1usize..=999, strength in 0.0..=1.0, spacing in 0..3, alpha_one: bool,
    ) {
        let spacing = [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace][spacing as usize];
        let mut schedule = schedule();
        if alpha_one {
            schedule = schedule.with_final_alpha_bar(1.0).unwrap();
        }
        let whole = Trajectory::builder(steps).spacing(spacing).build(&schedule).unwrap();
        let run = Trajectory::builder(steps).spacing(spacing).strength(strength).build(&schedule).unwrap();
        prop_assert_eq!(whole.len(), steps);
        prop_assert_eq!(run.schedule_steps(), steps);
        prop_assert_eq!(run.len(), (steps as f64 * strength + 0.5).floor() as usize);
        for (i, step) in run.steps().iter().enumerate() {
            prop_assert_eq!(step.index(), i);
            prop_assert_eq!(step.timestep(), whole.steps()[steps - run.len() + i].timestep());
            prop_assert_eq!(step.alpha_bar_from(), schedule.alpha_bar(step.timestep()).unwrap());
            let next = run.steps().get(i + 1);
            prop_assert_eq!(step.alpha_bar_to(), next.map_or(schedule.final_alpha_bar(), Step::alpha_bar_from));
            let (a, b) = step.coefficients();
            // The transition takes signal and noise of one level to those of the next.
            prop_assert!((a * step.scale_from() - step.scale_to()).abs() <= 4.0 * f64::EPSILON);
            let noise = |bar: f64| (1.0 - bar).sqrt();
            // b holds a sqrt(1 - A), which for the noisiest levels is some ten times its other term: a few roundings of that.
            let rounding = 4.0 * f64::EPSILON * a.max(1.0);
            prop_assert!((a * noise(step.alpha_bar_from()) + b - noise(step.alpha_bar_to())).abs() <= rounding);
        }
    }

    #[test]
    fn splitting_keeps_indices(steps in 1usize..=60, cut in 0.0..=1.0) {
        let run = trajectory(steps, 1.0);
        let level = (cut * steps as f64) as usize;
        let (noisy, clean) = run.split_at(level).unwrap();
        prop_assert_eq!(noisy.levels(), 0..level);
        prop_assert_eq!(clean.levels(), level..steps);
        let joined: Vec<_> = noisy.steps().iter().chain(clean.steps()).copied().collect();
        prop_assert_eq!(&joined, run.steps());
        prop_assert_eq!(clean.run(), run.run());
        prop_assert!(run.split_at(steps + 1).is_err());
        if level > 0 {
            let expected = ConfigError::Split { level: level - 1, start: level, end: steps };
            prop_assert_eq!(clean.split_at(level - 1), Err(expected));
        }
    }
}

proptest! {
    #[test]
    fn a_run_is_rebuilt_from_its_numbers(steps in 1usize..=200, strength in 0.0..=1.0) {
        let run = trajectory(steps, strength);
        let timesteps: Vec<_> = run.steps().iter().map(Step::timestep).collect();
        let mut levels = run.alpha_bars();
        prop_assert_eq!(&Trajectory::from_levels(&timesteps, &levels, steps).unwrap(), &run);

        prop_assume!(!run.is_empty());
        prop_assert!(Trajectory::from_levels(&timesteps, &levels[1..], steps).is_err());
        prop_assert!(Trajectory::from_levels(&timesteps, &levels, run.len() - 1).is_err());
        levels[0] = f64::NAN;
        prop_assert!(Trajectory::from_levels(&timesteps, &levels, steps).is_err());
        levels[0] = 0.0;
        prop_assert!(Trajectory::from_levels(&timesteps, &levels, steps).is_err());
        levels[0] = 1.0;
        let expected = ConfigError::Level { level: 1, value: levels[1] };
        prop_assert_eq!(Trajectory::from_levels(&timesteps, &levels, steps), Err(expected));
    }
}

#[test]
fn strength_rounds_half_up() {
    for (steps, strength, executed) in
        [(50, 0.8, 40), (50, 0.58, 29), (5, 0.5, 3), (5, 0.49, 2), (1, 0.5, 1), (1, 0.4, 0), (40, 1.0, 40)]
    {
        assert_eq!(trajectory(steps, strength).len(), executed, "{steps} steps, strength {strength}");
    }
}

#[test]
fn trajectories_refuse_bad_settings_and_name_the_remedy() {
    let build = |steps, offset, strength| {
        Trajectory::builder(steps)
            .offset(offset)
            .strength(strength)
            .build(&schedule())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        build(0, 0, 1.0),
        "0 steps asked for; the schedule has 1000 training timesteps, use 1 to 1000 steps"
    );
    assert!(build(1001, 0, 1.0).starts_with("1001 steps asked for"));
    assert_eq!(
        build(1000, 1, 1.0),
        "timestep 1000 is outside training (0 to 999); use fewer steps, offset 0, or timesteps up to 999"
    );
    assert!(build(10, usize::MAX, 1.0).contains("outside training"));
    for strength in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(build(10, 0, strength), format!("strength is {strength}; it must be in [0, 1]"));
    }
    let custom = |timesteps: &[usize]| {
        Trajectory::from_timesteps(&schedule(), timesteps.iter().map(|t| Timestep::new(*t)), 1.0)
    };
    assert_eq!(custom(&[900, 500, 3]).unwrap().len(), 3);
    assert_eq!(custom(&[5, 5]), Err(ConfigError::TimestepOrder { previous: 5, next: 5 }));
    assert_eq!(custom(&[5, 9]), Err(ConfigError::TimestepOrder { previous: 5, next: 9 }));
    assert_eq!(custom(&[]), Err(ConfigError::Steps { steps: 0, training: 1000 }));
    assert_eq!(custom(&[1000]), Err(ConfigError::TimestepOutsideTraining { timestep: 1000, last: 999 }));
}

#[test]
fn samplers_and_guidance_refuse_bad_numbers() {
    for p in [0.0, -0.5, 1.0000001, f64::NAN, f64::INFINITY] {
        let error = Edict::new(MixingWeight::Fixed(p), UpdateOrder::Leapfrog).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("mixing weight is {p}; it must be in (0, 1], for example 0.93 for 50 steps")
        );
    }
    for scale in [f64::NAN, f64::INFINITY] {
        assert!(GuidanceScale::constant(scale).is_err());
        assert!(GuidanceScale::interval(scale, 0, 1).is_err());
    }
    assert!(GuidanceScale::interval(3.0, 2, 1).is_err());
}

#[test]
fn automatic_mixing_weight_follows_the_full_schedule() {
    let weight = |steps, strength| MixingWeight::Auto.resolve(&trajectory(steps, strength));
    assert_eq!(weight(50, 1.0), 0.93);
    assert_eq!(weight(50, 0.8), 0.93);
    assert_relative_eq!(weight(100, 1.0), 0.93f64.sqrt(), max_relative = 1e-15);
    assert_relative_eq!(weight(25, 0.5), 0.93 * 0.93, max_relative = 1e-15);
}
