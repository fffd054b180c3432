"""Latents of the training scenes."""

from pathlib import Path

import numpy as np
import torch

import data
import networks
from data import to_device


class Latents:
    """Posteriors of the training scenes, encoded when first asked for and kept on disk."""

    def __init__(self, folder, vae, scenes, mark):
        self.vae, self.scenes = vae, scenes
        mark = f"{mark}, {len(scenes)} scenes"
        marked = Path(folder) / "latents.mark"
        fresh = not marked.exists() or marked.read_text() != mark
        size = data.SIDE // 4
        options = {"mode": "w+" if fresh else "r+"}
        self.values = np.memmap(
            Path(folder) / "latents.f16", np.float16, shape=(len(scenes), 2 * networks.LATENT_CHANNELS, size, size), **options
        )
        self.known = np.memmap(Path(folder) / "latents.known", np.uint8, shape=len(scenes), **options)
        marked.write_text(mark)

    @torch.no_grad()
    def posterior(self, at):
        """Mean and standard deviation, each `[len(at), networks.LATENT_CHANNELS, h, w]`, where the VAE is."""
        missing = np.array([i for i in at if not self.known[i]])
        if len(missing):
            moments = self.vae.encode(data.as_tensor(self.scenes[missing], self.vae.device)).latent_dist
            self.values[missing] = torch.cat([moments.mean, moments.std], 1).half().cpu().numpy()
            self.known[missing] = 1
        return to_device(self.values[at], self.vae.device).float().chunk(2, 1)


def measure_scale(vae, scenes):
    """1 / standard deviation of sampled latents, the VAE config's `scaling_factor`."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        parts = [
            vae.encode(data.as_tensor(scenes[i : i + 64])).latent_dist.sample(generator=generator)
            for i in range(0, 1024, 64)
        ]
    return round(1 / torch.cat(parts).std().item(), 5)
