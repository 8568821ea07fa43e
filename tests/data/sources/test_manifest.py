"""A table means what it says, or the lines at fault are named. Run: python -m pytest tests/data/sources/test_manifest.py"""

import contextlib
import csv
import itertools
import os
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.data.sources import manifest
from pipeline.data.sources.base import Source, Unreadable
from pipeline.params import Data

BASIC = [("a.png", "cat"), ("b.png", "dog"), ("c.png", "cat")]


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path, "PNG")
    return path


def written(
    folder: Path,
    rows: Sequence[Sequence[str]] = BASIC,
    header: Sequence[str] = ("path", "label"),
    name: str = "set.csv",
    separator: str = ",",
    end: str = "\n",
    encoding: str = "utf-8",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if name.endswith(".parquet"):
        pd.DataFrame([list(row) for row in rows], columns=list(header), dtype=str).to_parquet(path)
        return path
    with path.open("w", encoding=encoding, newline="") as file:
        quoting = csv.QUOTE_MINIMAL if end == "\n" else csv.QUOTE_ALL
        csv.writer(file, delimiter=separator, lineterminator=end, quoting=quoting).writerows([header, *rows])
    return path


def read(path: Path, data: Data) -> Source:
    return manifest.read(path, data, path.parent)


def refused(path: Path, data: Data) -> str:
    with pytest.raises(ValueError, match=r"^data\.source: ") as error:
        read(path, data)
    assert path.name in str(error.value) and str(path.parent) not in str(error.value)
    return str(error.value)


@pytest.fixture
def data(shipped) -> Data:
    return shipped.data


@pytest.fixture
def columns(data) -> Callable[..., Data]:
    """The params with other column names."""
    return lambda **names: data.model_copy(update={"manifest": data.manifest.model_copy(update=names)})


# What a table says


FORMS = {
    "comma": {},
    "semicolon": {"separator": ";"},
    "tab": {"separator": "\t"},
    "tsv": {"separator": "\t", "name": "set.tsv"},
    "capitals": {"name": "SET.CSV"},
    "bom": {"encoding": "utf-8-sig"},
    "bom_and_semicolons": {"encoding": "utf-8-sig", "separator": ";"},
    "crlf": {"end": "\r\n"},
    "crlf_and_bom": {"end": "\r\n", "encoding": "utf-8-sig"},
    "cr": {"end": "\r"},
    "blank_lines": {"end": "\n\n"},
    "parquet": {"name": "set.parquet"},
}
ODD = [
    "a, b; c\td.png",
    "line\nbreak.png",
    'quo"te.png',
    "ünï 木.png",
    "sub/very deep/x.png",
    "$(touch x).png",
    "-rf.png",
]


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_write_a_table_gives_the_same_rows_and_pictures(tmp_path, data, form):
    rows = [(name, "cat" if i % 2 else "dog", f"p{i // 2}", "train", "0.5") for i, name in enumerate(ODD)]
    for i, name in enumerate(ODD):
        picture(tmp_path / name, i)
    source = read(written(tmp_path, rows, ("path", "label", "group", "split", "weight"), **FORMS[form]), data)
    assert source.classes == ("cat", "dog") and source.problems == [] and source.grouped
    assert source.rows[["path", "label", "group", "split"]].values.tolist() == [list(row[:4]) for row in rows]
    assert source.rows["weight"].tolist() == [0.5] * len(rows)
    again = pickle.loads(pickle.dumps(source.load))
    for i, ref in enumerate(source.refs):
        assert np.array_equal(again(ref).pixels[..., 0], pixels(i)), ODD[i]


def test_other_columns_and_their_order_do_not_matter(tmp_path, data):
    plain = read(written(tmp_path, name="plain.csv"), data)
    rows = [("x", label, "", path) for path, label in BASIC]
    more = read(written(tmp_path, rows, ("note", "label", "", "path"), "more.csv"), data)
    assert plain.rows.equals(more.rows) and plain.classes == more.classes


@pytest.mark.parametrize(("column", "key"), [("Split", "split"), (" group", "group"), ("WEIGHT", "weight")])
def test_a_column_of_nearly_the_expected_name_is_not_passed_over(tmp_path, data, column, key):
    """Splits and groups that the user gave were cut anew without a word."""
    path = written(tmp_path, [("a.png", "cat", "train")], ("path", "label", column))
    told = refused(path, data)
    assert f"has the column {column!r}, and {key!r} is looked for (data.manifest.{key})" in told


def test_what_a_table_does_not_say_has_a_default(tmp_path, data):
    rows = read(written(tmp_path), data).rows
    assert set(rows["split"]) == set(rows["group"]) == {""} and set(rows["weight"]) == {1.0}


def test_paths_start_at_the_folder_of_the_table_and_not_at_the_working_directory(tmp_path, data, monkeypatch):
    picture(tmp_path / "set" / "a.png", 1)
    picture(tmp_path / "elsewhere" / "a.png", 2)
    written(tmp_path / "set", [("a.png", "cat")])
    monkeypatch.chdir(tmp_path / "elsewhere")
    source = read(Path("../set/set.csv"), data)
    assert np.array_equal(source.load(source.refs[0]).pixels[..., 0], pixels(1))


# Labels


WORDS = [
    "NA",
    "None",
    "nan",
    "NULL",
    "N/A",
    "-",
    "001",
    "1",
    "1.0",
    "01",
    "1e3",
    "True",
    "#N/A",
    "<b>&amp;",
    "a b",
    "é",
]


@pytest.mark.parametrize("name", ["set.csv", "set.tsv", "set.parquet"])
def test_a_label_is_text_whatever_it_looks_like(tmp_path, data, name):
    rows = [(f"{i}.png", word) for i, word in enumerate(WORDS)]
    source = read(written(tmp_path, rows, name=name, separator="\t" if name == "set.tsv" else ","), data)
    assert source.rows["label"].tolist() == WORDS and source.classes == tuple(sorted(WORDS))


@pytest.mark.parametrize("wrong", ["Cat", "CAT", "cat ", " cat", "cat\t", "cat\u00a0", "ｃat"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_second_spelling_is_no_class_of_its_own(tmp_path, data, wrong, listed):
    data = data.model_copy(update={"classes": ["dog", "cat"]}) if listed else data
    rows = [*BASIC, ("d.png", wrong), ("e.png", "cat"), ("f.png", wrong)]
    assert f"lines 5, 7: label {wrong!r}; did you mean 'cat'?" in refused(written(tmp_path, rows), data)


def test_the_encoding_of_an_accent_makes_no_class(tmp_path, data):
    rows = [("a.png", "cafe\u0301"), ("b.png", "caf\u00e9"), ("c.png", "caf\u00e9"), ("d.png", "tea")]
    assert "lines 2: label 'cafe\u0301'; did you mean 'caf\u00e9'?" in refused(written(tmp_path, rows), data)


def test_a_trailing_space_is_refused_even_where_all_rows_have_it(tmp_path, data):
    rows = [("a.png", "cat "), ("b.png", "dog"), ("c.png", "cat ")]
    assert "lines 2, 4: label 'cat '; did you mean 'cat'?" in refused(written(tmp_path, rows), data)


@pytest.mark.parametrize("blank", ["", " ", "\t", "\u00a0"])
@pytest.mark.parametrize("listed", [True, False])
def test_an_empty_label_is_refused(tmp_path, data, blank, listed):
    data = data.model_copy(update={"classes": ["dog", "cat"]}) if listed else data
    assert "lines 5: no label" in refused(written(tmp_path, [*BASIC, ("d.png", blank)]), data)


@pytest.mark.parametrize(("wrong", "meant"), [("catt", "cat"), ("dgo", "dog"), ("zebra", None), ("cat1", "cat")])
def test_a_label_that_params_do_not_list_is_refused(tmp_path, data, wrong, meant):
    data = data.model_copy(update={"classes": ["dog", "cat"]})
    said = refused(written(tmp_path, [*BASIC, ("d.png", wrong)]), data)
    assert f"lines 5: label {wrong!r}" in said and "['dog', 'cat']" in said
    assert f"did you mean {meant!r}?" in said if meant else "did you mean" not in said


def test_listed_classes_keep_their_order_and_may_look_alike(tmp_path, data):
    data = data.model_copy(update={"classes": ["b", "A", "a", "none here"]})
    source = read(written(tmp_path, [("1.png", "a"), ("2.png", "A"), ("3.png", "b")]), data)
    assert source.classes == ("b", "A", "a", "none here") and source.rows["label"].tolist() == ["a", "A", "b"]


def test_line_numbers_are_those_of_an_editor(tmp_path, data):
    (tmp_path / "set.csv").write_text(
        'path,label\na.png,cat\n\n"two\nlines.png",dog\n\n\nb.png,Cat\nc.png,cat\n"d\n\n\n.png",CAT\n'
    )
    lines = (tmp_path / "set.csv").read_text().splitlines()
    found = re.findall(r"lines (\d+): label", refused(tmp_path / "set.csv", data))
    assert [lines[int(i) - 1] for i in found] == ['"d', "b.png,Cat"]


def test_a_column_of_wrong_labels_gives_a_message_that_can_be_read(tmp_path, data):
    rows = [(f"{i}.png", f"id{i}") for i in range(20_000)]
    said = refused(written(tmp_path, rows), data.model_copy(update={"classes": ["cat", "dog"]}))
    assert len(said.splitlines()) == 22 and said.endswith("and 19980 more")
    rows = [(f"{i}.png", "cat" if i % 2 else "bird") for i in range(20_000)]
    said = refused(written(tmp_path, rows), data.model_copy(update={"classes": ["cat", "dog"]}))
    assert len(said) < 1000 and "and 9980 more: label 'bird'" in said


# Rows that stand twice, paths


def test_a_row_that_stands_twice_is_used_once_and_counted(tmp_path, data):
    rows = [*BASIC, BASIC[0], ("./b.png", "dog"), BASIC[0], ("x//y.png", "dog"), ("x/./y.png", "dog")]
    source = read(written(tmp_path, rows), data)
    assert source.rows["path"].tolist() == ["a.png", "b.png", "c.png", "x/y.png"] == source.refs
    assert [(p.file, p.code) for p in source.problems] == [
        (f, "repeated") for f in ("a.png", "b.png", "a.png", "x/y.png")
    ]
    assert all(p.remedy for p in source.problems)


@pytest.mark.parametrize("path", ["a.png", "./a.png"])
@pytest.mark.parametrize(
    ("key", "first", "second"),
    [("label", "cat", "dog"), ("split", "train", "test"), ("group", "p1", "p2"), ("weight", "1", "0.5")],
)
def test_two_things_said_of_one_path_are_refused(tmp_path, data, path, key, first, second):
    values = {"label": "cat", "split": "train", "group": "p", "weight": "1"}
    rows = [("a.png", *values.values()), (path, *values.values()), ("b.png", *values.values())]
    at = 1 + list(values).index(key)
    rows[0], rows[1] = ((*row[:at], value, *row[at + 1 :]) for row, value in zip(rows, (first, second), strict=False))
    said = refused(written(tmp_path, rows, ("path", *values)), data)
    assert f"gives two {key}s to one path: 'a.png'" in said and "b.png" not in said


def test_a_file_that_is_missing_or_none_is_quarantined_when_it_is_read(tmp_path, data):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "round").symlink_to("round")
    names = [
        "missing.png",
        "no/such.png",
        "a.png ",
        "folder.png",
        "pipe.png",
        "dangling.png",
        "loop.png",
        "round/x.png",
        ".",
    ]
    picture(tmp_path / "a.png")
    source = read(written(tmp_path, [(n, "cat") for n in (*names, "a.png")]), data)
    for ref in source.refs[:-1]:
        with pytest.raises(Unreadable) as error:
            source.load(ref)
        assert error.value.code == "not_a_file", ref
        there = ref in ("folder.png", "pipe.png", ".")
        assert ("only regular files" in error.value.remedy) == there and (
            "does not exist" in error.value.remedy
        ) != there
    assert source.load("a.png").pixels.shape == (8, 8, 1)


def test_a_name_that_no_file_can_have_is_quarantined(tmp_path, data):
    source = read(written(tmp_path, [("x" * 300 + ".png", "cat"), ("d/" * 3000 + "x.png", "cat")]), data)
    for ref in source.refs:
        with pytest.raises(Unreadable):
            source.load(ref)


ESCAPES = [
    "/etc/passwd",
    "//etc/passwd",
    "../x.png",
    "a/../../x.png",
    "a/..",
    "..",
    "~/x.png",
    "~root/x.png",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file:x.png",
    "..\\x.png",
    "C:\\x.png",
    "\\\\host\\share\\x.png",
    "a\0b.png",
]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("kind", ["set.csv", "set.parquet"])
def test_a_path_that_could_lead_out_of_the_folder_is_refused(tmp_path, data, name, kind):
    picture(tmp_path / "x.png")
    data = data.model_copy(update={"max_quarantined": 1.0})
    said = refused(written(tmp_path / "set", [("a.png", "cat"), (name, "cat")], name=kind), data)
    assert "leave its folder, which is never followed" in said and f"line 3: {name!r}" in said and "a.png" not in said


def test_all_paths_that_lead_out_are_listed_before_anything_else_is_said(tmp_path, data):
    rows = [("a.png", "cat"), *[(name, f"cat{i}") for i, name in enumerate(ESCAPES)], ("b.png", "")]
    said = refused(written(tmp_path, rows), data)
    assert all(f"line {i + 3}: {name!r}" in said for i, name in enumerate(ESCAPES))
    said = refused(written(tmp_path, [(f"../{i}.png", "cat") for i in range(500)]), data)
    assert "and 480 more" in said and len(said) < 2000


def test_links_out_of_the_folder_are_refused_and_links_within_it_are_read(tmp_path, data):
    root = tmp_path / "set"
    picture(tmp_path / "secret" / "x.png", 9)
    picture(root / "real" / "x.png", 1)
    (root / "file.png").symlink_to(tmp_path / "secret" / "x.png")
    (root / "relative.png").symlink_to("../secret/x.png")
    (root / "chain.png").symlink_to("file.png")
    (root / "folder").symlink_to(tmp_path / "secret")
    (root / "real" / "up").symlink_to("../..")
    (root / "none.png").symlink_to(tmp_path / "secret" / "not there.png")
    out = ["file.png", "relative.png", "chain.png", "folder/x.png", "real/up/secret/x.png", "none.png"]
    said = refused(written(root, [(n, "cat") for n in out]), data)
    assert all(f"line {i + 2}: {name!r}" in said for i, name in enumerate(out))
    (root / "inside.png").symlink_to("real/x.png")
    (root / "within").symlink_to("real")
    source = read(written(root, [(n, "cat") for n in ("inside.png", "within/x.png", "real/x.png")]), data)
    assert all(np.array_equal(source.load(ref).pixels[..., 0], pixels(1)) for ref in source.refs)


def test_a_folder_that_is_itself_reached_by_a_link_is_read(tmp_path, data):
    picture(tmp_path / "real" / "x.png", 1)
    written(tmp_path / "real", [("x.png", "cat")])
    (tmp_path / "link").symlink_to("real")
    source = read(tmp_path / "link" / "set.csv", data)
    assert np.array_equal(source.load("x.png").pixels[..., 0], pixels(1))


def test_no_path_at_all_reaches_a_picture_outside(tmp_path, data):
    root, secret = tmp_path / "a" / "set", pixels(9)
    picture(root / "b" / "x.png", 1)
    for place in (tmp_path, tmp_path / "a", tmp_path / "a" / "setx", tmp_path / "a" / "set2" / "b"):
        picture(place / "x.png", 9)
    (root / "b" / "up").symlink_to(tmp_path / "a")
    (root / "l.png").symlink_to("../x.png")
    parts = ["..", ".", "b", "up", "x.png", "~", "", "set", "set2", "l.png"]
    accepted = 0
    for size in (1, 2, 3, 4):
        for name in itertools.islice(map("/".join, itertools.product(parts, repeat=size)), 0, None, 1 + size**2):
            try:
                source = read(written(root, [(name, "cat")]), data)
            except ValueError:
                continue
            accepted += 1
            with contextlib.suppress(Unreadable):
                assert not np.array_equal(source.load(source.refs[0]).pixels[..., 0], secret), name
    assert accepted > 20


# Splits, groups, weights


def test_splits_have_aliases(tmp_path, data):
    names = {"train": "train", "Training": "train", "val": "val", "VALID": "val", " validation ": "val"}
    names |= {"test": "test", "testing": "test"}
    rows = [(f"{i}.png", "cat", name) for i, name in enumerate(names)]
    source = read(written(tmp_path, rows, ("path", "label", "split")), data)
    assert source.rows["split"].tolist() == list(names.values())


@pytest.mark.parametrize("wrong", ["", " ", "dev", "holdout", "nan", "0"])
def test_a_split_that_is_blank_or_unknown_is_refused(tmp_path, data, wrong):
    rows = [("a.png", "cat", "train"), ("b.png", "cat", wrong), ("c.png", "cat", "test"), ("d.png", "cat", wrong)]
    for name in ("set.csv", "set.parquet"):
        said = refused(written(tmp_path, rows, ("path", "label", "split"), name), data)
        assert "lines 3, 5: no split" in said and "validation" in said


def test_groups_lose_their_outer_spaces_and_nothing_else(tmp_path, data):
    rows = [(f"{i}.png", "cat", group) for i, group in enumerate(["001", "1", "NA", "p ", " p", "p", "P"])]
    source = read(written(tmp_path, rows, ("path", "label", "group")), data)
    assert source.rows["group"].tolist() == ["001", "1", "NA", "p", "p", "p", "P"] and source.grouped


def test_a_table_without_groups_says_so(tmp_path, data):
    assert not read(written(tmp_path), data).grouped


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_group_is_refused(tmp_path, data, blank):
    rows = [("a.png", "cat", blank), ("b.png", "cat", "p"), ("c.png", "cat", blank)]
    said = refused(written(tmp_path, rows, ("path", "label", "group")), data)
    assert "lines 2, 4: no group" in said and "a name of its own" in said


def test_weights_are_numbers_above_zero(tmp_path, data):
    weights = ["0.1", "1", "2.5", "1e-3", " 3 "]
    rows = [(f"{i}.png", "cat", w) for i, w in enumerate(weights)]
    source = read(written(tmp_path, rows, ("path", "label", "weight")), data)
    assert source.rows["weight"].tolist() == [float(w) for w in weights]


@pytest.mark.parametrize("wrong", ["", "0", "-1", "nan", "inf", "-inf", "1e999", "much", "1,5", "0x10", "None"])
def test_any_other_weight_is_refused(tmp_path, data, wrong):
    rows = [("a.png", "cat", "1"), ("b.png", "cat", wrong)]
    assert "lines 3: a weight must be a number" in refused(written(tmp_path, rows, ("path", "label", "weight")), data)


# Columns


OTHER = {"path": "file", "label": "finding", "group": "patient", "split": "fold", "weight": "trust"}


def test_columns_may_have_other_names(tmp_path, data, columns):
    rows = [("a.png", "cat", "p1", "train", "0.5"), ("b.png", "dog", "p2", "test", "1")]
    usual = read(written(tmp_path, rows, tuple(OTHER), "usual.csv"), data)
    assert read(written(tmp_path, rows, tuple(OTHER.values()), "other.csv"), columns(**OTHER)).rows.equals(usual.rows)


@pytest.mark.parametrize("key", OTHER)
def test_a_column_that_was_renamed_must_be_there(tmp_path, columns, key):
    said = refused(written(tmp_path), columns(**{key: OTHER[key]}))
    assert f"{key} ({OTHER[key]!r})" in said and "it has ['path', 'label']" in said and "data.manifest" in said


@pytest.mark.parametrize("name", ["set.csv", "set.tsv", "set.parquet"])
@pytest.mark.parametrize(
    ("header", "gone"),
    [
        (("file", "class"), "path ('path'), label ('label')"),
        (("path", "Label"), "label ('label')"),
        ((" path", "label"), "path"),
    ],
)
def test_columns_that_are_missing_are_named_beside_those_there_are(tmp_path, data, name, header, gone):
    path = written(tmp_path, header=header, name=name, separator="\t" if name == "set.tsv" else ",")
    said = refused(path, data)
    assert gone in said and str(list(header)) in said


def test_two_columns_of_one_name_are_refused_where_they_matter(tmp_path, data):
    rows = [("a.png", "cat", "dog")]
    assert "several columns called 'label'" in refused(written(tmp_path, rows, ("path", "label", "label")), data)
    assert read(written(tmp_path, rows, ("path", "x", "label"), "one.csv"), data).rows["label"].tolist() == ["dog"]


# Files that are no table


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        ("\ufeff", "it is empty"),
        ("path,label\n", "has no rows"),
        ("path,label", "has no rows"),
        ("a.png,cat\nb.png,dog\n", "lacks the columns"),
        ("path,label\na.png,cat\nb.png\n", "the header has 2 columns, ['path', 'label'], but line 3 has 1"),
        ("path,label\na.png,cat,\nb.png,dog,\n", "but line 2 has 3, line 3 has 3"),
        ("path,label\na,b.png,cat\n", "but line 2 has 3"),
        ("path;label\na.png;cat\nb.png,dog\n", "but line 3 has 1"),
        ('path,label\na.png,cat\n"b.png,cat\nc.png,cat\n', "line 3: unexpected end of data"),
        ('path,label\n"a"b.png,cat\n', "line 2: "),
        ("path,label\na.png," + "x" * 200_000, "line 2: field larger"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, data, text, says):
    (tmp_path / "set.csv").write_text(text, encoding="utf-8")
    assert says in refused(tmp_path / "set.csv", data)


def test_a_table_with_many_odd_lines_gives_a_message_that_can_be_read(tmp_path, data):
    (tmp_path / "set.csv").write_text("path,label\n" + "a.png\n" * 1000)
    said = refused(tmp_path / "set.csv", data)
    assert "and so have 980 more" in said and len(said) < 1000


@pytest.mark.parametrize("name", ["set.csv", "set.tsv", "set.parquet"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"PAR1",
        b"PAR1\0\0\0\0PAR1",
        b"PAR1\xff\xff\xff\xffPAR1",
        "path,label\na.png,cat\n".encode("utf-16"),
        "path,label\nb\u00e4r.png,cat\n".encode("latin-1"),
        b"\0" * 1000,
        np.random.default_rng(0).bytes(5000),
    ],
)
def test_bytes_of_another_kind_are_refused(tmp_path, data, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, data)


def test_twenty_thousand_rows_come_through_in_order(tmp_path, data):
    rows = [(f"images/{i % 10}/{i}.png", f"c{i % 7}", f"p{i // 3}") for i in range(20_000)]
    source = read(written(tmp_path, rows, ("path", "label", "group")), data)
    assert source.rows[["path", "label", "group"]].values.tolist() == [list(row) for row in rows]


# Tables as Parquet


def test_numbers_and_gaps_in_parquet_become_the_text_one_would_write(tmp_path, data):
    frame = pd.DataFrame(
        {"path": ["a.png", "b.png", "c.png"], "label": pd.array([1, 20, 1], "Int64"), "group": [7, 8, 9]}
    )
    frame.to_parquet(tmp_path / "set.parquet")
    source = read(tmp_path / "set.parquet", data)
    assert source.classes == ("1", "20") and source.rows["group"].tolist() == ["7", "8", "9"]
    frame["label"] = pd.array([1, None, 1], "Int64")
    frame.to_parquet(tmp_path / "set.parquet")
    for listed in ("auto", ["1", "20"]):
        said = refused(tmp_path / "set.parquet", data.model_copy(update={"classes": listed}))
        assert said.splitlines()[1:] == ["  lines 3: no label"]


def test_an_index_and_a_selection_of_rows_do_not_disturb_a_parquet_table(tmp_path, data):
    frame = pd.DataFrame({"path": [p for p, _ in BASIC], "label": pd.Categorical([c for _, c in BASIC])})
    frame.set_index("path").to_parquet(tmp_path / "index.parquet")
    frame[::-1][:2].to_parquet(tmp_path / "some.parquet")
    assert read(tmp_path / "index.parquet", data).rows["path"].tolist() == ["a.png", "b.png", "c.png"]
    assert read(tmp_path / "some.parquet", data).rows["path"].tolist() == ["c.png", "b.png"]


def test_a_folder_named_like_a_column_adds_none(tmp_path, data):
    path = written(tmp_path / "split=test", name="set.parquet")
    assert set(read(path, data).rows["split"]) == {""}


def test_a_parquet_table_cut_or_altered_anywhere_is_read_or_refused(tmp_path, data):
    whole = written(tmp_path, BASIC * 10, name="set.parquet").read_bytes()
    path, rng = tmp_path / "set.parquet", np.random.default_rng(0)
    for share in np.linspace(0, 0.999, 20):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path, data)
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 5)):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            read(path, data)
        except ValueError as error:
            assert "set.parquet" in str(error)


def test_a_parquet_table_that_unpacks_to_far_more_than_it_is_is_not_unpacked(tmp_path, data, monkeypatch):
    monkeypatch.setattr(manifest, "SMALL", 1000)
    frame = pd.DataFrame({"path": ["x" * 4_000_000], "label": ["cat"]})
    frame.to_parquet(tmp_path / "set.parquet", compression="zstd")
    assert (tmp_path / "set.parquet").stat().st_size < 10_000
    assert re.search(r"claims [\d,]+ bytes from", refused(tmp_path / "set.parquet", data))


@pytest.mark.parametrize("text", ["," * 1_000_000 + "\na", "x" * 100_000 + ",b\n1,2"])
def test_a_header_without_end_is_not_all_said(tmp_path, data, text):
    (tmp_path / "set.csv").write_text(text)
    assert len(refused(tmp_path / "set.csv", data)) < 2000


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_path_is_said_to_be_none(tmp_path, data, blank):
    """It was said to lead out of the folder."""
    said = refused(written(tmp_path, [("a.png", "cat"), (blank, "dog")]), data)
    assert "lines 3: no path" in said and "leave" not in said
