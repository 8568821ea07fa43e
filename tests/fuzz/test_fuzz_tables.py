"""Tables with odd columns, encodings, labels and paths. Run: python -m pytest tests/fuzz/test_fuzz_tables.py"""

import csv
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import csvs, processes
from pipeline.data import audit, intake, sources
from pipeline.data.sources import pool
from pipeline.data.sources.base import Problem
from pipeline.params import Params
from stages.prepare import readable
from tests.fuzz import forms
from tests.fuzz.watch import SECRET, inputs, refused, watched

GOOD = [f"{i}.png" for i in range(6)]
LEADING_OUT = ["../secret/x.png", "a/../../secret/x.png", "/etc/passwd", "~/x.png", "file:///etc/passwd", "link.png", "way/x.png",
               "a/../0.png", "a\\..\\x.png", "FILE:x", "0.png\0.jpg", "//etc/passwd"]  # fmt: skip
ODD = ["", " ", ".", "..", "a", "none.png", "0.png ", "./0.png", ".//1.png", "x" * 300, "\x1b[31m.png", "\n.png", "\u202e.png",
       "é.png", "=1+1", "pipe.png", "folder.png", "\ud800.png", "<b>.png"]  # fmt: skip
PATHS = st.sampled_from(GOOD) | st.sampled_from(GOOD + LEADING_OUT + ODD) | st.text(max_size=8)
LABELS = st.sampled_from(["a", "b"]) | st.sampled_from(
    ["a", "A", "a ", "NA", "001", "1.0", "", "\0", "\x1b[2J", "a\nb", "=a", "é", "e\u0301", "nan"]
)
CELLS = {
    "path": PATHS,
    "label": LABELS | st.text(max_size=5),
    "group": st.sampled_from(["p1", "p2", "", " ", "\x07", "NaN"]) | st.text(max_size=4),
    "split": st.sampled_from(["train", "val", "test"]) | st.sampled_from(["Train ", "validation", "", "heldback", "x"]),
    "weight": st.sampled_from(["1", "0", "0.5", "-1", "nan", "inf", "1e400", "", "x", "0x10", "1_0", "٣"]),
}
HEADER = st.lists(
    st.sampled_from([*CELLS, *CELLS, "Path", "label ", "", "\ufeff", "x"]) | st.text(max_size=4), min_size=1, max_size=6
)
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-32")


@pytest.fixture(scope="module", autouse=True)
def inline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "parallel", lambda f, jobs, *_: [f(*job, report=lambda *_: None) for job in jobs])
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with pictures and with ways out of it, beside one in which nothing may be read."""
    outer = tmp_path_factory.mktemp("tables").resolve()
    (outer / SECRET).mkdir()
    (outer / SECRET / "x.png").write_bytes(forms.pictures()["grey.png"])
    home = outer / "home"
    (home / "folder.png").mkdir(parents=True)
    for i, name in enumerate(GOOD):
        (home / name).write_bytes(forms.saved(forms.pixels(9, 9, seed=i), "PNG"))
    os.mkfifo(home / "pipe.png")
    (home / "link.png").symlink_to(outer / SECRET / "x.png")
    (home / "way").symlink_to(outer / SECRET)
    return home


@st.composite
def rows(draw: st.DrawFn) -> list[list[str]]:
    header = draw(st.sampled_from((["path", "label"], ["path", "label", "group"], list(CELLS))) | HEADER)
    lines = st.tuples(*(CELLS.get(column, st.text(max_size=4)) for column in header)).map(list)
    table = [header, *draw(st.lists(lines, max_size=8))]
    if draw(st.integers(0, 9)) == 0:  # a line that is too long or too short
        table[-1] = table[-1] + ["more"] if draw(st.booleans()) else table[-1][1:]
    return table


def written(table: list[list[str]], separator: str, encoding: str, end: str, quoted: bool) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(
        out,
        delimiter=separator,
        lineterminator=end,
        quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL,
        escapechar="\\",
    )
    for line in table:
        writer.writerow(line)
    return out.getvalue().encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")


def taken(path: Path, home: Path, params: Params, unlabelled: bool = False) -> None:
    """Reads and looks at everything, and lists what is left out, as `prepare` does."""
    data = params.data.model_copy(update={"source": str(path), "max_quarantined": 1.0, "unlabelled": str(path)})
    scratch = home / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()

    def read() -> bool:
        source = pool.read(path, data) if unlabelled else sources.read(data, params.sources.digits, 0, scratch)
        seen = intake.look(source, scratch / "thumbs")
        good, lost = readable(source, seen)
        listed = audit.quarantine(lost)
        (scratch / "quarantine.csv").write_text(listed, encoding="utf-8", newline="")
        assert len(good) + len([p for p in lost if p.code != "repeated"]) == len(source.refs)
        back = csvs.read(scratch / "quarantine.csv", Problem._fields)
        assert list(back.itertuples(index=False, name=None)) == [tuple(p) for p in lost]
        assert (back["code"] != "").all() and (back["remedy"] != "").all()
        return True

    with watched(home):
        refused(read, "data.", path.name)


def test_tables_of_text_are_read_or_refused_by_name(home, shipped):
    @inputs(150)
    @given(drawn=st.data())
    def one(drawn: st.DataObject) -> None:
        content = written(
            drawn.draw(rows()),
            drawn.draw(st.sampled_from(",,;\t|")),
            drawn.draw(st.sampled_from(ENCODINGS)),
            drawn.draw(st.sampled_from(("\n", "\r\n", "\r"))),
            drawn.draw(st.booleans()),
        )
        if drawn.draw(st.integers(0, 3)) == 0:
            content = drawn.draw(forms.damaged(content))
        path = home / drawn.draw(st.sampled_from(("set.csv", "set.tsv")))
        path.write_bytes(content)
        taken(path, home, shipped, drawn.draw(st.booleans()))

    one()


def test_tables_in_parquet_are_read_or_refused_by_name(home, shipped):
    @inputs(60)
    @given(drawn=st.data())
    def one(drawn: st.DataObject) -> None:
        header, *lines = drawn.draw(rows())
        columns = {c: [line[i] if i < len(line) else None for line in lines] for i, c in enumerate(header)}
        if drawn.draw(st.booleans()):
            odd = drawn.draw(st.sampled_from((1, 1.5, None, [1], b"x", True, pd.Timestamp(0), {"bytes": b"x"})))
            columns[drawn.draw(st.sampled_from(sorted(CELLS)))] = [odd] * len(lines)
        path = home / "set.parquet"
        try:
            pd.DataFrame(columns).to_parquet(path, row_group_size=drawn.draw(st.sampled_from((1, 3, None))))
        except (ValueError, UnicodeError):
            return  # such a table cannot be written
        if drawn.draw(st.integers(0, 3)) == 0:
            path.write_bytes(drawn.draw(forms.damaged(path.read_bytes())))
        taken(path, home, shipped, drawn.draw(st.booleans()))

    one()


@pytest.mark.parametrize("path", LEADING_OUT)
@pytest.mark.parametrize("unlabelled", [False, True])
def test_a_way_out_of_the_folder_is_never_taken(home, shipped, path, unlabelled):
    (home / "set.csv").write_bytes(written([["path", "label"], [path, "a"], ["0.png", "b"]], ",", "utf-8", "\n", True))
    with watched(home), pytest.raises(ValueError, match=r"leave its folder|cannot be read as a table"):
        data = shipped.data.model_copy(update={"source": str(home / "set.csv"), "max_quarantined": 1.0})
        if unlabelled:
            pool.read(home / "set.csv", data)
        else:
            sources.read(data, shipped.sources.digits, 0, home)
