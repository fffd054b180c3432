//! Image -> file -> another process -> image, to the last bit.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;

const DTYPES: [&str; 4] = ["f64", "f32", "f16", "bf16"];

/// A way to noise and back.
#[derive(Clone, Debug)]
struct Case {
    model: &'static str,
    dtype: &'static str,
    steps: usize,
    strength: &'static str,
    guidance: u32,
    sampler: &'static str,
    /// Of the inversion and of the generation.
    threads: [&'static str; 2],
}

impl Case {
    /// Steps executed: strength times steps, rounded half up.
    fn executed(&self) -> usize {
        (self.steps as f64 * self.strength.parse::<f64>().unwrap() + 0.5).floor() as usize
    }

    /// Network calls of the way back: two a step for EDICT; one for the others, but for the step that the file holds both ends of.
    fn calls_back(&self) -> usize {
        if self.sampler.contains("edict") { 2 * self.executed() } else { self.executed() - 1 }
    }
}

/// What the autoencoder alone makes of the picture: the latents, and the picture they are decoded to.
type Still = BTreeMap<(&'static str, &'static str), (Vec<u8>, Vec<u8>)>;

/// With strength 0 no sampler takes a step: what is written is the canonical latent itself, whatever the sampler.
fn still(cases: &[Case]) -> Still {
    let mut all = Still::new();
    for Case { model, dtype, .. } in cases {
        all.entry((*model, *dtype)).or_insert_with(|| {
            let desk = Desk::new();
            let call = desk.invert(model, "still").args("--strength 0 --quiet").with("--dtype", dtype);
            call.run().succeeds();
            desk.generate(model, "still", "still.png").arg("--quiet").run().succeeds();
            (desk.tensors("still").raw("image_latent").2, desk.bytes("still.png"))
        });
    }
    all
}

/// Takes a case's way in two processes; returns how many values of x and of y come back bit for bit.
fn there_and_back(case: &Case, stills: &Still, otherwise: &str) -> [usize; 2] {
    let Case { model, dtype, steps, strength, guidance, sampler, threads } = case;
    let desk = Desk::new();
    let inverted = desk
        .invert(model, "inversion")
        .args(&format!("--dtype {dtype} --steps {steps} --strength {strength} --guidance {guidance}"))
        .args(&format!("--sampler {sampler} --threads {} --quiet", threads[0]))
        .json();
    let report = desk
        .generate(model, "inversion", "back.png")
        .args(&format!("--threads {} --quiet {otherwise}", threads[1]))
        .json();
    // Or nothing would be crossed.
    assert_eq!(inverted["settings"]["threads"].to_string(), threads[0]);
    assert_eq!(report["settings"]["threads"].to_string(), threads[1]);
    let (there, back) = (desk.tensors("inversion"), desk.tensors("back.png.latents"));
    assert_eq!(there.get("run.timestep").len(), case.executed());
    let latent = there.raw("image_latent").2;
    let equal = |name: &str| {
        let found = back.raw(name).2;
        let pairs = found.as_chunks::<8>().0.iter().zip(latent.as_chunks::<8>().0);
        assert_eq!(pairs.len(), ELEMENTS);
        pairs.filter(|(found, wanted)| found == wanted).count()
    };
    let equal = [equal("x"), equal("y")];
    let exact = inverted["settings"]["exact"] == true;
    if exact && otherwise.is_empty() {
        let (canonical, picture) = &stills[&(*model, *dtype)];
        assert!(latent == *canonical, "{case:?}: another canonical latent");
        assert_eq!(report["warnings"], json!([]), "{case:?}");
        assert_eq!(report["bit_identical"], json!({"equal": ELEMENTS, "total": ELEMENTS}), "{case:?}");
        let compared = json!({"compared": case.calls_back(), "first_difference": null});
        assert_eq!(report["predictions"], compared, "{case:?}");
        assert!(desk.bytes("back.png") == *picture, "{case:?}: another picture");
    }
    equal
}

/// Thread counts cross in every case, one way and the other by turns.
fn crossed(cases: impl IntoIterator<Item = Case>) -> Vec<Case> {
    let turned = cases.into_iter().enumerate().map(|(at, case)| {
        let threads = if at % 2 == 0 { ["1", "2"] } else { ["2", "1"] };
        Case { threads, ..case }
    });
    turned.collect()
}

fn edict_cases(dtype: &'static str) -> Vec<Case> {
    let mut cases = Vec::new();
    for model in MODELS {
        for guidance in [1, 5] {
            for steps in [17, 25, 31, 40, 50, 250] {
                // The longest runs take as long as all others together: without EDICT_EXACT=all only in two precisions, without
                // guidance, and a share of their steps; and guided runs, which take twice as long, half of theirs.
                let long = steps == 250;
                if everything() || !long || (["f32", "f16"].contains(&dtype) && guidance == 1) {
                    let strength = match guidance {
                        _ if everything() => "1",
                        _ if long => "0.4",
                        1 => "1",
                        _ => "0.5",
                    };
                    let (sampler, threads) = ("edict", ["1", "2"]);
                    cases.push(Case { model, dtype, steps, strength, guidance, sampler, threads });
                }
            }
        }
    }
    crossed(cases)
}

fn edict_comes_back(dtype: &'static str) {
    let cases = edict_cases(dtype);
    let stills = still(&cases);
    two_at_a_time(&cases, |case| {
        assert_eq!(there_and_back(case, &stills, ""), [ELEMENTS; 2], "{case:?}");
    });
    println!("{} ways there and back in {dtype}", cases.len());
}

#[test]
fn edict_comes_back_from_a_file_to_every_bit_with_networks_in_f64() {
    edict_comes_back("f64");
}

#[test]
fn edict_comes_back_from_a_file_to_every_bit_with_networks_in_f32() {
    edict_comes_back("f32");
}

#[test]
fn edict_comes_back_from_a_file_to_every_bit_with_networks_in_f16() {
    edict_comes_back("f16");
}

#[test]
fn edict_comes_back_from_a_file_to_every_bit_with_networks_in_bf16() {
    edict_comes_back("bf16");
}

/// The two-step samplers carry a neighbour beside x: x alone has to come back.
#[test]
fn belm_and_bdia_come_back_from_a_file_to_every_bit() {
    let mut cases = Vec::new();
    for sampler in ["belm", "bdia", "bdia --gamma 0.96"] {
        for dtype in ["f32", "f16"] {
            for (at, steps) in [25, 50, 100].into_iter().enumerate() {
                for strength in ["0.8", "1"] {
                    for (nth, model) in MODELS.into_iter().enumerate() {
                        // By turns, so that each sampler and each precision take every model, and every number of steps.
                        let (half, full) = (usize::from(dtype == "f16"), usize::from(strength == "1"));
                        let turn = (at + half) % 3 == nth && (at + half + full).is_multiple_of(2);
                        if everything() || turn {
                            let (guidance, threads) = (3, ["1", "2"]);
                            cases.push(Case { model, dtype, steps, strength, guidance, sampler, threads });
                        }
                    }
                }
            }
        }
    }
    let cases = crossed(cases);
    let stills = still(&cases);
    two_at_a_time(&cases, |case| {
        assert_eq!(there_and_back(case, &stills, "")[0], ELEMENTS, "{case:?}");
    });
    println!("{} ways there and back", cases.len());
}

/// What the tests above measure sees it when not every bit comes back.
#[test]
fn ddim_other_prompts_and_other_precisions_do_not_come_back() {
    let case = |sampler| Case {
        model: "tiny-sd1",
        dtype: "f32",
        steps: 25,
        strength: "1",
        guidance: 3,
        sampler,
        threads: ["1", "2"],
    };
    let cases = [
        (case("ddim"), ""),
        (case("edict"), "--prompt dog"),
        (case("edict"), "--guidance 3.000001"),
        (case("edict"), "--dtype f16"),
        (case("belm"), "--dtype f16"),
        (case("bdia"), "--prompt dog"),
    ];
    for (case, otherwise) in &cases {
        let [x, _] = there_and_back(case, &Still::new(), otherwise);
        assert!(x < ELEMENTS / 4, "{case:?} {otherwise}: {x} values come back");
    }
}

/// Of the latents of every element `edict reconstruct` says how many came back.
fn reconstruct(model_name: &str, dtype: &str, (steps, strength): (usize, &str)) {
    let report = edict("reconstruct")
        .with("--model", model(model_name))
        .with("--image", image("photo-64.png"))
        .with("--prompt", "a photo of a cat")
        .args(&format!("--steps {steps} --strength {strength} --dtype {dtype} --guidance 1 --quiet"))
        .json();
    let at = format!("{model_name} {dtype} {steps} {strength}: {report}");
    for exact in ["edict", "belm", "bdia"] {
        let row = &report["samplers"][exact];
        assert_eq!(row["bit_identical"], json!({"equal": ELEMENTS, "total": ELEMENTS}), "{exact} {at}");
        assert_eq!(row["latent_max_abs_error"], 0.0, "{exact} {at}");
        // One latent, one picture.
        assert_eq!(row["pixel_mse"], report["samplers"]["edict"]["pixel_mse"], "{exact} {at}");
    }
    // The report can say otherwise.
    assert!(report["samplers"]["ddim"]["bit_identical"]["equal"].as_u64().unwrap() < 64, "{at}");
}

#[test]
fn reconstruct_finds_every_bit_again_with_every_exact_sampler() {
    // Without EDICT_EXACT=all a share of the longest runs' steps.
    let [longest, long] = if everything() { ["1", "1"] } else { ["0.4", "0.8"] };
    let runs = [(250, longest), (100, long), (50, "0.8"), (50, "1"), (25, "1"), (31, "1")];
    let mut cases = Vec::new();
    for model in MODELS {
        for dtype in DTYPES {
            if everything() || (model, dtype) == ("tiny-sd1", "f32") {
                cases.extend(runs.map(|run| (model, dtype, run)));
            }
        }
    }
    two_at_a_time(&cases, |(model, dtype, run)| reconstruct(model, dtype, *run));
    println!("{} reconstructions", cases.len());
}
