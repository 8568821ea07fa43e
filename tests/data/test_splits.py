"""No group crosses a split, and what the source gives is kept. Run: python -m pytest tests/data/test_splits.py"""

import numpy as np
import pytest

from pipeline.data.splits import assign, folds, hold_back, strata

SHARES = {"test": 0.25, "val": 0.15}


def grouped(seed: int, rows: int = 600, largest: int = 5) -> tuple[list[str], list[str]]:
    """Labels of three unequal classes and groups of 1 to `largest` rows of one class."""
    rng = np.random.default_rng(seed)
    labels, groups = [], []
    while len(labels) < rows:
        size, label = rng.integers(1, largest + 1), str(rng.choice(["a", "b", "c"], p=[0.6, 0.3, 0.1]))
        labels += [label] * size
        groups += [f"g{len(groups)}"] * size
    order = rng.permutation(len(labels))
    return [labels[i] for i in order], [groups[i] for i in order]


def crossing(splits: np.ndarray, groups: list[str]) -> set[str]:
    seen: dict[str, set[str]] = {}
    for split, group in zip(splits, groups, strict=True):
        seen.setdefault(group, set()).add(split)
    return {group for group, where in seen.items() if len(where) > 1}


def test_a_cut_takes_no_group_that_stands_in_a_given_split():
    """With data.allow_leaks, test rows were once cut from patients of the given validation split."""
    labels, groups = ["a", "b"] * 40, [f"g{i // 4}" for i in range(80)]
    given = ["val" if i % 4 == 0 and i < 40 else "train" for i in range(80)]  # ten groups leak
    for seed in range(20):
        splits = assign(labels, groups, given, SHARES, seed)
        assert (splits == "test").any() and not set(np.array(groups)[splits == "test"]) & {f"g{i}" for i in range(10)}


@pytest.mark.parametrize("seed", range(5))
def test_groups_never_cross_and_every_class_gives_its_share(seed):
    labels, groups = grouped(seed)
    splits = assign(labels, groups, [""] * len(labels), SHARES, seed)
    assert crossing(splits, groups) == set()
    for label in "abc":
        own = splits[np.array(labels) == label]
        for name, share in SHARES.items():
            assert abs((own == name).mean() - share) < 0.08, (label, name)


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_several_labels_never_cross_either(seed):
    labels, groups = grouped(seed)
    labels = np.random.default_rng(seed).permutation(labels).tolist()
    assert crossing(assign(labels, groups, [""] * len(labels), SHARES, seed), groups) == set()


def moles(patients: int = 120, every: int = 6) -> tuple[list[str], list[str]]:
    """Patients of several nevi each, of whom every so manieth has one melanoma besides."""
    sizes = 3 + np.arange(patients) % 5
    groups = [f"p{i}" for i, n in enumerate(sizes) for _ in range(n)] + [f"p{i}" for i in range(0, patients, every)]
    return ["nevus"] * int(sizes.sum()) + ["melanoma"] * len(range(0, patients, every)), groups


@pytest.mark.parametrize("seed", range(5))
def test_a_class_that_is_never_the_commonest_of_a_group_gives_its_share_too(seed):
    labels, groups = moles()
    splits = assign(labels, groups, [""] * len(labels), SHARES, seed)
    assert crossing(splits, groups) == set()
    own = splits[np.array(labels) == "melanoma"]
    assert [(own == name).sum() for name in ("test", "val", "train")] == [5, 2, 13]
    assert abs((splits == "test").mean() - SHARES["test"]) < 0.08


def test_a_group_counts_under_its_rarest_class_in_whatever_order_its_rows_stand():
    labels = np.array(["a", "b", "a", "c", "b", "a", "b", "a", "d"])
    groups = np.array(["x", "x", "y", "y", "z", "z", "u", "v", "y"])
    for order in (np.arange(9), np.arange(9)[::-1]):
        found = strata(labels[order], groups[order])
        assert found.to_dict() == {"u": "b", "v": "a", "x": "b", "y": "c", "z": "b"} and list(found.index) == sorted(
            "uvxyz"
        )


@pytest.mark.parametrize("seed", range(20))
def test_every_class_keeps_a_group_in_train_however_much_is_drawn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(list("abcd"), 60, p=[0.6, 0.2, 0.15, 0.05])
    groups = rng.integers(0, 14, 60).astype(str)
    given = ["train"] * 60 + ["val"]
    splits = assign([*labels, "a"], [*groups, "own"], given, {"test": 0.85, "val": 0.85}, seed)[:60]
    assert set(labels[splits == "train"]) == set(labels) and "test" in splits


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("groups", ["of one class", "with rows of a common class"])
def test_rows_set_aside_leave_every_class_a_group(seed, groups):
    """With 0.85, a class of three rows gives two; and a common class all of whose groups hold the rare one keeps one too."""
    labels = np.array(["a"] * 3 + ["b"] * 3, dtype=object)
    names = np.array(list("xyzxyz" if groups == "with rows of a common class" else "uvwxyz"), dtype=object)
    split = hold_back(labels, names, np.full(6, "train", dtype=object), ("b",), 0.85, seed)
    assert (split[3:] == "heldback").sum() == 2
    assert set(labels[split == "train"]) == {"a", "b"} and crossing(split, names.tolist()) == set()


def test_a_common_class_is_not_emptied_by_what_a_rare_one_gives():
    labels = np.array(["b"] * 40 + ["a"] * 30, dtype=object)
    names = np.array([f"g{i}" for i in range(40)] + ["g0"] * 30, dtype=object)
    for seed in range(20):
        split = hold_back(labels, names, np.full(70, "train", dtype=object), ("b",), 0.9, seed)
        assert (split[labels == "a"] == "train").all() and (split == "heldback").sum() == 36


def test_rows_of_their_own_are_split_exactly():
    labels = ["a"] * 200 + ["b"] * 40
    splits = assign(labels, [str(i) for i in range(240)], [""] * 240, SHARES, 0)
    for label, n in (("a", 200), ("b", 40)):
        own = splits[np.array(labels) == label]
        assert (own == "test").sum() == 0.25 * n and (own == "val").sum() == round(0.15 * 0.75 * n)


def test_the_seed_decides_alone():
    labels, groups = grouped(0)
    one, again, other = (assign(labels, groups, [""] * len(labels), SHARES, s) for s in (1, 1, 2))
    assert (one == again).all() and (one != other).any()


def test_the_order_of_the_rows_decides_nothing():
    labels, groups = grouped(0)
    order = np.random.default_rng(1).permutation(len(labels))
    plain = assign(labels, groups, [""] * len(labels), SHARES, 1)
    turned = assign([labels[i] for i in order], [groups[i] for i in order], [""] * len(labels), SHARES, 1)
    assert (turned == plain[order]).all()


def test_given_splits_are_kept():
    labels, groups = grouped(0)
    given = np.random.default_rng(0).choice(["train", "val", "test"], len(labels)).tolist()
    assert assign(labels, groups, given, SHARES, 0).tolist() == given


@pytest.mark.parametrize(("missing", "kept"), [("val", "test"), ("test", "val")])
def test_a_missing_split_is_cut_from_train_as_a_share_of_trains_rows(missing, kept):
    labels = ["a", "b"] * 200
    given = ["train"] * 300 + [kept] * 100
    splits = assign(labels, [str(i) for i in range(400)], given, SHARES, 0)
    assert (splits[300:] == kept).all() and set(splits[:300]) == {"train", missing}
    assert (splits == missing).sum() == pytest.approx(SHARES[missing] * 300, abs=1)


def test_a_large_test_split_of_the_source_leaves_train_its_rows():
    labels, given = ["a", "b"] * 500, ["train"] * 100 + ["test"] * 900
    splits = assign(labels, [str(i) for i in range(1000)], given, SHARES, 0)
    assert (splits == "val").sum() == pytest.approx(15, abs=1) and (splits == "train").sum() >= 84


def test_the_input_is_not_written_to():
    given = np.array([""] * 40, dtype=object)
    assign(["a", "b"] * 20, [str(i) for i in range(40)], given, SHARES, 0)
    assert (given == "").all()


def test_half_given_splits_are_refused():
    with pytest.raises(ValueError, match="2 rows have no split while others do"):
        assign(["a"] * 6, list("abcdef"), ["train", "", "test", "train", "", "val"], SHARES, 0)


def test_a_class_of_one_or_two_rows_stays_in_train():
    labels = ["a"] * 60 + ["one"] + ["two"] * 2
    for seed in range(10):
        splits = assign(labels, [str(i) for i in range(63)], [""] * 63, SHARES, seed)
        assert (splits[60:] == "train").all() and {"val", "test"} <= set(splits)


def test_a_class_of_three_rows_keeps_one_for_training():
    labels = ["a"] * 60 + ["three"] * 3
    for seed in range(10):
        assert "train" in assign(labels, [str(i) for i in range(63)], [""] * 63, SHARES, seed)[60:]


def test_one_large_group_does_not_swallow_a_class():
    labels, groups = ["a"] * 100 + ["b"] * 40, ["big"] * 60 + [str(i) for i in range(80)]
    for seed in range(10):
        splits = assign(labels, groups, [""] * 140, SHARES, seed)
        assert crossing(splits, groups) == set() and (splits[:100] == "train").any()


def test_a_given_split_that_leaves_a_class_without_training_rows_is_refused():
    with pytest.raises(ValueError, match=r"classes \['b'\] have no training rows"):
        assign(["a", "a", "b", "a"], list("abcd"), ["train", "val", "test", "test"], SHARES, 0)


def test_too_few_rows_for_a_split_is_refused():
    with pytest.raises(
        ValueError, match=r"no row is left for the val split: .* a 2, b 2\..*val_fraction or data\.split"
    ):
        assign(["a", "a", "b", "b"], list("abcd"), [""] * 4, SHARES, 0)


def test_another_cut_is_not_advised_where_the_test_split_is_given():
    given = ["train"] * 4 + ["test"] * 2
    with pytest.raises(ValueError, match=r"no row is left for the val split") as error:
        assign([*"aabbab"], [*"xxyyzu"], given, SHARES, 0)
    assert "a 1, b 1" in str(error.value) and "data.split" not in str(error.value)
    assert "near_duplicates" in str(error.value)


def test_folds_keep_groups_whole_and_classes_in_proportion():
    labels, groups = grouped(3)
    y, groups = np.unique(labels, return_inverse=True)[1], np.array(groups)
    fold = folds(y, groups, 4, 0)
    assert set(fold) == {0, 1, 2, 3}
    assert all(len(set(fold[groups == g])) == 1 for g in set(groups))
    for c in range(3):
        assert np.abs(np.bincount(fold[y == c], minlength=4) / (y == c).sum() - 0.25).max() < 0.12


def test_folds_depend_on_the_seed_alone():
    y, groups = np.arange(60) % 3, np.arange(60)
    assert (folds(y, groups, 3, 2**63 - 1) == folds(y, groups, 3, 2**63 - 1)).all()
    assert (folds(y, groups, 3, 1) != folds(y, groups, 3, 2)).any()


def test_a_class_of_one_row_has_a_fold_too():
    y = np.array([0] * 20 + [1])
    assert set(folds(y, np.arange(21), 3, 0)) == {0, 1, 2}


def test_more_folds_than_groups_are_refused():
    with pytest.raises(ValueError, match=r"teachers\.folds is 3, but train has only 2 groups"):
        folds(np.array([0, 1, 0, 1]), np.array(["a", "a", "b", "b"]), 3, 0)


@pytest.mark.parametrize("seed", range(100))
def test_a_giant_group_never_becomes_the_test_split_while_there_are_smaller_ones(seed):
    """A chain of near duplicates was drawn first once in nine times, and left 7 of 108 rows for training."""
    labels = ["a"] * 108
    groups = ["chain"] * 100 + [f"g{i}" for i in range(8)]
    splits = assign(labels, groups, [""] * 108, {"test": 0.25, "val": 0.15}, seed)
    assert (splits[:100] == "train").all() and {"val", "test"} <= set(splits[100:])


def test_where_every_group_is_too_large_the_smallest_one_goes():
    groups = [f"g{i}" for i, n in enumerate((30, 12, 25, 40)) for _ in range(n)]
    splits = assign(["a"] * 107, groups, [""] * 107, {"test": 0.05, "val": 0.1}, 0)
    assert [groups[i] for i in np.flatnonzero(splits == "test")] == ["g1"] * 12
