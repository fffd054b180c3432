//! The command line on PyTorch: `--backend tch` keeps the same promises, and says what it lacks.

mod support;

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use support::golden::{RUNS, model, relative_error, root};
use support::{Edict, Tensors, difference, edict, image, largest};
use tempfile::TempDir;

struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn call(&self, command: &str, name: &str, output: &str) -> Edict {
        edict(command).with("--model", model(name)).with("--output", self.at(output)).args("--threads 1")
    }

    fn invert(&self, name: &str, output: &str) -> Edict {
        self.call("invert", name, output)
            .with("--image", image("photo-64.png"))
            .with("--prompt", "a photo of a cat")
    }

    fn generate(&self, name: &str, inversion: &str, output: &str) -> Edict {
        self.call("generate", name, output)
            .with("--inversion", self.at(inversion))
            .with("--latents", self.at("latents"))
    }
}

/// Asserts that a report is of a generation on PyTorch that gave every bit back.
#[track_caller]
fn assert_exact(report: &Value, what: &str) {
    assert_eq!(report["settings"]["backend"], "tch", "{what}: {report}");
    let identical = &report["bit_identical"];
    assert!(
        identical["total"].as_u64() > Some(0) && identical["equal"] == identical["total"],
        "{what}: {report}"
    );
    assert_eq!(report["predictions"]["first_difference"], json!(null), "{what}: {report}");
    assert_eq!(report["warnings"], json!([]), "{what}");
}

#[test]
fn every_bit_comes_back_in_every_element_type() {
    let desk = Desk::new();
    for name in ["tiny-sd1", "tiny-sd2", "tiny-legacy"] {
        for dtype in ["f64", "f32", "f16", "bf16"] {
            let what = format!("{name} {dtype}");
            let call = desk.invert(name, "inversion").args("--backend tch --steps 15").with("--dtype", dtype);
            call.run().succeeds();
            // Back end, precision and threads are the file's.
            assert_exact(&desk.generate(name, "inversion", "out.png").json(), &what);
            let kept = Tensors::open(desk.at("inversion")).get("image_latent");
            assert_eq!(Tensors::open(desk.at("latents")).get("x"), kept, "{what}");
        }
    }
}

#[test]
fn every_bit_comes_back_by_every_exact_sampler() {
    let desk = Desk::new();
    for sampler in ["edict", "belm", "bdia"] {
        let call = desk.invert("tiny-sd1", "inversion").args("--backend tch --steps 25 --strength 1");
        call.with("--sampler", sampler).arg("--verify").run().succeeds();
        assert_exact(&desk.generate("tiny-sd1", "inversion", "out.png").json(), sampler);
    }
}

#[test]
fn two_threads_are_as_exact_as_one() {
    let desk = Desk::new();
    desk.invert("tiny-sd1", "inversion")
        .args("--backend tch --steps 5")
        .instead("--threads", "2")
        .run()
        .succeeds();
    let report = desk.generate("tiny-sd1", "inversion", "out.png").instead("--threads", "2").json();
    assert_exact(&report, "two threads");
}

#[test]
fn candle_and_pytorch_invert_to_the_same_noise() {
    let desk = Desk::new();
    for sampler in ["edict", "belm"] {
        let noise = ["candle", "tch"].map(|backend| {
            let call =
                desk.invert("tiny-sd1", backend).args("--dtype f64 --steps 20").with("--sampler", sampler);
            call.with("--backend", backend).run().succeeds();
            Tensors::open(desk.at(backend)).get("x")
        });
        // Differences of 1e-15 in each prediction, grown by inversion.
        let bound = 1e-7 * largest(&noise[0]);
        let error = difference(&noise[1], &noise[0]);
        assert!(error > 0.0 && error < bound, "{sampler}: {error:e}, bound {bound:e}");
    }
}

/// Two independent f64 programs agree to about 1e-13 in these runs; a wrong order, schedule or formula is off by 1e-4 and more.
const BOUND: f64 = 1e-9;

#[test]
fn whole_runs_agree_with_the_oracle() {
    let desk = Desk::new();
    for run in RUNS {
        let oracle = Tensors::open(root().join(format!("data/{}.safetensors", run.file)));
        let settings = oracle.metadata();
        let call = desk.call("invert", run.model, "inversion").args("--backend tch --dtype f64 --float");
        let mut call = call
            .with("--image", image(&format!("{}.png", run.image)))
            .with("--prompt", &settings["source"])
            .with("--negative", &settings["negative"]);
        for (flag, key) in [("steps", "steps"), ("strength", "strength"), ("guidance", "guidance")] {
            call = call.with(&format!("--{flag}"), &settings[key]);
        }
        if settings["no_leapfrog"] != "False" {
            call = call.args("--no-leapfrog");
        }
        call.with("--mixing-weight", &settings["mixing_weight"]).run().succeeds();
        let edit = desk.generate(run.model, "inversion", "out.png").with("--prompt", &settings["target"]);
        edit.run().succeeds();
        let [noise, edited] = ["inversion", "latents"].map(|name| Tensors::open(desk.at(name)));
        for latent in ["x", "y"] {
            for (found, name) in [(&noise, format!("{latent}_noise")), (&edited, format!("{latent}_edit"))] {
                let error = relative_error(&found.get(latent), &oracle.get(&name));
                println!("{} {name}: {error:.1e}", run.file);
                assert!(error <= BOUND, "{} {name}: {error:e} is above {BOUND:e}", run.file);
            }
        }
        // What another target makes is far away.
        let error = relative_error(&edited.get("x"), &oracle.get("x_back"));
        assert!(error > 1e3 * BOUND, "{}: {error:e}", run.file);
    }
}

#[test]
fn the_other_back_end_is_found_out() {
    let desk = Desk::new();
    for (made, used) in [("tch", "candle"), ("candle", "tch")] {
        desk.invert("tiny-sd1", "inversion").args("--steps 8").with("--backend", made).run().succeeds();
        let report = desk.generate("tiny-sd1", "inversion", "out.png").with("--backend", used).json();
        assert_eq!(report["settings"]["backend"], used);
        assert!(report["predictions"]["first_difference"].is_u64(), "{report}");
        assert_ne!(report["bit_identical"]["equal"], report["bit_identical"]["total"], "{report}");
        let warning = report["warnings"][0].as_str().unwrap();
        assert!(warning.contains(&format!("Inverted with {made} on cpu")), "{warning}");
        assert!(warning.contains(&format!("now {used} on cpu")), "{warning}");
    }
}

#[test]
fn edits_and_compares() {
    let desk = Desk::new();
    let call = desk.call("edit", "tiny-sd1", "out.png").with("--image", image("photo-64.png"));
    let call =
        call.with("--source", "a photo of a cat").with("--target", "a dog").args("--steps 6 --backend tch");
    assert_eq!(call.json()["settings"]["backend"], "tch");
    assert!(std::fs::read(desk.at("out.png")).unwrap().starts_with(b"\x89PNG"));
    let call = edict("compare").with("--model", model("tiny-sd1")).with("--image", image("photo-64.png"));
    let report =
        call.with("--prompt", "a photo of a cat").args("--steps 10 --backend tch --threads 1").json();
    for sampler in ["edict", "belm", "bdia"] {
        let identical = &report["samplers"][sampler]["bit_identical"];
        assert_eq!(identical["equal"], identical["total"], "{sampler}: {report}");
    }
    let lost = report["samplers"]["ddim"]["latent_max_abs_error"].as_f64().unwrap();
    assert!(lost > 1e-3, "ddim comes back only approximately: {lost}");
}

#[test]
fn starts_with_no_environment_at_all() {
    let output = Command::new(env!("CARGO_BIN_EXE_edict")).env_clear().arg("--version").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn devices_that_are_not_there_are_refused() {
    let desk = Desk::new();
    let call = desk.invert("tiny-sd1", "inversion").args("--backend tch --quiet");
    let error = call.clone().args("--device metal").run().error(1);
    assert!(error.contains("`metal`") && error.contains("`cpu`"), "{error}");
    let error = call.args("--device cuda:99").run().error(1);
    assert!(error.contains("`cuda:99`") && (error.contains("GPUs") || error.contains("LIBTORCH")), "{error}");
    assert!(!desk.at("inversion").exists());
}

#[test]
fn fast_kernels_promise_nothing() {
    let desk = Desk::new();
    let report = desk.invert("tiny-sd1", "inversion").args("--backend tch --steps 3 --fast-kernels").json();
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(warning.contains("--fast-kernels") && warning.contains("not promised"), "{warning}");
}
