#!/usr/bin/env python3
"""Trains the demo model from scenes that the scene program draws, and writes it as a Hugging Face folder.

    train.py train    --checkpoints DIR     trains VAE, then U-Net and text encoder; run again to go on
    train.py decoder  --steps N             trains the VAE's decoder further; the latents stay as they are
    train.py begin    --source FOLDER       checkpoints of an exported folder, to go on from
    train.py export   --out FOLDER          writes the averaged weights in half precision
    train.py sample   --out SHEET.png       pictures for prompts
    train.py evaluate                       PSNR of the VAE on held-out scenes and photographs
    train.py check    FOLDER                loads an exported folder with diffusers and makes a picture
"""

import argparse
import json
import os
import shutil
from pathlib import Path

# Before torch is loaded: threads that spin while they wait make training several times slower on a machine
# that does anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np  # noqa: E402
import torch  # noqa: E402

import begin  # noqa: E402
import data  # noqa: E402
import export  # noqa: E402
import loop  # noqa: E402
import report  # noqa: E402
import unet  # noqa: E402
import vae  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def arguments():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--checkpoints", type=Path, default=ROOT / "target" / "demo-training")
    common.add_argument("--scenes", type=Path, help="scene program; built and run through cargo by default")
    common.add_argument("--threads", type=int, default=2)
    scenes_of = argparse.ArgumentParser(add_help=False)
    scenes_of.add_argument("--training-scenes", type=int, default=data.TRAIN_SCENES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", parents=[common, scenes_of])
    train.add_argument("--vae-steps", type=int, default=4000)
    train.add_argument("--unet-steps", type=int, default=30000, help="may be raised or lowered when going on")
    train.add_argument("--device", default="cpu", help="where U-Net and text encoder are trained, e.g. cuda:0")
    train.add_argument("--batch", type=int, default=16, help="of the U-Net")
    train.add_argument("--learning-rate", type=float, default=8e-4, help="of the U-Net")
    train.add_argument("--evaluate-every", type=int, default=500, help="steps of the U-Net")
    decoder = commands.add_parser("decoder", parents=[common, scenes_of])
    decoder.add_argument("--steps", type=int, required=True)
    start = commands.add_parser("begin", parents=[common])
    start.add_argument("--source", type=Path, required=True)
    start.add_argument("--vae-step", type=int, required=True, help="the step that the folder's VAE counts as")
    start.add_argument("--unet-step", type=int, required=True)
    write = commands.add_parser("export", parents=[common])
    write.add_argument("--out", type=Path, required=True)
    sample = commands.add_parser("sample", parents=[common])
    sample.add_argument("--out", type=Path, required=True)
    sample.add_argument("--prompt", action="append", help="may be given several times; a built-in list by default")
    sample.add_argument("--guidance", type=float, default=3.0)
    sample.add_argument("--steps", type=int, default=50)
    sample.add_argument("--seeds", type=int, default=4)
    evaluate = commands.add_parser("evaluate", parents=[common])
    evaluate.add_argument("--sheet", type=Path, help="PNG of held-out pictures above their reconstructions")
    check = commands.add_parser("check", parents=[common])
    check.add_argument("folder", type=Path)
    check.add_argument("--picture", type=Path, help="PNG to write the picture to")
    return parser.parse_args()


def scenes(options, name, count, seed):
    program = [str(options.scenes.absolute())] if options.scenes else None
    return data.draw_scenes(program, options.checkpoints / name, count, seed)


def held_out(options):
    return scenes(options, "scenes-held-out", data.HELD_OUT_SCENES, data.HELD_OUT_SEED)


def train(options):
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    pictures, captions = scenes(options, "scenes", options.training_scenes, data.TRAIN_SEED)
    kept_pictures, kept_captions = held_out(options)
    network, run = vae.train_vae(options.checkpoints, pictures, kept_pictures, options.vae_steps)
    mark = f"vae step {run.step}"
    unet.train_unet(
        options.checkpoints, network, mark, pictures, captions, kept_pictures, kept_captions, options
    )


def train_decoder(options):
    if not (options.checkpoints / "vae.pt").exists():
        raise SystemExit(f"{options.checkpoints} has no trained VAE whose decoder could be trained further: run `train` first")
    pictures, _ = scenes(options, "scenes", options.training_scenes, data.TRAIN_SEED)
    network, _ = vae.train_vae(options.checkpoints, pictures, held_out(options)[0], steps=0)
    vae.train_decoder(options.checkpoints, network, pictures, held_out(options)[0], options.steps)


def begin_from(options):
    begin.begin(options.source, options.checkpoints, options.vae_step, options.unet_step)


def evaluate(options):
    network, _ = export.trained_vae(options.checkpoints)
    pictures = {
        "held-out scenes": held_out(options)[0],
        "held-out photographs, 1x": data.held_out_crops(1),
        "held-out photographs, 4x": data.held_out_crops(4),
    }
    numbers = {name: {**report.vae_psnr(network, p), "pictures": len(p)} for name, p in pictures.items()}
    print(json.dumps(numbers, indent=2))
    if options.sheet:
        some = [p[:: max(1, len(p) // 6)][:6] for p in pictures.values()]
        report.reconstruction_sheet(options.sheet, network, np.concatenate(some))


def sample(options):
    model = export.trained(options.checkpoints)
    report.sample_sheet(
        options.out,
        model["vae"],
        model["scale"],
        model["unet"],
        model["text_encoder"],
        model["tokenizer"],
        prompts=options.prompt or report.PROMPTS,
        seeds=options.seeds,
        guidance=options.guidance,
        steps=options.steps,
    )


def write(options):
    out = options.out.absolute()
    if out.exists() and not (out / "model_index.json").exists():
        raise SystemExit(f"{out} is there and is no exported model: name another folder, or remove it")
    # What is there stays until all of the new one is written.
    fresh = out.with_name(f"{out.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    written = export.write(options.checkpoints, fresh)
    if out.exists():
        shutil.rmtree(out)
    fresh.rename(out)
    print(json.dumps(written, indent=2))


def check(options):
    picture = export.check(options.folder)
    pixels = np.asarray(picture)
    low, high = pixels.min(), pixels.max()
    # Numbers that are not finite become a black picture on their way to bytes.
    if not (np.isfinite(pixels).all() and low < high):
        raise ValueError(f"the picture shows nothing: values {low} to {high}")
    print(f"{type(picture).__name__} {picture.width}x{picture.height}, {picture.mode}, values {low} to {high}")
    if options.picture:
        picture.save(options.picture)


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    commands = {
        "train": train,
        "decoder": train_decoder,
        "begin": begin_from,
        "export": write,
        "sample": sample,
        "evaluate": evaluate,
        "check": check,
    }
    try:
        commands[options.command](options)
    except loop.Stopped:
        # No success, so that nothing is exported after a cut by `&&`.
        raise SystemExit("stopped; the same command goes on") from None


if __name__ == "__main__":
    main()
