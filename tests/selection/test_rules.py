"""Doses, rules and quotas of selection. Run: python -m pytest tests/selection/test_rules.py"""

import numpy as np
import pytest

from pipeline.params import Selection
from pipeline.params.sections import Cap
from pipeline.samples import spread
from pipeline.selection import rules
from tests.conftest import toy_samples

WIDE = Cap(rows=(1, 1_000_000), ratio=(1000.0, 1000.0))  # a cap that never binds here
BLOCK = Selection(
    unlike=1.5, alike=0.2, third_class=0.8, neighbours=1, copy_false_alarms=0.01, max_copy_share=0.25, too_few=0.5
)
COUNTS = np.array([100, 64, 36, 4])


@pytest.mark.parametrize(
    ("dose", "goal"),
    [
        ("double", [200, 200, 200, 200]),
        ("full", [100, 100, 100, 100]),
        ("median", [100, 64, 50, 50]),
        ("sqrt", [100, 80, 60, 20]),
        ("quarter", [100, 73, 52, 28]),
    ],
)
def test_doses_have_their_closed_forms(dose, goal):
    assert rules.wanted(COUNTS, np.arange(4), dose, WIDE).tolist() == (np.array(goal) - COUNTS).tolist()


@pytest.mark.parametrize("dose", ["double", "full", "median", "sqrt", "quarter"])
def test_classes_that_are_not_scarce_get_nothing(dose):
    assert not rules.wanted(COUNTS, np.array([], np.int64), dose, WIDE).any()
    only = rules.wanted(COUNTS, np.array([3]), dose, WIDE)
    assert only[3] > 0 and not only[:3].any()


def test_equal_classes_need_no_rows():
    for dose in ("full", "median", "sqrt", "quarter"):
        assert not rules.wanted(np.full(5, 17), np.arange(5), dose, WIDE).any()


def test_doses_are_ordered():
    doses = ("quarter", "sqrt", "full", "double")
    quarter, sqrt, full, double = (rules.wanted(COUNTS, np.arange(4), d, WIDE) for d in doses)
    assert (quarter <= full).all() and (sqrt <= full).all() and (full < double).all()


@pytest.mark.parametrize("few", range(1, 13))
def test_cap_gives_whole_ratios_in_full_at_and_beyond_its_row_counts(few):
    """A cap of 5 means 5 rows per real row; not 4 because exp(log 5) falls short of 5."""
    cap = Cap(rows=(64, 200), ratio=(float(few), 1.0))
    counts = np.array([1, 7, 64, 200, 900, 1_000_000])
    added = rules.wanted(counts, np.arange(6), "full", cap)
    assert added[:5].tolist() == [few, 7 * few, 64 * few, 200, 900]


def test_cap_falls_log_linearly_between_its_row_counts():
    cap = Cap(rows=(64, 256), ratio=(16.0, 1.0))
    for n, ratio in ((64, 16.0), (128, 4.0), (256, 1.0)):  # halfway in log rows is halfway in log ratio
        added = rules.wanted(np.array([n, 10**9]), np.array([0]), "full", cap)[0]
        assert abs(added - ratio * n) <= 1
    some = np.arange(64, 257)
    added = np.array([rules.wanted(np.array([n, 10**9]), np.array([0]), "full", cap)[0] for n in some])
    assert (np.diff(added / some) <= 1 / 64).all(), "the ratio never rises with the rows, but for rounding"


def test_cap_binds_only_where_the_goal_is_larger():
    cap = Cap(rows=(64, 200), ratio=(10.0, 1.0))
    assert rules.wanted(np.array([100, 90, 5]), np.array([1, 2]), "full", cap).tolist() == [0, 10, 50]


def test_what_is_drawn_is_not_one_more_for_the_rounding_of_floats():
    assert rules.drawn(np.array([0, 5, 100, 110]), 1.1).tolist() == [0, 6, 110, 121]
    assert rules.drawn(np.array([7, 8]), 2.0).tolist() == [14, 16]


def test_a_class_without_rows_gets_none():
    assert rules.wanted(np.array([50, 0]), np.array([1]), "full", WIDE).tolist() == [0, 0]


def judged(**change):
    """Reasons of one row that breaks no rule but for what is changed; class 0's neighbours are 0 and 1."""
    row = {"label": 0, "judged": 0, "confidence": 0.9, "distance": 0.7, "spread": 1.0, "copied": False, **change}
    neighbours = np.array([[True, True, False], [True, True, False], [False, True, True]])
    arrays = {k: np.array([v]) for k, v in row.items()}
    return rules.reasons(**arrays, neighbours=neighbours, block=BLOCK)[0]


def test_a_row_that_breaks_no_rule_has_no_reason():
    assert judged() == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"copied": True}, "copy"),
        ({"distance": 1.6}, "unlike"),
        ({"spread": 0.1}, "alike"),
        ({"judged": 2}, "third_class"),
        ({"judged": 1}, ""),  # sure of a neighbouring class: a hard row, not a wrong one
        ({"judged": 2, "confidence": 0.79}, ""),  # not sure
    ],
)
def test_each_rule_alone(change, reason):
    assert judged(**change) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"distance": 1.5}, ""),
        ({"distance": np.nextafter(1.5, 2)}, "unlike"),
        ({"spread": 0.2}, ""),
        ({"spread": np.nextafter(0.2, 0)}, "alike"),
        ({"judged": 2, "confidence": 0.8}, "third_class"),
        ({"judged": 2, "confidence": np.nextafter(0.8, 0)}, ""),
    ],
)
def test_values_on_a_bound(change, reason):
    assert judged(**change) == reason


def test_reasons_are_given_in_the_order_in_which_they_are_listed():
    third, far, copy, one = {"judged": 2}, {"distance": 9.0}, {"copied": True}, {"spread": 0.0}
    assert judged(**third, **one) == "alike"
    assert judged(**third, **one, **far) == "unlike"
    assert judged(**third, **far, **copy) == judged(**third, **copy) == "copy"
    assert list(rules.REASONS) == ["copy", "unlike", "alike", "third_class", "refused", "quota"]


def test_a_collapsed_class_is_dropped_and_no_other():
    """A generator whose second class is one picture, seen as `pseudo_label` sees it."""
    rng, real = np.random.default_rng(0), toy_samples((12, 12, 12))
    made = toy_samples((9, 9, 9), seed=1)
    images = made.images.copy()
    images[made.y == 1] = np.clip(images[9].astype(int) + rng.integers(-2, 3, (9, *images.shape[1:])), 0, 255)
    spreads, plain = spread(images, made.y, real), np.zeros(27)
    near = np.ones((3, 3), bool)
    why = rules.reasons(made.y, made.y, plain, plain, spreads, plain > 0, near, BLOCK)
    assert np.array_equal(why == "alike", made.y == 1) and (why[made.y != 1] == "").all()
    assert rules.most_dropped(why[made.y == 1]).startswith("of 9, alike dropped 9: it collapsed there")


def test_a_row_without_a_distance_is_judged_by_the_other_rules():
    assert judged(distance=np.nan, spread=np.nan) == ""
    assert judged(distance=np.nan, judged=2) == "third_class"
    assert judged(distance=np.nan, copied=True) == "copy"


@pytest.mark.parametrize(("copies", "refused"), [(0, False), (25, False), (26, True), (100, True)])
def test_a_generator_with_too_many_copies_is_refused_whole(copies, refused):
    copied = np.arange(100) < copies
    why = np.where(copied, "copy", np.where(np.arange(100) % 3, "", "unlike")).astype(object)
    found = rules.refuse(why, 0.25)
    assert ((found == "refused") == (refused & (why == ""))).all()
    assert (found[why != ""] == why[why != ""]).all()
    assert len(rules.refuse(np.empty(0, object), 0.25)) == 0


def test_no_rows_have_no_reasons():
    empty, index = np.zeros(0), np.zeros(0, np.int64)
    assert (
        len(rules.reasons(index, index, empty, empty, np.ones(3), empty.astype(bool), np.eye(3, dtype=bool), BLOCK))
        == 0
    )


def random_rows(seed=0, rows=300, classes=4):
    rng = np.random.default_rng(seed)
    why = np.array(["", "", "copy", "unlike"], dtype=object)[rng.integers(0, 4, rows)]
    return rng.integers(0, classes, rows), why, rng.integers(0, 60, classes)


def test_fill_keeps_the_first_fit_rows_up_to_each_quota():
    label, why, quota = random_rows()
    filled = rules.fill(label, why, quota)
    for c in range(4):
        fit, kept = np.flatnonzero((label == c) & (why == "")), np.flatnonzero((label == c) & (filled == ""))
        assert kept.tolist() == fit[: quota[c]].tolist()
        assert ((label == c) & (filled == "quota")).sum() == max(0, len(fit) - quota[c])


def test_fill_leaves_the_reasons_of_dropped_rows_and_its_input_alone():
    label, why, quota = random_rows(1)
    before = why.copy()
    filled = rules.fill(label, why, quota)
    assert (why == before).all()
    assert (filled[why != ""] == why[why != ""]).all()


def test_fill_with_a_quota_of_zero_drops_every_fit_row():
    filled = rules.fill(np.zeros(3, np.int64), np.array(["", "copy", ""], dtype=object), np.array([0]))
    assert filled.tolist() == ["quota", "copy", "quota"]


def test_first_rows_are_the_rows_that_fill_would_keep():
    label, why, quota = random_rows(2)
    rows = rules.first_rows(label, why == "", quota)
    assert rows.tolist() == np.flatnonzero(rules.fill(label, why, quota) == "").tolist()
    assert (np.diff(rows) > 0).all()


def test_first_rows_of_nothing_are_none():
    none = rules.first_rows(np.zeros(0, np.int64), np.zeros(0, bool), np.array([3, 3]))
    assert none.tolist() == [] and none.dtype == np.int64
    assert rules.first_rows(np.zeros(4, np.int64), np.zeros(4, bool), np.array([3, 3])).tolist() == []
    assert rules.first_rows(np.arange(2), np.ones(2, bool), np.array([0, 0])).tolist() == []


def dealt(goal, there):
    """How many rows each of two generators gives if they take turns until the goal is met or neither has another."""
    given, turn = [0, 0], 0
    while sum(given) < goal and (given[0] < there[0] or given[1] < there[1]):
        given[turn] += given[turn] < there[turn]
        turn = 1 - turn
    return given


@pytest.mark.parametrize(
    ("goal", "there", "taken"),
    [
        (10, (20, 20), (5, 5)),
        (9, (20, 20), (5, 4)),
        (10, (2, 20), (2, 8)),
        (10, (20, 2), (8, 2)),
        (10, (2, 3), (2, 3)),
        (10, (0, 20), (0, 10)),
        (1, (3, 3), (1, 0)),
        (0, (3, 3), (0, 0)),
    ],
)
def test_two_generators_give_half_of_the_goal_each_or_what_the_other_lacks(goal, there, taken):
    assert rules.shared(np.array([goal]), [np.array([n]) for n in there]) == [np.array([n]) for n in taken]


def test_shares_are_those_of_taking_turns_in_every_class():
    rng = np.random.default_rng(0)
    for _ in range(200):
        goal, *there = rng.integers(0, rng.integers(1, 30), (3, 5))
        taken = np.array(rules.shared(goal, there))
        assert taken.T.tolist() == [dealt(*case) for case in zip(goal, zip(*there, strict=True), strict=True)]
        assert (taken >= 0).all() and (taken <= there).all() and (taken.sum(axis=0) <= goal).all()


def test_one_generator_gives_the_goal_or_all_there_is():
    (taken,) = rules.shared(np.array([5, 5, 0]), [np.array([9, 2, 4])])
    assert taken.tolist() == [5, 2, 0]


@pytest.mark.parametrize(
    "why, said",
    [
        (["unlike"] * 5 + ["copy"] * 2 + [""], "of 8, unlike dropped 5: "),
        (["copy", "copy", "unlike", "quota"], "of 4, copy dropped 2: "),
        (["third_class"], "of 1, third class dropped 1: "),
        (["", "quota"], "only 2 were generated (generation.oversupply)"),
    ],
)
def test_where_few_are_left_the_rule_that_dropped_most_is_named_with_what_to_do(why, said):
    told = rules.most_dropped(np.array(why, dtype=object))
    assert told.startswith(said)
    assert told.endswith(tuple(rules.REMEDIES.values())) or said == told
