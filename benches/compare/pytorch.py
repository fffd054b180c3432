"""Stable Diffusion by diffusers' modules, and EDICT (arXiv:2211.12446) as its users have it in Python, written out anew.

Notation: level k = 0 is the noisy end of a run, level n the image; A_k is alpha-bar there. A transition from level k to k + 1 tells the
network timestep t_k and maps z to a z + b eps, where a = sqrt(A_{k+1}/A_k) and b = sqrt(1 - A_{k+1}) - a sqrt(1 - A_k).
"""

import math
import time
from dataclasses import dataclass

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()

DTYPES = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class SinusoidInDouble(torch.nn.Module):
    """The timestep embedding; diffusers' own rounds to float32 on the way, whatever the network's precision."""

    def __init__(self, config):
        super().__init__()
        if not config.flip_sin_to_cos or config.freq_shift != 0:
            raise NotImplementedError("cosines first and no frequency shift, as Stable Diffusion has it")
        self.half = config.block_out_channels[0] // 2

    def forward(self, timesteps):
        exponents = torch.arange(self.half, dtype=torch.float64, device=timesteps.device) / self.half
        angles = torch.outer(timesteps.double(), (-math.log(10000.0) * exponents).exp())
        return torch.hstack([torch.cos(angles), torch.sin(angles)])


class Networks:
    """The networks of a model folder on a device, in one precision."""

    def __init__(self, folder, dtype=torch.float32, device="cpu", sinusoid_in_double=False):
        torch.set_grad_enabled(False)

        def load(kind, part):
            return kind.from_pretrained(str(folder), subfolder=part).to(device, dtype).eval()

        self.unet, self.vae = load(UNet2DConditionModel, "unet"), load(AutoencoderKL, "vae")
        self.text = load(CLIPTextModel, "text_encoder")
        self.tokenizer = CLIPTokenizer.from_pretrained(str(folder), subfolder="tokenizer")
        self.scheduler = DDIMScheduler.from_pretrained(str(folder), subfolder="scheduler")
        self.dtype, self.device = dtype, torch.device(device)
        if sinusoid_in_double:
            self.unet.time_proj = SinusoidInDouble(self.unet.config)
        self.velocity = self.scheduler.config.prediction_type == "v_prediction"
        self.alpha_bar = self.scheduler.alphas_cumprod.double()
        self.calls, self.seconds = 0, 0.0

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def states(self, prompt):
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(prompt, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
        return self.text(ids.to(self.device)).last_hidden_state

    def encode(self, image):
        """`image` is `[1, 3, height, width]` in [-1, 1]."""
        return self.vae.encode(image.to(self.device, self.dtype)).latent_dist.mode() * self.vae.config.scaling_factor

    def decode(self, latents):
        return self.vae.decode(latents.to(self.dtype) / self.vae.config.scaling_factor).sample

    def call(self, latents, timestep, states):
        """One network call, counted and timed."""
        self.wait()
        begun = time.perf_counter()
        out = self.unet(latents.to(self.dtype), timestep, encoder_hidden_states=states.to(self.dtype)).sample
        self.wait()
        self.calls, self.seconds = self.calls + 1, self.seconds + time.perf_counter() - begun
        return out

    def predictor(self, positive, negative, scale, batched):
        """A function (latents, timestep) -> eps in the latents' precision, guided from `negative` towards `positive`.

        Batched, both are one call of a batch of two; else two calls. At scale 1 batched guidance asks about the positive prompt alone;
        unbatched asks about both, as the authors' program does.
        """

        def predict(latents, timestep):
            if batched and scale == 1:
                out = self.call(latents, timestep, positive).to(latents.dtype)
            elif batched:
                pair = self.call(torch.cat([latents, latents]), timestep, torch.cat([negative, positive]))
                base, aimed = pair.to(latents.dtype).chunk(2)
                out = base + scale * (aimed - base)
            else:
                base = self.call(latents, timestep, negative).to(latents.dtype)
                aimed = self.call(latents, timestep, positive).to(latents.dtype)
                out = base + scale * (aimed - base)
            if self.velocity:
                level = self.alpha_bar[timestep]
                out = level.sqrt().item() * out + (1 - level).sqrt().item() * latents
            return out

        return predict


def run_of(scheduler, steps, strength):
    """The timesteps t_0 .. t_{n-1} that are run and the alpha-bars A_0 .. A_n."""
    config = scheduler.config
    # In float64: the scheduler's own table is float32.
    roots = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps, dtype=torch.float64)
    table = torch.cumprod(1 - roots**2, 0)
    last = 1.0 if config.set_alpha_to_one else table[0].item()
    if config.timestep_spacing == "leading":
        stride = config.num_train_timesteps // steps
        every = [stride * i + config.steps_offset for i in reversed(range(steps))]
        if every[-1] >= stride:
            last = table[every[-1] - stride].item()
    elif config.timestep_spacing == "trailing":
        every = [round(config.num_train_timesteps - i * (config.num_train_timesteps / steps)) - 1 for i in range(steps)]
    else:
        raise NotImplementedError(f"timestep spacing {config.timestep_spacing}")
    timesteps = every[steps - math.floor(steps * strength + 0.5) :]
    bars = [table[t].item() for t in timesteps] + [last]
    return timesteps, bars, table


@dataclass
class Edict:
    """The coupled transformations.

    `by_counter` is what the community pipeline does: which latent goes first follows the loop's counter in both directions, and a run of an
    odd number of steps does not come back. Otherwise the order belongs to the step.
    """

    timesteps: list
    alpha_bars: list
    weight: float
    leapfrog: bool = True
    by_counter: bool = False

    def step(self, k):
        here, there = self.alpha_bars[k], self.alpha_bars[k + 1]
        a = math.sqrt(there / here)
        return a, math.sqrt(1 - there) - a * math.sqrt(1 - here), self.timesteps[k]

    def first(self, k):
        """Which latent generation updates first at a step: 0 is x."""
        return k % 2 if self.leapfrog else 0

    def generate(self, pair, predict):
        pair, p = list(pair), self.weight
        for k in range(len(self.timesteps)):
            a, b, t = self.step(k)
            first = self.first(k)
            for i in (first, 1 - first):
                pair[i] = a * pair[i] + b * predict(pair[1 - i], t)
            for i in (0, 1):
                pair[i] = p * pair[i] + (1 - p) * pair[1 - i]
        return pair

    def invert(self, pair, predict):
        pair, p, n = list(pair), self.weight, len(self.timesteps)
        for counter, k in enumerate(reversed(range(n))):
            a, b, t = self.step(k)
            last = counter % 2 if self.by_counter else 1 - self.first(k)
            for i in (1, 0):
                pair[i] = (pair[i] - (1 - p) * pair[1 - i]) / p
            for i in (last, 1 - last):
                pair[i] = (pair[i] - b * predict(pair[1 - i], t)) / a
        return pair
