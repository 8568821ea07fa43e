"""IDX files are read as far as header and length agree. Run: python -m pytest tests/data/sources/test_idx.py"""

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources import idx
from pipeline.data.sources.base import Source

NAMES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}
ENDS = ["", ".gz"]


@pytest.fixture
def scratch(tmp_path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def read(shipped, scratch) -> Callable[[Path], Source]:
    return lambda path: idx.read(path, shipped.data, scratch)


def arrays(train: int = 12, test: int = 5, side: tuple[int, int] = (6, 4)) -> dict[tuple[str, str], np.ndarray]:
    rng, out = np.random.default_rng(train), {}
    for split, n in (("train", train), ("test", test)):
        out[split, "images"] = rng.integers(0, 256, (n, *side), dtype=np.uint8)
        out[split, "labels"] = (np.arange(n) % 3 * 5).astype(np.uint8)
    return out


def content(array: np.ndarray, shape: tuple[int, ...] | None = None, magic: bytes | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    return (magic or bytes((0, 0, 8, len(shape)))) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()


def put(folder: Path, name: str, data: bytes, end: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / (name + end)
    path.write_bytes(gzip.compress(data, mtime=0) if end else data)
    return path


def folder(root: Path, parts: dict[tuple[str, str], np.ndarray] | None = None, end: str = "") -> Path:
    for key, array in (arrays() if parts is None else parts).items():
        put(root / "set", NAMES[key], content(array), end)
    return root / "set"


def swap(root: Path, name: str, data: bytes, end: str) -> Path:
    """A good set in which one file holds other bytes."""
    put(folder(root, end=end), name, data, end)
    return root / "set"


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("dot", ["-", "."])
def test_a_set_is_read_gzipped_or_not_row_by_row(tmp_path, read, end, dot):
    parts = arrays()
    path = folder(tmp_path, parts, end)
    for file in list(path.iterdir()):
        file.rename(path / file.name.replace("-idx", f"{dot}idx"))
    assert idx.accepts(path)
    source = read(path)
    assert source.classes == ("0", "5", "10") and not source.grouped and not source.problems
    assert source.rows["split"].tolist() == ["train"] * 12 + ["test"] * 5
    assert source.rows["path"].is_unique
    for split in ("train", "test"):
        rows = np.flatnonzero(source.rows["split"] == split)
        assert source.rows["label"][rows].tolist() == [str(c) for c in parts[split, "labels"]]
        load = pickle.loads(pickle.dumps(source.load))
        for i, row in enumerate(rows):
            assert np.array_equal(load(source.refs[row]).pixels, parts[split, "images"][i][..., None])


@pytest.mark.parametrize("end", ENDS)
def test_training_files_alone_are_a_set(tmp_path, read, end):
    source = read(folder(tmp_path, {k: a for k, a in arrays().items() if k[0] == "train"}, end))
    assert set(source.rows["split"]) == {"train"} and len(source.refs) == 12


@pytest.mark.parametrize("gone", NAMES)
def test_a_missing_part_is_named(tmp_path, read, gone):
    path = folder(tmp_path)
    (path / NAMES[gone]).unlink()
    with pytest.raises(ValueError, match=rf"^data\.source: set lacks the IDX {gone[1]} of {gone[0]}; it has \[.*ubyte"):
        read(path)


def test_test_files_alone_are_no_set(tmp_path, read):
    path = folder(tmp_path, {k: a for k, a in arrays().items() if k[0] == "test"})
    with pytest.raises(ValueError, match="lacks the IDX images of train"):
        read(path)


def test_a_folder_of_other_files_and_a_file_are_not_taken_for_idx(tmp_path):
    path = folder(tmp_path)
    assert not idx.accepts(path / NAMES["train", "images"]) and not idx.accepts(tmp_path / "nowhere")
    for file in path.iterdir():
        file.rename(path / f"x{file.name}")
    assert not idx.accepts(path)


GOOD = arrays()["train", "images"]
WRONG = {
    "empty": b"",
    "text": b"<html>not found</html>",
    "cut_in_the_magic": content(GOOD)[:3],
    "cut_in_the_header": content(GOOD)[:11],
    "other_type": content(GOOD, magic=b"\0\0\x0d\x03"),
    "other_dimensions": content(GOOD, magic=b"\0\0\x08\x01"),
    "other_byte_order": content(GOOD, magic=b"\x03\x08\0\0"),
    "labels_for_images": content(arrays()["train", "labels"]),
    "one_byte_short": content(GOOD)[:-1],
    "half": content(GOOD)[: len(content(GOOD)) // 2],
    "one_byte_long": content(GOOD) + b"\0",
    "twice": content(GOOD) * 2,
    "no_rows": content(GOOD[:0]),
    "no_pixels": content(GOOD[:, :0]),
    "100_gigabytes": content(GOOD, (100_000_000_000 // 1024, 32, 32)),
    "all_that_a_header_can_claim": content(GOOD, (2**32 - 1,) * 3),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", WRONG)
def test_a_file_of_images_that_is_not_what_it_says_is_refused(tmp_path, read, scratch, name, end):
    path = swap(tmp_path, NAMES["train", "images"], WRONG[name], end)
    with pytest.raises(
        ValueError, match=r"^data\.source: train-images-idx3-ubyte\S* cannot be read as an IDX file: \S"
    ):
        read(path)
    assert sum(f.stat().st_size for f in scratch.iterdir()) < 1_000_000


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "labels", [b"", b"\0\0\x08\x03\0\0\0\x0c", content(np.zeros(11, np.uint8), (12,)), content(GOOD)]
)
def test_a_file_of_labels_that_is_not_what_it_says_is_refused(tmp_path, read, split, labels, end):
    with pytest.raises(ValueError, match=rf"^data\.source: {NAMES[split, 'labels']}\S* cannot be read as an IDX file"):
        read(swap(tmp_path, NAMES[split, "labels"], labels, end))


@pytest.mark.parametrize("split", ["train", "test"])
def test_another_number_of_labels_than_of_images_is_refused(tmp_path, read, split):
    parts = arrays()
    parts[split, "labels"] = parts[split, "labels"][:-1]
    with pytest.raises(ValueError, match=rf"has (12|5) images beside (11|4) labels in {split}"):
        read(folder(tmp_path, parts))


def test_a_set_without_rows_is_refused(tmp_path, read):
    with pytest.raises(ValueError, match="cannot be read as an IDX file: its header describes no data"):
        read(folder(tmp_path, arrays(train=0)))


def test_bytes_behind_those_announced_are_not_unpacked(tmp_path, read, scratch):
    bomb = content(GOOD) + bytes(60_000_000)
    path = swap(tmp_path, NAMES["train", "images"], bomb, ".gz")
    assert (path / f"{NAMES['train', 'images']}.gz").stat().st_size < 100_000
    with pytest.raises(ValueError, match="holds more"):
        read(path)
    assert sum(f.stat().st_size for f in scratch.iterdir()) < 10_000


def test_a_header_that_claims_more_than_any_packing_can_hold_is_refused_unread(tmp_path, read, scratch):
    data, at = content(np.zeros((100, 100, 100), np.uint8), (2_000, 1_000, 1_000)), NAMES["train", "images"]
    with pytest.raises(ValueError, match=r"claims 2,000,000,000 bytes from [\d,]+"):
        read(swap(tmp_path, at, data, ".gz"))
    assert sum(f.stat().st_size for f in scratch.iterdir()) == 0


def test_pictures_that_pack_well_are_no_bomb(tmp_path, read):
    parts = arrays(train=3000)
    parts["train", "images"][:] = 0
    assert len(read(folder(tmp_path, parts, ".gz")).refs) == 3005


def test_plain_bytes_under_a_gzip_name_and_gzip_under_a_plain_name_are_refused(tmp_path, read):
    path, name = folder(tmp_path), NAMES["train", "images"]
    (path / name).rename(path / f"{name}.gz")
    with pytest.raises(ValueError, match=r"ubyte\.gz cannot be read as an IDX file: Not a gzipped file"):
        read(path)
    (path / f"{name}.gz").rename(path / name)
    (path / name).write_bytes(gzip.compress(content(GOOD)))
    with pytest.raises(ValueError, match=r"ubyte cannot be read as an IDX file: begins with b'\\x1f\\x8b"):
        read(path)


@pytest.mark.parametrize("end", ENDS)
def test_a_file_cut_anywhere_is_refused(tmp_path, read, end):
    path = folder(tmp_path, end=end)
    file = path / (NAMES["test", "images"] + end)
    whole = file.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 40).astype(int):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\S* cannot be read"):
            read(path)


def test_an_altered_archive_is_refused_or_gives_the_same_pictures(tmp_path, read):
    path, rng = folder(tmp_path, end=".gz"), np.random.default_rng(0)
    file, truth = path / (NAMES["train", "images"] + ".gz"), arrays()["train", "images"]
    whole, failed = file.read_bytes(), 0
    for _ in range(200):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        file.write_bytes(data)
        try:
            source = read(path)
        except ValueError as error:
            assert file.name in str(error)
            failed += 1
        else:
            assert np.array_equal([source.load(ref).pixels[..., 0] for ref in source.refs[:12]], truth)
    assert failed > 150


@pytest.mark.parametrize("key", NAMES)
def test_a_link_out_of_the_folder_is_refused_and_one_within_it_is_read(tmp_path, read, key):
    path = folder(tmp_path)
    (path / NAMES[key]).rename(path / "data")
    (path / NAMES[key]).symlink_to("data")
    assert len(read(path).refs) == 17
    (path / "data").rename(tmp_path / "data")
    (path / NAMES[key]).unlink()
    (path / NAMES[key]).symlink_to("../data")
    with pytest.raises(ValueError, match=rf"^data\.source: {NAMES[key]} is a link out of the source's folder"):
        read(path)
