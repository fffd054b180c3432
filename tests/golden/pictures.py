"""Writes pictures/: small files of many kinds, and in pictures.json what Pillow reads from them.

    python pictures.py            rewrite pictures/

`read` lists files with the RGB pixels Pillow finds (orientation applied, laid over white), as hexadecimal rows, and the largest
difference another decoder may have: 0 for lossless files, 1 where alpha is blended, more for lossy ones. `fit` lists photographs
cropped and resized by Pillow's own Lanczos filter in floating point, rounded once.
"""
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
OUT = HERE / "pictures"
WIDTH, HEIGHT = 12, 8
ORIENTATION = 0x0112


def gradient():
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.stack([x * 21, y * 32, (x + y) * 12], axis=-1).astype(np.uint8)


def upright(path):
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode == "I;16":
            image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")


def files():
    """(name, image, keywords of save, tolerance)"""
    rgb = Image.fromarray(gradient())
    alpha = Image.fromarray((np.add.outer(np.arange(HEIGHT) * 20, np.arange(WIDTH) * 10) % 256).astype(np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    grey = rgb.convert("L")
    grey_alpha = grey.copy()
    grey_alpha.putalpha(alpha)
    grey16 = Image.fromarray((gradient()[..., 2].astype(np.uint16) * 300))
    palette = rgb.quantize(17)
    yield "rgb.png", rgb, {}, 0
    yield "rgba.png", rgba, {}, 1
    yield "grey.png", grey, {}, 0
    yield "grey-alpha.png", grey_alpha, {}, 1
    yield "grey16.png", grey16, {}, 1
    yield "one-bit.png", grey.convert("1"), {}, 0
    yield "palette.png", palette, {}, 0
    yield "palette-4-bit.png", rgb.quantize(9), {"bits": 4}, 0
    yield "palette-transparent.png", palette, {"transparency": 3}, 0
    yield "rgb-transparent.png", rgb, {"transparency": (21, 32, 24)}, 0
    yield "rgb.webp", rgb, {"lossless": True}, 0
    yield "rgba.webp", rgba, {"lossless": True, "exact": True}, 1
    yield "lossy.webp", rgb, {"quality": 90}, 12
    yield "animated.webp", rgb, {"lossless": True, "save_all": True, "append_images": [ImageOps.invert(rgb)]}, 0
    yield "rgb.jpg", rgb, {"quality": 95, "subsampling": 0}, 3
    yield "subsampled.jpg", rgb, {"quality": 90}, 12
    yield "progressive.jpg", rgb, {"quality": 95, "subsampling": 0, "progressive": True}, 3
    yield "grey.jpg", grey, {"quality": 95}, 3
    yield "cmyk.jpg", rgb.convert("CMYK"), {"quality": 98}, 6
    for value in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = value
        yield f"orientation-{value}.png", rgb, {"exif": exif}, 0
        if value in (3, 6):
            yield f"orientation-{value}.jpg", rgb, {"exif": exif, "quality": 95, "subsampling": 0}, 3
            yield f"orientation-{value}.webp", rgb, {"exif": exif, "lossless": True}, 0


def fitted(name, width, height):
    image = Image.open(HERE / "images" / name).convert("RGB")
    bands = [ImageOps.fit(band.convert("F"), (width, height), Image.Resampling.LANCZOS) for band in image.split()]
    pixels = np.stack([np.asarray(band) for band in bands], axis=-1)
    target = f"fit-{width}x{height}-{name}"
    Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)).save(OUT / target)
    return {"image": name, "width": width, "height": height, "result": target}


def main():
    OUT.mkdir(exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    read = []
    for name, image, keywords, tolerance in files():
        image.save(OUT / name, **keywords)
        found = np.asarray(upright(OUT / name))
        rows = ["".join(f"{v:02x}" for v in row.flatten()) for row in found]
        read.append({"file": name, "tolerance": tolerance, "rows": rows})
    sizes = [("photo-96x64.png", 40, 40), ("photo-96x64.png", 128, 48), ("chelsea-451x300.png", 64, 96), ("photo-88x72.png", 24, 56)]
    fit = [fitted(*row) for row in sizes]
    lines = [",\n".join(json.dumps(row) for row in rows) for rows in (read, fit)]
    (OUT / "pictures.json").write_text(f'{{"read": [\n{lines[0]}\n], "fit": [\n{lines[1]}\n]}}\n')


if __name__ == "__main__":
    main()
