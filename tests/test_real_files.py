"""Photographs and scans instead of toys, through every format and the stage prepare.

Run: python -m pytest tests/test_real_files.py. The pictures are those that installed packages bring along. With
REAL_DATA=<folder holding magnetic_tile/, pneumoniamnist/ and cifar10_lt/> whole public sets are prepared as well.
"""

import io
import json
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from sklearn.datasets import load_sample_images

from benchmarks import groups
from pipeline import processes
from pipeline.data import intake, sources
from pipeline.data.sources.base import Source
from pipeline.params import Params
from pipeline.samples import Samples
from stages.prepare import main

SIDE, EACH = 32, 5
OUTPUTS = ("train", "val", "test", "heldback", "unlabelled", "quarantine.csv", "about")
SPLITS = ("train", "val", "test")
ONE_TILE = [
    "crack-002",
    "crack-003",
    "crack-004",
]  # the table's names for photographs with the same crack and scratches


@cache
def photographs() -> dict[str, np.ndarray]:
    """By name, uint8 (H, W, 3)."""
    hopper = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    china, flower = load_sample_images().images
    return {"china": china, "flower": flower, "hopper": np.asarray(Image.open(hopper).convert("RGB"))}


def scan(name: str) -> Path:
    """A DICOM file that pydicom brings along."""
    return Path(get_testdata_file(name, download=False))


def crops(photograph: np.ndarray) -> list[np.ndarray]:
    """Squares along the diagonal of a picture, which do not overlap."""
    steps = np.linspace(0, 1, EACH)
    top, left = (np.round(steps * (n - SIDE)).astype(int) for n in photograph.shape[:2])
    return [photograph[y : y + SIDE, x : x + SIDE] for y, x in zip(top, left, strict=True)]


@cache
def colour() -> dict[str, list[np.ndarray]]:
    return {name: crops(picture) for name, picture in photographs().items()}


@cache
def grey() -> dict[str, list[np.ndarray]]:
    return {name: [np.asarray(Image.fromarray(c).convert("L")) for c in own] for name, own in colour().items()}


@cache
def deep() -> dict[str, list[np.ndarray]]:
    """Crops uint16 of a magnetic resonance scan, and of a computed tomogram as stored."""
    return {
        name: crops(dcmread(scan(file)).pixel_array.astype(np.uint16))
        for name, file in (("brain", "MR_small.dcm"), ("chest", "CT_small.dcm"))
    }


def encoded(image: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def listed(rows: dict[str, list[np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    return [(label, image) for label, own in rows.items() for image in own]


def folders(root: Path, rows: dict[str, list[np.ndarray]], kind: str) -> Path:
    for label, own in rows.items():
        (root / label).mkdir(parents=True)
        for i, image in enumerate(own):
            (root / label / f"{i}.{kind.lower()}").write_bytes(encoded(image, kind))
    return root


def csv_table(root: Path, rows: dict[str, list[np.ndarray]]) -> Path:
    """Files whose names do not tell what they are, and a table."""
    (root / "files").mkdir(parents=True)
    lines = []
    for i, (label, image) in enumerate(listed(rows)):
        (root / "files" / f"{i}.bin").write_bytes(encoded(image, "PNG"))
        lines.append((f"files/{i}.bin", label, f"{label}{i // 2}"))
    pd.DataFrame(lines, columns=["path", "label", "group"]).to_csv(root / "table.csv", index=False)
    return root / "table.csv"


def parquet(root: Path, rows: dict[str, list[np.ndarray]]) -> Path:
    root.mkdir(parents=True)
    images = [{"bytes": encoded(image, "PNG"), "path": None} for _, image in listed(rows)]
    pd.DataFrame({"image": images, "label": [label for label, _ in listed(rows)]}).to_parquet(root / "set.parquet")
    return root / "set.parquet"


def numbers(rows: dict[str, list[np.ndarray]]) -> np.ndarray:
    """Classes as whole numbers, in the order of their names."""
    return np.array([list(rows).index(label) for label, _ in listed(rows)], np.uint8)


def archive(root: Path, rows: dict[str, list[np.ndarray]]) -> Path:
    root.mkdir(parents=True)
    images = np.stack([image for _, image in listed(rows)])
    np.savez_compressed(root / "set.npz", train_images=images, train_labels=numbers(rows)[:, None])
    return root / "set.npz"


def idx(root: Path, rows: dict[str, list[np.ndarray]]) -> Path:
    root.mkdir(parents=True)
    images, labels = np.stack([image for _, image in listed(rows)]), numbers(rows)
    for name, array in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
        (root / name).write_bytes(head + array.tobytes())
    return root


EXACT: dict[str, tuple[Callable[[Path], Path], Callable[[], dict], bool]] = {  # how it is stored, of what, by number
    "PNG in folders": (lambda root: folders(root, colour(), "PNG"), colour, False),
    "grey PNG in folders": (lambda root: folders(root, grey(), "PNG"), grey, False),
    "lossless TIFF in folders": (lambda root: folders(root, colour(), "TIFF"), colour, False),
    "files of a table": (lambda root: csv_table(root, colour()), colour, False),
    "Parquet": (lambda root: parquet(root, colour()), colour, False),
    "npz": (lambda root: archive(root, colour()), colour, True),
    "grey npz": (lambda root: archive(root, grey()), grey, True),
    "IDX": (lambda root: idx(root, grey()), grey, True),
}


@pytest.fixture
def inline(monkeypatch) -> None:
    """Jobs are done in this process, which is faster for so few."""
    monkeypatch.setattr(processes, "parallel", lambda f, jobs, *_: [f(*job, report=lambda *_: None) for job in jobs])


@pytest.fixture
def read(shipped, tmp_path) -> Callable[..., Source]:
    def call(path: Path, **changes: object) -> Source:
        (tmp_path / "scratch").mkdir(exist_ok=True)
        data = shipped.data.model_copy(update={"source": str(path)} | changes)
        return sources.read(data, shipped.sources.digits, 0, tmp_path / "scratch")

    return call


def squares(source: Source, folder: Path, channels: int, window: tuple[float, float] | None = None) -> np.ndarray:
    """Every row of the source through both passes, (N, SIDE, SIDE, channels)."""
    seen = intake.look(source, folder / "look")
    assert (seen.table["code"] == "").all(), seen.table["remedy"].tolist()
    assert seen.table["hash"].is_unique and (seen.table[["height", "width"]] == SIDE).all(axis=None)
    form = intake.Form(SIDE, channels, "letterbox", window)
    return intake.write(source, np.arange(len(source.refs)), folder / "squares.npy", form)


def told(labels: list[str], images: np.ndarray | list[np.ndarray]) -> list[tuple[str, bytes]]:
    """Labels with the bytes of their pictures, whatever order they came in."""
    return sorted((label, np.asarray(image).tobytes()) for label, image in zip(labels, images, strict=True))


@pytest.mark.parametrize("form", EXACT)
def test_crops_of_photographs_arrive_bit_by_bit_with_their_label(inline, read, tmp_path, form):
    store, rows, counted = EXACT[form]
    source, truth = read(store(tmp_path / "set")), listed(rows())
    names = [str(n) if counted else label for n, (label, _) in zip(numbers(rows()), truth, strict=True)]
    images = squares(source, tmp_path, 1 if rows is grey else 3)
    assert told(source.rows["label"].tolist(), images) == told(names, [image for _, image in truth])
    assert set(source.classes) == set(names) and not source.problems


def test_groups_of_a_table_of_photographs_arrive(read, tmp_path):
    source = read(csv_table(tmp_path / "set", colour()))
    assert source.grouped and Counter(source.rows["group"]) == Counter(
        f"{label}{i // 2}" for i, (label, _) in enumerate(listed(colour()))
    )


def test_jpegs_are_decoded_as_another_library_does_and_near_the_original(inline, read, tmp_path):
    root = folders(tmp_path / "set", colour(), "JPEG")
    source = read(root)
    images = squares(source, tmp_path, 3)
    for path, label, image in zip(source.rows["path"], source.rows["label"], images, strict=True):
        other = cv2.imread(str(root / path), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
        original = colour()[label][int(Path(path).stem)].astype(int)
        assert path.startswith(label) and np.abs(image - other).max() <= 4  # libraries round alike but for a step or so
        assert np.abs(image - original).mean() < 8


def test_a_whole_photograph_becomes_a_square_that_looks_like_it(inline, read, tmp_path):
    for name, picture in photographs().items():
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "set" / name / "whole.png")
    source = read(tmp_path / "set")
    form = intake.Form(SIDE, 3, "stretch", None)
    seen = intake.look(source, tmp_path / "look").table
    assert [(h, w) for h, w in zip(seen["height"], seen["width"], strict=True)] == [
        photographs()[label].shape[:2] for label in source.rows["label"]
    ]
    for label, image in zip(
        source.rows["label"], intake.write(source, np.arange(3), tmp_path / "s.npy", form), strict=True
    ):
        small = cv2.resize(photographs()[label], (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(image - small).mean() < 6


def test_scans_as_16_bit_png_keep_their_values_and_are_scaled_by_one_window(inline, read, tmp_path, shipped):
    rows = deep()
    for label, own in rows.items():
        (tmp_path / "set" / label).mkdir(parents=True)
        for i, image in enumerate(own):
            assert cv2.imwrite(str(tmp_path / "set" / label / f"{i}.png"), image)
    low, high = 0.0, float(max(image.max() for _, image in listed(rows)))
    window = shipped.data.deep.model_copy(update={"scale": "window", "window": (low, high)})
    source = read(tmp_path / "set", deep=window)
    for path, label, ref in zip(source.rows["path"], source.rows["label"], source.refs, strict=True):
        picture = source.load(ref)
        assert picture.window == (low, high)
        assert np.array_equal(picture.pixels[..., 0], rows[label][int(Path(path).stem)].astype(np.float32))
    expected = [np.round(image / high * 255).astype(np.uint8) for _, image in listed(rows)]
    assert told(source.rows["label"].tolist(), squares(source, tmp_path, 1)) == told(
        [c for c, _ in listed(rows)], expected
    )


def test_dicom_scans_are_read_in_their_units(read, tmp_path):
    for label, name in (("chest", "CT_small.dcm"), ("brain", "MR_small.dcm")):
        (tmp_path / "set" / label).mkdir(parents=True)
        shutil.copy(scan(name), tmp_path / "set" / label / name)
    source = read(tmp_path / "set")
    units = {}
    for label, ref in zip(source.rows["label"], source.refs, strict=True):
        file = dcmread(tmp_path / "set" / ref)
        raw = file.pixel_array * float(file.get("RescaleSlope", 1)) + float(file.get("RescaleIntercept", 0))
        units[label] = source.load(ref).pixels[..., 0]
        assert np.allclose(units[label], raw)
    assert units["chest"].min() < -500 < 500 < units["chest"].max(), "air and bone, in Hounsfield units"
    assert units["brain"].min() >= 0


# Whole public sets, from the folder that REAL_DATA names


class Prepared:
    """What prepare wrote: the splits, the audit and the quarantine list."""

    def __init__(self, folder: Path) -> None:
        self.part = {name: Samples.load(folder / name) for name in SPLITS}
        self.audit = json.loads((folder / "about" / "audit.json").read_text())
        self.quarantine = pd.read_csv(folder / "quarantine.csv", dtype=str, keep_default_na=False)

    @property
    def rows(self) -> pd.DataFrame:
        return pd.concat([part.table for part in self.part.values()])

    def counts(self, split: str) -> dict[str, int]:
        return dict(Counter(self.part[split].table["label"]))


def prepared(params: Params, out: Path, source: Path, table: str = "none", **changes: object) -> Prepared:
    names = params.data.manifest.model_copy(update={"file": table})
    data = params.data.model_copy(update={"source": str(source), "manifest": names} | changes)
    main(params.model_copy(update={"data": data}), *(out / name for name in OUTPUTS))
    return Prepared(out)


def check(found: Prepared, total: int, scarce: set[str]) -> None:
    """Every row is somewhere, no group stands in two splits, and classes are scarce that train has few rows of."""
    assert len(found.rows) + len(found.quarantine) == total and found.rows["source_path"].is_unique
    assert (found.rows.groupby("group")["split"].nunique() == 1).all() and found.audit["leaking_groups"] == 0
    train = found.counts("train")
    few = {label for label, n in train.items() if n < max(train.values()) / 2}
    assert set(found.part["train"].facts.scarce) == set(found.audit["scarce"]) == few == scarce
    assert all(set(found.counts(split)) == set(train) for split in SPLITS)
    for part in found.part.values():
        assert part.images.dtype == np.uint8 and part.images.std(axis=(1, 2, 3)).min() > 0


def files_by_folder(folder: Path) -> Counter:
    return Counter(f.parent.name for f in folder.rglob("*.*") if f.suffix in (".jpg", ".png"))


def test_the_tiles_by_their_folders_alone(real, shipped, tmp_path):
    folder = real / "magnetic_tile"
    there = files_by_folder(folder)
    found = prepared(shipped, tmp_path, folder)
    check(found, sum(there.values()), set(there) - {"MT_Free"})
    assert Counter(found.rows["label"]) + Counter(Path(f).parent.name for f in found.quarantine["file"]) == there
    assert not found.audit["group_column"] and found.audit["near_pairs"] > 1000
    assert found.audit["skipped"] == {} or set(found.audit["skipped"]) == {".csv"}


def test_the_tiles_by_their_table_keep_every_group_whole(real, shipped, tmp_path):
    folder = real / "magnetic_tile"
    table = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False)
    found = prepared(shipped, tmp_path, folder, "manifest.csv")
    check(found, len(table), set(table["label"]) - {"free"})
    true = table.set_index("path")
    rows = found.rows.set_index("source_path")
    assert rows["label"].equals(true["label"].loc[rows.index].rename_axis("source_path"))
    assert (rows.groupby(true["group"].loc[rows.index].to_numpy())["split"].nunique() == 1).all()
    assert found.audit["group_column"]


def test_published_chest_x_rays_are_refused_for_their_leaks_and_taken_without_them(real, shipped, tmp_path):
    file = real / "pneumoniamnist" / "pneumoniamnist.npz"
    with np.load(file, allow_pickle=False) as arrays:
        published = {split: len(arrays[f"{split}_labels"]) for split in SPLITS}
    (tmp_path / "refused").mkdir()
    with pytest.raises(ValueError, match=r"share \d+ groups or \(near\) duplicate images.*data\.drop_leaks: true"):
        prepared(shipped, tmp_path / "refused", file)
    assert not [f for f in (tmp_path / "refused").rglob("*") if f.is_file()], "something was written"
    (tmp_path / "kept").mkdir()
    found = prepared(shipped, tmp_path / "kept", file, drop_leaks=True)
    check(found, sum(published.values()), {"0"})
    gone = Counter(found.quarantine["code"])
    assert set(gone) == {"leak"} and 20 <= gone["leak"] <= 100
    kept = {split: len(part) for split, part in found.part.items()}
    assert kept["test"] == published["test"] and kept["train"] < published["train"]
    assert found.part["train"].shape == (28, 28, 1)


@pytest.mark.slow
def test_long_tailed_cifar_from_train_and_test_folders(real, shipped, tmp_path):
    folder = real / "cifar10_lt"
    there = {split: files_by_folder(folder / split) for split in ("train", "test")}
    found = prepared(shipped, tmp_path, folder, drop_leaks=True)
    check(found, sum(sum(n.values()) for n in there.values()), set(there["test"]) - {"airplane", "automobile"})
    lost = Counter(f.split("/")[0] for f in found.quarantine["file"])
    assert len(found.part["test"]) == sum(there["test"].values()) - lost["test"]
    assert len(found.quarantine) < 0.01 * len(found.rows)
    fit, held = found.counts("train"), found.counts("val")
    for label, n in there["train"].items():
        assert 0.1 < held[label] / n < 0.2 and fit[label] + held[label] >= 0.97 * n
    assert found.part["train"].shape == (32, 32, 3)


@pytest.mark.slow
def test_photographs_of_one_tile_are_found_to_belong_together(real):
    folder = real / "magnetic_tile"
    rows, _ = groups.prepared(str(folder))
    true = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False).set_index("path")["group"]
    found = groups.agreement(rows, true).set_index("class")
    assert set(found.index) == {"all classes", *rows["label"]} and (found["same"] > 50).all()
    assert (found["same_together"] >= 0.9).all(), found.to_string()
    assert found["different_together"]["all classes"] <= 0.02
    one = groups.agreement(rows, true.replace(ONE_TILE, ONE_TILE[0])).set_index("class")
    assert (one["different_together"] <= 0.02).all() and (one["same_together"] >= 0.9).all(), one.to_string()
