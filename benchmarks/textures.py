"""Drawn pictures of six kinds of marks on steel-like grounds: a set on which generated rows may be worth something.

Run: python -m benchmarks.textures <folder>
Ground, light, and the number, size and place of marks are drawn anew for each picture, and of three kinds there are 15 to
learn from. A folder per split and kind.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

SIDE = 64  # pixels
FEW, MANY, VAL, TEST = 15, 200, 50, 200  # training rows of a scarce kind and of another, and rows to judge by

Rng = np.random.Generator


def spectrum(rng: Rng, slope: float, stretch: float = 1.0) -> np.ndarray:
    """Noise (SIDE, SIDE) of mean 0 and deviation 1 whose power falls with frequency by `slope`, stretched downwards."""
    across, down = np.fft.fftfreq(SIDE)[None], np.fft.fftfreq(SIDE)[:, None]
    radius = np.sqrt((down * stretch) ** 2 + across**2)
    radius[0, 0] = np.inf
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIDE, SIDE))) * radius ** (-slope / 2)).real
    return (noise - noise.mean()) / noise.std()


def ground(rng: Rng) -> np.ndarray:
    """Grey levels of a bare surface under light from a side."""
    grain = spectrum(rng, rng.uniform(0.3, 2.2), rng.uniform(0.5, 2))
    down, across = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = np.cos(angle) * across + np.sin(angle) * down
    return rng.uniform(90, 170) + grain * rng.uniform(5, 16) + light * rng.uniform(0, 60)


def strokes(
    rng: Rng, count: int, length: float, width: tuple[float, float], bend: float, along: float | None = None
) -> np.ndarray:
    """Lines of about this length and width in pixels, from 0 to 1 (SIDE, SIDE); `along`: their angle, if they share one."""
    fine = 4
    sheet = Image.new("L", (SIDE * fine, SIDE * fine))
    pen = ImageDraw.Draw(sheet)
    for _ in range(count):
        point = rng.uniform(0, SIDE * fine, 2)
        angle = rng.uniform(0, 2 * np.pi) if along is None else along + rng.normal(0, 0.12)
        points = [tuple(point)]
        for _ in range(int(rng.integers(3, 8))):
            angle += rng.normal(0, bend)
            point = point + length * fine / 5 * np.array([np.cos(angle), np.sin(angle)])
            points.append(tuple(point))
        pen.line(points, int(rng.integers(140, 256)), max(1, int(rng.uniform(*width) * fine)))
    return np.asarray(sheet.resize((SIDE, SIDE), Image.Resampling.BOX), float) / 255


def crazing(rng: Rng) -> np.ndarray:
    cracks = strokes(rng, int(rng.integers(12, 40)), rng.uniform(6, 14), (0.4, 1.0), bend=0.8)
    return ground(rng) - cracks * rng.uniform(25, 70)


def inclusion(rng: Rng) -> np.ndarray:
    down, across = np.mgrid[:SIDE, :SIDE]
    angle, marks = rng.normal(np.pi / 2, 0.25), np.zeros((SIDE, SIDE))
    for _ in range(int(rng.integers(1, 6))):
        y, x = rng.uniform(6, 58, 2)
        length, width = rng.uniform(5, 20), rng.uniform(1, 3.5)
        along = (across - x) * np.cos(angle) + (down - y) * np.sin(angle)
        beside = -(across - x) * np.sin(angle) + (down - y) * np.cos(angle)
        marks = np.maximum(marks, np.exp(-((along / length) ** 2) - (beside / width) ** 2) ** 0.7)
    return ground(rng) - marks * rng.uniform(30, 90)


def patches(rng: Rng) -> np.ndarray:
    height = spectrum(rng, rng.uniform(2.5, 4))
    marks = 1 / (1 + np.exp(-(height - rng.uniform(-0.2, 0.9)) * rng.uniform(4, 12)))
    return ground(rng) - marks * rng.uniform(30, 90)


def pitted(rng: Rng) -> np.ndarray:
    pits, count = np.zeros((SIDE, SIDE)), int(rng.integers(15, 120))
    pits[rng.integers(0, SIDE, count), rng.integers(0, SIDE, count)] = rng.uniform(0.4, 1, count)
    pits = gaussian_filter(pits, rng.uniform(0.6, 1.4))
    return ground(rng) - pits / pits.max() * rng.uniform(40, 100)


def rolled(rng: Rng) -> np.ndarray:
    scale = spectrum(rng, rng.uniform(0.8, 1.8), rng.uniform(2, 4))
    scale = gaussian_filter(scale, rng.uniform(0.6, 1.2))
    marks = np.clip(scale / scale.std() - rng.uniform(0.6, 1.2), 0, 2)
    return ground(rng) - marks * rng.uniform(20, 60)


def scratches(rng: Rng) -> np.ndarray:
    count, length = int(rng.integers(1, 5)), rng.uniform(20, 60)
    along = rng.choice([np.pi / 2, np.pi / 2, 0, rng.uniform(0, np.pi)])
    lines = strokes(rng, count, length, (0.6, 2.0), bend=0.03, along=along)
    return ground(rng) + lines * rng.uniform(30, 90)


KINDS: tuple[Callable[[Rng], np.ndarray], ...] = (crazing, inclusion, patches, pitted, rolled, scratches)
SCARCE = (crazing, pitted, rolled)


def main(out: Path) -> None:
    for k, kind in enumerate(KINDS):
        counts = {"train": FEW if kind in SCARCE else MANY, "val": VAL, "test": TEST}
        for s, (split, count) in enumerate(counts.items()):
            folder = out / split / kind.__name__
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                rng = np.random.default_rng([k, s, i])
                levels = kind(rng) + rng.normal(0, rng.uniform(1, 7), (SIDE, SIDE))
                Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
