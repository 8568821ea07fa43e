"""The audit in words. Run: python -m pytest tests/reporting/test_data.py"""

import pytest

from pipeline.reporting import data

ABOUT = {
    "classes": ["cat", "dog"],
    "scarce": ["dog"],
    "counts": {"train": {"cat": 9, "dog": 2}, "val": {"cat": 3, "dog": 1}, "test": {"cat": 4, "dog": 4}},
    "skipped": {".heic": 4},
    "quarantine": {"empty": 2, "leak": 1},
    "group_column": False,
    "exact_duplicates": 3,
    "near_pairs": 7,
    "near_bound": 0.71,
    "groups": 20,
    "rows_in_groups": 5,
    "largest_group": 4,
    "leaking_groups": 2,
    "leaking_rows": 6,
    "notes": {"alpha": 8},
    "unlabelled": 11,
    "heldback": 3,
    "test_resolution": 0.0554,
    "statistics": {
        split: {n: {"min": 4.0, "mean": 8.04, "max": 32.0} for n in ("mean", "spread", "height", "width")}
        for split in ("train", "val", "test")
    },
    "drift": [
        {"what": "mean", "split": "val", "train_mean": 100.04, "split_mean": 90.0, "distance": 0.25, "p": 0.0004}
    ],
}


def test_counts_stand_by_class_and_split():
    table = data.counts_table(ABOUT)
    assert table.to_dict("records")[1] == {"class": "dog", "train": 2, "val": 1, "test": 4, "scarce": "yes"}


def test_the_checks_say_what_was_found():
    found = data.checks_table(ABOUT).set_index("check")["found"].astype(str)
    for words in (
        "empty 2, leak 1",
        "4 .heic",
        "taken to be independent",
        "7 pairs with a correlation above 0.71",
        "±5.5 points",
        "alpha",
    ):
        assert found.str.contains(words, regex=False).any(), words


def test_the_audit_fits_in_one_line():
    line = data.audit_sentence(ABOUT | {"quarantined": 3})
    assert line == (
        "Audit: 3 rows left out, 3 exact duplicates, 7 near duplicate pairs, 2 groups in more than one split, "
        "least p of drift <0.001 in 1 test."
    )
    assert "not looked for" in data.audit_sentence(ABOUT | {"quarantined": 3, "near_bound": None, "drift": []})


def test_checks_that_were_not_made_are_not_said_to_have_found_nothing():
    found = (
        data.checks_table(ABOUT | {"near_bound": None, "group_column": True}).set_index("check")["found"].astype(str)
    )
    assert found["near duplicates"] == "not looked for" and found["group column"] == "yes"


def test_leaks_are_named_and_no_leak_gives_no_words():
    assert "2 groups" in data.leak_sentence(ABOUT) and "6 in all" in data.leak_sentence(ABOUT)
    assert data.leak_sentence(ABOUT | {"leaking_groups": 0}) == ""


@pytest.mark.parametrize(("times", "words"), [(1, "one set of params only"), (5, "5 different sets")])
def test_repeated_looks_at_the_test_split_are_counted(times, words):
    own = {"00ff": [f"settings {i}" for i in range(times)]}
    said = data.openings_sentence(own, "00ff")
    assert words in said and "looked at here" not in said
    assert data.openings_sentence(own | {"11": ["x"]}, "00ff") == f"{said} 1 other test split has been looked at here."
    assert data.openings_sentence(own | {"11": ["x"], "22": ["x", "y"]}, "00ff").endswith(
        "2 other test splits have been looked at here."
    )


def test_drift_is_shown_in_words_and_numbers():
    row = data.drift_table(ABOUT).to_dict("records")[0]
    assert row["what"] == "brightness" and row["mean in train"] == "100.0" and row["p"] == "<0.001"


def test_statistics_of_the_pictures_have_a_line_for_each_split():
    table = data.statistics_table(ABOUT)
    assert list(table.columns) == ["split", "brightness", "contrast", "height", "width"]
    assert table.iloc[2].tolist() == ["test", *["8.0 (4 to 32)"] * 4]
