"""Rows that one network finds near to real rows and another does not. Run: python -m pytest tests/reporting/test_opinions.py"""

import numpy as np
import pandas as pd

from pipeline.reporting.opinions import disputed, opinions_table, sides

NAN = float("nan")
FOUND = pd.DataFrame(
    [
        ("real", "r0", 0.2, 0.9),
        ("cvae", "c0", 0.9, 1.0),  # as far as 95 % of real rows: near
        ("cvae", "c1", 0.5, 1.1),
        ("cvae", "c2", 0.1, 9.0),
        ("cvae", "c3", 2.0, 0.3),
        ("cvae", "c4", 1.5, 1.5),
        ("few", "f0", NAN, 0.1),
    ],
    columns=["generator", "id", "baseline", "encoder"],
)


def test_a_row_is_near_for_both_for_one_or_for_neither_or_nothing_is_known():
    said = ["both", "both", "baseline alone", "baseline alone", "encoder alone", "neither", ""]
    assert sides(FOUND).tolist() == said


def test_shares_are_of_the_rows_of_a_generator():
    table = opinions_table(FOUND).set_index("generator")
    assert table.loc["cvae"].tolist() == [5, "20 %", "40 %", "20 %", "20 %"]
    assert table.loc["real"].tolist() == [1, "100 %", "0 %", "0 %", "0 %"]
    assert table.loc["few"].tolist() == [1, "n/a", "n/a", "n/a", "n/a"]


def test_the_most_disputed_rows_come_first_wherever_they_stand():
    ids = pd.Series(["c4", "c1", "c3", "c2", "c0"])
    (one, first), (other, second) = disputed(FOUND[FOUND["generator"] == "cvae"], ids)
    assert (one, other) == ("near for baseline alone", "near for encoder alone")
    assert ids[first].tolist() == ["c2", "c1"] and ids[second].tolist() == ["c3"]
    assert all(len(rows) == 0 for _, rows in disputed(FOUND, pd.Series(["c0"])))


def test_no_rows_no_table():
    assert opinions_table(FOUND[:0]).empty and np.array_equal(sides(FOUND[:0]), np.array([], str))
