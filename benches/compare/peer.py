#!/usr/bin/env python3
"""EDICT in PyTorch as its users have it: reads a JSON object a line, does an edit, answers with one.

    peer.py --model DIR --dtype f32|f64|f16|bf16 --device cpu|cuda:N --threads N

The algorithm `community` is that of the community pipeline of diffusers: both prompts in one call, latents in the network's precision,
the order of the two updates by the loop's counter. `authors` is that of the authors' program: a call for each prompt, whatever the
guidance. Both mix by 0.93 whatever the number of steps.
"""

import argparse
import json
import os
import sys
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from pytorch import DTYPES, Edict, Networks, run_of  # noqa: E402

WEIGHT = 0.93


def memory(device, what):
    """Bytes that are taken, or the most that were: `what` is VmRSS or VmHWM."""
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(device) if what == "VmRSS" else torch.cuda.max_memory_allocated(device)
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith(what + ":"))


def forget_peak(device):
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with open("/proc/self/clear_refs", "w") as references:
            references.write("5")


def warm_up(networks, ask, device, size):
    """A guided call before anything is timed: a process's first call takes memory and finds kernels, once, however long the edit is."""
    states = networks.states(ask["source"])
    factor = 2 ** (len(networks.vae.config.block_out_channels) - 1)
    dtype = torch.float64 if networks.dtype == torch.float64 else torch.float32
    latents = torch.zeros(1, networks.unet.config.in_channels, size[1] // factor, size[0] // factor, dtype=dtype, device=device)
    predict = networks.predictor(states, states, ask["guidance"], batched=ask["algorithm"] == "community")
    most = memory(device, "VmHWM")
    before = memory(device, "VmRSS")
    forget_peak(device)
    predict(latents, run_of(networks.scheduler, ask["steps"], ask["strength"])[0][0])
    taken = memory(device, "VmHWM") - before
    parts = (networks.unet, networks.vae, networks.text)
    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    return {"pass_bytes": taken, "weights_bytes": weights, "peak_bytes": most}


def edit(networks, ask, device, first):
    rgb = numpy.asarray(Image.open(ask["image"]).convert("RGB")).astype(numpy.float64)
    warm = warm_up(networks, ask, device, (rgb.shape[1], rgb.shape[0])) if first else {"peak_bytes": 0}
    image = torch.from_numpy(rgb / 127.5 - 1).permute(2, 0, 1)[None]
    community = ask["algorithm"] == "community"
    timesteps, bars, networks.alpha_bar = run_of(networks.scheduler, ask["steps"], ask["strength"])
    sampler = Edict(timesteps, bars, WEIGHT, by_counter=community)
    networks.calls, networks.seconds = 0, 0.0
    networks.wait()
    laps = [time.perf_counter()]

    def lap():
        networks.wait()
        laps.append(time.perf_counter())

    source, target, negative = (networks.states(ask[key]) for key in ("source", "target", "negative"))
    source, target = (networks.predictor(states, negative, ask["guidance"], batched=community) for states in (source, target))
    lap()
    latent = networks.encode(image)
    lap()
    noise = sampler.invert((latent, latent), source)
    edited = sampler.generate(noise, target)
    lap()
    networks.decode(edited[0])
    lap()
    text, encode, loop, decode = (after - before for before, after in zip(laps, laps[1:]))
    done = {
        "seconds": laps[-1] - laps[0],
        "loop_seconds": loop,
        "network_seconds": networks.seconds,
        "network_calls": networks.calls,
        "text_seconds": text,
        "encode_seconds": encode,
        "decode_seconds": decode,
    }
    done.update(warm)
    done["peak_bytes"] = max(warm["peak_bytes"], memory(device, "VmHWM"))
    if ask["round_trip"]:
        back = sampler.generate(noise, source)
        error = max((one - latent).abs().max().item() for one in back)
        equal = torch.logical_and(back[0] == latent, back[1] == latent).sum().item()
        same = torch.equal(source(latent, timesteps[0]), source(latent, timesteps[0]))
        done["round_trip"] = {
            "max_abs_error": error if numpy.isfinite(error) else None,
            "equal": equal,
            "total": latent.numel(),
            "deterministic": same,
        }
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", choices=list(DTYPES), default="f32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # As edict has it: what is compared computes f32 in f32.
    torch.backends.cudnn.allow_tf32 = False
    begun = time.perf_counter()
    networks = Networks(args.model, DTYPES[args.dtype], args.device)
    print(json.dumps({"load_seconds": time.perf_counter() - begun}), flush=True)
    first = True
    for line in sys.stdin:
        print(json.dumps(edit(networks, json.loads(line), args.device, first)), flush=True)
        first = False


if __name__ == "__main__":
    main()
