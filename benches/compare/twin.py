#!/usr/bin/env python3
"""The same work in PyTorch: reads a JSON object a line, does it, answers with one. `twin.py THREADS`"""

import json
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(int(sys.argv[1]))
torch.set_grad_enabled(False)

# Seconds that a kernel is called again and again: edict-bench does the same.
TURN = 0.04


class Networks:
    def __init__(self, folder, side):
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel

        self.unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet").eval()
        self.vae = AutoencoderKL.from_pretrained(f"{folder}/vae").eval()
        self.text = CLIPTextModel.from_pretrained(f"{folder}/text_encoder").eval()
        torch.manual_seed(1)
        self.latents = torch.randn(1, 4, side // 8, side // 8)
        self.image = torch.rand(1, 3, side, side) * 2 - 1
        self.states = torch.randn(2, 77, self.unet.config.cross_attention_dim)
        self.tokens = torch.randint(0, 512, (1, 77))

    def unet_call(self):
        return self.unet(torch.cat([self.latents] * 2), 500, self.states).sample

    def vae_encode(self):
        return self.vae.encode(self.image).latent_dist.mode()

    def vae_decode(self):
        return self.vae.decode(self.latents / self.vae.config.scaling_factor).sample

    def text_encode(self):
        return self.text(self.tokens).last_hidden_state


def kernel(ask):
    """A function that does what a kernel does, on random data."""
    shape, kind = ask["shape"], ask["kind"]
    x = torch.randn(shape)
    channels = shape[1] if len(shape) == 4 else shape[-1]
    weight, bias = torch.randn(channels), torch.randn(channels)
    if kind == "conv":
        w, b = torch.randn(ask["outputs"], channels, ask["kernel"], ask["kernel"]), torch.randn(ask["outputs"])
        return lambda: F.conv2d(x, w, b, padding=ask["kernel"] // 2, stride=ask["stride"])
    if kind == "linear":
        w, b = torch.randn(ask["outputs"], channels), torch.randn(ask["outputs"])
        return lambda: F.linear(x, w, b)
    if kind == "linear_geglu":
        w, b = torch.randn(ask["outputs"], channels), torch.randn(ask["outputs"])

        def linear_geglu():
            u, g = F.linear(x, w, b).chunk(2, -1)
            return u * F.gelu(g)

        return linear_geglu
    if kind == "attention":
        batch, n, _ = shape
        key, heads = torch.randn(batch, ask["keys"], channels), ask["heads"]

        def by_head(x):
            return x.view(batch, x.shape[1], heads, channels // heads).transpose(1, 2)

        def attend():
            y = F.scaled_dot_product_attention(by_head(x), by_head(key), by_head(key))
            return y.transpose(1, 2).reshape(batch, n, channels)

        return attend
    if kind == "group_norm_silu":
        return lambda: F.silu(F.group_norm(x, 32, weight, bias))
    if kind == "layer_norm":
        return lambda: F.layer_norm(x, (channels,), weight, bias)
    if kind == "geglu":

        def geglu():
            u, g = x.chunk(2, -1)
            return u * F.gelu(g)

        return geglu
    return {"silu": lambda: F.silu(x), "gelu": lambda: F.gelu(x)}[kind]


def seconds(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def quickest(work):
    """Calls a kernel for a turn, or once, and returns the seconds of the quickest call: as edict-bench does."""
    begun, best = time.perf_counter(), seconds(work)
    while time.perf_counter() - begun < TURN:
        best = min(best, seconds(work))
    return best


def main():
    networks, kernels = None, {}
    for line in sys.stdin:
        ask = json.loads(line)
        answer = {}
        if ask["do"] == "load":
            networks = Networks(ask["folder"], ask["side"])
        elif ask["do"] == "unload":
            networks = None
        else:
            if ask["do"] == "kernel":
                if line not in kernels:
                    kernels = {line: kernel(ask)}
                answer["seconds"] = quickest(kernels[line])
            else:
                answer["seconds"] = seconds(getattr(networks, ask["do"]))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
