"""The averaged weights of the latest checkpoints, as networks or as a Hugging Face folder."""

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import torch
from safetensors import safe_open

import networks
import text
from latents import measure_scale
from vae import decoder_path


def averaged(nets, path):
    """Loads networks with their averages, in the order in which the average holds them."""
    saved = torch.load(path, map_location="cpu", weights_only=False)
    for key, net in nets.items():
        net.load_state_dict(saved["nets"][key])
        net.eval().requires_grad_(False)
    parameters = [p for net in nets.values() for p in net.parameters()]
    for parameter, average in zip(parameters, saved["ema"], strict=True):
        parameter.copy_(average)
    return saved


def trained_vae(folder):
    """The VAE, with the decoder that was trained further where there is one, and its checkpoint's facts."""
    vae = networks.vae().to(memory_format=torch.channels_last)
    saved = averaged({"vae": vae}, Path(folder) / "vae.pt")
    facts = {"vae_steps": saved["step"], "vae_seconds": round(saved["seconds"]), "history": saved["history"][-1:]}
    if decoder_path(folder).exists():
        parts = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
        saved = averaged(parts, decoder_path(folder))
        facts |= {"decoder_steps": saved["step"], "decoder_seconds": round(saved["seconds"])}
        facts["history"] += saved["history"][-1:]
    return vae, facts


def trained(folder):
    """All parts of the model and the training steps behind them."""
    folder = Path(folder)
    vae, vae_facts = trained_vae(folder)
    tokenizer = text.load(folder / "tokenizer")
    nets = {"unet": networks.unet(), "text_encoder": networks.text_encoder(tokenizer)}
    saved = averaged(nets, folder / "unet.pt")
    scale = measure_scale(vae, np.load(folder / "scenes" / "images.npy", mmap_mode="r"))
    facts = {
        **vae_facts,
        "unet_steps": saved["step"],
        "unet_seconds": round(saved["seconds"]),
        "scaling_factor": scale,
        "parameters": {name: networks.parameters(net) for name, net in {"vae": vae, **nets}.items()},
        "history": [*vae_facts["history"], *saved["history"][-1:]],
    }
    return {"vae": vae, **nets, "tokenizer": tokenizer, "scale": scale, "facts": facts}


def check(folder, prompt="a red house in the snow by day"):
    """Loads a folder as any Stable Diffusion model in diffusers, every tensor of it, and makes a picture."""
    folder = Path(folder)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    files = {
        "vae": "diffusion_pytorch_model.safetensors",
        "unet": "diffusion_pytorch_model.safetensors",
        "text_encoder": "model.safetensors",
    }
    for part, name in files.items():
        # A tensor that is missing or left over is a warning to diffusers, and random numbers in the picture.
        loaded = getattr(pipeline, part).state_dict()
        with safe_open(folder / part / name, "pt") as kept:
            if set(kept.keys()) != set(loaded):
                raise ValueError(f"{part}: tensors differ: {sorted(set(kept.keys()) ^ set(loaded))}")
            for key in loaded:
                if not torch.equal(kept.get_tensor(key).float(), loaded[key].float()):
                    raise ValueError(f"{part}: {key} is not what the file holds")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline(prompt, num_inference_steps=20, guidance_scale=3.0, generator=generator).images[0]


def write(checkpoints, out):
    """Writes the folder in half precision; returns what is known of the training."""
    out = Path(out)
    model = trained(checkpoints)
    model["vae"].register_to_config(scaling_factor=model["scale"])
    for part in ("vae", "unet", "text_encoder"):
        model[part].half().to(memory_format=torch.contiguous_format).save_pretrained(out / part)
    # Half precision is how the weights are kept, not how they are to be computed with: the text encoder's class
    # would take it so, the others' would not.
    config = out / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    shutil.copytree(Path(checkpoints) / "tokenizer", out / "tokenizer")
    networks.scheduler().save_pretrained(out / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return {**model["facts"], "bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file())}
