"""Class folders are read or refused, never half. Run: python -m pytest tests/data/sources/test_folder.py"""

import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import sources
from pipeline.data.sources import folder
from pipeline.data.sources.base import Source, Unreadable


@pytest.fixture
def data(shipped):
    return shipped.data


@pytest.fixture
def read(data, tmp_path):
    return lambda root=tmp_path: folder.read(root, data, Path("unused"))


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)


def fill(root: Path, *names: str) -> Path:
    """Picture number i, of one encoding, under each name."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(root / name, "PNG")
    return root


def listing(source: Source) -> dict[str, tuple[str, str]]:
    assert source.refs == source.rows["path"].tolist()
    return {row.path: (row.label, row.split) for row in source.rows.itertuples()}


# Layouts


def test_class_folders_without_splits(tmp_path, read):
    names = ["cat/1.png", "cat/deep/2.PNG", "dog/1.jpg", "dog/2.bmp"]
    source = read(fill(tmp_path, *names))
    assert source.classes == ("cat", "dog") and not source.grouped and not source.problems
    assert listing(source) == {name: (name[:3], "") for name in names}
    for number, ref in enumerate(source.refs):
        assert np.array_equal(source.load(ref).pixels, pixels(number))


@pytest.mark.parametrize(
    "names", [("training_set", "test_set"), ("train-data", "TestData"), ("train images", "val.images")]
)
def test_split_folders_may_say_that_they_are_sets(tmp_path, read, names):
    source = read(fill(tmp_path, *(f"{s}/{c}/1.png" for s in names for c in ("cat", "dog"))))
    assert source.classes == ("cat", "dog") and set(source.rows["split"]) == {
        "train",
        "val" if "val" in names[1] else "test",
    }


def test_classes_that_only_begin_like_a_split_are_classes(tmp_path, read):
    source = read(fill(tmp_path, "test tube/1.png", "training shoes/1.png", "trainset_a/1.png"))
    assert len(source.classes) == 3 and set(source.rows["split"]) == {""}


def test_split_folders_in_class_folders_are_refused(tmp_path, read):
    fill(tmp_path, "cat/train/1.png", "cat/test/2.png", "dog/train/3.png")
    with pytest.raises(ValueError, match=r"class folder cat has split folders in it \('test', 'train'\).*: test/cat"):
        read()


def test_class_folders_under_split_folders_and_their_aliases(tmp_path, read):
    aliases = {"Training": "train", "validation": "val", "TEST": "test"}
    names = [f"{s}/{c}/1.png" for s in aliases for c in ("cat", "dog")]
    source = read(fill(tmp_path, *names))
    assert source.classes == ("cat", "dog")
    assert listing(source) == {name: (name.split("/")[1], aliases[name.split("/")[0]]) for name in names}


@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ("train", "valid"), ("train", "val", "test")])
def test_splits_may_be_missing(tmp_path, read, splits):
    source = read(fill(tmp_path, *(f"{s}/{c}/1.png" for s in splits for c in "ab")))
    assert set(source.rows["split"]) == {{"valid": "val"}.get(s, s) for s in splits}


def test_a_class_may_be_missing_from_a_split(tmp_path, read):
    source = read(fill(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "val/bird/1.png"))
    assert source.classes == ("bird", "cat", "dog") and len(source.rows) == 4


def test_the_order_is_that_of_the_names_and_not_of_the_disk(tmp_path, read):
    names = [f"{c}/{n}.png" for c in "ba" for n in (3, 1, 2)]
    assert read(fill(tmp_path, *names)).refs == sorted(names)


def test_it_is_the_format_of_folders(tmp_path, data, shipped):
    fill(tmp_path / "set", "cat/1.png", "dog/1.png")
    block = data.model_copy(update={"source": str(tmp_path / "set")})
    source = sources.read(block, shipped.sources.digits, 0, tmp_path)
    assert source.classes == ("cat", "dog") and folder.accepts(tmp_path) and not folder.accepts(tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "says"), [("nowhere", "does not exist"), ("set/cat/1.png", "no format that can be read")]
)
def test_a_source_of_no_format_says_what_was_expected(tmp_path, data, shipped, name, says):
    fill(tmp_path / "set", "cat/1.png", "dog/1.png")
    block = data.model_copy(update={"source": str(tmp_path / name)})
    with pytest.raises(ValueError, match=f"(?s)data.source.*{says}; expected .*folder of images per class.*npz"):
        sources.read(block, shipped.sources.digits, 0, tmp_path)


# What is refused


def test_a_mixture_of_split_and_class_folders_is_refused(tmp_path, read):
    with pytest.raises(ValueError, match=r"has split folders and also \['cat'\]"):
        read(fill(tmp_path, "train/cat/1.png", "test/cat/1.png", "cat/1.png"))


@pytest.mark.parametrize("names", [(), ("1.png", "2.png"), ("notes.txt",)])
def test_a_folder_without_class_folders_says_what_was_expected(tmp_path, read, names):
    with pytest.raises(ValueError, match=r"no images found in the class folders.*\.png"):
        read(fill(tmp_path, *names))


@pytest.mark.parametrize(
    "names",
    [
        ("cat/1.png", "dog/1.png", "loose.png"),
        ("train/cat/1.png", "test/cat/1.png", "loose.png"),
        ("train/cat/1.png", "test/cat/1.png", "test/loose.png"),
        ("train/cat/1.png", "test/loose.png"),
    ],
)
def test_loose_images_belong_to_no_class_and_are_not_skipped(tmp_path, read, names):
    with pytest.raises(ValueError, match=r"1 images lie beside .*, in no class .*'loose\.png'"):
        read(fill(tmp_path, *names))


@pytest.mark.parametrize("empty", ["bird", "cat/none", "bird/.hidden", "bird/deeper"])
def test_an_empty_class_folder_is_no_class_without_rows(tmp_path, read, empty):
    fill(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / empty).mkdir(parents=True)
    if empty.startswith("bird"):
        with pytest.raises(ValueError, match=r"no images found in the class folder bird; .*remove the folder"):
            read()
    else:
        assert read().classes == ("cat", "dog")


def test_a_folder_of_folders_of_parquet_says_which_to_name(tmp_path, read):
    fill(tmp_path, "plain_text/train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"for its Parquet files set data\.source to .*plain_text$"):
        read()


def test_an_empty_class_folder_of_one_split_is_named(tmp_path, read):
    fill(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/cat/1.png")
    (tmp_path / "test" / "dog").mkdir()
    with pytest.raises(ValueError, match=f"no images found in the class folder {os.path.join('test', 'dog')}"):
        read()


def test_an_empty_split_folder_is_not_taken_for_a_split_that_is_missing(tmp_path, read):
    fill(tmp_path, "train/cat/1.png", "train/dog/1.png")
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="split folder test has no class folders"):
        read()


# Hidden and other files


def test_hidden_files_and_folders_are_ignored_at_every_level(tmp_path, read):
    hidden = [".cache/1.png", ".1.png", "cat/._1.png", "cat/.thumbs/1.png", "cat/deep/.x/y/1.png", ".git/a/b.png"]
    assert read(fill(tmp_path, "cat/1.png", "dog/1.png", "cat/deep/2.png", *hidden)).refs == [
        "cat/1.png",
        "cat/deep/2.png",
        "dog/1.png",
    ]


def test_a_hidden_folder_above_the_source_hides_nothing(tmp_path, read):
    root = fill(tmp_path / ".sets" / "mine", "cat/1.png", "dog/1.png")
    assert read(root).refs == ["cat/1.png", "dog/1.png"]


def test_other_files_are_no_images(tmp_path, read):
    fill(tmp_path, "cat/1.png", "dog/1.png")
    for name in ("cat/notes.txt", "cat/Thumbs.db", "README.md", "labels.csv"):
        (tmp_path / name).write_text("no image")
    assert read().refs == ["cat/1.png", "dog/1.png"]


def test_what_is_no_regular_file_stays_in_the_list_to_be_quarantined(tmp_path, read):
    """Listing and loading never wait for a pipe."""
    fill(tmp_path, "cat/1.png", "dog/1.png", "cat/folder.png/2.png")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    codes: dict[str, str] = {}

    def look() -> None:
        source = read()
        for ref in source.refs:
            try:
                source.load(ref)
                codes[ref] = ""
            except Unreadable as error:
                codes[ref] = error.code

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(10)
    assert codes == {
        "cat/1.png": "",
        "cat/folder.png": "not_a_file",
        "cat/folder.png/2.png": "",
        "cat/pipe.png": "not_a_file",
        "dog/1.png": "",
    }


# Names


ODD = [
    "NA",
    "001",
    "a b",
    "ünï",
    "line\nbreak",
    "<b>&amp;",
    "$(touch x)",
    "nan",
    "-rf",
    "a'b\"c",
    "x" * 200,
    "{{ x }}",
    "1.0",
]


def test_odd_names_of_classes_and_files_are_read_as_they_are(tmp_path, read):
    source = read(fill(tmp_path, *[f"{name}/{name}.png" for name in ODD]))
    assert sorted(source.classes) == sorted(ODD)
    assert listing(source) == {f"{name}/{name}.png": (name, "") for name in ODD}
    load = pickle.loads(pickle.dumps(source.load))
    assert all(load(ref).pixels.shape == (10, 12, 3) for ref in source.refs)


@pytest.mark.parametrize("place", ["cat/\udcff.png", "\udcff/1.png"])
def test_names_that_are_no_text_are_refused(tmp_path, read, place):
    try:
        fill(tmp_path, "cat/1.png", "dog/1.png", place)
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(ValueError, match=r"\\udcff.*no UTF-8; rename"):
        read()


# Links


@pytest.fixture
def secret(tmp_path) -> Path:
    """A picture outside of the source, which lies in `set`."""
    fill(tmp_path / "set", "cat/1.png", "dog/1.png")
    return fill(tmp_path / "secret", "a/1.png").resolve()


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("cat/x.png", "a/1.png"),
        ("bird", "a"),
        ("cat/more", "a"),
        ("cat/more.png", "a"),
        ("cat/gone.png", "nothing.png"),
        ("cat/deep/x.png", "a/1.png"),
    ],
)
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_out_of_the_source_is_refused(tmp_path, read, secret, link, target, relative):
    place = tmp_path / "set" / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(os.path.relpath(secret / target, place.parent) if relative else secret / target)
    with pytest.raises(ValueError, match=rf"'{link}.*links out of the source's folder.*; copy the files"):
        read(tmp_path / "set")


def test_a_split_folder_that_is_a_link_out_is_refused(tmp_path, read, secret):
    fill(tmp_path / "parts", "train/a/1.png", "train/b/1.png")
    (tmp_path / "parts" / "test").symlink_to(secret)
    with pytest.raises(ValueError, match="links out of the source's folder"):
        read(tmp_path / "parts")


def test_links_to_elsewhere_that_are_named_like_no_image_are_not_followed(tmp_path, read, secret):
    (tmp_path / "set" / "cat" / "notes").symlink_to("/etc/passwd")
    assert read(tmp_path / "set").refs == ["cat/1.png", "dog/1.png"]


def test_a_link_chain_that_leaves_and_comes_back_is_judged_by_its_end(tmp_path, read, secret):
    (secret / "back.png").symlink_to(tmp_path / "set" / "cat" / "1.png")
    (tmp_path / "set" / "cat" / "2.png").symlink_to(secret / "back.png")
    assert "cat/2.png" in read(tmp_path / "set").refs


def test_a_link_to_a_file_within_the_source_is_read(tmp_path, read):
    fill(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat" / "2.png").symlink_to(tmp_path / "cat" / "1.png")
    source = read()
    assert source.rows["label"].tolist() == ["cat", "cat", "dog"]
    assert np.array_equal(source.load("cat/2.png").pixels, source.load("cat/1.png").pixels)


def test_a_class_folder_that_is_a_link_is_refused(tmp_path, read):
    fill(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "lynx").symlink_to(tmp_path / "cat")
    with pytest.raises(ValueError, match=r"'lynx'.*or to a folder"):
        read()


def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path, read, monkeypatch):
    fill(tmp_path, "cat/1.png", "cat/closed/2.png", "dog/1.png")
    scan = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(ValueError, match=r"closed cannot be read \(Permission denied\); mend its permissions"):
        read()


def test_a_link_to_a_folder_within_the_source_is_not_skipped_in_silence(tmp_path, read):
    fill(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat" / "round").symlink_to(tmp_path / "dog")
    with pytest.raises(ValueError, match=r"'cat/round'.*or to a folder"):
        read()


def test_links_that_go_round_are_listed_and_cannot_be_loaded(tmp_path, read):
    fill(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat" / "a.png").symlink_to("b.png")
    (tmp_path / "cat" / "b.png").symlink_to("a.png")
    source = read()
    for name in ("cat/a.png", "cat/b.png"):
        with pytest.raises(Unreadable) as error:
            source.load(name)
        assert error.value.code == "not_a_file"


def test_the_source_itself_may_be_a_link(tmp_path, read):
    fill(tmp_path / "real", "cat/1.png", "dog/1.png")
    (tmp_path / "link").symlink_to("real")
    source = read(tmp_path / "link")
    assert source.refs == ["cat/1.png", "dog/1.png"] and source.load("cat/1.png").pixels.shape == (10, 12, 3)


def test_files_that_are_not_named_like_images_are_counted_by_their_ending(tmp_path):
    from pipeline.data.sources.folder import skipped

    for name in ("a/x.png", "a/notes.txt", "a/deep/y.HEIC", "b/z.heic", "b/Makefile", "b/.hidden", "manifest.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert skipped(tmp_path) == {".heic": 2, ".txt": 1, "none": 1}
