"""Training of U-Net and text encoder."""

from pathlib import Path

import numpy as np
import torch

import data
import networks
import report
import text
from latents import Latents, measure_scale
from loop import Run


def train_unet(folder, vae, mark, scenes, captions, held_out, held_out_captions, steps):
    """Trains U-Net and text encoder together; returns them with the averaged parameters."""
    folder = Path(folder)
    tokenizer_folder = folder / "tokenizer"
    if not (tokenizer_folder / "merges.txt").exists():
        text.save(tokenizer_folder, [c for several in captions[:5000] for c in several])
    tokenizer = text.load(tokenizer_folder)
    torch.manual_seed(2)
    unet = networks.unet().to(memory_format=torch.channels_last)
    encoder = networks.text_encoder(tokenizer)
    nets = {"unet": unet, "text_encoder": encoder}
    run = Run("unet", folder, nets, steps, learning_rate=8e-4, decay=0.9995, seed=12)
    posteriors = Latents(folder, vae, scenes, mark)
    scale = measure_scale(vae, scenes)
    alpha_bar = networks.scheduler().alphas_cumprod
    snr = alpha_bar / (1 - alpha_bar)
    # The square root of Min-SNR-5 (arXiv:2303.09556): the last, nearly clean steps dominate the plain loss,
    # yet inversion needs them, so they are not weighed down all the way.
    weights = (snr.clamp(max=5.0) / snr).sqrt()
    token_file = folder / "tokens.npy"
    if not token_file.exists():
        # A caption occurs many times: each is cut into tokens once.
        different = {caption: None for several in captions for caption in several}
        cut = dict(zip(different, text.tokens(tokenizer, list(different)).numpy().astype(np.int16)))
        np.save(token_file, np.stack([[cut[caption] for caption in several] for several in captions]))
    tokens = np.load(token_file)
    empty = text.tokens(tokenizer, [""])[0].numpy()

    def noisy(clean, noise, t):
        a = alpha_bar[t].view(-1, 1, 1, 1)
        return (a.sqrt() * clean + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)

    def loss_of_batch(size=16):
        # Every scene once a pass: a permutation that follows from the number of the pass.
        at = [pass_order(run.step * size + i, len(scenes)) for i in range(size)]
        words = tokens[at, run.rng.integers(tokens.shape[1], size=size)].astype(np.int64)
        words[run.rng.random(size) < 0.1] = empty
        mean, std = posteriors.posterior(np.array(at))
        draw = torch.randn(mean.shape, generator=run.torch_rng)
        noise = torch.randn(mean.shape, generator=run.torch_rng)
        t = torch.randint(0, 1000, (size,), generator=run.torch_rng)
        states = encoder(torch.from_numpy(words)).last_hidden_state
        found = unet(noisy(scale * (mean + std * draw), noise, t), t, states).sample
        square = (found - noise).square().mean((1, 2, 3))
        return (weights[t] * square).mean(), {"mse": square.mean().item()}

    orders = {}

    def pass_order(position, count):
        number, place = divmod(position, count)
        if number not in orders:
            orders.clear()
            orders[number] = np.random.default_rng([7, number]).permutation(count)
        return int(orders[number][place])

    def evaluate():
        generator = torch.Generator().manual_seed(3)
        squares = []
        for i in range(0, 256, 64):
            clean = scale * vae.encode(data.as_tensor(held_out[i : i + 64])).latent_dist.mode()
            noise = torch.randn(clean.shape, generator=generator)
            t = torch.randint(0, 1000, (64,), generator=generator)
            words = text.tokens(tokenizer, [several[0] for several in held_out_captions[i : i + 64]])
            found = unet(noisy(clean, noise, t), t, encoder(words).last_hidden_state).sample
            squares.append((found - noise).square().mean().item())
        sheet = folder / f"samples-{run.step:06}.png"
        report.sample_sheet(sheet, vae, scale, unet, encoder, tokenizer, seeds=1, steps=20)
        return {"held_out_mse": sum(squares) / len(squares)}

    if run.step < steps:
        sizes = {name: networks.parameters(net) for name, net in nets.items()}
        run.log(f"{sizes} parameters, {len(tokenizer)} tokens, scaling factor {scale}, to step {steps}")
        run.go(loss_of_batch, warm_up=200, final=0.2, evaluate=evaluate, every=500)
    run.ema.swap()
    return {"unet": unet.eval(), "text_encoder": encoder.eval(), "tokenizer": tokenizer, "scale": scale}, run
