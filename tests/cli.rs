//! The command line's contract: what every command prints, writes and refuses.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use edict_candle::CandleBackend;
use edict_core::Latents;
use edict_stable_diffusion::{DType, Inversion, ModelFolder, Picture, StableDiffusion};
use image::{DynamicImage, GrayImage, ImageFormat, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use support::golden::{model, root};
use support::{Edict, Tensors, edict, image};
use tempfile::TempDir;

/// A folder of its own for what a test writes, and calls of every command on one model and picture.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.at(name), content).unwrap();
        self.at(name)
    }

    fn tensors(&self, name: &str) -> Tensors {
        Tensors::open(self.at(name))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.at(name)).unwrap()
    }

    /// Everything in the folder, hidden files too, with its content.
    fn contents(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path.clone());
                    found.insert(path, None);
                } else {
                    let content = fs::read(&path).unwrap();
                    found.insert(path, Some(content));
                }
            }
        }
        found
    }

    fn names(&self) -> Vec<String> {
        support::listing(self.0.path())
    }

    fn call(&self, command: &str, output: &str) -> Edict {
        edict(command).with("--model", model("tiny-sd1")).with("--output", self.at(output))
    }

    fn invert(&self, output: &str) -> Edict {
        self.call("invert", output).with("--image", image("shape-64.png")).with("--prompt", "a photo")
    }

    fn generate(&self, output: &str) -> Edict {
        self.call("generate", output)
    }

    /// Generates from an inversion, and keeps the latents beside the picture, under the name `latents`.
    fn generate_from(&self, inversion: &str, output: &str) -> Edict {
        let latents = self.at(&format!("{output}.latents"));
        self.generate(output).with("--inversion", self.at(inversion)).with("--latents", latents)
    }

    fn edit(&self, output: &str) -> Edict {
        let call = self.call("edit", output).with("--image", image("shape-64.png"));
        call.with("--source", "a photo").with("--target", "a dog")
    }

    fn reconstruct(&self, output: &str) -> Edict {
        self.call("reconstruct", output).with("--image", image("shape-64.png")).with("--prompt", "a photo")
    }

    /// A call of each command that would succeed.
    fn calls(&self) -> [Edict; 4] {
        let generate = self.generate("picture.png").with("--prompt", "a cat");
        [self.invert("inversion"), generate, self.edit("picture.png"), self.reconstruct("picture.png")]
    }

    /// Runs a call that must be refused: with a line that says why, and with nothing changed in the folder.
    #[track_caller]
    fn refuses(&self, call: Edict, status: i32, says: &[&str]) -> String {
        let before = self.contents();
        let run = call.arg("--quiet").run();
        let error = run.error(status);
        for part in says {
            assert!(error.contains(part), "{}\nshould say {part:?}: {error}", run.command);
        }
        assert!(self.contents() == before, "{} left {:?}", run.command, self.names());
        error
    }
}

fn sorted_keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn bits(latents: &Latents) -> Vec<u64> {
    latents.iter().map(|value| value.to_bits()).collect()
}

#[track_caller]
fn same(a: &Latents, b: &Latents) {
    assert_eq!(a.shape(), b.shape());
    assert!(bits(a) == bits(b));
}

#[track_caller]
fn differ(a: &Latents, b: &Latents) {
    assert_eq!(a.shape(), b.shape());
    assert!(bits(a) != bits(b));
}

// What commands print.

#[test]
fn every_command_prints_one_json_object() {
    let desk = Desk::new();
    let run = "--steps 2 --strength 1";
    let inversion = desk.at("inversion");
    // Two calls a step each way; the two branches of guidance are one call.
    let calls = [
        (desk.invert("inversion").args(run), "invert", vec!["inversion"], 4),
        (
            desk.generate("generated.png").with("--inversion", &inversion).with("--latents", desk.at("pair")),
            "generate",
            vec!["generated.png", "pair"],
            4,
        ),
        (
            desk.generate("fresh.png").args("--steps 2 --seed 3").with("--prompt", "a cat"),
            "generate",
            vec!["fresh.png"],
            4,
        ),
        (
            desk.edit("edit.png").with("--target", "grass").args(run),
            "edit",
            vec!["edit-1.png", "edit-2.png"],
            12,
        ),
        // EDICT's 4 + 4 and DDIM's 2 + 2; 2 + 1 by the two-step samplers, which come back from two latents; three of these in floats too.
        (desk.reconstruct("back.png").args(run), "reconstruct", vec!["back.png"], 32),
        (edict("info").with("--model", model("tiny-sd1")), "info", vec![], 0),
    ];
    for (call, command, outputs, network_calls) in calls {
        let report = call.json();
        let common = ["command", "network_calls", "outputs", "seconds", "settings", "warnings"];
        for key in common {
            assert!(report.get(key).is_some(), "{command} has no {key}: {report}");
        }
        let more: &[&str] = match command {
            "invert" | "edit" => &["noise", "probe_calls", "stability"],
            "generate" => &["predictions", "probe_calls", "stability"],
            _ => &[],
        };
        if !more.is_empty() {
            let keys = sorted_keys(&report);
            assert!(
                keys.iter().all(|key| common.contains(key) || more.contains(key) || *key == "bit_identical"),
                "{keys:?}"
            );
            assert!(more.iter().all(|key| keys.contains(key)), "{keys:?}");
        }
        assert_eq!(report["command"], command);
        let outputs: Vec<_> = outputs.iter().map(|name| desk.at(name)).collect();
        assert_eq!(report["outputs"], json!(outputs), "{command}");
        assert!(outputs.iter().all(|path| path.is_file()), "{report}");
        assert_eq!(report["network_calls"], network_calls, "{report}");
        assert!(report["seconds"].as_f64().unwrap() > 0.0);
        assert_eq!(report["warnings"], json!([]));
        assert_eq!(report["settings"]["model"], json!(model("tiny-sd1")));
    }
}

#[test]
fn network_calls_follow_steps_and_strength() {
    let desk = Desk::new();
    // Steps executed are strength times steps, rounded half up.
    for (steps, strength, executed) in
        [(2, "1", 2), (3, "0.5", 2), (5, "0.5", 3), (4, "0.12", 0), (4, "0.13", 1)]
    {
        for guidance in ["1", "4"] {
            let report = desk
                .invert("inversion")
                .args(&format!("--steps {steps} --strength {strength} --guidance {guidance}"))
                .json();
            assert_eq!(report["network_calls"], 2 * executed, "{report}");
            assert_eq!(desk.tensors("inversion").get("run.timestep").len(), executed);
            assert_eq!(desk.tensors("inversion").get("run.alpha_bar").len(), executed + 1);
        }
    }
}

#[test]
fn strength_zero_calls_no_network_and_changes_nothing() {
    let desk = Desk::new();
    let report = desk.invert("inversion").args("--strength 0").json();
    assert_eq!(report["network_calls"], 0);
    let inversion = desk.tensors("inversion");
    same(&inversion.get("x"), &inversion.get("image_latent"));
    same(&inversion.get("y"), &inversion.get("image_latent"));

    let report = desk.generate_from("inversion", "back.png").json();
    assert_eq!(report["network_calls"], 0);
    same(&desk.tensors("back.png.latents").get("x"), &inversion.get("image_latent"));
    same(&desk.tensors("back.png.latents").get("y"), &inversion.get("image_latent"));

    let report = desk.reconstruct("reconstruction.png").args("--strength 0").json();
    for sampler in ["edict", "ddim"] {
        let row = &report["samplers"][sampler];
        assert_eq!(row["network_calls"], 0);
        assert_eq!(row["latent_max_abs_error"], 0.0);
        assert_eq!(row["bit_identical"], json!({"equal": 256, "total": 256}));
        assert_eq!(row["pixel_mse"], report["vae"]["pixel_mse"]);
    }
    assert!(desk.bytes("reconstruction.png") == desk.bytes("back.png"));
}

#[test]
fn a_run_without_steps_is_warned_about() {
    let desk = Desk::new();
    for (settings, warned) in [
        ("--strength 0", "50 steps"),
        ("--steps 1 --strength 0.3", "1 step "),
        ("--steps 1 --strength 1", ""),
    ] {
        for call in
            [desk.invert("inversion"), desk.edit("out.png"), desk.edit("out.png").args("--sampler sdedit")]
        {
            let warnings = call.args(settings).json()["warnings"].to_string();
            assert_eq!(
                warnings.contains("is run, so that nothing changes"),
                !warned.is_empty(),
                "{warnings}"
            );
            assert!(warnings.contains(warned), "{warnings}");
        }
    }
}

#[test]
fn reconstruct_reports_every_sampler_and_the_autoencoder() {
    let desk = Desk::new();
    let report = desk.reconstruct("back.png").args("--steps 4 --strength 1 --guidance 2").json();
    assert_eq!(
        sorted_keys(&report),
        [
            "command",
            "network_calls",
            "outputs",
            "probe_calls",
            "samplers",
            "seconds",
            "settings",
            "stability",
            "vae",
            "warnings"
        ]
    );
    assert_eq!(
        sorted_keys(&report["samplers"]),
        ["bdia", "bdia_float", "belm", "belm_float", "ddim", "edict", "edict_float"]
    );
    assert_eq!(sorted_keys(&report["vae"]), ["pixel_mse", "psnr"]);
    for (sampler, calls) in [
        ("edict", 16),
        ("edict_float", 16),
        ("belm", 7),
        ("belm_float", 7),
        ("bdia", 7),
        ("bdia_float", 7),
        ("ddim", 8),
    ] {
        let row = &report["samplers"][sampler];
        assert_eq!(
            sorted_keys(row),
            [
                "bit_identical",
                "latent_max_abs_error",
                "latent_mse",
                "network_calls",
                "pixel_mse",
                "psnr",
                "seconds"
            ]
        );
        assert_eq!(sorted_keys(&row["bit_identical"]), ["equal", "total"]);
        assert_eq!(row["bit_identical"]["total"], 256, "4 channels of 8x8 latents");
        assert_eq!(row["network_calls"], calls);
        assert!(row["seconds"].as_f64().unwrap() > 0.0);
        let (mse, worst) = (&row["latent_mse"], row["latent_max_abs_error"].as_f64().unwrap());
        assert!(mse.as_f64().unwrap() <= worst * worst);
    }
    assert_eq!(report["network_calls"], 68);
    let (edict, ddim) = (&report["samplers"]["edict"], &report["samplers"]["ddim"]);
    for exact in ["edict", "belm", "bdia"] {
        let row = &report["samplers"][exact];
        assert_eq!(row["bit_identical"]["equal"], 256, "{exact}");
        assert_eq!(row["latent_max_abs_error"], 0.0, "{exact}");
    }
    // In floats some elements come back to the last bit and some do not; none by DDIM.
    assert!(report["samplers"]["edict_float"]["latent_max_abs_error"].as_f64().unwrap() > 0.0);
    assert_eq!(ddim["bit_identical"]["equal"], 0);

    // The definition: on the decoded picture clamped but not rounded, both in [-1, 1]; the ratio of decibels for [0, 1].
    let sd = StableDiffusion::load(
        &CandleBackend::cpu(DType::F32),
        &ModelFolder::open(model("tiny-sd1")).unwrap(),
    )
    .unwrap();
    let picture = Picture::open(image("shape-64.png")).unwrap().prepare(None, 8).unwrap();
    let latents = sd.encode_images(picture.view().into_dyn()).unwrap().mode();
    let decoded = sd.decode(&latents).unwrap();
    let squares = decoded.iter().zip(&picture).map(|(a, b)| (a.clamp(-1.0, 1.0) - b).powi(2));
    let mse = squares.sum::<f64>() / picture.len() as f64;
    for row in [&report["vae"], edict] {
        let [found, psnr] = ["pixel_mse", "psnr"].map(|key| row[key].as_f64().unwrap());
        // Sums of 12288 squares in another order.
        assert!((found - mse).abs() <= 1e-9 * mse, "{found} {mse}");
        assert!((psnr - 10.0 * (4.0 / mse).log10()).abs() < 1e-6, "{psnr}");
    }
}

#[test]
fn a_sampler_that_loses_the_range_of_numbers_is_an_error_of_one_line() {
    let desk = Desk::new();
    // Inverting divides the pair's difference by p^2 a step: at 0.001 it leaves f64 after some 50 steps.
    let run = "--steps 60 --strength 1 --mixing-weight 0.001 --guidance 1";
    desk.refuses(desk.invert("inversion").args(run).arg("--float"), 1, &["step", "finite"]);
    // And the lattice long before.
    desk.refuses(desk.reconstruct("back.png").args(run), 1, &["step", "range", "--mixing-weight"]);
    desk.refuses(desk.invert("inversion").args(run), 1, &["step", "range", "--mixing-weight"]);
}

#[test]
fn info_tells_what_was_found() {
    for (name, prediction) in
        [("tiny-sd1", "epsilon"), ("tiny-sd2", "v_prediction"), ("tiny-legacy", "epsilon")]
    {
        let call = edict("info").with("--model", model(name));
        let text = call.run().succeeds().stdout();
        let report = call.json();
        assert_eq!(report["scheduler"]["prediction_type"], prediction);
        assert!(text.contains(prediction), "{text}");
        assert!(text.contains(report["fingerprint"].as_str().unwrap()), "{text}");
        for part in ["unet", "vae", "text_encoder"] {
            let file = format!("{part}/{}", report["parts"][part]["file"].as_str().unwrap());
            let bytes = fs::read(model(name).join(file)).unwrap();
            let header = safetensors::SafeTensors::read_metadata(&bytes).unwrap().1;
            let parameters: usize =
                header.tensors().values().map(|t| t.shape.iter().product::<usize>()).sum();
            assert_eq!(report["parts"][part]["parameters"], parameters);
            assert_eq!(report["parts"][part]["tensors"], header.tensors().len());
        }
    }
    // The old folder's text encoder keeps the integers it counts positions with.
    let old = edict("info").with("--model", model("tiny-legacy")).json();
    let ignored = old["ignored"]["tensors"].to_string();
    assert!(ignored.contains("position_ids"), "{ignored}");
    // And every folder notes which program wrote it.
    let ignored = old["ignored"]["settings"].to_string();
    assert!(ignored.contains("unet/config.json: _diffusers_version"), "{ignored}");
}

#[test]
fn progress_goes_to_standard_error_and_quiet_silences_it() {
    let desk = Desk::new();
    let talks = desk.invert("inversion").args("--steps 2 --strength 1").run();
    talks.succeeds();
    assert!(talks.stderr().contains("step 2/2"), "{}", talks.stderr());
    assert!(!talks.stderr().contains('\r') && !talks.stderr().contains('\u{1b}'), "plain lines: no terminal");
    let stdout = talks.stdout();
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[0], format!("wrote {}", desk.at("inversion").display()));
    assert!(lines.len() == 2 && lines[1].starts_with("noise: mean "), "{stdout}");

    let json = desk.invert("inversion").args("--steps 2 --strength 1 --json").run();
    json.json();
    assert!(json.stderr().contains("step 2/2"), "{}", json.stderr());

    let quiet = desk.invert("inversion").args("--steps 2 --strength 1 --quiet").run();
    quiet.succeeds();
    assert_eq!((quiet.stdout().as_str(), quiet.stderr().as_str()), ("", ""));
    let both = desk.invert("inversion").args("--steps 2 --strength 1 --quiet --json").run();
    both.json();
    assert_eq!(both.stderr(), "");
}

#[test]
fn exit_status_tells_usage_from_failure() {
    assert_eq!(edict("--version").run().code(), 0);
    for command in ["--help", "invert", "generate", "edit", "reconstruct", "info"] {
        let call = edict(command);
        let call = if command == "--help" { call } else { call.arg("--help") };
        assert_eq!(call.run().code(), 0);
    }
    for call in [
        edict("improve"),
        edict("--frobnicate"),
        edict("invert"),
        edict("info").arg("--model"),
        edict("generate"),
    ] {
        assert_eq!(call.run().code(), 2);
    }
    // What a command has no use for is not offered.
    for (command, flag, offered) in [
        ("sweep", "--strength ", false),
        ("edit", "--strength ", true),
        ("compare", "--sampler ", false),
        ("reconstruct", "--float", false),
        ("invert", "--float", true),
    ] {
        let help = edict(command).arg("--help").run().stdout();
        assert_eq!(help.contains(flag), offered, "{command} {flag}");
    }
    let desk = Desk::new();
    desk.refuses(desk.invert("inversion").args("--frobnicate"), 2, &["--frobnicate"]);
    desk.refuses(desk.generate("picture.png"), 2, &["--prompt"]);
    // Failures are told on standard error alone, for programs too.
    desk.refuses(desk.invert("inversion").instead("--model", desk.at("none")).arg("--json"), 1, &["none"]);
    // A flag that could have no effect.
    let warnings = desk.invert("unsampled").args("--steps 2 --seed 3").json()["warnings"].to_string();
    assert!(warnings.contains("--seed has no effect without --sample-posterior"), "{warnings}");
}

// Settings and their defaults.

/// alpha-bar of the tiny models' schedule, by its definition.
fn alpha_bars() -> Vec<f64> {
    let (first, last) = (0.00085_f64.sqrt(), 0.012_f64.sqrt());
    let mut bar = 1.0;
    let betas = (0..1000).map(|i| (first + (last - first) * f64::from(i) / 999.0).powi(2));
    betas
        .map(|beta| {
            bar *= 1.0 - beta;
            bar
        })
        .collect()
}

#[test]
fn an_inversion_file_holds_every_number_of_the_run() {
    let desk = Desk::new();
    // All defaults: 50 steps, strength 0.8, guidance 3, an automatic mixing weight, no negative prompt.
    let report = desk.invert("inversion").json();
    assert_eq!(report["network_calls"], 80);
    let settings = &report["settings"];
    for (key, value) in [
        ("steps", json!(50)),
        ("strength", json!(0.8)),
        ("guidance", json!(3.0)),
        ("guidance_interval", Value::Null),
        ("mixing_weight", json!(0.93)),
        ("leapfrog", json!(true)),
        ("negative", json!("")),
        ("prompt", json!("a photo")),
        ("dtype", json!("f32")),
        ("weights", json!("f32")),
        ("device", json!("cpu")),
        ("backend", json!("candle")),
        ("size", json!([64, 64])),
    ] {
        assert_eq!(settings[key], value, "{key} of {settings}");
    }

    let file = desk.tensors("inversion");
    for name in ["x", "y", "image_latent"] {
        assert_eq!(file.get(name).shape(), [1, 4, 8, 8]);
    }
    let list = |name: &str| file.get(name).into_iter().collect::<Vec<_>>();
    // Leading spacing with offset 1: 1, 21, ..., 981, of which the last 40 on the way to the image are run.
    let timesteps: Vec<_> = (0..40).rev().map(|i| 1 + 20 * i).collect();
    assert_eq!(list("run.timestep"), timesteps.iter().map(|t| *t as f64).collect::<Vec<_>>());
    let bars = alpha_bars();
    // `set_alpha_to_one` is false: the last step ends at the first alpha-bar of training.
    let levels: Vec<_> = timesteps.iter().map(|t| bars[*t]).chain([bars[0]]).collect();
    // A product of up to 1000 factors, each rounded.
    let close = |a: &f64, b: &f64| (a - b).abs() <= 1000.0 * f64::EPSILON * b;
    let found = list("run.alpha_bar");
    assert!(found.len() == 41 && found.iter().zip(&levels).all(|(a, b)| close(a, b)), "{found:?}");
    assert_eq!(list("run.mixing_weight"), [0.93]);
    assert_eq!(list("run.guidance"), [3.0]);

    let metadata: Value = serde_json::from_str(&file.metadata()["edict"]).unwrap();
    assert_eq!(metadata["format"], 1);
    assert_eq!(metadata["prompt"], "a photo");
    assert_eq!(metadata["negative"], "");
    let info = edict("info").with("--model", model("tiny-sd1")).json();
    assert_eq!(metadata["model"], info["fingerprint"]);
}

#[test]
fn the_automatic_mixing_weight_follows_the_steps() {
    let desk = Desk::new();
    for steps in [1, 20, 999] {
        for flag in ["", "--mixing-weight auto"] {
            let call = desk.invert("inversion").args(&format!("--steps {steps} --strength 0 {flag}"));
            let found = call.json()["settings"]["mixing_weight"].as_f64().unwrap();
            let expected = 0.93_f64.powf(50.0 / f64::from(steps));
            assert!((found - expected).abs() <= 1e-15, "{steps}: {found} {expected}");
        }
    }
}

#[test]
fn an_edit_inverts_with_the_guidance_and_negative_of_its_own_or_of_the_edit() {
    let desk = Desk::new();
    let settings =
        |flags: &str| desk.edit("out.png").args("--strength 0").args(flags).json()["settings"].clone();
    let check = |settings: &Value, guidance: [f64; 2], negative: [&str; 2]| {
        assert_eq!(json!([settings["guidance"], settings["source_guidance"]]), json!(guidance));
        assert_eq!(json!([settings["negative"], settings["source_negative"]]), json!(negative));
    };
    let found = settings("");
    check(&found, [3.0, 3.0], ["", ""]);
    assert_eq!((&found["steps"], &found["source"]), (&json!(50), &json!("a photo")));
    assert_eq!(found["targets"], json!(["a dog"]));
    check(&settings("--guidance 5 --negative grass"), [5.0, 5.0], ["grass", "grass"]);
    check(
        &settings("--guidance 5 --negative grass --source-guidance 1 --source-negative sky"),
        [5.0, 1.0],
        ["grass", "sky"],
    );
    let found =
        desk.edit("out.png").args("--strength 0").with("--source-negative", "").args("--negative x").json();
    check(&found["settings"], [3.0, 3.0], ["x", ""]);
}

#[test]
fn one_target_writes_the_output_and_several_write_numbered_ones() {
    let desk = Desk::new();
    desk.edit("one.png").args("--strength 0").run().succeeds();
    assert_eq!(desk.names(), ["one.png"]);
    let three = desk.edit("three.png").with("--target", "grass").with("--target", "sky");
    three.args("--steps 1 --strength 1").run().succeeds();
    assert_eq!(desk.names(), ["one.png", "three-1.png", "three-2.png", "three-3.png"]);
    let [first, second, third] = ["1", "2", "3"].map(|n| desk.bytes(&format!("three-{n}.png")));
    assert!(first != second && second != third && first != third);
    // Numbers follow the order of targets, and every target starts from the same noise.
    let again = desk.edit("again.png").instead("--target", "sky").args("--steps 1 --strength 1");
    again.run().succeeds();
    assert!(desk.bytes("again.png") == third);
}

#[test]
fn generating_from_an_inversion_takes_its_settings_and_refuses_others() {
    let desk = Desk::new();
    desk.invert("fixed").args("--steps 3 --strength 0.7 --mixing-weight 0.9 --no-leapfrog").run().succeeds();
    desk.invert("automatic").args("--steps 3 --strength 0.7").run().succeeds();
    let same_values = "--steps 3 --strength 0.7 --mixing-weight 0.9 --no-leapfrog --size 64x64";
    for flags in ["", same_values] {
        let settings = desk.generate_from("fixed", "out.png").args(flags).json()["settings"].clone();
        for (key, value) in [
            ("steps", json!(3)),
            ("strength", json!(0.7)),
            ("mixing_weight", json!(0.9)),
            ("leapfrog", json!(false)),
            ("size", json!([64, 64])),
        ] {
            assert_eq!(settings[key], value, "{key} of {settings}");
        }
    }
    let report = desk.generate_from("automatic", "out.png").args("--mixing-weight auto").json();
    let weight = report["settings"]["mixing_weight"].to_string();
    let spelled_out = desk.generate_from("automatic", "out.png").with("--mixing-weight", weight);
    spelled_out.run().succeeds();

    for (inversion, otherwise) in [
        ("fixed", "--steps 4"),
        ("fixed", "--strength 0.8"),
        ("fixed", "--mixing-weight 0.91"),
        ("fixed", "--mixing-weight auto"),
        ("fixed", "--size 64x72"),
        ("automatic", "--mixing-weight 0.5"),
        ("automatic", "--no-leapfrog"),
    ] {
        let flag = otherwise.split(' ').next().unwrap();
        desk.refuses(desk.generate_from(inversion, "new.png").args(otherwise), 2, &[flag]);
    }
    desk.refuses(desk.generate_from("fixed", "new.png").args("--seed 1"), 2, &["--seed"]);
}

#[test]
fn generating_from_an_inversion_defaults_to_its_prompts_guidance_and_precision() {
    let desk = Desk::new();
    let guided = "--negative painting --guidance 2 --guidance-interval 300:900 --dtype f64";
    desk.invert("inversion").args("--steps 3 --strength 1").args(guided).run().succeeds();
    let settings = desk.generate_from("inversion", "kept").json()["settings"].clone();
    for (key, value) in [
        ("prompt", json!("a photo")),
        ("negative", json!("painting")),
        ("guidance", json!(2.0)),
        ("guidance_interval", json!([300, 900])),
        ("dtype", json!("f64")),
        ("device", json!("cpu")),
        ("backend", json!("candle")),
    ] {
        assert_eq!(settings[key], value, "{key} of {settings}");
    }
    let x = |name: &str| desk.tensors(&format!("{name}.latents")).get("x");
    let say = |name: &str, flags: &str| {
        desk.generate_from("inversion", name).args(flags).run().succeeds();
        x(name)
    };
    let call = desk.generate_from("inversion", "said").with("--prompt", "a photo");
    call.args(guided).args("--device cpu --backend candle --threads 2").run().succeeds();
    same(&x("kept"), &x("said"));
    for flags in [
        "--prompt dog",
        "--negative dog",
        "--guidance 2.5",
        "--guidance-interval 0:999",
        "--guidance 1",
        "--dtype f32",
    ] {
        differ(&x("kept"), &say("other", flags));
    }
    // Under another prompt no prediction can be compared, so that other networks have to be told by their names.
    let warnings =
        |flags: &str| desk.generate_from("inversion", "other").args(flags).json()["warnings"].to_string();
    assert!(warnings("--prompt dog --dtype f32").contains("made with dtype f64, this is f32"));
    assert_eq!(warnings("--prompt dog"), "[]");
}

#[test]
fn a_file_written_by_a_reader_of_the_format_is_used_number_by_number() {
    let desk = Desk::new();
    // In floats: the latents of an exact file are told by its integers.
    desk.invert("inversion").args("--steps 3 --strength 1 --float").run().succeeds();
    desk.generate_from("inversion", "plain").run().succeeds();
    let plain = desk.tensors("plain.latents").get("x");
    let run = |change: &dyn Fn(&mut Kept)| {
        change_inversion(&desk.at("inversion"), &desk.at("changed"), change);
        desk.generate_from("changed", "picture").run().succeeds();
        desk.tensors("picture.latents").get("x")
    };
    // Written again by another program, and with tensors it does not know.
    same(&run(&|_| ()), &plain);
    same(&run(&|kept| kept.add("run.future", &[2], &[1.0, f64::NAN])), &plain);
    same(&run(&|kept| kept.metadata["a key of the future"] = json!(1)), &plain);
    // Every number counts, even where the program could work it out itself.
    for name in ["run.alpha_bar", "run.mixing_weight", "run.guidance", "x", "y"] {
        differ(&run(&|kept| kept.values(name)[0] *= 1.0 - 1e-9), &plain);
    }
    differ(&run(&|kept| kept.values("run.timestep")[0] -= 1.0), &plain);
}

#[test]
fn velocities_are_converted_by_the_table_in_the_file() {
    let desk = Desk::new();
    let invert = desk.invert("inversion").instead("--model", model("tiny-sd2"));
    invert.args("--steps 3 --strength 1").run().succeeds();
    let x = |inversion: &str| {
        let call = desk.generate_from(inversion, inversion).instead("--model", model("tiny-sd2"));
        call.instead("--output", desk.at("picture.png")).run().succeeds();
        desk.tensors(&format!("{inversion}.latents")).get("x")
    };
    let timestep = desk.tensors("inversion").get("run.timestep")[[0]] as usize;
    change_inversion(&desk.at("inversion"), &desk.at("changed"), |kept: &mut Kept| {
        kept.values("run.training_alpha_bar")[timestep] *= 1.0 - 1e-9;
    });
    differ(&x("inversion"), &x("changed"));
}

#[test]
fn fresh_noise_comes_from_the_seed() {
    let desk = Desk::new();
    let generate = |name: &str, flags: &str| {
        let call = desk.generate(name).with("--latents", desk.at(&format!("{name}.latents")));
        let report = call.with("--prompt", "a cat").args("--steps 2").args(flags).json();
        (report, desk.bytes(name), desk.tensors(&format!("{name}.latents")).get("x"))
    };
    let (report, picture, x) = generate("default", "");
    assert_eq!(report["settings"]["seed"], 0);
    // The model's own size: 8 latents a side of 8 pixels.
    assert_eq!(report["settings"]["size"], json!([64, 64]));
    assert_eq!(x.shape(), [1, 4, 8, 8]);
    let (_, again, _) = generate("again", "--seed 0");
    assert!(picture == again);
    let (report, other, other_x) = generate("other", "--seed 18446744073709551615");
    assert!(picture != other);
    assert_eq!(report["settings"]["seed"], json!(u64::MAX));
    differ(&x, &other_x);
    let (report, wide, x) = generate("wide", "--size 96x40");
    assert_eq!(report["settings"]["size"], json!([96, 40]));
    assert_eq!(x.shape(), [1, 4, 5, 12]);
    let wide = image::load_from_memory(&wide).unwrap();
    assert_eq!((wide.width(), wide.height()), (96, 40));
    desk.refuses(
        desk.generate("new.png").args("--prompt cat --size 50x64"),
        2,
        &["--size", "50x64", "multiples of 8"],
    );
}

#[test]
fn pictures_are_cut_to_multiples_of_eight_or_to_the_size_asked_for() {
    let desk = Desk::new();
    let photo = image("chelsea-451x300.png");
    let latent = |flags: &str| {
        let call = desk.invert("inversion").instead("--image", &photo).args("--strength 0").args(flags);
        let size = call.json()["settings"]["size"].clone();
        (size, desk.tensors("inversion").get("image_latent").shape().to_vec())
    };
    assert_eq!(latent(""), (json!([448, 296]), vec![1, 4, 37, 56]));
    assert_eq!(latent("--size 48x32"), (json!([48, 32]), vec![1, 4, 4, 6]));
    for size in ["50x64", "64x4", "8x8192000"] {
        let call = desk.invert("new").instead("--image", &photo).with("--size", size);
        desk.refuses(call, 2, &["--size", size, "multiples of 8"]);
    }
    // A picture smaller than one latent.
    let small = desk.write("small.png", png(&RgbImage::new(64, 7)));
    desk.refuses(desk.invert("new").instead("--image", &small), 1, &["64x7", "8x8"]);
    desk.invert("inversion").instead("--image", &small).args("--size 64x64 --strength 0").run().succeeds();
}

#[test]
fn a_picture_much_larger_than_the_models_own_is_warned_about() {
    let desk = Desk::new();
    let photo = |flags: &str| {
        let call = desk.invert("inversion").instead("--image", image("chelsea-451x300.png"));
        call.args("--steps 1 --strength 1").args(flags).json()["warnings"].to_string()
    };
    let warnings = photo("");
    assert!(
        warnings.contains("451x300 is much larger than the 64x64") && warnings.contains("--size 64x64"),
        "{warnings}"
    );
    assert_eq!(photo("--size 64x64"), "[]");
}

#[test]
fn the_posterior_is_sampled_with_a_seed() {
    let desk = Desk::new();
    let latent = |flags: &str| {
        let report = desk.invert("inversion").args("--strength 0").args(flags).json();
        (desk.tensors("inversion").get("image_latent"), report["settings"]["seed"].clone())
    };
    let (mode, none) = latent("");
    assert_eq!(none, Value::Null);
    let (first, seed) = latent("--sample-posterior");
    assert_eq!(seed, 0);
    differ(&first, &mode);
    same(&first, &latent("--sample-posterior --seed 0").0);
    let (second, seed) = latent("--sample-posterior --seed 7");
    assert_eq!(seed, 7);
    differ(&second, &first);
    differ(&second, &mode);
    same(&second, &latent("--sample-posterior --seed 7").0);
}

#[test]
fn guidance_is_one_outside_its_interval() {
    let desk = Desk::new();
    // Timesteps 667, 334 and 1.
    let noise = |flags: &str| {
        desk.invert("inversion").args("--steps 3 --strength 1 --negative dog").args(flags).run().succeeds();
        desk.tensors("inversion").get("x")
    };
    assert_eq!(noise("--guidance 4").shape(), [1, 4, 8, 8]);
    assert_eq!(
        desk.tensors("inversion").get("run.timestep").into_iter().collect::<Vec<_>>(),
        [667.0, 334.0, 1.0]
    );
    let everywhere = noise("--guidance 4");
    let nowhere = noise("--guidance 1");
    differ(&everywhere, &nowhere);
    same(&everywhere, &noise("--guidance 4 --guidance-interval 0:999"));
    // Both ends belong to it.
    same(&everywhere, &noise("--guidance 4 --guidance-interval 1:667"));
    same(&nowhere, &noise("--guidance 4 --guidance-interval 335:666"));
    let middle = noise("--guidance 4 --guidance-interval 334:334");
    differ(&middle, &everywhere);
    differ(&middle, &nowhere);
    same(&middle, &noise("--guidance 4 --guidance-interval 2:666"));
}

#[test]
fn guidance_scales_of_any_sign_are_taken() {
    let desk = Desk::new();
    let noise = |guidance: &str, prompts: [&str; 2]| {
        let call = desk.invert("inversion").instead("--prompt", prompts[0]).with("--negative", prompts[1]);
        call.args("--steps 2 --strength 1 --dtype f64").with("--guidance", guidance).run().succeeds();
        desk.tensors("inversion").get("x")
    };
    // Scale 0 is the negative prompt alone; the scale -1 of one pair of prompts is the scale 2 of the pair turned round.
    let error = support::difference(&noise("0", ["a cat", "dog"]), &noise("1", ["dog", "a cat"]));
    assert!(error < 1e-9, "{error:e}");
    let error = support::difference(&noise("-1", ["a cat", "dog"]), &noise("2", ["dog", "a cat"]));
    assert!(error < 1e-9, "{error:e}");
}

#[test]
fn no_leapfrog_changes_the_order_from_the_second_step_on() {
    let desk = Desk::new();
    let noise = |steps: u32, flags: &str| {
        desk.invert("inversion").args(&format!("--steps {steps} --strength 1")).args(flags).run().succeeds();
        desk.tensors("inversion").get("x")
    };
    same(&noise(1, ""), &noise(1, "--no-leapfrog"));
    differ(&noise(2, ""), &noise(2, "--no-leapfrog"));
}

#[test]
fn a_prompt_that_is_too_long_is_cut_with_a_warning_that_says_what() {
    let desk = Desk::new();
    let long = |end: &str| format!("{} {end}", ["cat"; 100].join(" "));
    let noise = |prompt: &str| {
        let run =
            desk.invert("inversion").instead("--prompt", prompt).args("--steps 1 --strength 1 --json").run();
        (run.json(), run.stderr(), desk.tensors("inversion").get("x"))
    };
    let (report, stderr, x) = noise(&long("the end"));
    let warnings = report["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{report}");
    let warning = warnings[0].as_str().unwrap();
    assert!(warning.ends_with("cat the end\"") && warning.contains("cut"), "{warning}");
    // 75 of 77 tokens are for words; "cat" is one or more of them.
    let cut = warning.matches("cat").count();
    assert!((25..100).contains(&cut), "{warning}");
    assert!(stderr.contains(&format!("warning: {warning}")), "{stderr}");
    // What was cut has no influence.
    let (_, _, other) = noise(&long("dogs"));
    same(&x, &other);
    let (report, _, shorter) = noise(&["cat"; 12].join(" "));
    assert_eq!(report["warnings"], json!([]));
    differ(&x, &shorter);

    let quiet =
        desk.edit("out.png").with("--target", "grass").with("--negative", long("")).args("--strength 0");
    let run = quiet.args("--quiet --json").run();
    // Said once, though three encodings cut it; the other is that no step is run.
    let warnings = run.json()["warnings"].clone();
    assert_eq!(warnings.as_array().unwrap().len(), 2, "{warnings}");
    assert_eq!(warnings.to_string().matches("cut off").count(), 1, "{warnings}");
    assert_eq!(run.stderr(), "");
}

#[test]
fn an_empty_prompt_and_any_characters_are_prompts() {
    let desk = Desk::new();
    for prompt in ["", "   ", "ein Kätzchen 🐈 \u{0} \u{202e}", "<|endoftext|>", "line\nbreak \"quoted\" \\"]
    {
        // No argument can hold a NUL.
        let prompt = prompt.replace('\0', "");
        let report = desk.invert("inversion").instead("--prompt", &prompt).args("--strength 0").json();
        assert_eq!(report["settings"]["prompt"], json!(prompt));
        let report = desk.generate_from("inversion", "out.png").json();
        assert_eq!(report["settings"]["prompt"], json!(prompt), "from the file");
    }
}

// Pictures.

fn png(picture: &RgbImage) -> Vec<u8> {
    encode(&picture.clone().into(), ImageFormat::Png)
}

fn encode(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A picture without symmetries.
fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(7 * x) as u8, (11 * y) as u8, (3 * x + 5 * y * y) as u8]))
}

impl Desk {
    fn latent_of(&self, picture: &Path) -> Latents {
        self.invert("inversion").instead("--image", picture).args("--strength 0").run().succeeds();
        self.tensors("inversion").get("image_latent")
    }

    fn latent_of_bytes(&self, bytes: impl AsRef<[u8]>) -> Latents {
        self.latent_of(&self.write("picture", bytes))
    }
}

#[test]
fn pictures_of_every_format_mode_and_transparency_are_read() {
    let desk = Desk::new();
    let colour = gradient(16, 24);
    let expected = desk.latent_of_bytes(png(&colour));
    let opaque = DynamicImage::from(colour.clone());
    same(&desk.latent_of_bytes(encode(&opaque, ImageFormat::WebP)), &expected);
    same(&desk.latent_of_bytes(encode(&opaque.to_rgba8().into(), ImageFormat::Png)), &expected);
    same(&desk.latent_of_bytes(encode(&opaque.to_rgb16().into(), ImageFormat::Png)), &expected);
    // A lossy format: what its decoder makes of it.
    let jpeg = encode(&opaque, ImageFormat::Jpeg);
    let decoded = image::load_from_memory(&jpeg).unwrap().to_rgb8();
    same(&desk.latent_of_bytes(jpeg), &desk.latent_of_bytes(png(&decoded)));

    let grey = GrayImage::from_fn(16, 24, |x, y| [(9 * x + 3 * y) as u8].into());
    let as_colour = RgbImage::from_fn(16, 24, |x, y| Rgb([grey.get_pixel(x, y)[0]; 3]));
    let expected = desk.latent_of_bytes(png(&as_colour));
    same(&desk.latent_of_bytes(encode(&grey.clone().into(), ImageFormat::Png)), &expected);

    // Nothing, a fifth (black over white is then 204) and all of the colour, over white.
    let alpha = [0, 51, 255];
    let white = [[255; 3], [204; 3], [0; 3]];
    let seen = RgbImage::from_fn(16, 24, |x, y| Rgb(white[(x + y) as usize % 3]));
    let expected = desk.latent_of_bytes(png(&seen));
    let picture = RgbaImage::from_fn(16, 24, |x, y| Rgba([0, 0, 0, alpha[(x + y) as usize % 3]]));
    same(&desk.latent_of_bytes(encode(&picture.into(), ImageFormat::Png)), &expected);
    let picture = image::ImageBuffer::from_fn(16, 24, |x, y| LumaA([0u8, alpha[(x + y) as usize % 3]]));
    let picture: image::GrayAlphaImage = picture;
    same(&desk.latent_of_bytes(encode(&picture.into(), ImageFormat::Png)), &expected);
}

/// Small files that Pillow wrote, and what it says their pixels are.
#[test]
fn pictures_of_every_orientation_are_read_as_pillow_reads_them() {
    let desk = Desk::new();
    let pictures = root().join("pictures");
    let known: Value = serde_json::from_slice(&fs::read(pictures.join("pictures.json")).unwrap()).unwrap();
    for name in [
        "orientation-2.png",
        "orientation-3.png",
        "orientation-5.png",
        "orientation-6.png",
        "orientation-6.webp",
        "orientation-8.png",
        "palette-transparent.png",
        "one-bit.png",
        "animated.webp",
    ] {
        let entry = known["read"].as_array().unwrap().iter().find(|entry| entry["file"] == name).unwrap();
        assert_eq!(entry["tolerance"], 0, "{name}");
        let rows: Vec<_> =
            entry["rows"].as_array().unwrap().iter().map(|row| row.as_str().unwrap()).collect();
        let digits = rows.concat();
        let bytes = (0..digits.len() / 2).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap());
        let (width, height) = (rows[0].len() / 6, rows.len());
        let upright = RgbImage::from_raw(width as u32, height as u32, bytes.collect()).unwrap();
        let expected = desk.latent_of_bytes(png(&upright));
        assert_eq!(bits(&desk.latent_of(&pictures.join(name))), bits(&expected), "{name}");
    }
}

// Bad input.

/// The checksum of a PNG's parts.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

/// A PNG whose header says it has another size.
fn png_that_claims(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(&gradient(8, 8));
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes
}

#[test]
fn files_that_are_no_pictures_are_refused() {
    let desk = Desk::new();
    let whole = png(&gradient(64, 64));
    let jpeg = encode(&gradient(64, 64).into(), ImageFormat::Jpeg);
    let webp = encode(&gradient(64, 64).into(), ImageFormat::WebP);
    // The claim is what is wrong with the claiming files.
    assert!(png_that_claims(8, 8) == png(&gradient(8, 8)));
    desk.write("text.png", "These are words.");
    desk.write("empty.png", "");
    desk.write("picture.gif", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;");
    desk.write("half.png", &whole[..whole.len() / 2]);
    desk.write("head.png", &whole[..20]);
    desk.write("half.jpg", &jpeg[..jpeg.len() / 2]);
    desk.write("half.webp", &webp[..webp.len() / 2]);
    desk.write("flat.png", png_that_claims(0, 64));
    desk.write("huge.png", png_that_claims(100_000, 100_000));
    fs::create_dir(desk.at("folder.png")).unwrap();
    for name in [
        "missing.png",
        "text.png",
        "empty.png",
        "picture.gif",
        "half.png",
        "head.png",
        "half.jpg",
        "half.webp",
        "flat.png",
        "huge.png",
        "folder.png",
    ] {
        let picture = desk.at(name);
        for call in [desk.invert("inversion"), desk.edit("out.png"), desk.reconstruct("out.png")] {
            desk.refuses(call.instead("--image", &picture), 1, &[name]);
        }
    }
}

#[test]
#[cfg(not(feature = "tch"))]
fn a_build_without_pytorch_says_how_to_get_one_with_it() {
    let desk = Desk::new();
    let remedy = "cargo build --release -p edict-cli --features tch";
    let asked = ["cargo xtask libtorch", remedy, "leave out `--backend tch`"];
    desk.refuses(desk.invert("inversion").args("--backend tch"), 1, &asked);
    desk.refuses(desk.generate("out.png").args("--prompt cat --backend tch"), 1, &asked);
    desk.refuses(desk.edit("out.png").args("--backend tch"), 1, &asked);
    // A file that was made with it, without `--backend`.
    desk.invert("inversion").args("--steps 3").run().succeeds();
    change_inversion(&desk.at("inversion"), &desk.at("elsewhere"), |kept| {
        kept.metadata["backend"] = json!("tch");
    });
    let call = desk.generate("out.png").with("--inversion", desk.at("elsewhere"));
    desk.refuses(call.clone(), 1, &["\"tch\"", remedy, "--backend candle"]);
    call.args("--backend candle").run().succeeds();
}

/// Limits on addresses are set by a shell, and not by every system's.
#[test]
#[cfg(target_os = "linux")]
fn a_lack_of_memory_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = |kibibytes: &str, size: &str| {
        let script = format!("ulimit -v {kibibytes}; exec \"$0\" \"$@\"");
        let output = folder.path().join("out.png");
        let run = std::process::Command::new("sh")
            .args([
                "-c",
                &script,
                env!("CARGO_BIN_EXE_edict"),
                "edit",
                "--target",
                "a blue house",
                "--steps",
                "2",
            ])
            .args(["--threads", "1", "--quiet", "--size", size, "--output"])
            .arg(&output)
            .output()
            .unwrap();
        (run.status.code(), String::from_utf8(run.stderr).unwrap(), output.exists())
    };
    let (status, told, made) = run("2000000", "4096x4096");
    assert_eq!((status, made), (Some(1), false), "{told}");
    assert!(told.starts_with("error: out of memory: ") && told.contains("a smaller picture"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    let left: Vec<_> = folder.path().read_dir().unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // The limit is what was missing.
    assert_eq!(run("2000000", "64x64").0, Some(0));
}

#[test]
fn fast_kernels_are_for_pytorch() {
    let desk = Desk::new();
    desk.refuses(desk.invert("inversion").args("--fast-kernels"), 2, &["--fast-kernels", "--backend tch"]);
}

#[test]
fn numbers_and_names_that_make_no_sense_are_refused() {
    let desk = Desk::new();
    let cases = [
        ("--steps", vec!["0", "-1", "1.5", "many", "99999999999999999999999", "1001", "1000"]),
        ("--strength", vec!["-0.1", "1.1", "nan", "inf", "", "1e999"]),
        ("--mixing-weight", vec!["0", "-0.5", "1.0001", "nan", "inf", "automatic"]),
        ("--guidance", vec!["nan", "inf", "-inf", "strong", "1e999"]),
        ("--guidance-interval", vec!["800:200", "5", "a:b", "-1:5", "1:2:3", "1.5:2"]),
        ("--dtype", vec!["f8", "float32", "F32", ""]),
        ("--weights", vec!["f8", "f64", "F16", ""]),
        ("--device", vec!["gpu", "cuda", "cuda:x", "cuda:-1", "cpu:0", ""]),
        ("--backend", vec!["torch", "pytorch", ""]),
        ("--threads", vec!["0", "-1", "two", "1.5"]),
        ("--size", vec!["0x0", "64", "64x", "x64", "64x64x64", "-64x64", "64x64.5", "50x50", "wide"]),
    ];
    for (flag, values) in cases {
        for value in values {
            // With "=", so that a value may begin with "-".
            let setting = format!("{flag}={value}");
            desk.refuses(desk.invert("inversion").arg(&setting), 2, &[]);
            if flag != "--size" {
                desk.refuses(desk.generate("out.png").args("--prompt cat").arg(&setting), 2, &[]);
            }
        }
    }
    for value in ["nan", "inf", "much"] {
        desk.refuses(desk.edit("out.png").arg(format!("--source-guidance={value}")), 2, &[]);
    }
    for value in ["-1", "1.5", "18446744073709551616"] {
        let call = desk.generate("out.png").args("--prompt cat").args("--seed").arg(value);
        desk.refuses(call, 2, &["--seed", "a whole number from 0"]);
    }
    for value in ["-1", "0", "1025"] {
        let call = desk.generate("out.png").args("--prompt cat --threads").arg(value);
        desk.refuses(call, 2, &["--threads", "a whole number from 1 to 1024"]);
    }
    // The border: with offset 1 the 1000 timesteps of training have room for 999 steps.
    desk.refuses(desk.invert("inversion").args("--steps 1000"), 2, &["--steps 1000", "at most 999"]);
    desk.invert("inversion").args("--steps 999 --strength 0").run().succeeds();
}

#[test]
#[cfg(not(any(feature = "cuda", feature = "metal")))]
fn devices_that_are_not_built_in_are_refused() {
    let desk = Desk::new();
    for call in desk.calls() {
        desk.refuses(call.clone().args("--device cuda:0"), 1, &["CUDA", "--features cuda", "--device cpu"]);
        desk.refuses(call.args("--device metal"), 1, &["Metal", "metal"]);
    }
}

/// An inversion file taken apart.
struct Kept {
    metadata: Value,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<f64>)>,
}

impl Kept {
    fn values(&mut self, name: &str) -> &mut Vec<f64> {
        &mut self.tensors.get_mut(name).unwrap().2
    }

    fn add(&mut self, name: &str, shape: &[usize], values: &[f64]) {
        self.tensors.insert(name.to_owned(), (Dtype::F64, shape.to_vec(), values.to_vec()));
    }
}

/// Writes an inversion file again with a change.
fn change_inversion(from: &Path, to: &Path, change: impl Fn(&mut Kept)) {
    let file = Tensors::open(from);
    // Integers stay as they are.
    let mut others = Vec::new();
    let mut kept =
        Kept { metadata: serde_json::from_str(&file.metadata()["edict"]).unwrap(), tensors: BTreeMap::new() };
    for name in file.names() {
        match file.raw(&name) {
            (Dtype::F64, ..) => {
                let tensor = file.get(&name);
                kept.add(&name, tensor.shape(), &tensor.iter().copied().collect::<Vec<_>>());
            }
            other => others.push((name, other)),
        }
    }
    change(&mut kept);
    let data: BTreeMap<_, Vec<u8>> = (kept.tensors.iter())
        .map(|(name, (dtype, _, values))| match dtype {
            Dtype::F32 => (name, values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect()),
            _ => (name, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        })
        .collect();
    let views = (kept.tensors.iter()).map(|(name, (dtype, shape, _))| {
        (name, TensorView::new(*dtype, shape.clone(), &data[name]).unwrap())
    });
    let others = (others.iter())
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let views = views.chain(others);
    let metadata = match &kept.metadata {
        Value::Null => None,
        other => Some([("edict".to_owned(), other.to_string())].into()),
    };
    fs::write(to, safetensors::serialize(views, metadata).unwrap()).unwrap();
}

#[test]
fn inversions_that_are_damaged_are_refused() {
    let desk = Desk::new();
    desk.invert("inversion").args("--steps 2 --strength 1 --float").run().succeeds();
    let shape = |kept: &mut Kept, shape: &[usize]| {
        let values = vec![0.5; shape.iter().product()];
        ["x", "y", "image_latent"].iter().for_each(|name| kept.add(name, shape, &values));
    };
    type Change = Box<dyn Fn(&mut Kept)>;
    let set = |key: &'static str, value: Value| -> Change {
        Box::new(move |kept| kept.metadata[key] = value.clone())
    };
    let first =
        |name: &'static str, value: f64| -> Change { Box::new(move |kept| kept.values(name)[0] = value) };
    let cases: Vec<(&str, Change)> = vec![
        ("newer", set("format", json!(2))),
        ("newer", set("format", json!(4_000_000_000_u32))),
        ("metadata", set("format", json!("one"))),
        ("sampler", set("sampler", json!("magic"))),
        ("order", set("order", json!("random"))),
        ("f8", set("dtype", json!("f8"))),
        ("device", set("device", json!("toaster"))),
        ("cuda:7", set("device", json!("cuda:7"))),
        ("magic", set("backend", json!("magic"))),
        ("metadata", set("prompt", json!(null))),
        ("another model", set("model", json!("0123"))),
        ("run", set("steps", json!(0))),
        ("edict", Box::new(|kept| kept.metadata = Value::Null)),
        ("metadata", Box::new(|kept| kept.metadata = json!("words"))),
        ("`x`", Box::new(|kept| _ = kept.tensors.remove("x"))),
        ("`image_latent`", Box::new(|kept| _ = kept.tensors.remove("image_latent"))),
        ("run.alpha_bar", Box::new(|kept| _ = kept.tensors.remove("run.alpha_bar"))),
        ("F32", Box::new(|kept| kept.tensors.get_mut("x").unwrap().0 = Dtype::F32)),
        ("pair", first("x", f64::NAN)),
        ("pair", first("y", f64::INFINITY)),
        ("finite", first("run.guidance", f64::NAN)),
        ("mixing weight", first("run.mixing_weight", 0.0)),
        ("mixing weight", first("run.mixing_weight", 1.5)),
        ("strength", first("run.strength", f64::NAN)),
        ("alpha-bar", first("run.alpha_bar", f64::NAN)),
        ("alpha-bar", first("run.alpha_bar", -1.0)),
        ("timestep", first("run.timestep", 0.5)),
        ("timestep", first("run.timestep", 1e30)),
        ("timestep", first("run.timestep", 1000.0)),
        ("", Box::new(|kept| _ = kept.values("run.timestep").pop())),
        ("shape", Box::new(move |kept| shape(kept, &[1, 2, 8, 8]))),
        ("shape", Box::new(move |kept| shape(kept, &[0, 4, 8, 8]))),
        ("shape", Box::new(move |kept| shape(kept, &[2, 4, 8, 8]))),
        ("shape", Box::new(move |kept| shape(kept, &[1, 4, 0, 8]))),
        ("[batch, channels, h, w]", Box::new(move |kept| shape(kept, &[1, 4, 64]))),
        ("`x`", Box::new(|kept| kept.add("x", &[1, 4, 4, 4], &[0.0; 64]))),
    ];
    for (i, (says, change)) in cases.into_iter().enumerate() {
        let name = format!("changed-{i}");
        change_inversion(&desk.at("inversion"), &desk.at(&name), |kept| {
            change(kept);
            // The list of values and the shape that says how many belong together.
            let timesteps = kept.tensors.get_mut("run.timestep").unwrap();
            timesteps.1 = vec![timesteps.2.len()];
        });
        desk.refuses(desk.generate_from(&name, "out.png"), 1, &[says]);
    }
    // Another machine's number of threads is not taken on the file's word.
    change_inversion(&desk.at("inversion"), &desk.at("changed"), |kept| {
        kept.metadata["threads"] = json!(1_000_000_000);
    });
    let call = desk.generate("out.png").with("--inversion", desk.at("changed"));
    let report = call.with_threads_of_its_own().json();
    assert!(report["settings"]["threads"].as_u64().unwrap() <= 1024, "{report}");
}

#[test]
fn what_is_no_inversion_is_refused_with_the_way_to_make_one() {
    let desk = Desk::new();
    let picture = desk.write("photo.png", fs::read(image("shape-64.png")).unwrap());
    for file in [picture, desk.at("none")] {
        desk.refuses(desk.generate("out.png").with("--inversion", file), 1, &["`edict invert`"]);
    }
    desk.invert("inversion").args("--strength 0").run().succeeds();
    let resumed = desk.edit("out.png").with("--resume", desk.at("inversion"));
    desk.refuses(resumed, 1, &["not a checkpoint", "`edict generate --inversion`"]);
}

#[test]
fn inversions_that_are_cut_off_are_refused_at_every_length() {
    let desk = Desk::new();
    desk.invert("inversion").args("--steps 1 --strength 1").run().succeeds();
    let whole = desk.bytes("inversion");
    Inversion::from_bytes(&whole).unwrap();
    for length in 0..whole.len() {
        Inversion::from_bytes(&whole[..length]).unwrap_err();
    }
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for length in
        [0, 1, 7, 8, 9, header / 2, header - 1, header, header + 1, whole.len() / 2, whole.len() - 1]
    {
        desk.write("cut", &whole[..length]);
        desk.refuses(desk.generate_from("cut", "out.png"), 1, &["cut"]);
    }
    let mut longer = whole.clone();
    longer.push(0);
    desk.write("longer", longer);
    desk.refuses(desk.generate_from("longer", "out.png"), 1, &["longer"]);
    for name in ["missing", ""] {
        desk.refuses(desk.generate_from(name, "out.png"), 1, &[]);
    }
    // A safetensors file of other things.
    let weights = model("tiny-sd1").join("vae/diffusion_pytorch_model.safetensors");
    fs::copy(weights, desk.at("weights")).unwrap();
    desk.refuses(desk.generate_from("weights", "out.png"), 1, &["weights", "not an inversion"]);
}

#[test]
fn flipped_bits_in_an_inversions_header_never_end_in_a_panic() {
    let desk = Desk::new();
    desk.invert("inversion").args("--strength 0").run().succeeds();
    let whole = desk.bytes("inversion");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let flipped = |at: usize, bit: u32| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        bytes
    };
    // A panic would end the test. A flip in a prompt or name need not be seen.
    let refused = (0..header)
        .flat_map(|at| (0..8).map(move |bit| (at, bit)))
        .filter(|(at, bit)| Inversion::from_bytes(&flipped(*at, *bit)).is_err());
    assert!(refused.count() > header, "hardly any flip is seen");
    for at in (0..header).step_by(header / 24) {
        desk.write("flipped", flipped(at, at as u32 % 7));
        let before = desk.contents();
        let run = desk.generate("out.png").with("--inversion", desk.at("flipped")).arg("--quiet").run();
        if run.code() == 0 {
            fs::remove_file(desk.at("out.png")).unwrap();
        } else {
            run.error(1);
        }
        assert!(desk.contents() == before, "byte {at}");
    }
}

fn copy_model(name: &str, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(model(name)).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).unwrap();
            for file in fs::read_dir(entry.path()).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), target.join(file.file_name())).unwrap();
            }
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn an_inversion_of_another_model_is_refused() {
    let desk = Desk::new();
    desk.invert("inversion").args("--steps 1 --strength 1").run().succeeds();
    for name in ["tiny-sd2", "tiny-legacy"] {
        let call = desk.generate_from("inversion", "out.png").instead("--model", model(name));
        desk.refuses(call, 1, &["another model"]);
    }
    // The same files elsewhere are the same model; one bit of one weight makes another.
    copy_model("tiny-sd1", &desk.at("model"));
    let call = desk.generate_from("inversion", "out.png").instead("--model", desk.at("model"));
    call.run().succeeds();
    fs::remove_file(desk.at("out.png")).unwrap();
    for part in ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"] {
        let file = desk.at(&format!("model/{part}.safetensors"));
        let weights = fs::read(&file).unwrap();
        for at in [weights.len() - 4, weights.len() / 2 / 4 * 4] {
            let mut changed = weights.clone();
            changed[at] ^= 1;
            fs::write(&file, changed).unwrap();
            desk.refuses(call.clone(), 1, &["another model"]);
        }
        fs::write(&file, weights).unwrap();
    }
}

#[test]
fn outputs_that_cannot_be_written_are_found_out_before_any_work() {
    let desk = Desk::new();
    desk.write("file", "x");
    fs::create_dir(desk.at("folder")).unwrap();
    desk.write("locked.png", "precious");
    let mut permissions = fs::metadata(desk.at("locked.png")).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(desk.at("locked.png"), permissions).unwrap();
    let mut bad = vec![
        desk.at("no/such/folder/out.png"),
        desk.at("folder"),
        desk.at("folder/"),
        desk.at("new/"),
        desk.at("file/out.png"),
        desk.at("locked.png"),
        PathBuf::from("/"),
    ];
    #[cfg(target_os = "linux")]
    {
        // Nobody can make a file there, root neither.
        bad.push("/proc/out.png".into());
        // Who is not root cannot make one here.
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir(desk.at("shut")).unwrap();
        fs::set_permissions(desk.at("shut"), fs::Permissions::from_mode(0o555)).unwrap();
        if fs::write(desk.at("shut/probe"), "").is_err() {
            bad.push(desk.at("shut/out.png"));
        } else {
            fs::remove_file(desk.at("shut/probe")).unwrap();
        }
    }
    for output in &bad {
        let name = output.to_string_lossy().into_owned();
        let name = name.trim_end_matches('/');
        for call in desk.calls() {
            // Neither the model nor a picture is there: the output is looked at first.
            let call = call.instead("--output", output).instead("--model", desk.at("no-model"));
            desk.refuses(call, 1, &[name, "cannot be written"]);
        }
        let latents = desk.generate("out.png").args("--prompt cat").with("--latents", output);
        desk.refuses(latents.instead("--model", desk.at("no-model")), 1, &[name, "cannot be written"]);
    }
    assert_eq!(desk.bytes("locked.png"), b"precious");

    // One of several pictures.
    fs::create_dir(desk.at("out-2.png")).unwrap();
    let call = desk.edit("out.png").with("--target", "grass").instead("--model", desk.at("no-model"));
    desk.refuses(call, 1, &["out-2.png", "cannot be written"]);

    for call in desk.calls() {
        desk.refuses(call.instead("--output", ""), 2, &["--output"]);
    }
    let both = desk.generate("out.png").args("--prompt cat").with("--latents", desk.at("out.png"));
    desk.refuses(both, 2, &["--output", "--latents"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error_and_a_device_is_an_output() {
    let desk = Desk::new();
    desk.invert("inversion").instead("--output", "/dev/null").args("--strength 0").run().succeeds();
    desk.refuses(
        desk.invert("x").instead("--output", "/dev/full").args("--strength 0"),
        1,
        &["/dev/full", "space"],
    );
}

#[test]
fn no_output_replaces_an_input_or_another_output() {
    let desk = Desk::new();
    fs::create_dir(desk.at("folder")).unwrap();
    let photo = desk.write("photo.png", fs::read(image("shape-64.png")).unwrap());
    desk.invert("inversion").args("--strength 0").run().succeeds();
    let inversion = desk.at("inversion");
    let from_photo = |call: Edict| call.instead("--image", &photo);
    for spelled in ["photo.png", "folder/../photo.png"] {
        for call in [
            desk.invert(spelled),
            desk.edit(spelled),
            desk.reconstruct(spelled),
            desk.edit("out.png").with("--sheet", desk.at(spelled)),
        ] {
            desk.refuses(
                from_photo(call),
                2,
                &["--image and --", "the same file", "photo.png: name another output"],
            );
        }
    }
    let generate = |output: &str| desk.generate(output).with("--inversion", &inversion);
    desk.refuses(generate("inversion"), 2, &["--inversion and --output name the same file"]);
    desk.refuses(generate("out.png").with("--latents", &inversion), 2, &["--inversion and --latents"]);
    desk.refuses(desk.generate("inversion").with("--resume", &inversion), 2, &["--resume and --output"]);
    let sheet = desk.edit("out.png").with("--sheet", desk.at("folder/../out.png"));
    desk.refuses(sheet, 2, &["--output and --sheet name the same file"]);
    // Of several pictures one is the sheet.
    let sheet = desk.edit("out.png").with("--target", "grass").with("--sheet", desk.at("out-2.png"));
    desk.refuses(sheet, 2, &["--output and --sheet name the same file", "out-2.png"]);
}

#[test]
fn names_that_promise_another_format_are_warned_about() {
    let desk = Desk::new();
    let warnings = |call: Edict| call.json()["warnings"].to_string();
    let quick = "--steps 2 --strength 0.5";
    for (call, says) in [
        (desk.invert("inversion.png").args(quick), "latents are written as safetensors"),
        (desk.edit("out.jpg").args(quick), "pictures are written as PNG"),
        (
            desk.edit("out.png").with("--sheet", desk.at("sheet.webp")).args(quick),
            "pictures are written as PNG",
        ),
    ] {
        let warnings = warnings(call);
        assert!(warnings.contains(says), "{warnings}");
    }
    let plot = edict("compare").with("--model", model("tiny-sd1")).with("--image", image("shape-64.png"));
    let plot = warnings(plot.with("--prompt", "x").with("--plot", desk.at("plot.png")).args(quick));
    assert!(plot.contains("plots are written as SVG"), "{plot}");
    for call in [desk.invert("a.safetensors"), desk.invert("b"), desk.edit("c.png"), desk.edit("d.out")] {
        assert_eq!(warnings(call.args(quick)), "[]");
    }
}

#[test]
fn outputs_replace_what_was_there() {
    let desk = Desk::new();
    desk.write("inversion", "old");
    desk.write("out.png", "old");
    desk.invert("inversion").args("--strength 0").run().succeeds();
    desk.generate("out.png").with("--inversion", desk.at("inversion")).run().succeeds();
    assert_eq!(desk.names(), ["inversion", "out.png"]);
    image::load_from_memory(&desk.bytes("out.png")).unwrap();
    assert_eq!(desk.tensors("inversion").get("x").shape(), [1, 4, 8, 8]);
}

#[test]
fn model_folders_that_are_missing_or_damaged_are_refused() {
    let desk = Desk::new();
    let calls = |folder: &Path| {
        let work = desk.calls().map(|call| call.instead("--model", folder));
        work.into_iter().chain([edict("info").with("--model", folder)])
    };
    desk.write("file", "x");
    fs::create_dir(desk.at("empty")).unwrap();
    for (name, says) in [
        ("missing", "there is no such folder"),
        ("empty", "has no unet/config.json"),
        ("file", "this is a file; name the folder"),
    ] {
        for call in calls(&desk.at(name)) {
            desk.refuses(call, 1, &[name, says]);
        }
    }

    copy_model("tiny-sd1", &desk.at("model"));
    let damage = |file: &str, content: &dyn Fn(&[u8]) -> Option<Vec<u8>>| {
        let path = desk.at("model").join(file);
        let whole = fs::read(&path).unwrap();
        match content(&whole) {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        for call in calls(&desk.at("model")) {
            desk.refuses(call, 1, &[file.rsplit('/').next().unwrap()]);
        }
        fs::write(&path, whole).unwrap();
    };
    for file in [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ] {
        damage(file, &|whole| Some(whole[..whole.len() - 1].to_vec()));
        damage(file, &|whole| Some(whole[..100].to_vec()));
        damage(file, &|_| Some(Vec::new()));
    }
    damage("unet/diffusion_pytorch_model.safetensors", &|_| None);
    for file in
        ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"]
    {
        damage(file, &|_| Some(b"{\"truncated\": ".to_vec()));
        damage(file, &|_| None);
    }
    // What was damaged is what was refused.
    desk.invert("inversion").instead("--model", desk.at("model")).args("--strength 0").run().succeeds();
}

// Being stopped.

#[cfg(unix)]
fn send(signal: &str, child: &Child) {
    let kill = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Waits until something is so. Slow machines are given time, broken programs not for ever.
fn wait_until(so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(240), "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_between_steps_and_leaves_a_checkpoint() {
    for signal in ["INT", "TERM"] {
        let desk = Desk::new();
        desk.write("inversion", "old");
        // Half a minute and more.
        let mut child = desk.invert("inversion").args("--steps 999 --strength 1 --guidance 5").spawn();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("loading") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "ended early");
        }
        // Loading takes a part of a second; a signal that comes before the first step is heeded, too.
        std::thread::sleep(Duration::from_secs(1));
        send(signal, &child);
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
        assert!(rest.lines().last().unwrap().starts_with("error: interrupted"), "{rest}");
        assert!(rest.contains("stopping after this step"), "{rest}");
        // Before the first step there is nothing to keep.
        let names = desk.names();
        assert!(names == ["inversion"] || names == ["inversion", "inversion.part.safetensors"], "{names:?}");
        assert_eq!(names.len() == 2, rest.contains("--resume"), "{rest}");
        assert_eq!(desk.bytes("inversion"), b"old");
    }
}

#[cfg(unix)]
fn many_edits(desk: &Desk) -> Edict {
    let call = desk.edit("out.png").args("--steps 12 --strength 1 --quiet");
    (0..60).fold(call, |call, i| call.with("--target", format!("a cat {i}")))
}

/// Every picture there is must be whole; returns how many there are.
#[cfg(unix)]
fn whole_pictures(desk: &Desk) -> usize {
    let pictures: Vec<_> = desk.names().into_iter().filter(|name| name.ends_with(".png")).collect();
    for name in &pictures {
        let picture = image::load_from_memory(&desk.bytes(name)).unwrap();
        assert_eq!((picture.width(), picture.height()), (64, 64));
    }
    pictures.len()
}

#[test]
#[cfg(unix)]
fn ctrl_c_keeps_the_pictures_that_are_done() {
    let desk = Desk::new();
    let mut child = many_edits(&desk).spawn();
    wait_until(|| desk.at("out-1.png").exists());
    send("INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let pictures = whole_pictures(&desk);
    assert!((1..61).contains(&pictures));
    assert!(desk.names().contains(&"out.png.part.safetensors".to_owned()), "{:?}", desk.names());
    assert_eq!(desk.names().len(), pictures + 1, "{:?}", desk.names());
}

#[test]
#[cfg(unix)]
fn a_killed_run_leaves_whole_pictures_only() {
    let desk = Desk::new();
    let mut child = many_edits(&desk).spawn();
    wait_until(|| desk.at("out-2.png").exists());
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "ended by the signal");
    assert!((2..61).contains(&whole_pictures(&desk)));

    // An output that was there stays until the new one is whole.
    desk.write("inversion", "old");
    let mut child = desk.invert("inversion").args("--steps 999 --strength 1").spawn();
    std::thread::sleep(Duration::from_millis(700));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(desk.bytes("inversion"), b"old");
}
