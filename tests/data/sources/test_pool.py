"""A pool without labels is a folder or a table. Run: python -m pytest tests/data/sources/test_pool.py"""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.data import sources
from pipeline.data.sources import pool
from pipeline.data.sources.base import Source, Unreadable


@pytest.fixture
def read(shipped) -> Callable[..., Source]:
    def call(path: Path, column: str = "path") -> Source:
        names = shipped.data.manifest.model_copy(update={"path": column})
        return pool.read(path, shipped.data.model_copy(update={"manifest": names}))

    return call


@pytest.fixture
def refused(read) -> Callable[..., str]:
    def call(path: Path, column: str = "path") -> str:
        with pytest.raises(ValueError, match=r"^data\.") as error:
            read(path, column)
        return str(error.value)

    return call


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)


def pictures(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(i)).save(root / name)
    return root


NAMES = ["a.png", "b/a.png", "b/c/deep.BMP", "train/cat/1.png", "with space/ü, ö.png"]


@pytest.mark.parametrize("form", ["folder", "set.csv", "set.tsv", "set.parquet"])
def test_pictures_come_without_labels_and_pixel_by_pixel(tmp_path, read, form):
    root = pictures(tmp_path / "pool", *NAMES)
    frame = pd.DataFrame({"path": NAMES, "label": ["cat", "dog", "", "Cat ", "NA"]})
    if form == "set.parquet":
        frame.to_parquet(root / form)
    elif form != "folder":
        frame.to_csv(root / form, sep="\t" if form == "set.tsv" else ",", index=False)
    source = read(root if form == "folder" else root / form)
    assert source.classes == () and sorted(source.rows["path"]) == sorted(NAMES) == sorted(source.refs)
    assert set(source.rows["label"]) == set(source.rows["split"]) == set(source.rows["group"]) == {""}
    load = pickle.loads(pickle.dumps(source.load))
    for ref in source.refs:
        assert np.array_equal(load(ref).pixels[..., 0], pixels(NAMES.index(ref)))


def test_a_folder_of_loose_pictures_is_a_pool(tmp_path, read):
    assert read(pictures(tmp_path, "2.png", "1.png")).refs == ["1.png", "2.png"]


def test_other_files_of_a_folder_are_passed_over(tmp_path, read):
    pictures(tmp_path, "1.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert read(tmp_path).refs == ["1.png"]


def test_a_picture_named_twice_is_used_once(tmp_path, read):
    (tmp_path / "set.csv").write_text("path\nb.png\na.png\nb.png\n")
    assert read(tmp_path / "set.csv").refs == ["b.png", "a.png"]


def test_a_picture_named_twice_is_listed(tmp_path, read):
    root = pictures(tmp_path, "1.png", "2.png")
    (root / "set.csv").write_text("path\n1.png\n2.png\n1.png\n")
    (told,) = read(root / "set.csv").problems
    assert (told.file, told.row, told.code) == ("1.png", "4", "repeated")


def test_the_column_of_paths_may_have_another_name(tmp_path, read, refused):
    (tmp_path / "set.csv").write_text("file,note\na.png,x\n")
    assert read(tmp_path / "set.csv", "file").refs == ["a.png"]
    said = refused(tmp_path / "set.csv")
    assert "data.unlabelled: set.csv lacks the column 'path'; it has ['file', 'note']" in said


def test_groups_of_a_table_are_read(tmp_path, read, refused):
    pictures(tmp_path, *NAMES[:3])
    pd.DataFrame({"path": NAMES[:3], "group": ["p1", " p1 ", "p2"]}).to_csv(tmp_path / "pool.csv", index=False)
    assert read(tmp_path / "pool.csv").rows["group"].tolist() == ["p1", "p1", "p2"]
    pd.DataFrame({"path": NAMES[:2], "group": ["p1", ""]}).to_csv(tmp_path / "pool.csv", index=False)
    assert "data.unlabelled: pool.csv, lines 3: no group" in refused(tmp_path / "pool.csv")
    pd.DataFrame({"path": [NAMES[0]] * 2, "group": ["p1", "p2"]}).to_csv(tmp_path / "pool.csv", index=False)
    assert "gives two groups to one path" in refused(tmp_path / "pool.csv")


def test_two_spellings_of_a_path_are_one_row(tmp_path, read):
    pictures(tmp_path / "set", "x.png", "deep/y.png")
    (tmp_path / "set" / "rows.csv").write_text("path\nx.png\n./x.png\ndeep//y.png\n")
    assert read(tmp_path / "set" / "rows.csv").rows["path"].tolist() == ["x.png", "deep/y.png"]


@pytest.mark.parametrize("name", ["folder", "set.csv", "set.parquet"])
def test_a_pool_without_pictures_is_refused(tmp_path, refused, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("no image")
    elif name == "set.csv":
        path.write_text("path\n")
    else:
        pd.DataFrame({"path": []}, dtype=str).to_parquet(path)
    assert f"data.unlabelled: no images found in {name}" in refused(path)


@pytest.mark.parametrize("name", ["nowhere", "x.png", "x.txt", "x.npz", "sets/other.yaml"])
def test_what_is_neither_folder_nor_table_is_refused_with_what_was_expected(tmp_path, refused, name):
    if name != "nowhere":
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    said = refused(tmp_path / name)
    assert said.startswith("data.unlabelled: ") and "no folder and no table" in said
    assert all(word in said for word in ("folder of images", ".csv", ".tsv", ".parquet", "sets/none.yaml"))


@pytest.mark.parametrize(
    "name", ["sets/none.yaml", "./sets/none.yaml", "more/../sets/none.yaml", "/project/sets/none.yaml"]
)
def test_no_pool_has_no_rows_however_its_path_is_spelt(read, shipped, name):
    assert len(read(Path(name)).refs) == 0
    assert not shipped.model_copy(update={"data": shipped.data.model_copy(update={"unlabelled": name})}).has_pool


def test_another_file_called_none_is_no_empty_pool(tmp_path, shipped, refused):
    (tmp_path / "none.yaml").write_text("title: mine\n")
    said = refused(tmp_path / "none.yaml")
    assert "no folder and no table" in said
    data = shipped.data.model_copy(update={"unlabelled": str(tmp_path / "none.yaml")})
    assert shipped.model_copy(update={"data": data}).has_pool


@pytest.mark.parametrize("name", ["set.csv", "set.tsv", "set.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n\0\0", bytes(1000), b'path\n"a.png\n'])
def test_a_broken_table_is_refused_under_the_name_of_its_key(tmp_path, refused, name, content):
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).startswith(f"data.unlabelled: {name} ")


def test_paths_that_lead_out_are_all_listed(tmp_path, refused):
    names = [
        "../x.png",
        "/etc/passwd",
        "~/x.png",
        "file:///x.png",
        "a/../../x.png",
        "link.png",
        "round/set/../x.png",
    ]
    pictures(tmp_path, "x.png")
    pictures(tmp_path / "pool", "a.png")
    (tmp_path / "pool" / "link.png").symlink_to("../x.png")
    pd.DataFrame({"path": ["a.png", *names], "n": "0"}).to_csv(tmp_path / "pool" / "set.csv", index=False)
    said = refused(tmp_path / "pool" / "set.csv")
    assert said.startswith("data.unlabelled: set.csv has paths that leave its folder")
    assert all(f"line {i + 3}: {name!r}" in said for i, name in enumerate(names)) and "'a.png'" not in said


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_a_folder_is_refused(tmp_path, refused, what):
    pictures(tmp_path / "secret", "x.png")
    pictures(tmp_path / "pool", "1.png")
    link = tmp_path / "pool" / ("x.png" if what == "file" else "more")
    link.symlink_to(tmp_path / "secret" / ("x.png" if what == "file" else ""))
    said = refused(tmp_path / "pool")
    assert "out of the source's folder" in said and repr(link.name) in said and "1.png" not in said


def test_links_within_a_folder_are_read(tmp_path, read):
    pictures(tmp_path, "1.png")
    (tmp_path / "2.png").symlink_to("1.png")
    source = read(tmp_path)
    assert all(np.array_equal(source.load(ref).pixels[..., 0], pixels(0)) for ref in source.refs)


def test_what_is_no_regular_file_is_quarantined_when_it_is_read(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "set.csv").write_text("path\nmissing.png\npipe.png\nfolder.png\n")
    source = read(tmp_path / "set.csv")
    for ref in source.refs:
        with pytest.raises(Unreadable) as error:
            source.load(ref)
        assert error.value.code == "not_a_file"


@pytest.mark.parametrize("header", ["path,path", "path,x,path"])
def test_a_table_with_two_columns_of_paths_is_refused(tmp_path, shipped, header):
    (tmp_path / "rows.csv").write_text(f"{header}\n" + ",".join("a" for _ in header.split(",")) + "\n")
    with pytest.raises(
        ValueError, match=r"^data\.unlabelled: rows\.csv has several columns called 'path'; it has \['path', "
    ):
        pool.read(tmp_path / "rows.csv", shipped.data)


@pytest.mark.parametrize("inside", [".", "more", "cat/more"])
def test_a_pool_inside_a_source_of_class_folders_is_refused(tmp_path, shipped, inside):
    """Its folder became a class of its own, without a word."""
    root = pictures(tmp_path / "set", "cat/1.png", "dog/2.png", "more/3.png", "cat/more/4.png")
    data = shipped.data.model_copy(update={"source": str(root), "unlabelled": str(root / inside)})
    with pytest.raises(ValueError, match=r"^data\.unlabelled: .* lies in data\.source, .*; move it out"):
        sources.check_apart(root, root / inside, data)
    with pytest.raises(ValueError, match=r"^data\.unlabelled: .* lies in data\.source"):
        sources.read(data, shipped.sources.digits, 0, tmp_path / "scratch")


def test_a_pool_may_lie_beside_class_folders_or_a_table(tmp_path, shipped):
    root = pictures(tmp_path / "set", "cat/1.png", "more/3.png")
    (root / "table.csv").write_text("path,label\ncat/1.png,cat\n")
    sources.check_apart(root / "table.csv", root / "more", shipped.data)
    sources.check_apart(root / "cat", root / "more", shipped.data)
    named = shipped.data.model_copy(update={"manifest": shipped.data.manifest.model_copy(update={"file": "table.csv"})})
    sources.check_apart(root, root / "more", named)
