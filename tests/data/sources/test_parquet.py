"""Parquet files that hold the images themselves. Run: python -m pytest tests/data/sources/test_parquet.py"""

import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.sources import manifest, parquet
from pipeline.data.sources.base import Source, Unreadable


@pytest.fixture
def scratch(tmp_path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def read(shipped, scratch) -> Callable[..., Source]:
    def call(path: Path, **names: str) -> Source:
        data = shipped.data.model_copy(update={"manifest": shipped.data.manifest.model_copy(update=names)})
        return parquet.read(path, data, scratch)

    return call


@pytest.fixture
def refused(read) -> Callable[..., str]:
    def call(path: Path, **names: str) -> str:
        with pytest.raises(ValueError, match=r"^data\.source: ") as error:
            read(path, **names)
        assert str(path.parent) not in str(error.value)
        return str(error.value)

    return call


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def encoded(seed: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, kind)
    return buffer.getvalue()


def struct(*content: bytes | None) -> list[dict[str, Any]]:
    return [{"bytes": c, "path": f"{i}.png"} for i, c in enumerate(content)]


def stored(
    path: Path,
    images: Any,
    labels: Any,
    names: Sequence[str] | None = None,
    columns: tuple[str, str] = ("image", "label"),
    **options: object,
) -> Path:
    """A file as Hugging Face writes it, `names` being the classes in its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(zip(columns, (images, labels), strict=True)))
    if names is not None:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, **options)
    return path


def shown(source: Source) -> list[np.ndarray]:
    load = pickle.loads(pickle.dumps(source.load))
    return [load(ref).pixels for ref in source.refs]


# What is read


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["struct", "plain"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_images_come_back_pixel_by_pixel(tmp_path, read, kind, compression, large):
    images = [encoded(i, "PNG" if i % 2 else "BMP") for i in range(250)]
    content = struct(*images) if kind == "struct" else images
    column = pa.array(content, pa.large_binary()) if large and kind == "plain" else pa.array(content)
    path = stored(
        tmp_path / "x.parquet", column, [i % 3 for i in range(250)], compression=compression, row_group_size=90
    )
    assert parquet.accepts(path)
    source = read(path)
    assert source.rows["label"].tolist() == [str(i % 3) for i in range(250)] and source.classes == ("0", "1", "2")
    assert source.rows["path"].is_unique and set(source.rows["split"]) == {""} and not source.grouped
    assert all(np.array_equal(seen, pixels(i)) for i, seen in enumerate(shown(source)))


def test_only_the_columns_that_are_needed_are_read(tmp_path, read):
    table = pa.table(
        {"id": [1, 2], "image": struct(encoded(0), encoded(1)), "other": [b"x", b"y"], "label": ["a", "b"]}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    source = read(tmp_path / "x.parquet")
    assert source.rows["label"].tolist() == ["a", "b"] and np.array_equal(shown(source)[1], pixels(1))


@pytest.mark.parametrize("image", ["image", "img", "jpg", "png", "scan"])
@pytest.mark.parametrize("label", ["label", "labels", "fine_label", "class"])
def test_usual_column_names_are_known(tmp_path, read, image, label):
    source = read(stored(tmp_path / "x.parquet", [encoded(0)], ["a"], columns=(image, label)))
    assert source.classes == ("a",) and np.array_equal(shown(source)[0], pixels(0))


def test_the_column_of_labels_may_be_named_and_must_then_be_there(tmp_path, read, refused):
    table = pa.table({"image": [encoded(0)], "label": ["wrong"], "finding": ["right"]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet", label="finding").classes == ("right",)
    said = refused(tmp_path / "x.parquet", label="diagnosis")
    assert "data.manifest.label: 'diagnosis'" in said and "['image', 'label', 'finding']" in said


def test_class_names_of_the_metadata_replace_numbers(tmp_path, read):
    source = read(
        stored(tmp_path / "x.parquet", struct(*[encoded(i) for i in range(4)]), [2, 0, 2, 0], ["cat", "NA", "001"])
    )
    assert source.rows["label"].tolist() == ["001", "cat", "001", "cat"] and source.classes == ("cat", "001")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"info": {"features": {"label": null}}}', b"[" * 100_000, b"\xff"]
)
def test_other_metadata_is_passed_over(tmp_path, read, content):
    table = pa.table({"image": [encoded(0)], "label": [7]}).replace_schema_metadata({b"huggingface": content})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet").classes == ("7",)


@pytest.mark.parametrize("labels", [["NA", "None", "001", "1.0"], pa.array(["b", "a", "b", "a"]).dictionary_encode()])
def test_labels_may_be_text(tmp_path, read, labels):
    source = read(stored(tmp_path / "x.parquet", [encoded(i) for i in range(4)], labels))
    expected = labels if isinstance(labels, list) else labels.to_pylist()
    assert source.rows["label"].tolist() == expected and set(source.classes) == set(expected)


def test_numbers_as_classes_stand_in_their_order(tmp_path, read):
    source = read(stored(tmp_path / "x.parquet", [encoded(i) for i in range(4)], [10, 9, 100, 2]))
    assert source.classes == ("2", "9", "10", "100")


# Folders and splits


@pytest.mark.parametrize("form", ["{}_0", "{}.00000", "{} 1", "{}"])
def test_a_name_that_begins_with_a_split_gives_it(tmp_path, read, form):
    for i, name in enumerate(("train", "test")):
        stored(tmp_path / "set" / f"{form.format(name)}.parquet", [encoded(2 * i), encoded(2 * i + 1)], ["a", "b"])
    assert sorted(read(tmp_path / "set").rows["split"]) == ["test", "test", "train", "train"]


@pytest.mark.parametrize("below", ["", "data"])
def test_file_names_of_a_folder_give_the_splits(tmp_path, read, below):
    names = {"train-00000-of-00002": "train", "train-00001-of-00002": "train", "validation-00000-of-00001": "val"}
    names |= {"test-00000-of-00001": "test"}
    for i, name in enumerate(names):
        stored(tmp_path / "set" / below / f"{name}.parquet", [encoded(2 * i), encoded(2 * i + 1)], ["a", "b"])
    assert parquet.accepts(tmp_path / "set")
    source = read(tmp_path / "set")
    assert all(path.startswith(below) for path in source.rows["path"])
    found = [
        (path.split("/")[-2], split) for path, split in zip(source.rows["path"], source.rows["split"], strict=True)
    ]
    assert sorted(set(found)) == sorted(names.items()) and len(found) == 8
    order = sorted(names)
    for path, seen in zip(source.rows["path"], shown(source), strict=True):
        name, row = path.split("/")[-2:]
        assert np.array_equal(seen, pixels(2 * list(names).index(name) + int(row))) and name in order


def test_files_of_one_name_in_both_folders_are_told_apart(tmp_path, read):
    for i, below in enumerate(("", "data")):
        stored(tmp_path / "set" / below / "part-0.parquet", [encoded(2 * i), encoded(2 * i + 1)], ["a", "b"])
    paths = read(tmp_path / "set").rows["path"].tolist()
    assert sorted(paths) == ["data/part-0/0", "data/part-0/1", "part-0/0", "part-0/1"]


def test_file_names_without_a_split_leave_it_open(tmp_path, read):
    for name in ("part-0", "part-1"):
        stored(tmp_path / "set" / f"{name}.parquet", [encoded(0)], ["a"])
    assert set(read(tmp_path / "set").rows["split"]) == {""}


def test_a_folder_in_which_some_files_are_named_after_a_split_is_refused(tmp_path, refused):
    for name in ("train-0", "more"):
        stored(tmp_path / "set" / f"{name}.parquet", [encoded(0)], ["a"])
    assert "some are not: ['more.parquet', 'train-0.parquet']" in refused(tmp_path / "set")


def test_files_that_name_their_classes_differently_are_refused(tmp_path, read, refused):
    train = stored(tmp_path / "set" / "train-0.parquet", [encoded(0), encoded(1)], [0, 1], ["cat", "dog"])
    for names in (["dog", "cat"], None):
        stored(tmp_path / "set" / "test-0.parquet", [encoded(2), encoded(3)], [0, 1], names)
        assert "name their classes differently" in refused(tmp_path / "set")
    stored(tmp_path / "set" / "test-0.parquet", [encoded(2)], [1], ["cat", "dog"])
    assert read(tmp_path / "set").classes == ("cat", "dog") and train.exists()


def test_a_folder_without_parquet_is_not_taken_for_one(tmp_path):
    (tmp_path / "x.parquet").mkdir()
    assert not parquet.accepts(tmp_path) and not parquet.accepts(tmp_path / "nowhere")


def test_a_table_of_paths_is_left_to_the_tables(tmp_path):
    pq.write_table(pa.table({"path": ["a.png"], "label": ["cat"]}), tmp_path / "x.parquet")
    assert not parquet.accepts(tmp_path / "x.parquet") and manifest.accepts(tmp_path / "x.parquet")


def test_a_folder_of_parquet_holds_images_whatever_their_column_is_called(tmp_path, read):
    (tmp_path / "set").mkdir()
    table = pa.table({"path": ["a.png"], "embedding": [b"x"], "scan": struct(encoded(0)), "label": ["cat"]})
    pq.write_table(table, tmp_path / "set" / "part.parquet")
    assert np.array_equal(shown(read(tmp_path / "set"))[0], pixels(0)), "a pair of bytes and path before plain bytes"
    pq.write_table(
        pa.table({"path": ["a.png"], "scan": [encoded(1)], "label": ["cat"]}), tmp_path / "set" / "part.parquet"
    )
    assert np.array_equal(shown(read(tmp_path / "set"))[0], pixels(1))


def test_bytes_beside_a_column_of_paths_are_no_images_unless_they_are_named_so(tmp_path):
    path = tmp_path / "x.parquet"
    for name, images in {"embedding": False, "image": True, "bytes": True}.items():
        pq.write_table(pa.table({"path": ["a.png"], name: [encoded(0)], "label": ["cat"]}), path)
        assert parquet.accepts(path) is images
    pq.write_table(pa.table({"path": ["a.png"], "scan": struct(encoded(0)), "label": ["cat"]}), path)
    assert parquet.accepts(path)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, refused, what):
    stored(tmp_path / "secret" / "test-0.parquet", [encoded(0)], ["a"])
    stored(tmp_path / "set" / "train-0.parquet", [encoded(1)], ["a"])
    if what == "file":
        (tmp_path / "set" / "test-0.parquet").symlink_to("../secret/test-0.parquet")
    else:
        (tmp_path / "set" / "data").symlink_to("../secret")
    assert "test-0.parquet is a link out of the source's folder" in refused(tmp_path / "set")


# What is refused


def test_an_image_stored_outside_the_file_is_refused(tmp_path, refused):
    content = [{"bytes": encoded(0), "path": "0.png"}, {"bytes": None, "path": "/etc/passwd"}]
    said = refused(stored(tmp_path / "x.parquet", content, ["a", "b"]))
    assert "x.parquet, row 1: the image is stored outside the file; embed its bytes" in said


def test_a_null_for_an_image_is_refused(tmp_path, refused):
    images = pa.array([encoded(0), None], pa.binary())
    assert "row 1: " in refused(stored(tmp_path / "x.parquet", images, ["a", "b"]))


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([1, None]),
        ["a", None],
        ["a", ""],
        ["a", "  "],
        [0.0, 1.0],
        [[0], [1, 2]],
        [{"x": 1}, {"x": 2}],
        pa.array([b"a", b"b"]),
    ],
)
def test_anything_but_one_label_a_row_is_refused(tmp_path, refused, labels):
    said = refused(stored(tmp_path / "x.parquet", struct(encoded(0), encoded(1)), labels))
    assert "expected one label, a whole number or text" in said and ("row 1" in said or "row 0" in said)


@pytest.mark.parametrize("wrong", [-1, 2, 1000])
def test_a_number_that_has_no_class_is_refused(tmp_path, refused, wrong):
    said = refused(stored(tmp_path / "x.parquet", struct(encoded(0), encoded(1)), [0, wrong], ["cat", "dog"]))
    assert f"x.parquet, row 1: label {wrong} is none of the 2 classes" in said


@pytest.mark.parametrize(
    "table",
    [
        {"path": ["a.png"], "label": [1]},
        {"image": [[1, 2, 3]], "label": [1]},
        {"image": [b"x"], "y": [1]},
        {"image": [{"path": "a.png"}], "label": [1]},
    ],
)
def test_columns_that_are_missing_are_named_beside_those_there_are(tmp_path, refused, table):
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table(table), tmp_path / "set" / "train.parquet")
    said = refused(tmp_path / "set")
    assert "needs a column of image bytes and one of labels" in said and str(list(table)) in said


@pytest.mark.parametrize("twice", ["image", "label"])
def test_two_columns_of_one_name_are_refused(tmp_path, refused, twice):
    arrays = {"image": pa.array([encoded(0)]), "label": pa.array(["a"])}
    names = ["image", "label", twice]
    pq.write_table(pa.Table.from_arrays([arrays[n] for n in names], names), tmp_path / "x.parquet")
    assert "two columns of one name" in refused(tmp_path / "x.parquet")


def test_two_columns_of_groups_are_refused(tmp_path, refused):
    """It ended in a KeyError of Arrow."""
    table = pa.table([[b"x"], [1], ["p"], ["q"]], names=["image", "label", "group", "group"])
    pq.write_table(table, tmp_path / "x.parquet")
    assert "has two columns 'group'" in refused(tmp_path / "x.parquet")


def test_a_file_without_rows_is_refused(tmp_path, refused):
    path = stored(tmp_path / "x.parquet", pa.array([], pa.binary()), pa.array([], pa.int64()))
    assert "x.parquet has no rows" in refused(path)


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1\xff\xff\xff\xffPAR1", b"<html>not found</html>", bytes(10_000)]
)
def test_a_file_of_another_kind_is_refused(tmp_path, refused, content):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"^data\.source: x\.parquet cannot be read as Parquet"):
        parquet.accepts(tmp_path / "x.parquet")
    assert "x.parquet cannot be read as Parquet" in refused(tmp_path / "x.parquet")


def test_a_broken_image_in_a_sound_file_is_quarantined(tmp_path, read):
    images = [encoded(0), b"", b"no image", encoded(1)[: len(encoded(1)) // 2]]
    source = read(stored(tmp_path / "x.parquet", struct(*images), ["a"] * 4))
    assert np.array_equal(source.load(source.refs[0]).pixels, pixels(0))
    for ref in source.refs[1:]:
        with pytest.raises(Unreadable) as error:
            source.load(ref)
        assert error.value.code and error.value.remedy


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_file_cut_or_altered_anywhere_is_read_or_refused(tmp_path, read, refused, compression):
    path = stored(
        tmp_path / "x.parquet",
        struct(*[encoded(i) for i in range(20)]),
        [i % 2 for i in range(20)],
        ["cat", "dog"],
        compression=compression,
        row_group_size=7,
    )
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for share in np.linspace(0, 0.999, 20):
        path.write_bytes(whole[: int(share * len(whole))])
        assert "x.parquet" in refused(path)
    for _ in range(150):
        content = bytearray(whole)
        low = 0 if rng.random() < 0.5 else len(whole) - 1500
        for place in rng.integers(low, len(whole), rng.integers(1, 5)):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            source = read(path)
        except ValueError as error:
            assert "x.parquet" in str(error)
        else:
            assert len(source.rows) == len(source.refs) and set(source.rows["label"]) <= {*source.classes}


def test_a_file_that_claims_to_unpack_to_far_more_than_it_is_is_not_unpacked(tmp_path, refused, scratch, monkeypatch):
    monkeypatch.setattr(manifest, "SMALL", 1000)
    path = stored(tmp_path / "x.parquet", [bytes(2_000_000)] * 4, [0] * 4, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 10_000
    assert "claims 8,000," in refused(path)
    assert sum(f.stat().st_size for f in scratch.iterdir()) == 0


def test_one_value_that_stands_for_many_is_not_written_out_for_ever(tmp_path, refused, scratch, monkeypatch):
    monkeypatch.setattr(parquet, "SMALL", 1000)
    path = stored(tmp_path / "x.parquet", [np.random.default_rng(0).bytes(20_000)] * 2000, [0] * 2000)
    size = path.stat().st_size
    assert size < 30_000
    assert "unpacks to more than" in refused(path)
    assert sum(f.stat().st_size for f in scratch.iterdir()) <= 201 * size


def with_columns(tmp_path, **columns):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    cells = []
    for x in pixels:
        buffer = io.BytesIO()
        Image.fromarray(x).save(buffer, "PNG")
        cells.append(buffer.getvalue())
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"image": cells, "label": ["a", "b", "a", "b"], **columns}), path)
    return path


def test_a_group_column_keeps_rows_together(tmp_path, shipped):
    path = with_columns(tmp_path, patient=[7, 7, 8, 9])
    named = shipped.data.manifest.model_copy(update={"group": "patient"})
    source = parquet.read(path, shipped.data.model_copy(update={"manifest": named}), tmp_path)
    assert source.grouped and source.rows["group"].tolist() == ["7", "7", "8", "9"]
    assert not parquet.read(with_columns(tmp_path), shipped.data, tmp_path).grouped


@pytest.mark.parametrize(
    ("columns", "manifest", "says"),
    [
        ({"group": ["x", "", "y", "z"]}, {}, "row 1: no group"),
        ({"group": [7.0, float("nan"), 8.0, 9.0]}, {}, "row 0: no group, but 7.0; expected text or a whole number"),
        ({}, {"group": "patient"}, "lacks the columns .'patient'"),
        ({"split": ["train"] * 4}, {}, "name the files after their splits"),
    ],
)
def test_columns_that_cannot_be_followed_are_refused(tmp_path, shipped, columns, manifest, says):
    data = shipped.data.model_copy(update={"manifest": shipped.data.manifest.model_copy(update=manifest)})
    with pytest.raises(ValueError, match=says):
        parquet.read(with_columns(tmp_path, **columns), data, tmp_path)
