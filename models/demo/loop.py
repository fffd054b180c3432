"""Training loops that can be cut at any moment and go on."""

import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

import data
import networks
import report
import text

SAVE_SECONDS = 240


class Ema:
    """Moving average of parameters, quick at first."""

    def __init__(self, parameters, decay):
        self.parameters = list(parameters)
        self.decay = decay
        self.averages = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step):
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self):
        """Exchanges parameters and averages; a second call undoes it."""
        for parameter, average in zip(self.parameters, self.averages):
            held = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)


def rate(step, steps, warm_up, final):
    """Share of the learning rate: warm-up, constant, then a linear descent over the last share `final`.

    The constant part makes `steps` a number that a later run may raise or lower.
    """
    return min(1.0, (step + 1) / warm_up, max(0.0, (steps - step) / (max(1, final * steps))) + 1e-3)


class Stopped(Exception):
    """A signal asked the run to stop; the checkpoint is written."""


class Run:
    """What the loops share: networks, optimizer, average, random numbers, checkpoint file, log."""

    def __init__(self, name, folder, nets, steps, learning_rate, decay, seed):
        self.name, self.path, self.steps = name, Path(folder) / f"{name}.pt", steps
        self.nets, self.learning_rate = nets, learning_rate
        parameters = [p for net in nets.values() for p in net.parameters()]
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.ema = Ema(parameters, decay)
        self.torch_rng = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.step, self.seconds, self.history = 0, 0.0, []
        self.stop = False
        if self.path.exists():
            self.load()

    def load(self):
        saved = torch.load(self.path, weights_only=False)
        for key, net in self.nets.items():
            net.load_state_dict(saved["nets"][key])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.ema.averages = saved["ema"]
        self.torch_rng.set_state(saved["torch_rng"])
        self.rng.bit_generator.state = saved["rng"]
        self.step, self.seconds, self.history = saved["step"], saved["seconds"], saved["history"]

    def save(self):
        saved = {
            "nets": {key: net.state_dict() for key, net in self.nets.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.averages,
            "torch_rng": self.torch_rng.get_state(),
            "rng": self.rng.bit_generator.state,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(saved, partial)
        os.replace(partial, self.path)

    def log(self, message):
        print(f"{time.strftime('%H:%M:%S')} {self.name} {self.step}: {message}", flush=True)

    def watched(self, evaluate):
        """Evaluates with the averaged parameters and keeps the numbers."""
        self.ema.swap()
        for net in self.nets.values():
            net.eval()
        with torch.no_grad():
            numbers = evaluate()
        for net in self.nets.values():
            net.train()
        self.ema.swap()
        self.history.append({"step": self.step, "seconds": round(self.seconds), **numbers})
        self.log(" ".join(f"{key} {value:.4f}" for key, value in numbers.items()))

    def go(self, loss_of_batch, warm_up, final, evaluate, every):
        """Trains to the last step. `loss_of_batch()` returns the loss and a dict of numbers to log."""

        def ask(*_):
            self.stop = True

        for wanted in (signal.SIGTERM, signal.SIGINT):
            signal.signal(wanted, ask)
        for net in self.nets.values():
            net.train()
        saved_at = logged_at = time.time()
        sums, logged_step = {}, self.step
        while self.step < self.steps:
            begun = time.time()
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * rate(self.step, self.steps, warm_up, final)
            loss, numbers = loss_of_batch()
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"loss {loss.item()} at step {self.step}")
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.step += 1
            self.ema.update(self.step)
            self.seconds += time.time() - begun
            for key, value in {"loss": loss.item(), "gradient": norm.item(), **numbers}.items():
                sums[key] = sums.get(key, 0.0) + value
            done = self.step == self.steps
            if self.step % 50 == 0 or done or self.stop:
                count = self.step - logged_step
                means = " ".join(f"{key} {value / count:.4f}" for key, value in sums.items())
                self.log(f"{means}, {(time.time() - logged_at) / count:.2f} s/step")
                sums, logged_step, logged_at = {}, self.step, time.time()
            if self.step % every == 0 or done:
                self.watched(evaluate)
                logged_at = time.time()
            if time.time() - saved_at > SAVE_SECONDS or done or self.stop:
                self.save()
                saved_at = time.time()
            if self.stop:
                raise Stopped


def train_vae(folder, scenes, held_out, steps):
    """Trains the VAE where its steps are not done yet; returns it with the averaged parameters."""
    torch.manual_seed(1)
    vae = networks.vae().to(memory_format=torch.channels_last)
    run = Run("vae", folder, {"vae": vae}, steps, learning_rate=1.2e-3, decay=0.998, seed=11)
    crops = data.PhotoCrops()
    shares = {"scenes": 6, "photos": 2}

    def batch():
        at = np.sort(run.rng.integers(len(scenes), size=shares["scenes"]))
        return data.as_tensor(np.concatenate([scenes[at], crops.sample(shares["photos"], run.rng)]))

    def loss_of_batch():
        pictures = batch()
        posterior = vae.encode(pictures).latent_dist
        error = vae.decode(posterior.sample(generator=run.torch_rng)).sample - pictures
        absolute, square = error.abs().mean(), error.square().mean()
        # Mean over elements. Small: it keeps the latents bounded and the decoder smooth, no more.
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        loss = absolute + 8 * square + 3e-4 * divergence
        psnr = -10 * math.log10(square.item() / 4)
        return loss, {"kl": divergence.item(), "psnr": psnr}

    quick = {"scenes": held_out[:128], "photo_1x": data.held_out_crops(1, 16), "photo_4x": data.held_out_crops(4, 16)}

    def evaluate():
        return {f"psnr_{name}": report.vae_psnr(vae, pictures)["pooled"] for name, pictures in quick.items()}

    if run.step < steps:
        run.log(f"{networks.parameters(vae)} parameters, to step {steps}")
        run.go(loss_of_batch, warm_up=100, final=0.3, evaluate=evaluate, every=500)
    run.ema.swap()
    return vae.eval().requires_grad_(False), run


class Latents:
    """Posteriors of the training scenes, encoded when first asked for and kept on disk."""

    def __init__(self, folder, vae, scenes, mark):
        self.vae, self.scenes = vae, scenes
        marked = Path(folder) / "latents.mark"
        fresh = not marked.exists() or marked.read_text() != mark
        size = data.SIDE // 4
        options = {"mode": "w+" if fresh else "r+"}
        self.values = np.memmap(
            Path(folder) / "latents.f16", np.float16, shape=(len(scenes), 2 * 4, size, size), **options
        )
        self.known = np.memmap(Path(folder) / "latents.known", np.uint8, shape=len(scenes), **options)
        marked.write_text(mark)

    @torch.no_grad()
    def posterior(self, at):
        """Mean and standard deviation, each `[len(at), 4, h, w]`."""
        missing = np.array([i for i in at if not self.known[i]])
        if len(missing):
            moments = self.vae.encode(data.as_tensor(self.scenes[missing])).latent_dist
            self.values[missing] = torch.cat([moments.mean, moments.std], 1).numpy().astype(np.float16)
            self.known[missing] = 1
        return torch.from_numpy(self.values[at].astype(np.float32)).chunk(2, 1)


def measure_scale(vae, scenes):
    """1 / standard deviation of sampled latents, the VAE config's `scaling_factor`."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        parts = [
            vae.encode(data.as_tensor(scenes[i : i + 64])).latent_dist.sample(generator=generator)
            for i in range(0, 1024, 64)
        ]
    return round(1 / torch.cat(parts).std().item(), 5)


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
    latents = Latents(folder, vae, scenes, mark)
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
        mean, std = latents.posterior(np.array(at))
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
