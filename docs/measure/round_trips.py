"""How well EDICT's round trips hold for known predictors: the tables of ../numerics.md that need no image model.

Needs numpy alone. It repeats the few lines of arithmetic of edict-core on purpose: it measures the method.
"""

import numpy as np

F64, F16 = np.float64, np.float16
U = np.finfo(F64).eps / 2
BARS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def run(n):
    """(a, b, timestep) of each step of Stable Diffusion's schedule: leading spacing, offset 1, strength 1."""
    times = [(n - 1 - i) * (1000 // n) + (1 if n < 1000 else 0) for i in range(n)]
    levels = [BARS[t] for t in times] + [BARS[0]]
    steps = []
    for i, t in enumerate(times):
        a = np.sqrt(levels[i + 1] / levels[i])
        steps.append((a, np.sqrt(1 - levels[i + 1]) - a * np.sqrt(1 - levels[i]), t))
    return steps


def generate(x, y, steps, p, eps, seen):
    for i, (a, b, t) in enumerate(steps):
        if i % 2 == 0:
            x = a * x + b * eps(y, t)
            y = a * y + b * eps(x, t)
        else:
            y = a * y + b * eps(x, t)
            x = a * x + b * eps(y, t)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        seen(x, y)
    return x, y


def invert(x, y, steps, p, eps, seen, counted=False):
    """With `counted`, the order follows a counter of this loop, as in diffusers' community pipeline."""
    for i, (a, b, t) in reversed(list(enumerate(steps))):
        if counted:
            i = len(steps) - i
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        if i % 2 == 0:
            y = (y - b * eps(x, t)) / a
            x = (x - b * eps(y, t)) / a
        else:
            x = (x - b * eps(y, t)) / a
            y = (y - b * eps(x, t)) / a
        seen(x, y)
    return x, y


MEANS = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.2]])


def mixture(scale):
    """Exact noise of three clusters in the plane (standard deviation 0.2), guided towards the second."""

    def of(z, t, cluster):
        bar = BARS[t]
        variance = bar * 0.04 + 1 - bar
        distances = ((z[:, None] - np.sqrt(bar) * MEANS) ** 2).sum(-1)
        weights = np.exp(-(distances - distances.min(1, keepdims=True)) / (2 * variance))
        if cluster is not None:
            weights = np.zeros_like(weights) + (np.arange(3) == cluster)
        mean = weights / weights.sum(1, keepdims=True) @ MEANS
        return np.sqrt(1 - bar) * (z - np.sqrt(bar) * mean) / variance

    if scale == 1:
        return lambda z, t: of(z, t, None)
    return lambda z, t: (n := of(z, t, None)) + scale * (of(z, t, 1) - n)


def tanh(seed):
    """A two-layer network with fixed random weights."""
    inner, outer = np.random.default_rng(seed).standard_normal((2, 64, 64)) / 8
    return lambda z, t: np.tanh(z @ inner.T + np.sin(0.01 * t)) @ outer.T


def rounded(eps, dtype):
    """The predictor as a network of lower precision sees and returns it."""
    if dtype == F64:
        return eps
    return lambda z, t: eps(z.astype(dtype).astype(F64), t).astype(dtype).astype(F64)


PLAIN = {"mixture": (mixture(1), 2), "tanh network": (tanh(1), 64)}
GUIDED = {"mixture, guidance 3": (mixture(3), 2), "mixture, guidance 7": (mixture(7), 2)}


def nothing(x, y):
    pass


def errors(eps, width, n, p):
    """Errors of each sample and largest latent, of image -> noise -> image and of noise -> image -> noise."""
    rng = np.random.default_rng(5)
    steps, out = run(n), []
    for first, second, start in [(invert, generate, 0.7), (generate, invert, 1.0)]:
        z = start * rng.standard_normal((64, width))
        largest = [np.abs(z).max()]
        seen = lambda x, y: largest.append(max(np.abs(x).max(), np.abs(y).max()))
        with np.errstate(all="ignore"):
            x, y = second(*first(z, z, steps, p, eps, seen), steps, p, eps, seen)
        error = np.maximum(np.abs(x - z), np.abs(y - z)).max(1)
        out.append((error, max(largest)))
    return out


def power(value):
    return "lost" if not value < 1 else f"{value:.0e}"


def main():
    counts = [10, 25, 50, 100, 250, 1000]
    columns = " | ".join(f"n = {n}" for n in counts)
    for name, dtype in [("f64", F64), ("f16", F16)]:
        print(f"\nworst error of {', '.join(PLAIN | GUIDED)}; predictions in {name}, pair in f64\n")
        print(f"| p | {columns} |\n|---|" + "---|" * len(counts))
        for p in [0.8, 0.93, 0.97, 1.0, "0.93^(50/n)"]:
            cells = []
            for n in counts:
                weight = 0.93 ** (50 / n) if isinstance(p, str) else p
                both = [errors(rounded(eps, dtype), w, n, weight) for eps, w in (PLAIN | GUIDED).values()]
                cells.append(" / ".join(power(np.max([b[k][0].max() for b in both])) for k in (0, 1)))
            print(f"| {p} | {' | '.join(cells)} |")

    print("\nin units of the laws: image / (n u largest), noise / (n u p^-2n largest)\n")
    print(f"| predictor | p | {columns} |\n|---|---|" + "---|" * len(counts))
    for name, (eps, width) in (PLAIN | GUIDED).items():
        for p in [0.93, "0.93^(50/n)"]:
            cells = []
            for n in counts:
                weight = 0.93 ** (50 / n) if isinstance(p, str) else p
                if weight ** (-2 * n) * U > 1e-3:
                    cells.append("-")
                    continue
                (image, a), (noise, b) = errors(eps, width, n, weight)
                cells.append(f"{image.max() / (n * U * a):.2g} / {noise.max() / (n * U * weight ** (-2 * n) * b):.2g}")
            print(f"| {name} | {p} | {' | '.join(cells)} |")

    print("\nsamples of 64 that come back more than 1e-6 off; predictions in f16\n")
    print(f"| predictor | p | {columns} |\n|---|---|" + "---|" * len(counts))
    for name, (eps, width) in PLAIN.items():
        for p in [0.93, "0.93^(50/n)"]:
            cells = []
            for n in counts:
                weight = 0.93 ** (50 / n) if isinstance(p, str) else p
                off = [(~(error <= 1e-6)).sum() for error, _ in errors(rounded(eps, F16), width, n, weight)]
                cells.append(f"{off[0]} / {off[1]}")
            print(f"| {name} | {p} | {' | '.join(cells)} |")

    print("\nrms(x - y) of the pair generated from noise; f64\n")
    print(f"| predictor | p | {columns} |\n|---|---|" + "---|" * len(counts))
    for name, (eps, width) in (PLAIN | GUIDED).items():
        for p in [0.8, 0.93, 1.0, "0.93^(50/n)"]:
            cells = []
            for n in counts:
                weight = 0.93 ** (50 / n) if isinstance(p, str) else p
                z = np.random.default_rng(5).standard_normal((64, width))
                x, y = generate(z, z, run(n), weight, eps, nothing)
                cells.append(f"{np.sqrt(((x - y) ** 2).mean()):.2g}")
            print(f"| {name} | {p} | {' | '.join(cells)} |")

    print("\nimage -> noise -> image, p = 0.93, order from the step / from a counter of the loop; f64\n")
    print("| predictor | n = 24 | n = 25 | n = 35 | n = 40 |\n|---|---|---|---|---|")
    for name, (eps, width) in (PLAIN | GUIDED).items():
        cells = []
        for n in [24, 25, 35, 40]:
            z = 0.7 * np.random.default_rng(5).standard_normal((64, width))
            ends = [
                generate(*invert(z, z, run(n), 0.93, eps, nothing, counted), run(n), 0.93, eps, nothing)
                for counted in [False, True]
            ]
            cells.append(" / ".join(f"{np.abs(x - z).max():.0e}" for x, _ in ends))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
