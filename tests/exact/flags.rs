//! Flags of the samplers: what is refused, what is said to have no effect, and what has to agree with a file.

use serde_json::json;

use super::*;

#[test]
fn samplers_and_gammas_that_there_are_not_are_refused() {
    let desk = Desk::new();
    for (flags, says) in [
        ("--sampler x", &["--sampler", "'x'", "edict", "belm", "bdia", "ddim"][..]),
        ("--sampler bdia --gamma 0", &["--gamma", "'0'", "above 0"]),
        ("--sampler bdia --gamma 1.5", &["--gamma", "'1.5'", "up to 1"]),
        ("--sampler bdia --gamma -0.5", &["--gamma", "'-0.5'"]),
        ("--sampler bdia --gamma NaN", &["--gamma", "'NaN'"]),
        ("--sampler bdia --gamma", &["--gamma"]),
    ] {
        desk.refuses(desk.invert("tiny-sd1", "inversion").args(flags), 2, says);
        let edit = edict("edit").with("--model", model("tiny-sd1")).with("--image", image("photo-64.png"));
        let edit = edit.args("--source a --target b").with("--output", desk.at("out.png"));
        desk.refuses(edit.args(flags), 2, says);
    }
}

#[test]
fn flags_of_another_sampler_are_said_to_have_no_effect() {
    let desk = Desk::new();
    let invert = |output: &str, flags: &str| {
        let report = desk.invert("tiny-sd1", output).args("--steps 3").args(flags).json();
        (report["warnings"].clone(), desk.bytes(output))
    };
    for (sampler, flag, value) in [
        ("edict", "--gamma", " 0.9"),
        ("belm", "--gamma", " 0.9"),
        ("ddim", "--gamma", " 0.9"),
        ("belm", "--mixing-weight", " 0.5"),
        ("bdia", "--mixing-weight", " 0.5"),
        ("belm", "--no-leapfrog", ""),
        ("ddim", "--float", ""),
    ] {
        let sampler_flag = format!("--sampler {sampler}");
        let (none, plain) = invert("plain", &sampler_flag);
        let (warned, with_flag) = invert("flagged", &format!("{sampler_flag} {flag}{value}"));
        assert_eq!(none, json!([]));
        assert_eq!(warned, json!([format!("{flag} has no effect with --sampler {sampler}")]));
        assert!(plain == with_flag, "{flag} has an effect on {sampler}");
    }
    // And with the sampler it belongs to it has.
    let (none, bdia) = invert("plain", "--sampler bdia");
    let (warned, with_gamma) = invert("flagged", "--sampler bdia --gamma 0.9");
    assert_eq!((none, warned), (json!([]), json!([])));
    assert!(bdia != with_gamma);
}

#[test]
fn generating_refuses_flags_that_contradict_the_file_and_takes_those_that_agree() {
    let desk = Desk::new();
    for (name, flags) in [
        ("edict", ""),
        ("edict-float", "--float"),
        ("belm", "--sampler belm"),
        ("bdia", "--sampler bdia --gamma 0.96"),
        ("bdia-float", "--sampler bdia --gamma 0.96 --float"),
        ("ddim", "--sampler ddim"),
    ] {
        desk.invert("tiny-sd1", name).args("--steps 3").args(flags).run().succeeds();
    }
    for (inversion, flags, named) in [
        ("edict", "--float", "--float"),
        ("belm", "--float", "--float"),
        ("edict", "--sampler belm", "--sampler belm"),
        ("edict", "--sampler ddim", "--sampler ddim"),
        ("edict-float", "--sampler bdia", "--sampler bdia"),
        ("bdia", "--sampler belm", "--sampler belm"),
        ("belm", "--sampler bdia", "--sampler bdia"),
        ("ddim", "--sampler edict", "--sampler edict"),
        ("bdia", "--gamma 0.97", "--gamma 0.97"),
        ("edict", "--gamma 0.96", "--gamma 0.96"),
        ("belm", "--gamma 1", "--gamma 1"),
        ("belm", "--mixing-weight 0.9", "--mixing-weight"),
        ("ddim", "--no-leapfrog", "--no-leapfrog"),
    ] {
        let call = desk.generate("tiny-sd1", inversion, "out.png").args(flags);
        desk.refuses(call, 2, &[named, "the inversion", "leave"]);
    }
    for (inversion, flags) in [
        ("edict", "--sampler edict --mixing-weight auto"),
        ("edict-float", "--sampler edict --float"),
        ("edict-float", "--sampler edict"),
        ("belm", "--sampler belm"),
        ("bdia", "--sampler bdia --gamma 0.96"),
        ("bdia-float", "--gamma 0.96 --float"),
        ("ddim", "--sampler ddim"),
        ("ddim", "--float"),
    ] {
        desk.generate("tiny-sd1", inversion, "plain.png").run().succeeds();
        let report = desk.generate("tiny-sd1", inversion, "out.png").args(flags).json();
        assert_eq!(report["warnings"], json!([]), "{inversion} {flags}");
        assert_eq!(
            report["settings"]["exact"],
            !flags.contains("--float") && !inversion.contains('-') && inversion != "ddim"
        );
        assert!(desk.bytes("out.png") == desk.bytes("plain.png"));
        assert!(desk.bytes("out.png.latents") == desk.bytes("plain.png.latents"));
    }
}
