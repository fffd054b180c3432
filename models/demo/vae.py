"""Training of the VAE: the whole of it, or its decoder alone."""

from pathlib import Path

import numpy as np
import torch

import data
import networks
import report
from loop import Run

SHARES = {"scenes": 12, "photos": 4}


class Pictures:
    """Batches of scenes and photograph crops, and the numbers on those held out."""

    def __init__(self, scenes, held_out):
        self.scenes, self.crops = scenes, data.PhotoCrops()
        self.kept = {
            "scenes": held_out[:128],
            "photo_1x": data.held_out_crops(1, 16),
            "photo_4x": data.held_out_crops(4, 16),
        }

    def batch(self, rng):
        at = np.sort(rng.integers(len(self.scenes), size=SHARES["scenes"]))
        return data.as_tensor(np.concatenate([self.scenes[at], self.crops.sample(SHARES["photos"], rng)]))

    def evaluate(self, vae):
        return {f"psnr_{name}": report.vae_psnr(vae, pictures)["pooled"] for name, pictures in self.kept.items()}


def reconstruction_loss(found, pictures):
    """L1 and squared error; returns the loss and the numbers to log."""
    error = found - pictures
    absolute, square = error.abs().mean(), error.square().mean()
    return absolute + 8 * square, {"psnr": -10 * (square / 4).log10()}


def decoder_path(folder):
    return Path(folder) / "decoder.pt"


def train_vae(folder, scenes, held_out, steps):
    """Trains the VAE where its steps are not done yet; returns it with the averaged parameters."""
    torch.manual_seed(1)
    vae = networks.vae().to(memory_format=torch.channels_last)
    run = Run("vae", folder, {"vae": vae}, steps, learning_rate=8e-4, decay=0.998, seed=11)

    if run.step < steps:
        # What was trained further belongs to the encoder as it was.
        decoder_path(folder).unlink(missing_ok=True)
        source = Pictures(scenes, held_out)

        def loss_of_batch():
            pictures = source.batch(run.rng)
            posterior = vae.encode(pictures).latent_dist
            found = vae.decode(posterior.sample(generator=run.torch_rng)).sample
            # Mean over elements. Small: it keeps the latents bounded and the decoder smooth, no more.
            divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
            loss, numbers = reconstruction_loss(found, pictures)
            return loss + 3e-4 * divergence, {"kl": divergence, **numbers}

        run.log(f"{networks.parameters(vae)} parameters, to step {steps}")
        run.go(loss_of_batch, warm_up=100, final=0.25, evaluate=lambda: source.evaluate(vae), every=500)
    run.ema.swap()
    return vae.eval().requires_grad_(False), run


def train_decoder(folder, vae, scenes, held_out, steps):
    """Trains the decoder alone from where the VAE ended.

    The latents stay what they are, so the U-Net needs to know nothing of it.
    """
    parts = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    for part in parts.values():
        part.requires_grad_(True)
    run = Run("decoder", folder, parts, steps, learning_rate=5e-4, decay=0.998, seed=13)
    source = Pictures(scenes, held_out)

    def loss_of_batch():
        pictures = source.batch(run.rng)
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.sample(generator=run.torch_rng)
        return reconstruction_loss(vae.decode(latents).sample, pictures)

    run.log(f"to step {steps}")
    run.go(loss_of_batch, warm_up=100, final=0.25, evaluate=lambda: source.evaluate(vae), every=500)
