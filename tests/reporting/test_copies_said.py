"""What is said of copies: by which search, at which thresholds, and never more than was found.

Run: python -m pytest tests/reporting/test_copies_said.py
"""

from pathlib import Path

import pytest

from pipeline.reporting.copies import sentences

ROOT = Path(__file__).parents[2]


def summary(copied: int, refused: str = "") -> dict:
    one = {"generated": 120, "dropped": {"copy": copied}}
    return {"copy_rule": {"distance": 0.0123, "ratio": 0.345}, "classes": {"a": one}, "refused": refused}


def test_no_copy_found_is_said_with_the_test_its_thresholds_and_its_false_alarms():
    (said,) = sentences({"cvae": summary(0)}, {"cvae"}, 0.01)
    assert said == (
        "cvae: no copy found in 120 rows, by a search among training rows, mirrored, moved and cropped, within 0.012 of one or "
        "0.34 times as far as from the next ones (false alarms: about 1 % of real rows)."
    )


@pytest.mark.parametrize(
    ("copied", "refused", "chosen", "words"),
    [
        (3, "", True, "3 of 120 rows are copies or nearly so, and are not used, by a search"),
        (90, "90 of 120 rows are copies", True, "REFUSED. 90 of 120 rows are copies."),
        (120, "", False, "120 of 120 rows are copies or nearly so; arms that use its rows learn from all of them."),
    ],
)
def test_copies_are_counted_and_what_became_of_them_is_said(copied, refused, chosen, words):
    (said,) = sentences({"g": summary(copied, refused)}, {"g"} if chosen else set(), 0.01)
    assert said.startswith(f"g: {words}")


def test_nothing_is_said_of_a_generator_that_made_nothing():
    empty = {"copy_rule": {"distance": 0.01, "ratio": 0.3}, "classes": {}, "refused": ""}
    assert sentences({"nothing": empty}, {"nothing"}, 0.01) == []


def test_nowhere_is_a_set_called_anonymous():
    """The word stands only where it is denied."""
    texts = [*(ROOT / "pipeline" / "reporting").glob("*.*"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    for file in texts:
        for line in file.read_text().splitlines():
            if "anonym" in line.lower():
                assert any(
                    no in line.lower()
                    for no in ("not anonym", "not make", "no test here makes", "never", "nobody", "no ")
                ), line
