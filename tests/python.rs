//! Inversion files made by Python, by other networks and another EDICT than this program's: `benches/compare/inversion_file.py`.

mod support;

use support::golden::{model, root};
use support::{Tensors, difference, edict, image, largest};

/// Roundoff of 1e-16 in two programs, grown by a run of twenty steps.
const BOUND: f64 = 1e-7;

const FOLDER: &str = "python";

#[test]
fn what_python_inverts_comes_back_here() {
    let desk = tempfile::tempdir().unwrap();
    let (file, latents) = (root().join(FOLDER).join("inversion.safetensors"), desk.path().join("latents"));
    let call = edict("generate").with("--model", model("tiny-sd1")).with("--inversion", &file);
    let call = call.with("--output", desk.path().join("out.png")).with("--latents", &latents);
    call.clone().run().succeeds();
    let (kept, back) = (Tensors::open(&file), Tensors::open(&latents));
    for latent in ["x", "y"] {
        let error = difference(&back.get(latent), &kept.get("image_latent"));
        assert!(error < BOUND, "{latent}: {error:e}");
    }
    // And an edit, which Python has made too.
    call.with("--prompt", "a painting of a dog").run().succeeds();
    let (edited, expected) =
        (Tensors::open(&latents), Tensors::open(root().join(FOLDER).join("edited.safetensors")));
    for latent in ["x", "y"] {
        let error = difference(&edited.get(latent), &expected.get(latent));
        assert!(error < BOUND, "{latent}: {error:e}");
    }
    let moved = difference(&edited.get("x"), &kept.get("image_latent"));
    assert!(moved > 1e-2, "the edit should change something: {moved:e}");
}

#[test]
fn this_program_finds_the_noise_that_python_finds() {
    let desk = tempfile::tempdir().unwrap();
    let file = desk.path().join("inversion");
    let call = edict("invert").with("--model", model("tiny-sd1")).with("--image", image("photo-64.png"));
    let call =
        call.with("--prompt", "a photo of a cat").with("--output", &file).args("--dtype f64 --steps 20");
    for mode in ["--float", ""] {
        call.clone().args(mode).run().succeeds();
        let (found, expected) =
            (Tensors::open(&file), Tensors::open(root().join(FOLDER).join("inversion.safetensors")));
        for latent in ["x", "y"] {
            let expected = expected.get(latent);
            let error = difference(&found.get(latent), &expected);
            // The lattice's unit, 2^-40, is grown a thousandfold by an inversion.
            assert!(error < BOUND * largest(&expected), "{latent} {mode}: {error:e}");
        }
    }
    // Another guidance leads elsewhere.
    call.args("--float --guidance 3.001").run().succeeds();
    let expected = Tensors::open(root().join(FOLDER).join("inversion.safetensors")).get("x");
    let error = difference(&Tensors::open(&file).get("x"), &expected);
    assert!(error > BOUND * largest(&expected), "{error:e}");
}
