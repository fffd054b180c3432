//! The settings of a run, with their defaults filled in.

use edict_core::{
    ConfigError, Ddim, Edict, LatticeEdict, LatticeTwoStep, MixingWeight, Stability, Trajectory, TwoStep,
    TwoStepRule, UpdateOrder,
};
use edict_stable_diffusion::{AnySampler, GuidanceSettings, Inversion, ModelFolder};
use serde_json::{Map, Value, json};

use crate::args::{GuidanceArgs, RunArgs, SamplerName, WeightArg};
use crate::defaults::Defaults;
use crate::failure::{Failure, chain};
use crate::progress::Reporter;

#[derive(Clone, Copy, Debug)]
pub(crate) struct RunSettings {
    pub(crate) steps: usize,
    pub(crate) strength: f64,
    pub(crate) sampler: SamplerName,
    pub(crate) exact: bool,
    pub(crate) mixing_weight: MixingWeight,
    pub(crate) order: UpdateOrder,
    pub(crate) gamma: f64,
}

impl RunSettings {
    pub(crate) fn new(args: &RunArgs, defaults: Defaults, reporter: &Reporter) -> Self {
        let sampler = args.sampler.unwrap_or(SamplerName::Edict);
        let edict = sampler == SamplerName::Edict;
        let useless = [
            ("--gamma", args.gamma.is_some() && sampler != SamplerName::Bdia),
            ("--mixing-weight", args.mixing_weight.is_some() && !edict),
            ("--no-leapfrog", args.no_leapfrog && !edict),
            ("--float", args.float && !can_be_exact(sampler)),
        ];
        for (flag, _) in useless.iter().filter(|(_, useless)| *useless) {
            reporter.warn(format!("{flag} has no effect with --sampler {}", sampler.name()));
        }
        Self {
            steps: args.steps.unwrap_or(defaults.steps),
            strength: args.strength.unwrap_or(defaults.strength),
            sampler,
            exact: !args.float && can_be_exact(sampler),
            mixing_weight: match args.mixing_weight {
                Some(WeightArg::Fixed(p)) => MixingWeight::Fixed(p),
                Some(WeightArg::Auto) | None => MixingWeight::Auto,
            },
            order: if args.no_leapfrog { UpdateOrder::Fixed } else { UpdateOrder::Leapfrog },
            gamma: args.gamma.unwrap_or(1.0),
        }
    }

    /// Refuses SDEdit where something is to be inverted.
    pub(crate) fn must_invert(&self) -> Result<(), Failure> {
        match self.sampler {
            SamplerName::Sdedit => Err(Failure::usage(
                "--sampler sdedit inverts nothing, it adds noise: use it with `edict edit`, or another sampler here",
            )),
            _ => Ok(()),
        }
    }

    /// Lays out the run before the model's weights are read, so that settings that do not fit are refused at once.
    pub(crate) fn trajectory(&self, folder: &ModelFolder) -> Result<Trajectory, Failure> {
        let Self { steps, strength, .. } = *self;
        folder.trajectory(steps, strength).map_err(|error| match error {
            // The last of so many steps lies beyond the schedule where a model's timesteps are shifted up by one.
            ConfigError::TimestepOutsideTraining { last, .. }
                if folder.trajectory(last, strength).is_ok() =>
            {
                Failure::usage(format!(
                    "--steps {steps} does not fit this model's schedule: use at most {last}"
                ))
            }
            error => Failure::usage(chain(&error)),
        })
    }

    /// Makes the sampler of a run, its mixing weight a number: that is what a file keeps.
    pub(crate) fn sampler(&self, run: &Trajectory) -> Result<AnySampler, Failure> {
        let weight = MixingWeight::Fixed(self.mixing_weight.resolve(run));
        let two_step = |rule| TwoStep::new(rule).map_err(Failure::from);
        let wrong = |error| Failure::usage(chain(&error));
        Ok(match (self.sampler, self.exact) {
            (SamplerName::Edict, true) => {
                AnySampler::LatticeEdict(LatticeEdict::new(weight, self.order).map_err(wrong)?)
            }
            (SamplerName::Edict, false) => AnySampler::Edict(Edict::new(weight, self.order).map_err(wrong)?),
            (SamplerName::Ddim | SamplerName::Sdedit, _) => AnySampler::Ddim(Ddim),
            (name, exact) => {
                let rule = match name {
                    SamplerName::Bdia => TwoStepRule::Bdia { gamma: self.gamma },
                    _ => TwoStepRule::Belm,
                };
                match exact {
                    true => AnySampler::LatticeTwoStep(LatticeTwoStep::new(two_step(rule)?)?),
                    false => AnySampler::TwoStep(two_step(rule)?),
                }
            }
        })
    }
}

fn can_be_exact(sampler: SamplerName) -> bool {
    !matches!(sampler, SamplerName::Ddim | SamplerName::Sdedit)
}

/// What a run will lose to rounding, where there is a law for it.
pub(crate) fn stability(sampler: &AnySampler, run: &Trajectory) -> Option<Stability> {
    match (sampler.edict(), sampler.two_step()) {
        (Some(edict), _) => Some(Stability::edict(&edict, run)),
        (_, Some(two_step)) => Some(Stability::two_step(&two_step, run)),
        _ => None,
    }
}

/// Says what floats lose on a run, and warns when that is too much for them.
pub(crate) fn report_stability(sampler: &AnySampler, run: &Trajectory, reporter: &Reporter) {
    warn_of_no_steps(run, reporter);
    let Some(stability) = stability(sampler, run) else {
        reporter.say("ddim comes back only approximately");
        return;
    };
    let (lost, steps, name) = (stability.lost_bits(), counted(run.len()), sampler.name());
    if sampler.is_exact() {
        reporter.say(&format!("{name}, {steps}, exact; floats would lose {lost:.1} bits"));
        return;
    }
    let error = stability.expected_error(f64::EPSILON / 2.0);
    reporter.say(&format!("{name}, {steps}, in floats: {lost:.1} bits lost, errors up to about {error:.0e}"));
    if lost > Stability::F64_BITS {
        let remedy = match sampler.edict() {
            Some(_) => {
                let enough = Stability::holding_weight(run, Stability::F64_BITS);
                format!("--mixing-weight auto, or {enough:.3} and above")
            }
            None => two_step_remedy(sampler).to_owned(),
        };
        reporter.warn(format!(
            "{steps} of {name} in floats lose {lost:.0} bits, and f64 has {} to spare: the image may not come back; \
             leave out --float, or use {remedy}",
            Stability::F64_BITS
        ));
    }
}

/// Warns when there is nothing to do.
pub(crate) fn warn_of_no_steps(run: &Trajectory, reporter: &Reporter) {
    if run.is_empty() {
        let steps = counted(run.schedule_steps());
        reporter.warn(format!(
            "at this strength none of {steps} is run, so that nothing changes: more strength or more steps would"
        ));
    }
}

/// "1 step", "2 steps".
fn counted(steps: usize) -> String {
    if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") }
}

/// What keeps a two-step sampler's errors small: BDIA's grow by `1 / gamma` a step, O-BELM's less with more steps.
pub(crate) fn two_step_remedy(sampler: &AnySampler) -> &'static str {
    match sampler.two_step().map(|sampler| sampler.rule()) {
        Some(TwoStepRule::Bdia { gamma }) if gamma < 1.0 => "a --gamma nearer to 1, or --sampler edict",
        Some(TwoStepRule::Belm) => "more --steps, or --sampler edict",
        _ => "--sampler edict",
    }
}

/// The report of [`report_stability`] for programs.
pub(crate) fn stability_json(sampler: &AnySampler, run: &Trajectory) -> Value {
    stability(sampler, run).map_or(Value::Null, |stability| {
        let error = stability.expected_error(f64::EPSILON / 2.0);
        json!({
            "lost_bits": stability.lost_bits(),
            "float_error": if error.is_finite() { error.into() } else { Value::Null },
            "float_holds": stability.lost_bits() <= Stability::F64_BITS,
            "holding_mixing_weight": sampler.edict().map(|_| Stability::holding_weight(run, Stability::F64_BITS)),
        })
    })
}

/// Adds the settings of a run to a report.
pub(crate) fn insert_run(
    json: &mut Map<String, Value>,
    sampler: &AnySampler,
    run: &Trajectory,
    strength: f64,
) {
    json.insert("sampler".to_owned(), sampler.name().into());
    json.insert("exact".to_owned(), sampler.is_exact().into());
    json.insert("steps".to_owned(), run.schedule_steps().into());
    json.insert("strength".to_owned(), strength.into());
    if let Some(edict) = sampler.edict() {
        json.insert("mixing_weight".to_owned(), edict.mixing_weight().resolve(run).into());
        json.insert("leapfrog".to_owned(), (edict.order() == UpdateOrder::Leapfrog).into());
    }
    if let Some(TwoStepRule::Bdia { gamma }) = sampler.two_step().map(|sampler| sampler.rule()) {
        json.insert("gamma".to_owned(), gamma.into());
    }
}

/// Refuses flags that say otherwise than a file.
pub(crate) fn check_kept(
    args: &RunArgs,
    inversion: &Inversion,
    noise_seed: Option<u64>,
    file: &str,
) -> Result<(), Failure> {
    let otherwise = |flag: &str, given: &dyn std::fmt::Display, kept: &dyn std::fmt::Display| {
        Failure::usage(format!(
            "{flag} {given} does not fit {file}, which was made with {kept}: leave {flag} out, or invert again"
        ))
    };
    let Inversion { sampler, trajectory, strength, .. } = inversion;
    let steps = trajectory.schedule_steps();
    let name = if noise_seed.is_some() { SamplerName::Sdedit.name() } else { sampler.name() };
    match args.sampler {
        Some(given) if given.name() != name => return Err(otherwise("--sampler", &given.name(), &name)),
        _ => {}
    }
    if args.float && sampler.is_exact() {
        return Err(Failure::usage(format!(
            "--float does not fit {file}, which is exact: leave --float out, or invert again"
        )));
    }
    match args.steps {
        Some(given) if given != steps => return Err(otherwise("--steps", &given, &steps)),
        _ => {}
    }
    match args.strength {
        Some(given) if given != *strength => return Err(otherwise("--strength", &given, strength)),
        _ => {}
    }
    if let Some(given) = args.gamma {
        match sampler.two_step().map(|sampler| sampler.rule()) {
            Some(TwoStepRule::Bdia { gamma }) if gamma == given => {}
            Some(TwoStepRule::Bdia { gamma }) => return Err(otherwise("--gamma", &given, &gamma)),
            _ => return Err(otherwise("--gamma", &given, &format!("--sampler {}", sampler.name()))),
        }
    }
    let Some(edict) = sampler.edict() else {
        if args.mixing_weight.is_some() || args.no_leapfrog {
            let flag = if args.no_leapfrog { "--no-leapfrog" } else { "--mixing-weight" };
            let name = sampler.name();
            return Err(Failure::usage(format!(
                "{flag} does not fit {file}, which was made with --sampler {name}: leave {flag} out, or invert again"
            )));
        }
        return Ok(());
    };
    let p = edict.mixing_weight().resolve(trajectory);
    match args.mixing_weight {
        Some(WeightArg::Fixed(given)) if given != p => return Err(otherwise("--mixing-weight", &given, &p)),
        // A power: its last bit may differ between machines, and the kept number is used anyway.
        Some(WeightArg::Auto) if (MixingWeight::Auto.resolve(trajectory) / p - 1.0).abs() > 1e-12 => {
            return Err(otherwise("--mixing-weight", &"auto", &p));
        }
        _ => {}
    }
    if args.no_leapfrog && edict.order() == UpdateOrder::Leapfrog {
        return Err(Failure::usage(format!(
            "--no-leapfrog does not fit {file}, which was made with leapfrog: leave --no-leapfrog out, or invert again"
        )));
    }
    Ok(())
}

/// Fills in the defaults of guidance; `default` is that of a file, or the program's.
pub(crate) fn guidance(args: &GuidanceArgs, default: GuidanceSettings) -> GuidanceSettings {
    GuidanceSettings {
        scale: args.guidance.unwrap_or(default.scale),
        interval: args.guidance_interval.or(default.interval),
    }
}
