"""Pictures to train on: scenes from the scene program, and crops of sample photographs."""

import os
import subprocess
from pathlib import Path

import numpy as np
import torch

SIDE = 64
TRAIN_SCENES = 80_000
TRAIN_SEED = 0
# As `HELD_OUT` of the scene program: no training scene has a seed from here on.
HELD_OUT_SEED = 1 << 32
HELD_OUT_SCENES = 512
CAPTIONS_A_SCENE = 8

# Colour photographs twice: the grey ones are fewer kinds of picture.
TRAIN_PHOTOS = ["astronaut.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png", "retina.jpg"] * 2 + [
    "camera.png",
    "brick.png",
    "grass.png",
    "gravel.png",
    "coins.png",
]


def draw_scenes(program, folder, count, seed):
    """Returns (pictures `[count, side, side, 3]` u8, mapped from disk; captions, a list of lists)."""
    folder = Path(folder)
    if not (folder / "complete").exists():
        command = program or ["cargo", "run", "--quiet", "--release", "-p", "edict-scenes", "--"]
        options = {"count": count, "seed": seed, "size": SIDE, "captions": CAPTIONS_A_SCENE, "out": folder.absolute()}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        subprocess.run([*command, "dataset", *arguments], check=True, cwd=Path(__file__).parent)
        (folder / "complete").touch()
    pictures = np.load(folder / "images.npy", mmap_mode="r")
    captions = [line.split("\t") for line in (folder / "captions.txt").read_text().splitlines()]
    if pictures.shape != (count, SIDE, SIDE, 3) or len(captions) != count:
        raise ValueError(f"{folder} holds other scenes than asked for: remove it")
    return pictures, captions


def to_device(array, device):
    """Copies an array; a GPU gets it in its turn, without being waited for."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def as_tensor(pictures, device="cpu"):
    """u8 `[n, h, w, 3]` to float `[n, 3, h, w]` in [-1, 1], channels last in memory."""
    pixels = torch.from_numpy(np.array(pictures, np.uint8)).to(device).permute(0, 3, 1, 2)
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def read_photo(path):
    from PIL import Image

    return Image.open(path).convert("RGB")


def train_photos():
    import skimage

    folder = Path(os.path.dirname(skimage.__file__)) / "data"
    return [read_photo(folder / name) for name in TRAIN_PHOTOS]


def held_out_photos():
    """Photographs that no training crop comes from, by name."""
    import skimage
    import sklearn.datasets

    ours = Path(os.path.dirname(skimage.__file__)) / "data"
    theirs = Path(os.path.dirname(sklearn.datasets.__file__)) / "images"
    return {p.stem: read_photo(p) for p in (ours / "chelsea.png", theirs / "china.jpg", theirs / "flower.jpg")}


def reduced(photo, factor):
    """The photograph at 1/factor of its size, as an array."""
    from PIL import Image

    size = tuple(max(SIDE, round(side / factor)) for side in photo.size)
    return np.asarray(photo.resize(size, Image.Resampling.LANCZOS))


class PhotoCrops:
    """Random crops at 1x to 6x reduction, flipped, turned and with channels swapped."""

    # Continuous factors would mean a resampling for every crop: a ladder of fixed ones is as good.
    FACTORS = [1, 1.5, 2, 3, 4, 6]

    def __init__(self):
        photos = train_photos()
        # The twice listed photos share their pyramids.
        cache = {}
        self.pyramids = []
        for name, photo in zip(TRAIN_PHOTOS, photos):
            if name not in cache:
                cache[name] = [reduced(photo, f) for f in self.FACTORS]
            self.pyramids.append(cache[name])

    def sample(self, count, rng):
        crops = np.empty((count, SIDE, SIDE, 3), np.uint8)
        for i in range(count):
            pyramid = self.pyramids[rng.integers(len(self.pyramids))]
            level = pyramid[rng.integers(len(pyramid))]
            top, left = (rng.integers(level.shape[a] - SIDE + 1) for a in (0, 1))
            crop = np.rot90(level[top : top + SIDE, left : left + SIDE], rng.integers(4))
            if rng.integers(2):
                crop = crop[:, ::-1]
            if rng.integers(3) == 0:
                crop = crop[:, :, rng.permutation(3)]
            crops[i] = crop
        return crops


def held_out_crops(factor, a_photo=64):
    """A grid of crops of every held-out photograph at 1/factor of its size."""
    crops = []
    for photo in held_out_photos().values():
        level = reduced(photo, factor)
        tops = range(0, level.shape[0] - SIDE + 1, SIDE if factor < 2 else SIDE // 2)
        lefts = range(0, level.shape[1] - SIDE + 1, SIDE if factor < 2 else SIDE // 2)
        grid = [level[t : t + SIDE, l : l + SIDE] for t in tops for l in lefts]
        crops += grid[:: max(1, len(grid) // a_photo)][:a_photo]
    return np.stack(crops)
