"""Names in a .csv are text to a spreadsheet, and come back as they were. Run: python -m pytest tests/test_csvs.py"""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import csvs
from pipeline.data import audit
from pipeline.data.sources.base import Problem

ROOT = Path(__file__).parents[1]
FORMULAS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "'=1",
    "''@x",
    "-",
    "-1-2",
    "+1e5",
]
NAMES = [
    "cat",
    "",
    "NA",
    "nan",
    "001",
    "-1",
    "+1",
    "-0.5",
    "'quoted'",
    "'",
    "a=b",
    'say "x"',
    "a,b",
    "a;b",
    "a\nb",
    "a\rb",
    "a\r\nb",
    " =x",
]


@pytest.mark.parametrize("name", FORMULAS + NAMES)
def test_a_name_comes_back_as_it_was(tmp_path, name):
    frame = pd.DataFrame({"arm": "real", "class": [name, "b"], "value": [-1.5, np.nan]})
    csvs.write(frame, tmp_path / "x.csv")
    back = csvs.read(tmp_path / "x.csv", ("arm", "class", "not there"))
    assert back["class"].tolist() == [name, "b"] and np.array_equal(back["value"], frame["value"], equal_nan=True)


@pytest.mark.parametrize("name", FORMULAS)
def test_what_a_spreadsheet_would_compute_stands_behind_an_apostrophe(name):
    rows = list(csv.reader(io.StringIO(csvs.text(pd.DataFrame({"class": [name], "value": [-1.0]})), newline="")))
    assert rows == [["class", "value"], [f"'{name}", "-1.0"]]


@pytest.mark.parametrize("name", [n for n in NAMES if "\r" not in n])
def test_other_names_stand_as_they_are(name):
    frame = pd.DataFrame({"class": [name, "b"], "value": [-1.0, 2.5]})
    assert csvs.text(frame) == frame.to_csv(index=False)


def test_names_of_files_in_the_quarantine_list_are_no_formulas():
    lost = [
        Problem("=1+1.png", "", "empty", "fetch it"),
        Problem("\r.png", "3", "empty", "x"),
        Problem("@x", "4", "empty", "=x"),
    ]
    rows = list(csv.reader(io.StringIO(audit.quarantine(lost), newline="")))
    assert [row[0] for row in rows[1:]] == ["'=1+1.png", "'\r.png", "'@x"] and rows[3][3] == "'=x"


def test_tables_are_written_in_this_one_place():
    """But for the text of one that is hashed."""
    files = [f for folder in ("pipeline", "stages") for f in (ROOT / folder).rglob("*.py")]
    found = {str(f.relative_to(ROOT)) for f in files if re.search(r"\.to_csv\(|csv\.(Dict)?[wW]riter\(", f.read_text())}
    assert found == {"pipeline/csvs.py", "pipeline/samples.py"}
