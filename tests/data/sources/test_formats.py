"""Every path finds its format, or hears which there are. Run: python -m pytest tests/data/sources/test_formats.py"""

import hashlib
import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.data import sources
from pipeline.data.sources import folder, idx, manifest, named, npz, parquet
from pipeline.data.sources.base import Source, Unreadable
from pipeline.params import Data

SIZE = 8
LABELS = ["0", "1", "0", "1", "10", "0"]


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(LABELS), SIZE, SIZE), dtype=np.uint8)


def encoded(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(root: Path) -> Path:
    for i, label in enumerate(LABELS):
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{i}.png").write_bytes(encoded(pixels()[i]))
    return root


def frame() -> pd.DataFrame:
    return pd.DataFrame({"path": [f"{label}/{i}.png" for i, label in enumerate(LABELS)], "label": LABELS})


def comma(root: Path) -> Path:
    frame().to_csv(class_folders(root) / "set.csv", index=False)
    return root / "set.csv"


def tab(root: Path) -> Path:
    frame().to_csv(class_folders(root) / "set.TSV", index=False, sep="\t")
    return root / "set.TSV"


def stored(root: Path) -> Path:
    frame().to_parquet(class_folders(root) / "set.parquet")
    return root / "set.parquet"


def archive(root: Path) -> Path:
    root.mkdir()
    np.savez(root / "set.npz", train_images=pixels(), train_labels=np.array(LABELS, int))
    return root / "set.npz"


def packed(root: Path) -> Path:
    root.mkdir()
    images = [{"bytes": encoded(image), "path": "x"} for image in pixels()]
    pd.DataFrame({"image": images, "label": LABELS}).to_parquet(root / "set.parquet")
    return root / "set.parquet"


def several(root: Path) -> Path:
    return packed(root).parent


def idx_files(root: Path) -> Path:
    root.mkdir()
    head = bytes((0, 0, 8, 3)) + struct.pack(">3I", *pixels().shape)
    (root / "train-images-idx3-ubyte").write_bytes(head + pixels().tobytes())
    head = bytes((0, 0, 8, 1)) + struct.pack(">I", len(LABELS))
    (root / "train-labels-idx1-ubyte").write_bytes(head + np.array(LABELS, int).astype(np.uint8).tobytes())
    return root


def named_set(root: Path) -> Path:
    """Its file lies where it would be fetched to, so that nothing is."""
    place = root / "downloads" / "toy" / "toy.npz"
    place.parent.mkdir(parents=True)
    archive(root / "set").rename(place)
    total = hashlib.sha256(place.read_bytes()).hexdigest()
    (root / "toy.yaml").write_text(
        "title: Toy\nlicence: none\ncite: nobody\nlayout: npz\n"
        f"files:\n  - {{name: toy.npz, url: 'http://127.0.0.1:1/toy.npz', sum: 'sha256:{total}'}}\n"
    )
    return root / "toy.yaml"


FORMS: dict[str, tuple[Callable[[Path], Path], ModuleType]] = {
    "class_folders": (class_folders, folder),
    "csv": (comma, manifest),
    "tsv": (tab, manifest),
    "parquet_table": (stored, manifest),
    "parquet_images": (packed, parquet),
    "parquet_folder": (several, parquet),
    "npz": (archive, npz),
    "idx": (idx_files, idx),
    "named": (named_set, named),
}


@pytest.fixture
def data(shipped, tmp_path) -> Callable[..., Data]:
    def make(source: object = "", file: str = "none", **changes: object) -> Data:
        names = shipped.data.manifest.model_copy(update={"file": file})
        usual = {"source": str(source), "manifest": names, "downloads": str(tmp_path / "x" / "downloads")}
        return shipped.data.model_copy(update=usual | changes)

    return make


@pytest.fixture
def read(shipped, tmp_path) -> Callable[[Data], Source]:
    def call(data: Data) -> Source:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        return sources.read(data, shipped.sources.digits, 0, scratch)

    return call


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_set_gives_the_same_rows(tmp_path, data, read, form):
    make, kind = FORMS[form]
    path = make(tmp_path / "x")
    assert next(k for k in sources.FORMATS if k.accepts(path)) is kind
    assert sources.locate(str(path), "data.source") == path
    source = read(data(path))
    load, truth = pickle.loads(pickle.dumps(source.load)), pixels()
    seen = sorted(
        (label, load(ref).pixels.tobytes()) for label, ref in zip(source.rows["label"], source.refs, strict=True)
    )
    assert seen == sorted((label, image.tobytes()) for label, image in zip(LABELS, truth, strict=True))
    assert set(source.classes) == set(LABELS) and source.rows["path"].is_unique and not source.problems


@pytest.mark.parametrize("form", FORMS)
def test_a_list_of_classes_holds_for_every_form(tmp_path, data, read, form):
    path = FORMS[form][0](tmp_path / "x")
    assert read(data(path, classes=["10", "1", "0"])).classes == ("10", "1", "0")
    with pytest.raises(ValueError, match=r"^data\.source: .*cannot stand(.|\n)*label '10'"):
        read(data(path, classes=["0", "1"]))


def test_the_embedded_digits_are_read_by_their_name(shipped, data, read):
    assert read(data(shipped.data.source)).classes == tuple("0123456789")
    assert read(data(shipped.data.source, classes=list("9876543210"))).classes == tuple("9876543210")
    with pytest.raises(ValueError, match="label '9'"):
        read(data(shipped.data.source, classes=list("012345678")))


def test_two_spellings_of_a_class_are_refused_in_folders_and_in_parquet(tmp_path, data, read):
    class_folders(tmp_path / "a").joinpath("10").rename(tmp_path / "a" / "cat")
    (tmp_path / "a" / "1").rename(tmp_path / "a" / "Cat")
    with pytest.raises(ValueError, match=r"rows cat/4\.png: label 'cat'; did you mean 'Cat'"):
        read(data(tmp_path / "a"))
    assert read(data(tmp_path / "a", classes=["cat", "Cat", "0"])).classes == ("cat", "Cat", "0")
    frame = pd.read_parquet(packed(tmp_path / "b"))
    frame.assign(label=["cat", "cat ", "dog", "cat", "dog", ""]).to_parquet(tmp_path / "b" / "set.parquet")
    with pytest.raises(ValueError, match="row 5: expected one label"):
        read(data(tmp_path / "b"))
    frame.assign(label=["cat", "cat ", "dog", "cat", "dog", "dog"]).to_parquet(tmp_path / "b" / "set.parquet")
    with pytest.raises(ValueError, match="rows set/1: label 'cat '; did you mean 'cat'"):
        read(data(tmp_path / "b"))


# What is no format


LISTED = [
    "sets/digits.yaml",
    "one folder of images per class",
    ".csv",
    ".tsv",
    ".parquet",
    ".npz",
    "IDX",
    "Parquet",
    "docs/",
]


@pytest.mark.parametrize("name", ["x.png", "x.txt", "x", "x.zip", "pipe", "pipe.csv", "pipe.yaml"])
def test_a_file_that_is_no_format_is_refused_with_all_that_are(tmp_path, data, read, name):
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"^data\.source: .* is of no format that can be read; expected ") as error:
        read(data(tmp_path / name))
    assert repr(str(tmp_path / name)) in str(error.value) and all(word in str(error.value) for word in LISTED)


@pytest.mark.parametrize("name", ["nowhere", "gone.csv", "gone.npz", "gone", "a\0b", "~", "no/sets/digits.yaml"])
def test_what_does_not_exist_is_refused_with_all_that_could(tmp_path, data, read, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for link in ("gone", "gone.csv", "gone.npz"):
        (tmp_path / link).symlink_to("not here")
    with pytest.raises(ValueError, match=r"^data\.source: .* does not exist; expected ") as error:
        read(data(name))
    assert repr(name) in str(error.value) and all(word in str(error.value) for word in LISTED)


def test_another_file_called_digits_is_not_read_as_the_embedded_set(tmp_path, data, read):
    (tmp_path / "digits.yaml").write_text("title: mine\n")
    with pytest.raises(ValueError, match=r"^data\.source: digits\.yaml describes no named set"):
        read(data(tmp_path / "digits.yaml"))


def test_the_message_names_the_key_that_named_the_path():
    with pytest.raises(ValueError, match=r"^data\.other: 'no where' does not exist"):
        sources.locate("no where", "data.other")


# A table in the source's folder


def test_a_table_in_the_folder_takes_the_place_of_class_folders(tmp_path, data, read):
    class_folders(tmp_path / "x")
    other = frame().assign(label=["a", "b", "a", "b", "a", "b"])
    for name, separator in (("set.csv", ","), ("set.tsv", "\t")):
        other.to_csv(tmp_path / "x" / name, index=False, sep=separator)
        assert read(data(tmp_path / "x", name)).classes == ("a", "b")
    other.to_parquet(tmp_path / "x" / "set.parquet")
    assert read(data(tmp_path / "x", "set.parquet")).classes == ("a", "b")
    (tmp_path / "x" / "set.parquet").unlink()
    assert read(data(tmp_path / "x")).classes == ("0", "1", "10")


def test_paths_of_a_table_in_a_folder_below_start_at_that_folder(tmp_path, data, read):
    comma(tmp_path / "x" / "below")
    source = read(data(tmp_path / "x", "below/set.csv"))
    assert source.load(source.refs[0]).pixels.shape == (SIZE, SIZE, 1)


@pytest.mark.parametrize("name", ["nowhere.csv", "0", "0/0.png", "notes.txt"])
def test_a_table_that_is_missing_or_none_is_refused(tmp_path, data, read, name):
    class_folders(tmp_path / "x")
    (tmp_path / "x" / "notes.txt").write_text("path,label\n")
    with pytest.raises(
        ValueError, match=r"^data\.manifest\.file: .* is no \.csv, \.tsv or \.parquet file inside .*; set it to none"
    ):
        read(data(tmp_path / "x", name))


@pytest.mark.parametrize("form", ["class_folders", "npz", "idx", "named"])
def test_names_of_columns_are_not_passed_over_where_no_table_is_read(tmp_path, data, read, shipped, form):
    """Who asked for groups by patient had none, and patients stood in two splits."""
    names = shipped.data.manifest.model_copy(update={"group": "patient"})
    with pytest.raises(
        ValueError, match=r"^data\.manifest: group would name columns of a table, but .* is read without"
    ):
        read(data(FORMS[form][0](tmp_path / "x"), manifest=names))


def test_a_source_that_is_the_table_may_be_named_twice(tmp_path, data, read):
    assert set(read(data(FORMS["csv"][0](tmp_path / "x"), "set.csv")).classes) == set(LABELS)


def test_a_table_that_names_pictures_outside_its_folder_is_refused_from_here_too(tmp_path, data, read):
    class_folders(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "set.csv").write_text("path,label\n../0/0.png,cat\n")
    for source, file in ((tmp_path / "x", "set.csv"), (tmp_path / "x" / "set.csv", "none")):
        with pytest.raises(ValueError, match="leave its folder"):
            read(data(source, file, max_quarantined=1.0))


def test_a_missing_picture_is_left_to_the_quarantine(tmp_path, data, read):
    source = read(data(comma(tmp_path / "x")))
    (tmp_path / "x" / source.refs[2]).unlink()
    with pytest.raises(Unreadable) as error:
        source.load(source.refs[2])
    assert error.value.code == "not_a_file" and len(source.refs) == len(LABELS)


def test_a_table_outside_the_sources_folder_is_not_followed(tmp_path, data, read):
    class_folders(tmp_path / "x")
    (tmp_path / "table.csv").write_text("path,label\nx/0/0.png,0\n")
    with pytest.raises(ValueError, match="inside the source's folder"):
        read(data(tmp_path / "x", "../table.csv"))


@pytest.mark.parametrize("form", ["csv", "npz", "named", "parquet_images"])
def test_a_table_that_would_be_passed_over_is_refused(tmp_path, data, read, form):
    """Patients named in it were believed to stay in one split, and it was never opened."""
    path = FORMS[form][0](tmp_path / "x")
    with pytest.raises(
        ValueError, match=r"data\.manifest\.file: 'groups\.csv' is looked for in a source that is a folder"
    ):
        read(data(path, "groups.csv"))
