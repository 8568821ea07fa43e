"""Archives of plain arrays are unpacked only as far as they are honest. Run: python -m pytest tests/data/sources/test_npz.py"""

import errno
import io
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import sources
from pipeline.data.sources import npz
from pipeline.data.sources.base import Source

KEYS = ("images", "labels")
HUGE = (97_656_250, 32, 32)  # 100 GB


@pytest.fixture
def scratch(tmp_path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def read(shipped, scratch) -> Callable[[Path], Source]:
    return lambda path: npz.read(path, shipped.data, scratch)


def images(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, *(shape or (6, 6))), dtype=np.uint8)


def archive(folder: Path, packed: bool = False, **arrays: np.ndarray) -> Path:
    (np.savez_compressed if packed else np.savez)(folder / "set.npz", **arrays)
    return folder / "set.npz"


def pair(n: int = 4, split: str = "train", **changes: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{split}_images": images(n), f"{split}_labels": np.arange(n) % 2, **changes}


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def raw_archive(folder: Path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(folder / "set.npz", "w", method) as out:
        for name, content in members.items():
            out.writestr(f"{name}.npy", content)
    return folder / "set.npz"


def listed(path: Path, name: str, **fields: tuple[int, str, int]) -> Path:
    """The archive with fields of the entry of a member in its table of contents set: field=(offset, format, value)."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(f"{name}.npy".encode()) - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    for offset, kind, value in fields.values():
        struct.pack_into(kind, content, entry + offset, value)
    path.write_bytes(content)
    return path


def used(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.iterdir())


# Layouts


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)])
@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_grey_and_colour_with_flat_and_column_labels(tmp_path, read, shape, column, packed):
    x, y = images(4, *shape), np.array([10, 2, 2, 10])
    source = read(archive(tmp_path, packed, train_images=x, train_labels=y[:, None] if column else y))
    assert source.classes == ("2", "10") and source.rows["label"].tolist() == ["10", "2", "2", "10"]
    assert set(source.rows["split"]) == {"train"} and source.rows["path"].is_unique
    for i, ref in enumerate(source.refs):
        seen = source.load(ref)
        assert seen.pixels.dtype == np.uint8 and seen.window is None and seen.notes == ()
        assert np.array_equal(seen.pixels, x[i].reshape(6, 5, -1))


def test_splits_keep_their_rows(tmp_path, read):
    parts = {s: (images(n), np.arange(n) % 3) for s, n in (("train", 5), ("val", 3), ("test", 4))}
    source = read(archive(tmp_path, **{f"{s}_{k}": a for s, p in parts.items() for k, a in zip(KEYS, p, strict=True)}))
    assert source.rows["split"].tolist() == ["train"] * 5 + ["val"] * 3 + ["test"] * 4
    assert source.rows["path"].tolist() == [f"{s}/{i}" for s, p in parts.items() for i in range(len(p[0]))]
    for (split, i), ref, label in zip(source.refs, source.refs, source.rows["label"], strict=True):
        assert np.array_equal(source.load(ref).pixels[..., 0], parts[split][0][i]) and label == str(parts[split][1][i])


@pytest.mark.parametrize("kinds", [("uint8", "uint8"), ("int64", "uint64"), ("uint64", "int8"), (">i4", "<u2")])
def test_labels_are_whole_numbers_of_any_type(tmp_path, read, kinds):
    parts = {
        s: pair(4, s, **{f"{s}_labels": np.array([11, 2, 100, 2], k)})
        for s, k in zip(("train", "val"), kinds, strict=True)
    }
    source = read(archive(tmp_path, **parts["train"], **parts["val"]))
    assert source.classes == ("2", "11", "100") and source.rows["label"].tolist() == ["11", "2", "100", "2"] * 2


def test_arrays_by_columns_are_read_in_their_order(tmp_path, read):
    x = np.asfortranarray(images(5, 6, 7, 3))
    source = read(archive(tmp_path, train_images=x, train_labels=np.arange(5) % 2))
    assert all(np.array_equal(source.load(ref).pixels, x[i]) for i, ref in enumerate(source.refs))


def test_arrays_of_other_names_are_neither_unpacked_nor_trusted(tmp_path, read, scratch):
    odd = {"extra": np.array([{}], object), "train_masks": images(4), "train_images.bak": images(2)}
    read(archive(tmp_path, **pair(), **odd))
    assert {f.name for f in scratch.iterdir()} == {"train_images.npy", "train_labels.npy"}


def test_member_names_that_lead_elsewhere_are_never_written(tmp_path, read, scratch):
    members = {name: npy(array) for name, array in pair().items()}
    path = raw_archive(tmp_path, **members, **{"../train_images": npy(images(9)), "/tmp/train_labels": npy(images(9))})
    assert len(read(path).rows) == 4
    assert {f.name for f in tmp_path.iterdir()} == {"set.npz", "scratch"} and len(list(scratch.iterdir())) == 2


def test_it_is_the_format_of_archives(tmp_path, shipped, scratch):
    path = archive(tmp_path, **pair())
    source = sources.read(shipped.data.model_copy(update={"source": str(path)}), shipped.sources.digits, 0, scratch)
    assert source.classes == ("0", "1")
    assert npz.accepts(path) and not npz.accepts(tmp_path) and not npz.accepts(tmp_path / "gone.npz")
    assert npz.accepts(path.rename(tmp_path / "SET.NPZ"))


# On disk


def test_pixels_are_mapped_from_scratch_and_copied_row_by_row(tmp_path, read, scratch):
    x = images(300, 8, 8, 3)
    source = read(archive(tmp_path, packed=True, train_images=x, train_labels=np.arange(300) % 2))
    files = source.load.args[0]
    assert all(file.parent == scratch for file in files.values())
    seen, mapped = source.load(source.refs[7]).pixels, npz._mapped(files["train"])
    assert isinstance(mapped, np.memmap) and mapped is npz._mapped(files["train"]), "it is opened once"
    assert not isinstance(seen, np.memmap) and not np.shares_memory(seen, mapped)
    seen[:] = 0
    assert np.array_equal(source.load(source.refs[7]).pixels, x[7])


def test_what_travels_to_other_processes_is_small_and_opens_the_files_anew(tmp_path, read):
    source = read(archive(tmp_path, **pair(500, train_images=images(500, 20, 20))))
    source.load(source.refs[0])
    parcel = pickle.dumps(source.load)
    assert len(parcel) < 2000
    load = pickle.loads(parcel)
    npz._mapped.cache_clear()  # as it is in another process
    assert np.array_equal(load(source.refs[3]).pixels, source.load(source.refs[3]).pixels)


# What is refused


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": images(3)}, "needs train_images and train_labels.*it has none of them"),
        ({"train_images": images(3)}, "needs train_images and train_labels.*it has .'train_images'"),
        ({"train_labels": np.zeros(3, int)}, "needs train_images and train_labels.*it has .'train_labels'"),
        (pair(3, "val"), "needs train_images"),
        ({**pair(), "test_images": images(2)}, "test_images without test_labels"),
        ({**pair(), "val_labels": np.zeros(2, int)}, "val_labels without val_images"),
        (pair(3, train_images=images(3) / 255), "must be uint8.*float64"),
        (pair(3, train_images=images(3).astype(np.uint16)), "must be uint8.*uint16"),
        (pair(3, train_images=images(3) > 9), "must be uint8.*bool"),
        (pair(3, train_images=images(3, 6, 6, 4)), r"must be uint8.*\(3, 6, 6, 4\)"),
        (pair(3, train_images=images(3, 6, 6, 2)), r"must be uint8.*\(3, 6, 6, 2\)"),
        (pair(3, train_images=images(3, 3, 6, 6)), r"must be uint8.*\(3, 3, 6, 6\)"),
        (pair(3, train_images=images(3, 6)), "must be uint8"),
        (pair(3, train_images=images(3, 4, 6, 6, 3)), "must be uint8"),
        (pair(3, train_images=images(3, 0, 6)), r"must be uint8.*\(3, 0, 6\)"),
        (pair(3, train_images=np.array(7, np.uint8)), r"must be uint8.*\(\)"),
        (pair(3, train_labels=np.zeros(2, int)), "3 train_images beside 2 train_labels"),
        ({**pair(), **pair(3, "test", test_labels=np.zeros(4, int))}, "3 test_images beside 4 test_labels"),
        (pair(3, train_labels=np.zeros((3, 14), int)), r"multi-label train_labels \(3, 14\)"),
        (pair(3, train_labels=np.zeros((3, 0), int)), r"train_labels \(3, 0\); expected one label"),
        (pair(3, train_labels=np.zeros((3, 1, 2), int)), r"train_labels \(3, 1, 2\); expected one label"),
        (pair(3, train_labels=np.array(1)), r"train_labels \(\); expected one label"),
        (pair(3, train_labels=np.zeros(3)), "must be integers, got float64"),
        (pair(3, train_labels=np.array([0, 1, np.nan])), "must be integers, got float64"),
        (pair(3, train_labels=np.zeros(3, bool)), "must be integers, got bool"),
        (pair(3, train_labels=np.array(list("abc"))), "must be integers, got <U1"),
        (pair(3, train_labels=np.zeros(3, [("a", "i4")])), "must be integers"),
        ({"train_images": images(3)[:0], "train_labels": np.zeros(0, int)}, "no training rows"),
    ],
)
def test_arrays_that_do_not_fit_are_explained(tmp_path, read, arrays, says):
    with pytest.raises(ValueError, match=f"data.source: .*{says}"):
        read(archive(tmp_path, **arrays))


def test_a_split_without_rows_is_empty_and_no_fault(tmp_path, read):
    nothing = {"val_images": images(3)[:0], "val_labels": np.zeros(0, int)}
    assert set(read(archive(tmp_path, **pair(), **nothing)).rows["split"]) == {"train"}


class Trap:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("key", ["train_images", "train_labels", "test_labels"])
@pytest.mark.parametrize("kind", ["objects", "fields of objects", "a bare pickle"])
def test_pickled_objects_are_never_loaded(tmp_path, read, scratch, key, kind):
    members = {name: npy(array) for name, array in {**pair(), **pair(3, "test")}.items()}
    array = np.array([Trap()] * 3, object)
    if kind == "a bare pickle":
        members[key] = pickle.dumps(Trap())
    else:
        members[key] = npy(array if kind == "objects" else np.array([(1, t) for t in array], [("a", "i4"), ("b", "O")]))
    with pytest.raises(ValueError, match=r"set\.npz cannot be read .* without pickled objects"):
        read(raw_archive(tmp_path, **members))
    assert not (scratch / f"{key}.npy").exists()


# Hostile


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_header_that_claims_a_hundred_gigabytes_is_refused_before_anything_is_written(
    tmp_path, read, scratch, method
):
    path = raw_archive(tmp_path, method, train_images=header(HUGE) + bytes(5000), train_labels=npy(np.arange(4)))
    with pytest.raises(ValueError, match=r"train_images\.npy describes 100,000,000,000 bytes, but holds 5,000"):
        read(path)
    assert used(scratch) == 0


@pytest.mark.parametrize("shape", [(-1, 6, 6), (4, 6, 5), (4, 6, 7), (2**63, 2**63, 2**63), (0, 6, 6)])
def test_a_header_of_another_size_than_the_array_is_refused(tmp_path, read, scratch, shape):
    with pytest.raises(ValueError, match=r"train_images\.npy describes|cannot be read"):
        read(raw_archive(tmp_path, train_images=header(shape) + bytes(144), train_labels=npy(np.arange(4))))
    assert used(scratch) == 0


def test_an_archive_that_swells_like_no_picture_does_is_refused(tmp_path, read, scratch):
    """Two hundred megabytes of nothing in two hundred kilobytes, all of it as the header says."""
    side, path = 1024, tmp_path / "set.npz"
    count = npz.MOST_RATIO * npz.SMALL // side**2 + 1
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out,
        out.open("train_images.npy", "w") as member,
    ):
        member.write(header((count, side, side)))
        for _ in range(count):
            member.write(bytes(side**2))
    assert path.stat().st_size < 2_000_000
    with pytest.raises(ValueError, match=r"train_images\.npy claims 210,7\d\d,\d{3} bytes from \d{3},\d{3}"):
        read(path)
    assert used(scratch) == 0


def test_arrays_of_one_value_are_fine_while_they_are_small(tmp_path, read):
    source = read(archive(tmp_path, packed=True, **pair(3000, train_images=np.zeros((3000, 28, 28), np.uint8))))
    assert len(source.rows) == 3000


@pytest.mark.parametrize("packed_too", [False, True])
def test_a_table_of_contents_that_lies_about_sizes_is_refused(tmp_path, read, scratch, packed_too):
    claim = 4_000_000_000
    start = header((claim // 1000 - 1, 10, 100))
    start = header((claim - len(start), 1, 1))
    path = raw_archive(tmp_path, train_images=start + bytes(10_000), train_labels=npy(np.arange(4)))
    fields = {"size": (24, "<I", claim), **({"packed": (20, "<I", claim)} if packed_too else {})}
    with pytest.raises(ValueError, match=r"train_images\.npy claims 4,000,000,000 bytes"):
        read(listed(path, "train_images", **fields))
    assert used(scratch) == 0


@pytest.mark.parametrize(
    "field",
    [
        {"flags": (8, "<H", 1)},
        {"method": (10, "<H", 97)},
        {"offset": (42, "<I", 2**32 - 2)},
        {"offset": (42, "<I", 7)},
        {"sum": (16, "<I", 1)},
        {"size": (24, "<I", 3)},
    ],
    ids=["locked", "unknown packing", "outside", "elsewhere", "wrong sum", "too short"],
)
def test_a_table_of_contents_that_lies_otherwise_is_refused(tmp_path, read, field):
    path = listed(archive(tmp_path, packed=True, **pair(40)), "train_images", **field)
    with pytest.raises(ValueError, match=r"set\.npz cannot be read"):
        read(path)


@pytest.mark.parametrize(
    "text",
    [
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (4, 6, 6",
        b"((" * 4000,
        b"   1\n  2\n 3",
        b"\xff" * 100,
        b"__import__('os')",
        b"{}",
        b"'''",
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3, 9])
def test_a_header_that_is_no_header_is_refused(tmp_path, read, text, version):
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    member = b"\x93NUMPY" + bytes((version, 0)) + size + text
    with pytest.raises(ValueError, match=r"set\.npz cannot be read"):
        read(raw_archive(tmp_path, train_images=member + bytes(144), train_labels=npy(np.arange(4))))


@pytest.mark.parametrize(
    "content", [b"", b"hello world, no archive", b"PK\x03\x04 cut off", b"PK\x05\x06" + bytes(18), npy(np.zeros(3))]
)
def test_a_file_that_is_no_archive_is_refused(tmp_path, read, content):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.npz (cannot be read|needs train_images)"):
        read(tmp_path / "set.npz")


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("packed", [False, True])
def test_a_cut_off_archive_is_refused(tmp_path, read, share, packed):
    path = archive(tmp_path, packed, **pair(30))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"set\.npz cannot be read"):
        read(path)


def test_any_damage_gives_the_rows_or_a_value_error(tmp_path, read):
    rng, good = np.random.default_rng(0), {}
    for packed in (False, True):
        good[packed] = archive(tmp_path, packed, **pair(12), **pair(6, "test")).read_bytes()
    whole, refusals = images(12), 0
    for trial in range(400):
        part = bytearray(good[trial % 2 == 0])
        if trial % 5 == 0:
            part = part[: rng.integers(len(part))]
        else:
            places = (
                rng.integers(len(part), size=rng.integers(1, 8))
                if trial % 5 < 3
                else len(part) - rng.integers(1, 400, 2)
            )
            for place in places:
                part[place] = rng.integers(256)
        (tmp_path / "set.npz").write_bytes(part)
        try:
            source = read(tmp_path / "set.npz")
        except ValueError as error:
            assert "data.source: " in str(error) and "set.npz" in str(error)
            refusals += 1
        else:
            for i, ref in enumerate(source.refs[:12]):
                assert np.array_equal(source.load(ref).pixels[..., 0], whole[i])
    assert refusals > 100


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_disk_is_not_blamed_on_the_archive(tmp_path, read, monkeypatch, number):
    def fail(*_: object) -> None:
        raise OSError(number, "no more")

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(OSError, match="no more"):
        read(archive(tmp_path, **pair()))
