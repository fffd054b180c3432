"""Writes data/*.safetensors again: what Stable Diffusion and the samplers should give, in float64, from PyTorch diffusers.

    python generate.py --check              compute everything and compare it with data/ (exit 1 above the tolerance)
    python generate.py --out DIR            write the files to DIR
    python generate.py --only sd1-50-0.8    one run; may be repeated

Needs the packages of requirements.txt and nothing else: models and images lie next to this file. The networks are diffusers' and
transformers' in float64; the noise schedule, the timestep embedding and the samplers are written out here with numpy, so that
nothing is shared with the Rust code, and little with the programs the files in data/ came from.

Notation: level k = 0 is the noisy end of a run, level n the image; A_k is alpha-bar there, alpha = sqrt(A), sigma = sqrt(1 - A).
A transition from level k to k + 1 tells the network timestep t_k and maps z to a z + b eps, where a = alpha_{k+1}/alpha_k and
b = sigma_{k+1} - a sigma_k.
"""
import argparse
import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import CLIPTextModel, CLIPTokenizer

HERE = Path(__file__).resolve().parent
# Rounding differs between machines; a wrong formula differs in the first digits.
TOLERANCE = 1e-12
PROBE_TIMESTEP = 501


@dataclasses.dataclass(frozen=True)
class Run:
    model: str
    image: str
    source: str
    target: str
    negative: str = ""
    steps: int = 50
    strength: float = 0.8
    mixing_weight: float = 0.93
    guidance: float = 3.0
    gamma: float = 0.96
    leapfrog: bool = True

    def metadata(self):
        fields = dataclasses.asdict(self)
        del fields["model"], fields["image"]
        fields["no_leapfrog"] = not fields.pop("leapfrog")
        return {key: str(value) for key, value in fields.items()}


RUNS = {
    "sd1-50-0.8": Run("tiny-sd1", "shape-64.png", "a small white diamond", "a large red circle"),
    "sd1-25-1.0-odd": Run("tiny-sd1", "photo-64.png", "a photo", "a painting of two birds", steps=25, strength=1.0,
                          mixing_weight=0.9, guidance=1.0),
    "sd2-20-0.75-vpred": Run("tiny-sd2", "photo-96x64.png", "a cat", "a dog in the grass", "painting", steps=20, strength=0.75,
                             mixing_weight=0.9, guidance=5.0),
    "legacy-40-0.6": Run("tiny-legacy", "photo-88x72.png", "a cat! looking up", "a dog", steps=40, strength=0.6, guidance=2.0),
}


class SinusoidInDouble(torch.nn.Module):
    """The timestep embedding; diffusers' own rounds to float32 on the way."""

    def __init__(self, config):
        super().__init__()
        if not config.flip_sin_to_cos or config.freq_shift != 0:
            raise NotImplementedError("cosines first and no frequency shift, as Stable Diffusion has it")
        self.half = config.block_out_channels[0] // 2

    def forward(self, timesteps):
        exponents = torch.arange(self.half, dtype=torch.float64) / self.half
        angles = torch.outer(timesteps.to(torch.float64), (-math.log(10000.0) * exponents).exp())
        return torch.hstack([torch.cos(angles), torch.sin(angles)])


class Model:
    """The three networks of a folder, numpy arrays in and out."""

    def __init__(self, folder):
        load = lambda kind, part: kind.from_pretrained(str(folder), subfolder=part).to(torch.float64).eval()
        self.unet, self.vae = load(UNet2DConditionModel, "unet"), load(AutoencoderKL, "vae")
        self.text_encoder = load(CLIPTextModel, "text_encoder")
        self.tokenizer = CLIPTokenizer.from_pretrained(str(folder), subfolder="tokenizer")
        self.noise = DDIMScheduler.from_pretrained(str(folder), subfolder="scheduler")
        self.unet.time_proj = SinusoidInDouble(self.unet.config)
        config = self.noise.config
        if config.beta_schedule != "scaled_linear" or config.timestep_spacing != "leading":
            raise NotImplementedError("scaled linear betas with leading timesteps only")
        roots = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps, dtype=torch.float64)
        self.alpha_bar = torch.cumprod(1 - roots**2, dim=0).numpy()

    def states(self, prompt):
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(prompt, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return self.text_encoder(ids["input_ids"]).last_hidden_state.numpy()

    def encode(self, path):
        rgb = np.asarray(Image.open(path).convert("RGB")).astype(np.float64)
        batch = np.moveaxis(rgb / 127.5 - 1, -1, 0)[np.newaxis]
        mode = self.vae.encode(torch.from_numpy(batch)).latent_dist.mode()
        return mode.numpy() * self.vae.config.scaling_factor

    def decode(self, latent):
        return self.vae.decode(torch.from_numpy(latent / self.vae.config.scaling_factor)).sample.numpy()

    def raw(self, latent, timestep, states):
        return self.unet(torch.from_numpy(latent), timestep, encoder_hidden_states=torch.from_numpy(states)).sample.numpy()

    def noise_prediction(self, positive, negative, scale):
        """A function (latent, timestep) -> eps, guided from `negative` towards `positive`."""
        velocity = self.noise.config.prediction_type == "v_prediction"

        def predict(latent, timestep):
            prediction = self.raw(latent, timestep, positive)
            if scale != 1:
                base = self.raw(latent, timestep, negative)
                prediction = base + scale * (prediction - base)
            if velocity:
                level = self.alpha_bar[timestep]
                prediction = math.sqrt(level) * prediction + math.sqrt(1 - level) * latent
            return prediction

        return predict

    def trajectory(self, steps, strength):
        """The timesteps t_0 .. t_{n-1} that are run and the alpha-bars A_0 .. A_n."""
        config = self.noise.config
        stride = config.num_train_timesteps // steps
        every = [stride * i + config.steps_offset for i in reversed(range(steps))]
        timesteps = every[steps - math.floor(steps * strength + 0.5):]
        last = 1.0 if config.set_alpha_to_one else self.alpha_bar[0]
        bars = [float(self.alpha_bar[t]) for t in timesteps]
        # Stepping down by the stride from the last timestep leaves the table.
        bars.append(float(self.alpha_bar[timesteps[-1] - stride]) if timesteps[-1] >= stride else float(last))
        return timesteps, bars


class Sampling:
    """The samplers on one trajectory; `toward_image` is generation, the other direction inversion."""

    def __init__(self, timesteps, bars):
        self.timesteps, self.bars = timesteps, np.array(bars)
        self.count = len(timesteps)
        self.a = np.sqrt(self.bars[1:] / self.bars[:-1])
        sigma = np.sqrt(1 - self.bars)
        self.b = sigma[1:] - self.a * sigma[:-1]

    def order(self, toward_image):
        return range(self.count) if toward_image else reversed(range(self.count))

    def ddim(self, z, predict, toward_image):
        for k in self.order(toward_image):
            eps = predict(z, self.timesteps[k])
            z = self.a[k] * z + self.b[k] * eps if toward_image else (z - self.b[k] * eps) / self.a[k]
        return z

    def edict(self, pair, predict, toward_image, weight, leapfrog):
        """arXiv:2211.12446, with the order of the two updates alternating from step to step as in the authors' code."""
        pair = list(pair)
        for k in self.order(toward_image):
            a, b, t = self.a[k], self.b[k], self.timesteps[k]
            first = k % 2 if leapfrog else 0
            if toward_image:
                for i in (first, 1 - first):
                    pair[i] = a * pair[i] + b * predict(pair[1 - i], t)
                for i in (0, 1):
                    pair[i] = weight * pair[i] + (1 - weight) * pair[1 - i]
            else:
                for i in (1, 0):
                    pair[i] = (pair[i] - (1 - weight) * pair[1 - i]) / weight
                for i in (1 - first, first):
                    pair[i] = (pair[i] - b * predict(pair[1 - i], t)) / a
        return pair

    def two_step(self, gamma=None):
        return TwoStep(self, gamma)


class TwoStep:
    """Two-step samplers: O-BELM (arXiv:2410.07273), or BDIA (arXiv:2307.10829) where gamma is given.

    In u = z/alpha and r = sigma/alpha both have the form  u_{k+1} - u_k = -rho_k (u_k - u_{k-1}) - (h_k + rho_k h_{k-1}) eps(z_k, t_k)
    with h_k = r_k - r_{k+1}: rho_k = (h_k/h_{k-1})^2 for O-BELM, gamma alpha_{k-1}/alpha_{k+1} for BDIA. Transitions that do not
    change the level are left out.
    """

    def __init__(self, sampling, gamma):
        moves = [k for k in range(sampling.count) if sampling.bars[k] != sampling.bars[k + 1]]
        bars = sampling.bars[moves + [moves[-1] + 1]]
        self.timesteps = [sampling.timesteps[k] for k in moves]
        self.alpha = np.sqrt(bars)
        self.h = -np.diff(np.sqrt((1 - bars) / bars))
        if gamma is None:
            self.rho = (self.h[1:] / self.h[:-1]) ** 2
        else:
            self.rho = gamma * self.alpha[:-2] / self.alpha[2:]

    def slope(self, u, k, predict):
        weight = self.h[k] + self.rho[k - 1] * self.h[k - 1]
        return weight * predict(self.alpha[k] * u, self.timesteps[k])

    def invert(self, image, predict):
        """The latents of level 0 and level 1; the transition next to the image is DDIM's, with eps at the image."""
        last = len(self.h) - 1
        u = image / self.alpha[-1]
        change = -self.h[last] * predict(image, self.timesteps[last])
        u = u - change
        for k in range(last, 0, -1):
            change = -(change + self.slope(u, k, predict)) / self.rho[k - 1]
            u = u - change
        return self.alpha[0] * u, self.alpha[1] * (u + change)

    def generate(self, noise, after, predict):
        u = after / self.alpha[1]
        change = u - noise / self.alpha[0]
        for k in range(1, len(self.h)):
            change = -self.rho[k - 1] * change - self.slope(u, k, predict)
            u = u + change
        return self.alpha[-1] * u


@torch.no_grad()
def tensors(run):
    """Computes every tensor of a golden file."""
    model = Model(HERE / "models" / run.model)
    image = model.encode(HERE / "images" / run.image)
    source, target, negative = map(model.states, (run.source, run.target, run.negative))
    out = {"image_latent": image, "text_source": source, "text_target": target, "text_negative": negative}
    out["unet_out"] = model.raw(image, PROBE_TIMESTEP, source)
    out["decoded"] = model.decode(image)

    as_source = model.noise_prediction(source, negative, run.guidance)
    as_target = model.noise_prediction(target, negative, run.guidance)
    sampling = Sampling(*model.trajectory(run.steps, run.strength))

    def both(suffix, pair):
        out["x" + suffix], out["y" + suffix] = pair
        return pair

    options = {"weight": run.mixing_weight, "leapfrog": run.leapfrog}
    noise = both("_noise", sampling.edict((image, image), as_source, False, **options))
    both("_back", sampling.edict(noise, as_source, True, **options))
    both("_edit", sampling.edict(noise, as_target, True, **options))

    out["ddim_noise"] = sampling.ddim(image, as_source, False)
    out["ddim_back"] = sampling.ddim(out["ddim_noise"], as_source, True)
    out["ddim_edit"] = sampling.ddim(out["ddim_noise"], as_target, True)

    for name, sampler in {"belm": sampling.two_step(), "bdia": sampling.two_step(run.gamma)}.items():
        pair = sampler.invert(image, as_source)
        out[f"{name}_noise"], out[f"{name}_noise_next"] = pair
        out[f"{name}_back"] = sampler.generate(*pair, as_source)
        out[f"{name}_edit"] = sampler.generate(*pair, as_target)
    return out


def difference(found, stored):
    """The largest difference, relative to the largest element."""
    return float(np.abs(found - stored).max() / np.abs(stored).max())


def compare(name, run, found):
    worst = 0.0
    with safe_open(str(HERE / "data" / f"{name}.safetensors"), "numpy") as stored:
        if stored.metadata() != run.metadata():
            print(f"{name}: other settings: {stored.metadata()}")
            return math.inf
        if set(stored.keys()) != set(found):
            print(f"{name}: other tensors: {set(stored.keys()) ^ set(found)}")
            return math.inf
        for key in sorted(found):
            error = difference(found[key], stored.get_tensor(key))
            worst = max(worst, error) if error == error else math.inf
            print(f"{name:20} {key:16} {error:.1e}")
    return worst


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true")
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--only", action="append", choices=RUNS)
    arguments = arguments.parse_args()
    if not arguments.check and not arguments.out:
        sys.exit("say --check or --out DIR")
    # One thread: sums are then formed in the same order every time.
    torch.set_num_threads(1)
    worst = 0.0
    for name in arguments.only or RUNS:
        found = {key: np.ascontiguousarray(value) for key, value in tensors(RUNS[name]).items()}
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            save_file(found, str(arguments.out / f"{name}.safetensors"), metadata=RUNS[name].metadata())
        if arguments.check:
            worst = max(worst, compare(name, RUNS[name], found))
    if arguments.check:
        print(f"largest relative difference {worst:.1e}, allowed {TOLERANCE:.0e}")
        sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
