"""Training loops that can be cut at any moment and go on."""

import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from muon import Muon

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


def rate(step, steps, warm_up, final, begun=0):
    """Share of the learning rate: warm-up from step `begun` on, constant, then a linear descent over the last share `final`.

    The constant part makes `steps` a number that a later run may raise or lower.
    """
    return min(1.0, (step - begun + 1) / warm_up, max(0.0, (steps - step) / (max(1, final * steps))) + 1e-3)


def optimizers(nets, learning_rate):
    """Muon for the weights between features; AdamW for norms, biases, embeddings and what touches in- and output.

    Names are those within a net: `post_quant_conv`, which is a net of its own where the decoder is trained alone, has Muon there.
    """
    named = [(name, p) for net in nets.values() for name, p in net.named_parameters()]
    outer = ("conv_in", "conv_out", "embeddings", "quant_conv")
    hidden = [p for name, p in named if p.ndim >= 2 and not any(part in name for part in outer)]
    rest = [p for name, p in named if p.ndim < 2 or any(part in name for part in outer)]
    return [
        Muon(hidden, lr=learning_rate, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.999), weight_decay=0.01),
    ]


class Stopped(Exception):
    """A signal asked the run to stop; the checkpoint is written."""


class Run:
    """What the loops share: networks, optimizer, average, random numbers, checkpoint file, log."""

    def __init__(self, name, folder, nets, steps, learning_rate, decay, seed, device="cpu"):
        self.name, self.path, self.steps = name, Path(folder) / f"{name}.pt", steps
        self.nets, self.learning_rate, self.device = nets, learning_rate, torch.device(device)
        parameters = [p for net in nets.values() for p in net.parameters()]
        self.parameters = parameters
        self.optimizers = optimizers(nets, learning_rate)
        self.ema = Ema(parameters, decay)
        self.torch_rng = torch.Generator(self.device).manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.step, self.seconds, self.history = 0, 0.0, []
        # Scenes seen, and the step that the optimizers began at, knowing nothing.
        self.seen = self.begun = 0
        self.stop = False
        if self.path.exists():
            self.load()

    def load(self):
        saved = torch.load(self.path, map_location="cpu", weights_only=False)
        for key, net in self.nets.items():
            net.load_state_dict(saved["nets"][key])
        for optimizer, state in zip(self.optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        self.ema.averages = [average.to(self.device) for average in saved["ema"]]
        if saved.get("device", "cpu") == self.device.type:
            self.torch_rng.set_state(saved["torch_rng"])
        else:
            # A generator's state is its kind of device's own: it goes on from another place.
            self.torch_rng.manual_seed(saved["step"])
        self.rng.bit_generator.state = saved["rng"]
        self.step, self.seconds, self.history = saved["step"], saved["seconds"], saved["history"]
        # Before these were kept, batches were of 16.
        self.seen, self.begun = saved.get("seen", 16 * self.step), saved.get("begun", 0)

    def save(self):
        saved = {
            "nets": {key: net.state_dict() for key, net in self.nets.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": self.ema.averages,
            "device": self.device.type,
            "torch_rng": self.torch_rng.get_state(),
            "rng": self.rng.bit_generator.state,
            "step": self.step,
            "seen": self.seen,
            "begun": self.begun,
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

        handlers = {wanted: signal.signal(wanted, ask) for wanted in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.train(loss_of_batch, warm_up, final, evaluate, every)
        finally:
            # What follows has no checkpoint to write: a signal ends it at once.
            for wanted, handler in handlers.items():
                signal.signal(wanted, handler)

    def train(self, loss_of_batch, warm_up, final, evaluate, every):
        for net in self.nets.values():
            net.train()
        saved_at = logged_at = time.time()
        sums, logged_step = {}, self.step

        def means():
            # Read now and then only: to read a number is to wait for the device.
            found = {key: value.item() / (self.step - logged_step) for key, value in sums.items()}
            if not all(math.isfinite(value) for value in found.values()):
                raise FloatingPointError(f"{found} up to step {self.step}")
            return " ".join(f"{key} {value:.4f}" for key, value in found.items())

        while self.step < self.steps:
            started = time.time()
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * rate(self.step, self.steps, warm_up, final, self.begun)
            loss, numbers = loss_of_batch()
            for parameter in self.parameters:
                parameter.grad = None
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.step += 1
            self.ema.update(self.step)
            self.seconds += time.time() - started
            for key, value in {"loss": loss, "gradient": norm, **numbers}.items():
                sums[key] = sums.get(key, 0.0) + value.detach()
            done = self.step == self.steps
            saving = done or self.stop or time.time() - saved_at > SAVE_SECONDS
            if self.step % 50 == 0 or saving:
                text = means()
                count = self.step - logged_step
                self.log(f"{text}, {(time.time() - logged_at) / count:.3f} s/step")
                sums, logged_step, logged_at = {}, self.step, time.time()
            if self.step % every == 0 or done:
                self.watched(evaluate)
                logged_at = time.time()
            if saving:
                self.save()
                saved_at = time.time()
            # A signal that came since is answered after the next step, whose checkpoint is then written.
            if saving and self.stop:
                raise Stopped
