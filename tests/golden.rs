//! Whole runs against the Python oracle's, at f64: through the library, and through the command line in processes of their own.
//!
//! tests/golden/README.md says what the tensors are and who wrote them.

mod support;

use std::fmt::Debug;
use std::path::PathBuf;

use edict_candle::CandleBackend;
use edict_core::{
    CoupledPair, Ddim, Edict, Guidance, GuidanceScale, Guided, Latents, LatticeEdict, LatticeTwoStep,
    MixingWeight, Sampler, Trajectory, TwoStep, TwoStepRule, UpdateOrder,
};
use edict_stable_diffusion::{
    AnySampler, AnyState, DType, ModelFolder, Picture, PromptEmbedding, StableDiffusion, UNetPredictor,
};
use support::golden::{RUNS, Run, model, relative_error, root};
use support::{Tensors, edict, image};

/// Allowed difference relative to a tensor's largest element. Two independent f64 programs agree to about 1e-13 in these runs
/// (rounding errors of 1e-16, enlarged by the inversion); a wrong order, schedule or formula is off by 1e-4 and more.
const BOUND: f64 = 1e-9;

/// A run of the oracle and its results.
struct Oracle {
    run: Run,
    tensors: Tensors,
}

impl Oracle {
    fn open(file: &str) -> Self {
        let run = RUNS.into_iter().find(|run| run.file == file).unwrap();
        Self { run, tensors: Tensors::open(root().join(format!("data/{file}.safetensors"))) }
    }

    fn image(&self) -> PathBuf {
        image(&format!("{}.png", self.run.image))
    }

    fn text(&self, key: &str) -> String {
        self.tensors.metadata()[key].clone()
    }

    fn number(&self, key: &str) -> f64 {
        self.text(key).parse().unwrap()
    }

    fn settings(&self) -> Settings {
        let order = match self.text("no_leapfrog").as_str() {
            "False" => UpdateOrder::Leapfrog,
            _ => UpdateOrder::Fixed,
        };
        Settings {
            steps: self.number("steps") as usize,
            strength: self.number("strength"),
            mixing_weight: self.number("mixing_weight"),
            guidance: self.number("guidance"),
            order,
        }
    }

    fn error(&self, name: &str, found: &Latents) -> f64 {
        relative_error(found, &self.tensors.get(name))
    }

    #[track_caller]
    fn check(&self, how: &str, name: &str, found: &Latents) {
        let error = self.error(name, found);
        println!("{} {how} {name}: {error:.1e}", self.run.file);
        assert!(error <= BOUND, "{} {how} {name}: {error:e} is above {BOUND:e}", self.run.file);
    }
}

#[derive(Clone, Copy)]
struct Settings {
    steps: usize,
    strength: f64,
    mixing_weight: f64,
    guidance: f64,
    order: UpdateOrder,
}

/// A model with what a run of the oracle gives it.
struct Bench {
    model: StableDiffusion<CandleBackend>,
    image_latent: Latents,
    source: Guidance<PromptEmbedding>,
    target: Guidance<PromptEmbedding>,
}

impl Bench {
    fn new(oracle: &Oracle) -> Self {
        let folder = ModelFolder::open(model(oracle.run.model)).unwrap();
        let backend = CandleBackend::cpu(DType::F64).with_threads(1).unwrap();
        let model = StableDiffusion::load(&backend, &folder).unwrap();
        let picture = Picture::open(oracle.image()).unwrap().prepare(None, model.factor()).unwrap();
        let prompt = |key: &str| model.encode_prompt(&oracle.text(key)).unwrap();
        let under = |key: &str| Guidance { positive: prompt(key), negative: prompt("negative") };
        Self {
            image_latent: model.encode_images(picture.view().into_dyn()).unwrap().mode(),
            source: under("source"),
            target: under("target"),
            model,
        }
    }

    fn predictor(&self, settings: Settings) -> Guided<UNetPredictor<'_, CandleBackend>> {
        Guided::new(self.model.predictor(), GuidanceScale::constant(settings.guidance).unwrap())
    }

    fn trajectory(&self, settings: Settings) -> Trajectory {
        self.model.trajectory(settings.steps, settings.strength).unwrap()
    }

    fn invert<S: Sampler<State: Debug>>(&self, sampler: &S, settings: Settings) -> S::State {
        let trajectory = self.trajectory(settings);
        let start = sampler.state_from_image(&self.image_latent, &trajectory).unwrap();
        let predictor = self.predictor(settings);
        sampler.invert(&start, &trajectory, &predictor, &self.source, &mut ()).unwrap()
    }

    fn generate<S: Sampler<State: Debug>>(
        &self,
        sampler: &S,
        settings: Settings,
        noise: &S::State,
        condition: &Guidance<PromptEmbedding>,
    ) -> S::State {
        let predictor = self.predictor(settings);
        sampler.generate(noise, &self.trajectory(settings), &predictor, condition, &mut ()).unwrap()
    }
}

fn coupled(settings: Settings) -> Edict {
    Edict::new(MixingWeight::Fixed(settings.mixing_weight), settings.order).unwrap()
}

fn library_agrees(file: &str) {
    let oracle = &Oracle::open(file);
    let (bench, settings) = (Bench::new(oracle), oracle.settings());
    let check = |name: &str, found: &Latents| oracle.check("library", name, found);
    check("image_latent", &bench.image_latent);

    let float = coupled(settings);
    let weight = MixingWeight::Fixed(settings.mixing_weight);
    let belm = TwoStep::new(TwoStepRule::Belm).unwrap();
    let bdia = TwoStep::new(TwoStepRule::Bdia { gamma: oracle.number("gamma") }).unwrap();
    // In floats and on the lattice: the same numbers, to what the lattice rounds away.
    let samplers = [
        AnySampler::Edict(float),
        AnySampler::LatticeEdict(LatticeEdict::new(weight, settings.order).unwrap()),
        AnySampler::TwoStep(belm),
        AnySampler::LatticeTwoStep(LatticeTwoStep::new(belm).unwrap()),
        AnySampler::TwoStep(bdia),
        AnySampler::LatticeTwoStep(LatticeTwoStep::new(bdia).unwrap()),
        AnySampler::Ddim(Ddim),
    ];
    let trajectory = bench.trajectory(settings);
    for sampler in samplers {
        let check = |name: &str, found: &Latents| {
            let how = if sampler.is_exact() { "library, exact" } else { "library" };
            oracle.check(how, name, found);
        };
        let noise = bench.invert(&sampler, settings);
        let back = bench.generate(&sampler, settings, &noise, &bench.source);
        let edit = bench.generate(&sampler, settings, &noise, &bench.target);
        let latents = |state: &AnyState| sampler.latents(state, &trajectory).unwrap();
        let found = [("noise", latents(&noise)), ("back", latents(&back)), ("edit", latents(&edit))];
        for (what, CoupledPair { x, y }) in found {
            match sampler.name() {
                "edict" => {
                    check(&format!("x_{what}"), &x);
                    check(&format!("y_{what}"), &y);
                }
                name => {
                    check(&format!("{name}_{what}"), &x);
                    if sampler.two_step().is_some() && what == "noise" {
                        check(&format!("{name}_noise_next"), &y);
                    }
                }
            }
        }
    }
}

#[test]
fn library_agrees_with_the_oracle_on_50_steps() {
    library_agrees("sd1-50-0.8");
}

#[test]
fn library_agrees_with_the_oracle_on_25_unguided_steps_over_the_whole_schedule() {
    library_agrees("sd1-25-1.0-odd");
}

#[test]
fn library_agrees_with_the_oracle_on_velocity_prediction_and_a_negative_prompt() {
    library_agrees("sd2-20-0.75-vpred");
}

#[test]
fn library_agrees_with_the_oracle_on_an_old_folder_and_odd_latent_sides() {
    library_agrees("legacy-40-0.6");
}

fn command_line_agrees(file: &str) {
    let oracle = &Oracle::open(file);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let Settings { steps, strength, mixing_weight, guidance, order } = oracle.settings();
    assert_eq!(order, UpdateOrder::Leapfrog, "the default, given by no flag");

    let gamma = oracle.text("gamma");
    for (prefix, flags) in [
        ("", format!("--mixing-weight {mixing_weight}")),
        ("", format!("--float --mixing-weight {mixing_weight}")),
        ("belm", "--sampler belm".to_owned()),
        ("bdia", format!("--sampler bdia --gamma {gamma} --float")),
        ("ddim", "--sampler ddim".to_owned()),
    ] {
        // EDICT's tensors are named after its two latents, those of the others after the sampler.
        let name = |latent: &str, what: &str| match (prefix, latent) {
            ("", latent) => Some(format!("{latent}_{what}")),
            (prefix, "x") => Some(format!("{prefix}_{what}")),
            ("ddim", _) => None,
            (prefix, _) => (what == "noise").then(|| format!("{prefix}_noise_next")),
        };
        let check = |what: &str, tensors: &Tensors| {
            for latent in ["x", "y"] {
                if let Some(name) = name(latent, what) {
                    oracle.check(&format!("command line {flags}"), &name, &tensors.get(latent));
                }
            }
        };
        edict("invert")
            .with("--model", model(oracle.run.model))
            .with("--image", oracle.image())
            .with("--prompt", oracle.text("source"))
            .with("--negative", oracle.text("negative"))
            .args(&format!("--steps {steps} --strength {strength} {flags}"))
            .args(&format!("--guidance {guidance} --dtype f64 --quiet"))
            .with("--output", at("inversion.safetensors"))
            .run()
            .succeeds();
        let inversion = Tensors::open(at("inversion.safetensors"));
        oracle.check("command line", "image_latent", &inversion.get("image_latent"));
        check("noise", &inversion);

        for (what, prompt) in [("back", "source"), ("edit", "target")] {
            // The file knows everything else.
            edict("generate")
                .with("--model", model(oracle.run.model))
                .with("--inversion", at("inversion.safetensors"))
                .with("--prompt", oracle.text(prompt))
                .with("--latents", at("latents.safetensors"))
                .with("--output", at("picture.png"))
                .arg("--quiet")
                .run()
                .succeeds();
            let latents = Tensors::open(at("latents.safetensors"));
            assert_eq!(latents.names(), ["x", "y"]);
            check(what, &latents);
        }
    }
}

#[test]
fn command_line_agrees_with_the_oracle_on_50_steps() {
    command_line_agrees("sd1-50-0.8");
}

#[test]
fn command_line_agrees_with_the_oracle_on_25_unguided_steps_over_the_whole_schedule() {
    command_line_agrees("sd1-25-1.0-odd");
}

#[test]
fn command_line_agrees_with_the_oracle_on_velocity_prediction_and_a_negative_prompt() {
    command_line_agrees("sd2-20-0.75-vpred");
}

#[test]
fn command_line_agrees_with_the_oracle_on_an_old_folder_and_odd_latent_sides() {
    command_line_agrees("legacy-40-0.6");
}

/// The comparison is worth something only if it fails when a setting is wrong.
#[test]
fn every_setting_that_is_changed_breaks_the_agreement() {
    let oracle = Oracle::open("sd2-20-0.75-vpred");
    let (bench, right) = (Bench::new(&oracle), oracle.settings());
    let wrong = [
        ("steps", Settings { steps: right.steps + 1, ..right }),
        ("strength", Settings { strength: right.strength - 0.05, ..right }),
        ("mixing weight", Settings { mixing_weight: right.mixing_weight + 1e-6, ..right }),
        ("guidance", Settings { guidance: right.guidance + 1e-6, ..right }),
        ("order", Settings { order: UpdateOrder::Fixed, ..right }),
    ];
    for (what, settings) in wrong {
        let noise = bench.invert(&coupled(settings), settings);
        let error = f64::min(oracle.error("x_noise", &noise.x), oracle.error("y_noise", &noise.y));
        println!("with another {what}: {error:.1e}");
        assert!(error > 10.0 * BOUND, "another {what} goes unseen: {error:e}");
    }
    // The right settings under the other prompt.
    let noise = Sampler::invert(
        &coupled(right),
        &CoupledPair { x: bench.image_latent.clone(), y: bench.image_latent.clone() },
        &bench.trajectory(right),
        &bench.predictor(right),
        &bench.target,
        &mut (),
    );
    let error = oracle.error("x_noise", &noise.unwrap().x);
    assert!(error > 10.0 * BOUND, "another prompt goes unseen: {error:e}");
}
