#!/usr/bin/env python3
"""Measures the tables of docs/numerics.md that are made with the command line, in floats on the tiny models.

    cargo build --release -p edict-cli
    python3 docs/measure/command_line.py [target/release/edict]      # from the root of the repository; needs numpy and safetensors

Prints Markdown: the round trips, the agreement with the golden files, and what a change of precision costs.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

GOLDEN = Path("tests/golden")
STEPS = [10, 25, 50, 100, 250]
# The golden files: whose model and picture.
RUNS = {
    "sd1-50-0.8": ("tiny-sd1", "shape-64"),
    "sd1-25-1.0-odd": ("tiny-sd1", "photo-64"),
    "sd2-20-0.75-vpred": ("tiny-sd2", "photo-96x64"),
    "legacy-40-0.6": ("tiny-legacy", "photo-88x72"),
}
EDICT = sys.argv[1] if len(sys.argv) > 1 else "target/release/edict"


def edict(*words):
    """What the command prints (true where that is nothing), or false where it refuses the values that it meets."""
    run = subprocess.run([EDICT, *map(str, words)], capture_output=True, text=True)
    if run.returncode and "not finite" not in run.stderr:
        sys.exit(run.stderr)
    return run.returncode == 0 and (run.stdout or True)


def model(name):
    return ["--model", GOLDEN / "models" / name]


def photo(name="photo-64"):
    return ["--image", GOLDEN / "images" / f"{name}.png", "--prompt", "a photo"]


def short(value):
    return f"{value:.0e}" if value < 0.01 else f"{value:.2g}"


def error_of_round_trip(folder, name, steps, dtype, sampler):
    """The largest difference of x from the latent that was inverted, or None where a value left the range of the network."""
    inversion, latents = folder / "i.safetensors", folder / "l.safetensors"
    if not edict("invert", *model(name), *photo(), "--strength", 1, "--steps", steps, "--dtype", dtype, "--float", *sampler,
                 "--output", inversion):
        return None
    edict("generate", *model(name), "--inversion", inversion, "--output", folder / "o.png", "--latents", latents)
    return np.abs(load_file(latents)["x"] - load_file(inversion)["image_latent"]).max()


def round_trips(folder):
    print("| model | network | `--mixing-weight` |" + "".join(f" {n} steps |" for n in STEPS))
    print("|---|---|---|" + "---|" * len(STEPS))
    for name in ["tiny-sd1", "tiny-sd2"]:
        rows = [(dtype, weight, ["--mixing-weight", weight]) for dtype in ["f64", "f32", "f16"] for weight in ["auto", "0.93"]]
        for dtype, words, sampler in [*rows, ("f64", "DDIM", ["--sampler", "ddim"])]:
            errors = [error_of_round_trip(folder, name, steps, dtype, sampler) for steps in STEPS]
            cells = ["stops" if error is None else short(error) for error in errors]
            print(f"| {name} | {dtype} | {words} | " + " | ".join(cells) + " |", flush=True)


def golden(folder):
    print("\n| run | noise `x`, `y` | edit `x`, `y` |\n|---|---|---|")
    for run, (name, image) in RUNS.items():
        path = GOLDEN / "data" / f"{run}.safetensors"
        with safe_open(path, "np") as file:
            about = file.metadata()
        wanted = load_file(path)
        inversion, latents = folder / "i.safetensors", folder / "l.safetensors"
        given = [word for flag in ["strength", "guidance", "mixing_weight", "steps"]
                 for word in (f"--{flag.replace('_', '-')}", about[flag])]
        edict("invert", *model(name), "--image", GOLDEN / "images" / f"{image}.png", "--prompt", about["source"],
              "--negative", about["negative"], *given, "--float", "--dtype", "f64", "--output", inversion)
        edict("generate", *model(name), "--inversion", inversion, "--prompt", about["target"],
              "--output", folder / "o.png", "--latents", latents)
        cells = []
        for file, suffix in [(inversion, "noise"), (latents, "edit")]:
            found, errors = load_file(file), []
            for register in "xy":
                right = wanted[f"{register}_{suffix}"]
                errors.append(np.abs(found[register] - right).max() / np.abs(right).max())
            cells.append(", ".join(f"{error:.1e}" for error in errors))
        print(f"| `{run}` | " + " | ".join(cells) + " |")


def precisions(folder):
    names = ["f64", "f32", "f16", "bf16"]
    print("\n| inverted in |" + "".join(f" generated in {n} |" for n in names) + "\n|---|" + "---|" * len(names))
    for source in names[:3]:
        inversion, latents = folder / "i.safetensors", folder / "l.safetensors"
        edict("invert", *model("tiny-sd1"), *photo(), "--float", "--dtype", source, "--output", inversion)
        cells = []
        for target in names:
            edict("generate", *model("tiny-sd1"), "--inversion", inversion, "--dtype", target, "--output", folder / "o.png",
                  "--latents", latents)
            image, back = load_file(inversion)["image_latent"], load_file(latents)
            cells.append(short(max(np.abs(back[k] - image).max() for k in "xy")))
        print(f"| {source} | " + " | ".join(cells) + " |")


def larger():
    out = json.loads(edict("reconstruct", *model("tiny-sd1"), *photo("chelsea-451x300"), "--dtype", "f16", "--json", "--quiet"))
    print("\nchelsea-451x300 in f16:",
          {k: short(v["latent_max_abs_error"]) for k, v in out["samplers"].items() if k in ("edict_float", "ddim")})


with tempfile.TemporaryDirectory() as desk:
    round_trips(Path(desk))
    golden(Path(desk))
    precisions(Path(desk))
    larger()
