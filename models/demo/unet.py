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


def train_unet(folder, vae, mark, scenes, captions, held_out, held_out_captions, options):
    """Trains U-Net and text encoder together; returns them with the averaged parameters.

    `options` has `unet_steps`, `device`, `batch`, `learning_rate` and `evaluate_every`.
    """
    steps, device, batch = options.unet_steps, torch.device(options.device), options.batch
    folder = Path(folder)
    tokenizer_folder = folder / "tokenizer"
    if not (tokenizer_folder / "merges.txt").exists():
        text.save(tokenizer_folder, [c for several in captions[:5000] for c in several])
    tokenizer = text.load(tokenizer_folder)
    torch.manual_seed(2)
    unet = networks.unet().to(device, memory_format=torch.channels_last)
    encoder = networks.text_encoder(tokenizer).to(device)
    nets = {"unet": unet, "text_encoder": encoder}
    run = Run("unet", folder, nets, steps, options.learning_rate, decay=0.9995, seed=12, device=device)
    scale = measure_scale(vae, scenes)
    vae = vae.to(device)
    posteriors = Latents(folder, vae, scenes, mark)
    alpha_bar = networks.scheduler().alphas_cumprod.to(device)
    snr = alpha_bar / (1 - alpha_bar)
    # The square root of Min-SNR-5 (arXiv:2303.09556): the last, nearly clean steps dominate the plain loss,
    # yet inversion needs them, so they are not weighed down all the way.
    weights = (snr.clamp(max=5.0) / snr).sqrt()
    token_file = folder / "tokens.npy"
    if not token_file.exists() or len(np.load(token_file, mmap_mode="r")) != len(captions):
        # A caption occurs many times: each is cut into tokens once.
        different = {caption: None for several in captions for caption in several}
        cut = dict(zip(different, text.tokens(tokenizer, list(different)).numpy().astype(np.int16)))
        partial = folder / "tokens.partial.npy"
        np.save(partial, np.stack([[cut[caption] for caption in several] for several in captions]))
        partial.replace(token_file)
    tokens = np.load(token_file)
    empty = text.tokens(tokenizer, [""])[0].numpy()

    def noisy(clean, noise, t):
        a = alpha_bar[t].view(-1, 1, 1, 1)
        return (a.sqrt() * clean + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)

    def loss_of_batch():
        # Every scene once a pass: a permutation that follows from the number of the pass.
        at = [pass_order(run.seen + i, len(scenes)) for i in range(batch)]
        run.seen += batch
        words = tokens[at, run.rng.integers(tokens.shape[1], size=batch)].astype(np.int64)
        words[run.rng.random(batch) < 0.1] = empty
        mean, std = posteriors.posterior(np.array(at))
        draw = torch.randn(mean.shape, generator=run.torch_rng, device=device)
        noise = torch.randn(mean.shape, generator=run.torch_rng, device=device)
        t = torch.randint(0, 1000, (batch,), generator=run.torch_rng, device=device)
        states = encoder(data.to_device(words, device)).last_hidden_state
        found = unet(noisy(scale * (mean + std * draw), noise, t), t, states).sample
        square = (found - noise).square().mean((1, 2, 3))
        return (weights[t] * square).mean(), {"mse": square.mean()}

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
            clean = scale * vae.encode(data.as_tensor(held_out[i : i + 64], device)).latent_dist.mode()
            noise = torch.randn(clean.shape, generator=generator).to(device)
            t = torch.randint(0, 1000, (64,), generator=generator).to(device)
            words = text.tokens(tokenizer, [several[0] for several in held_out_captions[i : i + 64]]).to(device)
            found = unet(noisy(clean, noise, t), t, encoder(words).last_hidden_state).sample
            squares.append((found - noise).square().mean().item())
        sheet = folder / f"samples-{run.step:06}.png"
        report.sample_sheet(sheet, vae, scale, unet, encoder, tokenizer, seeds=1, steps=20)
        return {"held_out_mse": sum(squares) / len(squares)}

    if run.step < steps:
        sizes = {name: networks.parameters(net) for name, net in nets.items()}
        run.log(f"{sizes} parameters, {len(tokenizer)} tokens, scaling factor {scale}, to step {steps}")
        run.go(loss_of_batch, warm_up=200, final=0.2, evaluate=evaluate, every=options.evaluate_every)
    run.ema.swap()
    return {"unet": unet.eval(), "text_encoder": encoder.eval(), "tokenizer": tokenizer, "scale": scale}, run
