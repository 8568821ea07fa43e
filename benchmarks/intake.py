"""Seconds and memory of `prepare`. Run: python -m benchmarks.intake <source> [rows ...]

For a folder of class folders and no row counts: the source as it is. With row counts: that many copies of its images,
each re-encoded with a noise of its own so that none is a duplicate, as JPEGs in a temporary folder.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import project


def enlarge(source: Path, rows: int, folder: Path) -> Path:
    """`rows` JPEGs in class folders, made from the images of the source in turn."""
    files = sorted(f for f in source.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
    rng = np.random.default_rng(0)
    for i in range(rows):
        file = files[i % len(files)]
        pixels = np.asarray(Image.open(file).convert("RGB")).astype(np.int16)
        if i >= len(files):  # another picture, not a copy: its halves change places and a pattern is added
            pixels = np.roll(pixels, pixels.shape[1] // 2, axis=1) + rng.integers(-60, 60, (*pixels.shape[:2], 1))
        place = folder / file.parent.name / f"{i:07}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(place, quality=90)
    return folder


def measure(source: Path) -> tuple[float, float]:
    """Wall seconds of prepare and the largest memory of any of its processes, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        copy = project.copy(Path(folder), lambda params: params["data"].update(source=str(source), drop_leaks=True))
        begun = time.monotonic()
        project.prepare(copy)
        seconds = time.monotonic() - begun
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main(source: Path, counts: list[int]) -> None:
    print("| rows | seconds | largest process, MB |\n|---|---|---|")
    for rows in counts or [0]:
        with tempfile.TemporaryDirectory() as folder:
            seconds, memory = measure(enlarge(source, rows, Path(folder)) if rows else source)
        print(f"| {rows or 'all'} | {seconds:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), [int(n) for n in sys.argv[2:]])
