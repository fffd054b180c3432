//! What a file knows of the network's answers: where a generation leaves the inversion, and that an inversion was verified.

use edict_stable_diffusion::{Inversion, instruction_set};
use serde_json::json;

use super::*;

/// Lines of standard error that warn.
fn warnings(run: &support::Run) -> Vec<String> {
    run.stderr().lines().filter(|line| line.starts_with("warning: ")).map(ToOwned::to_owned).collect()
}

#[test]
fn another_precision_is_warned_of_once_with_what_was_then_and_is_now() {
    let desk = Desk::new();
    desk.invert("tiny-sd1", "made-here").args("--steps 12 --dtype f32 --threads 1").run().succeeds();
    // As if made elsewhere: what is told must be what the file says.
    rewrite(&desk.at("made-here"), &desk.at("inversion"), |_, metadata| {
        assert_eq!(metadata["edict"]["instruction_set"], instruction_set());
        metadata.get_mut("edict").unwrap()["instruction_set"] = json!("vectors-of-elsewhere");
    });
    let call = desk.generate("tiny-sd1", "inversion", "out.png").args("--dtype f16 --threads 2 --json");
    let run = call.run();
    let report = run.json();
    let [warning] = &warnings(&run)[..] else { panic!("{}", run.stderr()) };
    assert_eq!(report["warnings"], json!([warning.strip_prefix("warning: ").unwrap()]));
    for part in [
        "network call 1 of this generation",
        "step 0",
        "Inverted with candle on cpu (vectors-of-elsewhere), 1 threads in f32",
        &format!("now candle on cpu ({}), 2 threads in f16", instruction_set()),
    ] {
        assert!(warning.contains(part), "should say {part:?}: {warning}");
    }
    // 0.8 of 12 steps are 10, two calls each.
    assert_eq!(report["predictions"], json!({"compared": 20, "first_difference": 0}));
    let identical = &report["bit_identical"];
    assert_eq!(identical["total"], ELEMENTS);
    assert!(identical["equal"].as_u64().unwrap() < ELEMENTS as u64 / 4, "{report}");
}

/// Weights are rounded once, when they are loaded: what comes after is as exact as ever, as long as they are rounded alike.
#[test]
fn weights_in_half_precision_come_back_to_the_same_bits_and_are_kept_with_the_noise() {
    let desk = Desk::new();
    for weights in ["f16", "bf16"] {
        let report =
            desk.invert("tiny-sd1", "inversion").args("--steps 12").with("--weights", weights).json();
        assert_eq!([&report["settings"]["dtype"], &report["settings"]["weights"]], ["f32", weights]);

        let back = desk.generate("tiny-sd1", "inversion", "out.png").json();
        assert_eq!(back["settings"]["weights"], weights);
        assert_eq!(back["bit_identical"], json!({"equal": ELEMENTS, "total": ELEMENTS}));
        assert_eq!(back["predictions"]["first_difference"], json!(null));

        // With the weights as they are in the model's files the network answers otherwise.
        let other = desk.generate("tiny-sd1", "inversion", "out.png").args("--weights f32").run();
        let [warning] = &warnings(&other)[..] else { panic!("{}", other.stderr()) };
        assert!(warning.contains(&format!("threads in f32 with weights in {weights}; now ")), "{warning}");
        assert!(warning.ends_with("threads in f32"), "{warning}");
        let other = desk.generate("tiny-sd1", "inversion", "out.png").args("--dtype f64 --json").run();
        assert_eq!(other.json()["settings"]["weights"], "f64");
    }
}

#[test]
fn weights_in_half_precision_are_for_networks_in_f32() {
    let desk = Desk::new();
    for (weights, dtype) in [("f16", "bf16"), ("f32", "f64")] {
        let call = desk.invert("tiny-sd1", "inversion").args("--steps 2").with("--dtype", dtype);
        let says = [&format!("--weights {weights}"), "networks in f32", &format!("{dtype} on cpu")];
        desk.refuses(call.with("--weights", weights), 2, &says);
    }
}

#[test]
fn an_edit_is_not_compared_with_the_inversion() {
    let desk = Desk::new();
    desk.invert("tiny-sd2", "inversion").args("--steps 6").run().succeeds();
    for otherwise in ["--prompt dog", "--negative dog", "--guidance 2", "--guidance-interval 0:500"] {
        let run = desk.generate("tiny-sd2", "inversion", "out.png").args(otherwise).arg("--json").run();
        let report = run.json();
        assert_eq!(warnings(&run), Vec::<String>::new(), "{otherwise}");
        assert_eq!(report["predictions"], json!(null), "{otherwise}");
        assert_eq!(report.get("bit_identical"), None, "{otherwise}");
    }
}

/// A file whose record of one prediction has one bit flipped: the network answers as ever, the file is wrong about it.
#[test]
fn one_flipped_bit_in_the_record_is_found_at_the_call_that_mirrors_it() {
    // Inversion's calls; generation mirrors all of EDICT's, and of the two-step samplers' all but the first, which has found the neighbour.
    for (sampler, calls, mirrored) in [("edict", 14, 14), ("belm", 7, 6), ("bdia", 7, 6)] {
        let desk = Desk::new();
        let call = desk.invert("tiny-sd1", "inversion").args("--steps 7 --strength 1");
        call.with("--sampler", sampler).run().succeeds();
        assert_eq!(count_of(&desk.at("inversion"), "predictions"), calls, "{sampler}");
        for call in 0..calls {
            rewrite(&desk.at("inversion"), &desk.at("flipped"), |tensors, _| {
                // Made in the order of the inversion; the bits by turns.
                data_of(tensors, "predictions")[8 * (calls - 1 - call) + call % 8] ^= 1 << (call % 7);
            });
            let run = desk.generate("tiny-sd1", "flipped", "out.png").arg("--json").run();
            let report = run.json();
            // Nothing else has changed.
            assert_eq!(report["bit_identical"], json!({"equal": ELEMENTS, "total": ELEMENTS}));
            assert_eq!(report["predictions"]["compared"], mirrored, "{sampler}");
            if call >= mirrored {
                assert_eq!(report["predictions"]["first_difference"], json!(null), "{sampler} {call}");
                continue;
            }
            assert_eq!(report["predictions"]["first_difference"], call, "{sampler}");
            let [warning] = &warnings(&run)[..] else { panic!("{}", run.stderr()) };
            // The two-step samplers go across step 0 without a call.
            let step = if sampler == "edict" { call / 2 } else { call + 1 };
            for part in [format!("network call {} of", call + 1), format!("(step {step},")] {
                assert!(warning.contains(&part), "{sampler} should say {part:?}: {warning}");
            }
        }
    }
}

#[test]
fn a_verified_inversion_says_that_every_bit_comes_back() {
    for (sampler, calls) in [("edict", 32), ("belm", 15), ("bdia --gamma 0.96", 15)] {
        let desk = Desk::new();
        let call = |output| {
            desk.invert("tiny-legacy", output).args(&format!("--steps 10 --sampler {sampler} --dtype f16"))
        };
        let report = call("verified").arg("--verify").json();
        assert_eq!(report["verified"], json!({"equal": ELEMENTS, "total": ELEMENTS}), "{sampler}");
        // 8 steps there, and back.
        assert_eq!(report["network_calls"], calls, "{sampler}");
        let plain = call("plain").json();
        assert_eq!(plain.get("verified"), None);
        // Verifying changes nothing in what is written.
        assert!(desk.bytes("verified") == desk.bytes("plain"), "{sampler}");
        Inversion::read(&desk.at("verified")).unwrap();
    }
}

/// A network that answers otherwise the second time cannot be had from outside the program: what is seen here is that nothing is written
/// where verification makes no sense, and (among the interruptions) where it does not come to its end.
#[test]
fn only_exact_samplers_can_be_verified() {
    let desk = Desk::new();
    for flags in ["--float", "--sampler ddim", "--sampler belm --float", "--sampler ddim --float"] {
        let call = desk.invert("tiny-sd1", "inversion").args("--steps 3 --verify").args(flags);
        desk.refuses(call, 2, &["--verify needs an exact sampler", "--float", "ddim"]);
    }
    assert_eq!(desk.names(), Vec::<String>::new());
}

/// The weight that a line of refusal suggests.
fn suggested(error: &str) -> &str {
    let weight = error.trim_end().rsplit_once("use --mixing-weight ").map(|(_, weight)| weight);
    weight.unwrap_or_else(|| panic!("suggests no weight: {error}"))
}

#[test]
fn a_weight_that_leaves_the_range_is_refused_with_one_that_holds() {
    let mut cases = Vec::new();
    for (nth, model) in ["tiny-sd1", "tiny-sd2"].into_iter().enumerate() {
        for steps in [60, 100, 250] {
            for (at, p) in [0.3, 0.5, 0.6, 0.7].into_iter().enumerate() {
                // What is refused is refused early; the way there and back with the weight suggested is long. The models take turns.
                let turn = (at + usize::from(steps == 100)) % 2 == nth;
                if everything() || (turn && (steps < 250 || p == 0.5)) {
                    cases.push((model, steps, p));
                }
            }
        }
    }
    two_at_a_time(&cases, |(model, steps, p)| {
        let desk = Desk::new();
        let call =
            desk.invert(model, "inversion").args(&format!("--steps {steps} --strength 1 --guidance 1"));
        let refused = call.clone().args(&format!("--mixing-weight {p}"));
        let error = desk.refuses(refused, 1, &["error: step ", "(timestep ", "leads to ", "--mixing-weight"]);
        assert_eq!(desk.names(), Vec::<String>::new());
        // The step is one of the run, and the value one that is outside.
        let between = |start: &str, end: &str| error.split(start).nth(1).unwrap().split(end).next().unwrap();
        assert!(between("step ", " ").parse::<usize>().unwrap() < *steps, "{error}");
        let value: f64 = between("leads to ", ",").parse().unwrap();
        // 2^62 units of 2^-40, less what a difference unit may be worth less than a unit of the latents.
        assert!(value.abs() > 2f64.powi(62 - 40 - 8), "{error}");
        let weight = suggested(&error);
        assert!(weight.parse::<f64>().unwrap() > *p, "{error}");
        call.with("--mixing-weight", weight).arg("--quiet").run().succeeds();
        let report = desk.generate(model, "inversion", "back.png").arg("--quiet").json();
        let all = json!({"equal": ELEMENTS, "total": ELEMENTS});
        assert_eq!(report["bit_identical"], all, "{model} {steps} {p}: {weight}");
        let latent = desk.tensors("inversion").raw("image_latent").2;
        for name in ["x", "y"] {
            assert!(desk.tensors("back.png.latents").raw(name).2 == latent, "{model} {steps} {p}: {name}");
        }
    });
}
