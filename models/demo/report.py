"""Numbers and pictures that tell how training went."""

import numpy as np
import torch
from PIL import Image

import data
import networks
import text

PROMPTS = [
    "a red car in the desert by day",
    "a blue house in the snow at night",
    "a yellow star on the beach at sunset",
    "a green tree in a meadow by day",
    "a pink balloon in a meadow at sunset",
    "a purple mushroom in the snow by day",
    "an orange house on the beach by day",
    "a white car in a meadow at night",
    "a pencil drawing of a red house in a meadow by day",
    "a mosaic of a blue balloon in the desert by day",
    "a tree at sunset",
    "",
]


@torch.no_grad()
def vae_psnr(vae, pictures):
    """PSNR in dB of reconstructions of u8 pictures: of the pooled squared error, and the mean of each one's."""
    errors = []
    for i in range(0, len(pictures), 64):
        batch = data.as_tensor(pictures[i : i + 64])
        found = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append(((found - batch) / 2).square().mean((1, 2, 3)))
    errors = torch.cat(errors).double()
    return {"pooled": -10 * errors.mean().log10().item(), "mean": (-10 * errors.log10()).mean().item()}


@torch.no_grad()
def sample(vae, scale, unet, encoder, tokenizer, prompts, guidance=3.0, steps=25, seed=0):
    """Pictures u8 `[n, h, w, 3]` for prompts, by DDIM from seeded noise."""
    scheduler = networks.scheduler()
    scheduler.set_timesteps(steps)
    words = text.tokens(tokenizer, list(prompts) + [""] * len(prompts)).to(unet.device)
    states = encoder(words).last_hidden_state
    generator = torch.Generator().manual_seed(seed)
    size = data.SIDE // 4
    latents = torch.randn((len(prompts), networks.LATENT_CHANNELS, size, size), generator=generator).to(unet.device)
    for t in scheduler.timesteps:
        both = torch.cat([latents] * 2).contiguous(memory_format=torch.channels_last)
        positive, negative = unet(both, t, states).sample.chunk(2)
        noise = negative + guidance * (positive - negative)
        latents = scheduler.step(noise, t, latents).prev_sample
    pixels = vae.decode(latents / scale).sample.clamp(-1, 1)
    return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def sheet(path, pictures, columns, zoom=2):
    """Writes pictures `[n, h, w, 3]` u8 as a grid."""
    side, gap = pictures.shape[1] * zoom, 4
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * (side + gap) + gap, columns * (side + gap) + gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (gap + k * (side + gap) for k in divmod(i, columns))
        canvas[top : top + side, left : left + side] = picture.repeat(zoom, 0).repeat(zoom, 1)
    Image.fromarray(canvas).save(path)


def sample_sheet(path, vae, scale, unet, encoder, tokenizer, prompts=PROMPTS, seeds=2, **options):
    rows = [sample(vae, scale, unet, encoder, tokenizer, prompts, seed=seed, **options) for seed in range(seeds)]
    sheet(path, np.concatenate(rows), columns=min(len(prompts), 12))


def reconstruction_sheet(path, vae, pictures):
    """Pictures above their reconstructions."""
    batch = data.as_tensor(pictures)
    with torch.no_grad():
        found = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
    found = ((found + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    sheet(path, np.concatenate([pictures, found]), columns=len(pictures))
