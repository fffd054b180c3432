#!/usr/bin/env python3
"""Reads and makes the inversion files of edict, in PyTorch with float64 networks.

    inversion_file.py generate --model DIR --inversion INV.safetensors --output LATENTS.safetensors [--prompt TEXT] [--guidance G]
    inversion_file.py invert   --model DIR --image IN.png --prompt TEXT --fingerprint HEX --output INV.safetensors
                               [--steps 50] [--strength 0.8] [--guidance 3] [--negative TEXT] [--mixing-weight P] [--no-leapfrog]

`generate` takes every number of the run from the file and computes none anew. `edict info --model DIR` prints the fingerprint.
"""

import argparse
import json

import numpy
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from pytorch import Edict, Networks, run_of


def read(path):
    """Tensors and settings of an inversion file."""
    with safe_open(path, framework="pt") as file:
        settings = json.loads(file.metadata()["edict"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if settings["format"] > 1:
        raise SystemExit(f"{path}: format {settings['format']} is newer than this program")
    if settings["sampler"] != "edict":
        raise SystemExit(f"{path}: made by the sampler {settings['sampler']!r}; this program knows edict")
    if "run.guidance_interval" in tensors:
        raise SystemExit(f"{path}: guidance over an interval is not in this program")
    return tensors, settings


def sampler(tensors, settings):
    """EDICT by the numbers of a file."""
    return Edict(
        timesteps=[int(t) for t in tensors["run.timestep"]],
        alpha_bars=tensors["run.alpha_bar"].tolist(),
        weight=tensors["run.mixing_weight"].item(),
        leapfrog=settings.get("order", "leapfrog") == "leapfrog",
    )


def generate(args):
    tensors, settings = read(args.inversion)
    networks = Networks(args.model, torch.float64, sinusoid_in_double=True)
    networks.alpha_bar = tensors["run.training_alpha_bar"]
    prompt = settings["prompt"] if args.prompt is None else args.prompt
    scale = tensors["run.guidance"].item() if args.guidance is None else args.guidance
    states = [networks.states(text) for text in (prompt, settings["negative"])]
    predict = networks.predictor(*states, scale, batched=True)
    x, y = sampler(tensors, settings).generate((tensors["x"], tensors["y"]), predict)
    save_file({"x": x.contiguous(), "y": y.contiguous()}, args.output)


def invert(args):
    networks = Networks(args.model, torch.float64, sinusoid_in_double=True)
    rgb = numpy.asarray(Image.open(args.image).convert("RGB")).astype(numpy.float64)
    latent = networks.encode(torch.from_numpy(rgb / 127.5 - 1).permute(2, 0, 1)[None])
    timesteps, bars, networks.alpha_bar = run_of(networks.scheduler, args.steps, args.strength)
    weight = args.mixing_weight or 0.93 ** (50 / args.steps)
    states = [networks.states(text) for text in (args.prompt, args.negative)]
    predict = networks.predictor(*states, args.guidance, batched=True)
    x, y = Edict(timesteps, bars, weight, not args.no_leapfrog).invert((latent, latent), predict)
    settings = {
        "format": 1,
        "sampler": "edict",
        "mode": "float",
        "order": "fixed" if args.no_leapfrog else "leapfrog",
        "steps": args.steps,
        "state": {"level": 0},
        "prompt": args.prompt,
        "negative": args.negative,
        "model": args.fingerprint,
        # What edict computes with when it goes on from here.
        "backend": "candle",
        "device": "cpu",
        "dtype": "f64",
        "threads": torch.get_num_threads(),
    }

    def number(value):
        return torch.tensor([value], dtype=torch.float64)

    tensors = {
        "x": x,
        "y": y,
        "image_latent": latent,
        "run.alpha_bar": torch.tensor(bars, dtype=torch.float64),
        "run.timestep": torch.tensor(timesteps, dtype=torch.float64),
        "run.strength": number(args.strength),
        "run.mixing_weight": number(weight),
        "run.guidance": number(args.guidance),
        "run.training_alpha_bar": networks.alpha_bar,
        # Hashes of predictions, which edict compares when it generates; none here.
        "predictions": torch.empty(0, dtype=torch.uint64),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, args.output, {"edict": json.dumps(settings)})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("generate")
    command.set_defaults(run=generate)
    for flag in ("--model", "--inversion", "--output"):
        command.add_argument(flag, required=True)
    command.add_argument("--prompt")
    command.add_argument("--guidance", type=float)
    command = commands.add_parser("invert")
    command.set_defaults(run=invert)
    for flag in ("--model", "--image", "--prompt", "--fingerprint", "--output"):
        command.add_argument(flag, required=True)
    command.add_argument("--steps", type=int, default=50)
    command.add_argument("--strength", type=float, default=0.8)
    command.add_argument("--guidance", type=float, default=3.0)
    command.add_argument("--negative", default="")
    command.add_argument("--mixing-weight", type=float)
    command.add_argument("--no-leapfrog", action="store_true")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
