"""Formats in: the embedded digits, a MedMNIST-layout .npz, or a folder of class folders, read by guarded decoders."""

import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.params import Data, Digits

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "valid": "val",
    "test": "test",
    "testing": "test",
}
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}


class Unreadable(Exception):
    """One image that cannot be used: a short code and what to do about it."""

    def __init__(self, code: str, remedy: str) -> None:
        super().__init__(code, remedy)
        self.code, self.remedy = code, remedy


@dataclass(frozen=True)
class Source:
    """Rows of a dataset before decoding: `pixels(i)` gives row i as a Pillow image in mode L or RGB, or raises Unreadable.

    `splits` are train, val, test or "" where the source does not say; `paths` are relative to its root.
    """

    classes: tuple[str, ...]
    labels: list[str]
    splits: list[str]
    paths: list[str]
    pixels: Callable[[int], Image.Image]


def read(data: Data, digits: Digits, seed: int) -> Source:
    """Open what `data.source` names. Raises ValueError that lists what was expected."""
    path = locate(data.source)
    if path is None:
        return read_digits(digits, seed)
    return read_folder(path, data.max_pixels) if path.is_dir() else read_npz(path)


def locate(source: str) -> Path | None:
    """The folder or .npz file that `data.source` names; None for the embedded digits. Raises ValueError for anything else."""
    path = Path(source)
    if source == "digits":
        return None
    if path.is_dir() or (path.is_file() and path.suffix == ".npz"):
        return path
    found = "is neither" if path.exists() else "does not exist"
    raise ValueError(
        f"data.source: {source!r} {found}; expected `digits`, a .npz file in MedMNIST layout, "
        "or a folder with one folder of images per class"
    )


def read_digits(block: Digits, seed: int) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8; train rows fall exponentially from `commonest` to `rarest`."""
    from sklearn.datasets import load_digits

    pixels, y = load_digits(return_X_y=True)
    pixels = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    keep = np.round(np.geomspace(block.commonest, block.rarest, 10)).astype(int)
    test, val = (np.bincount(np.arange(n) % 10, minlength=10) for n in (block.test_rows, block.val_rows))
    rng, rows, splits = np.random.default_rng(seed), [], []
    for c in range(10):
        own = rng.permutation(np.flatnonzero(y == c))
        if test[c] + val[c] + keep[c] > len(own):
            raise ValueError(
                f"sources.digits: class {c} has {len(own)} rows, but test_rows, val_rows and the "
                f"{keep[c]} rows left by commonest and rarest ask for {test[c] + val[c] + keep[c]}; lower one"
            )
        rows += own[: test[c] + val[c] + keep[c]].tolist()
        splits += ["test"] * test[c] + ["val"] * val[c] + ["train"] * keep[c]
    names = tuple(str(c) for c in range(10))
    return Source(
        names,
        [names[y[i]] for i in rows],
        splits,
        [f"digits/{i}" for i in rows],
        lambda i: Image.fromarray(pixels[rows[i]]),
    )


def read_npz(path: Path) -> Source:
    """MedMNIST layout: {train,val,test}_images uint8 (N, H, W) or (N, H, W, 3) and {...}_labels (N,) or (N, 1)."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with archive:
            arrays = {k: archive[k] for k in archive.files if k.endswith(("_images", "_labels"))}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"data.source: {path.name} cannot be read as an .npz archive of plain arrays, without pickled objects: {error}"
        ) from None
    splits = [s for s in ("train", "val", "test") if f"{s}_images" in arrays and f"{s}_labels" in arrays]
    if "train" not in splits:
        raise ValueError(
            f"data.source: {path.name} needs train_images and train_labels (and may have val_*, test_*); "
            f"it has {sorted(arrays) or 'none of them'}"
        )
    for s in ("train", "val", "test"):
        here, gone = (f"{s}_images", f"{s}_labels") if f"{s}_images" in arrays else (f"{s}_labels", f"{s}_images")
        if here in arrays and gone not in arrays:
            raise ValueError(f"data.source: {path.name} has {here} without {gone}")
    if not len(arrays["train_labels"]):
        raise ValueError(f"data.source: {path.name} has no training rows")
    labels = [_npz_labels(arrays[f"{s}_labels"], s, path.name) for s in splits]
    for s, y in zip(splits, labels, strict=True):
        images = arrays[f"{s}_images"]
        if (
            images.dtype != np.uint8
            or images.ndim not in (3, 4)
            or (images.ndim == 4 and images.shape[3] not in (1, 3))
        ):
            raise ValueError(
                f"data.source: {s}_images must be uint8 (N, H, W) or (N, H, W, 3), got {images.dtype} {images.shape}"
            )
        if len(images) != len(y):
            raise ValueError(f"data.source: {len(images)} {s}_images beside {len(y)} {s}_labels")
    where = [(s, i) for s, y in zip(splits, labels, strict=True) for i in range(len(y))]
    classes = tuple(str(c) for c in np.unique(np.concatenate(labels)))

    def pixels(i: int) -> Image.Image:
        split, row = where[i]
        image = arrays[f"{split}_images"][row]
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)

    return Source(
        classes, [str(c) for c in np.concatenate(labels)], [s for s, _ in where], [f"{s}/{i}" for s, i in where], pixels
    )


def _npz_labels(y: np.ndarray, split: str, name: str) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] > 1:
        raise ValueError(
            f"data.source: {name} has multi-label {split}_labels {y.shape}; expected one label a row, (N,) or (N, 1)"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"data.source: {split}_labels of {name} must be integers, got {y.dtype}")
    return y.reshape(-1)


def read_folder(root: Path, max_pixels: int) -> Source:
    """One folder of images per class, with or without train/val/test folders above them."""
    top = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    split_of = {p: SPLITS.get(p.name.lower(), "") for p in top}
    parts = [("", root)] if not any(split_of.values()) else [(s, p) for p, s in split_of.items()]
    if any(split_of.values()) and not all(split_of.values()):
        odd = sorted(p.name for p, s in split_of.items() if not s)
        raise ValueError(
            f"data.source: {root.name} has split folders and also {odd}; expected either only "
            "train, val and test (with class folders in them) or only class folders"
        )
    rows = []
    for split, part in parts:
        loose = [f.name for f in sorted(part.iterdir()) if f.suffix.lower() in SUFFIXES and not f.is_dir()]
        if loose and any(p.is_dir() for p in part.iterdir()):
            raise ValueError(
                f"data.source: {len(loose)} images lie beside the class folders of {part.name}, in no class "
                f"({loose[0]}, ...); move or remove them"
            )
        for folder in sorted(p for p in part.iterdir() if p.is_dir() and not p.name.startswith(".")):
            files = list(_image_files(folder, root))
            if not files:
                raise ValueError(
                    f"data.source: no images found in the class folder {folder.relative_to(root)}; expected files "
                    f"ending in {', '.join(sorted(SUFFIXES))}; remove the folder if it is no class"
                )
            rows += [(folder.name, split, file) for file in files]
    if not rows:
        raise ValueError(
            f"data.source: no images found in the class folders of {root.name}, for it has none; expected one folder per "
            f"class with files ending in {', '.join(sorted(SUFFIXES))}"
        )
    classes = tuple(sorted({label for label, _, _ in rows}))
    return Source(
        classes,
        [r[0] for r in rows],
        [r[1] for r in rows],
        [str(r[2].relative_to(root)) for r in rows],
        lambda i: decode(rows[i][2], max_pixels),
    )


def _image_files(folder: Path, root: Path) -> Iterator[Path]:
    inside = root.resolve()
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in SUFFIXES:
            if not file.resolve().is_relative_to(inside):
                raise ValueError(
                    f"data.source: {file.relative_to(root)} is a link out of the source's folder; copy the file instead"
                )
            yield file


def decode(path: Path, max_pixels: int) -> Image.Image:
    """The first and only frame of an image file, upright, in mode L or RGB. Raises Unreadable."""
    if not path.is_file():
        raise Unreadable("not_a_file", "remove it; only regular files are read")
    if path.stat().st_size == 0:
        raise Unreadable("empty", "the file has no bytes; fetch it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own cap is stricter
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise Unreadable("too_large", f"{image.width}x{image.height} is above data.max_pixels")
                if getattr(image, "n_frames", 1) > 1:
                    raise Unreadable("frames", "several frames in one file; store the one to use")
                if image.mode.startswith(("I", "F")):
                    raise Unreadable("depth", f"mode {image.mode}: more than 8 bits a channel; convert it to 8 bits")
                image.load()
                return _plain(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise Unreadable("unreadable", f"no image format; begins with {path.open('rb').read(8)!r}") from None
    except Image.DecompressionBombError:
        raise Unreadable("too_large", "the header claims far more than data.max_pixels") from None
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error) as error:
        code = (
            "truncated" if isinstance(error, OSError | EOFError) else "broken"
        )  # all that Pillow raises for bad bytes
        raise Unreadable(code, f"{error}; fetch it again") from None


def _plain(image: Image.Image) -> Image.Image:
    """Any 8-bit mode as L or RGB; transparency is laid on black."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
    return image.convert("RGB")


def is_grey(image: Image.Image) -> bool:
    return image.mode == "L" or (np.ptp(np.asarray(image), axis=2) == 0).all()


def square(image: Image.Image, size: int, channels: int, fit: str) -> np.ndarray:
    """uint8 (size, size, channels); `letterbox` pads with the image's median colour, `crop` cuts the centre."""
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        if fit == "letterbox":
            colour = tuple(int(v) for v in np.median(np.asarray(image).reshape(-1, channels), axis=0))
            image = ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, colour[0] if channels == 1 else colour)
        elif fit == "crop":
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        else:
            image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8).reshape(size, size, channels)
