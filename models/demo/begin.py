"""Checkpoints from an exported folder: what to go on from where the checkpoints are lost."""

import shutil
from pathlib import Path

from safetensors.torch import load_file

import networks
import text
from loop import Run


def load(network, path):
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return network


def begin(source, checkpoints, vae_step, unet_step):
    """Writes checkpoints of an exported folder's weights, as of the given steps.

    The averaged weights in half precision take the place of weights and averages alike; the optimizers begin anew.
    """
    source, checkpoints = Path(source), Path(checkpoints)
    checkpoints.mkdir(parents=True, exist_ok=True)
    there = [path.name for name in ("vae", "decoder", "unet") if (path := checkpoints / f"{name}.pt").exists()]
    if there:
        raise SystemExit(f"error: {checkpoints} already has {', '.join(there)}: go on with those, or name another folder")
    shutil.copytree(source / "tokenizer", checkpoints / "tokenizer", dirs_exist_ok=True)
    weights = "diffusion_pytorch_model.safetensors"
    vae = load(networks.vae(), source / "vae" / weights)
    unet = load(networks.unet(), source / "unet" / weights)
    encoder = networks.text_encoder(text.load(checkpoints / "tokenizer"))
    load(encoder, source / "text_encoder" / "model.safetensors")
    for name, step, nets in [("vae", vae_step, {"vae": vae}), ("unet", unet_step, {"unet": unet, "text_encoder": encoder})]:
        run = Run(name, checkpoints, nets, step, learning_rate=0.0, decay=0.0, seed=step)
        run.step = run.begun = step
        run.save()
