"""What is wrong with a dataset is counted and said. Run: python -m pytest tests/data/test_audit.py"""

import io
import json

import numpy as np
import pandas as pd
import pytest

from pipeline.data.audit import (
    SPLITS,
    account,
    check_classes,
    check_losses,
    conflict_problems,
    conflicts,
    count,
    drift,
    find_scarce,
    leaking_rows,
    leaks,
    refuse_leaks,
    resolution,
    statistics,
)
from pipeline.data.sources.base import Problem
from pipeline.params.sections import Scarce
from pipeline.samples import table


def lost(n: int) -> list[Problem]:
    return [Problem(f"a/{i}.png", str(i + 2), "truncated", "fetch it again") for i in range(n)]


def labels(total: int) -> list[str]:
    return ["ab"[i % 2] for i in range(total)]


# Rows that cannot be used


@pytest.mark.parametrize(
    ("total", "bad", "most", "fine"),
    [(100, 1, 0.01, True), (100, 2, 0.01, False), (99, 1, 0.01, False), (5, 0, 0.0, True), (5, 1, 0.0, False)],
)
def test_the_limit_is_a_share_of_all_rows(total, bad, most, fine):
    if fine:
        check_losses(labels(total), ("a", "b"), ["a", "b"], lost(bad), most)
    else:
        with pytest.raises(ValueError, match=rf"{bad} of {total} .* data\.max_quarantined = {most:g}(?s:.*)a/0\.png"):
            check_losses(labels(total), ("a", "b"), ["a", "b"], lost(bad), most)


def test_twenty_lost_rows_are_named_and_all_of_them_noted():
    with pytest.raises(ValueError) as error:
        check_losses(labels(100), ("a", "b"), ["a", "b"], lost(30), 0.1)
    said, noted = str(error.value), "".join(error.value.__notes__)
    assert said.count("truncated") == 20 and "30 of 100" in said and said.endswith("... and 10 more")
    assert noted.count("truncated") == 30 and "a/29.png" in noted and "line 31: 'a/29.png': truncated" in noted


def test_all_lost_rows_are_handed_on_as_the_list_itself():
    twice = Problem("a/0.png", "40", "repeated", "the same path stands twice")
    with pytest.raises(ValueError) as error:
        check_losses(labels(100), ("a", "b"), ["a", "b"], [twice, *lost(30)], 0.1)
    told = pd.read_csv(io.StringIO(error.value.files["quarantine.csv"]), dtype=str)
    assert list(told) == ["file", "row", "code", "remedy"] and len(told) == 31
    assert told.iloc[0].tolist() == list(twice) and told["row"].tolist()[1:] == [str(i + 2) for i in range(30)]
    assert "30 of 100" in str(error.value) and "repeated" not in str(error.value)


def test_rows_that_stand_there_twice_are_no_loss():
    check_losses(labels(2), ("a", "b"), ["a", "b"], [Problem("a/0.png", str(i), "repeated", "") for i in range(9)], 0.0)


def test_a_class_that_loses_all_rows_stops_the_run():
    with pytest.raises(ValueError, match=r"no usable image is left in 'b', 'd'(?s:.*)'a/0\.png': truncated, fetch it"):
        check_losses([*"abacd"], ("a", "b", "c", "d"), ["a", "c", "a"], lost(1), 1.0)


def test_a_class_that_the_source_has_not_is_told_from_one_that_was_lost():
    """A name that was mistyped was laid to the files that could not be read."""
    with pytest.raises(ValueError, match=r"there is no image of 'bird'; correct data\.classes") as error:
        check_losses(labels(5), ("a", "b", "bird"), ["a", "b"], lost(1), 1.0)
    assert "a/0.png" not in str(error.value)


@pytest.mark.parametrize("classes", [("a",), ()])
def test_a_single_class_is_refused(classes):
    with pytest.raises(ValueError, match="all rows are of one class"):
        check_losses(labels(5), classes, classes * 5, [], 1.0)


# Equal pictures with different labels


def rows(*triples: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(triples, columns=["path", "hash", "label"]).assign(row="")


def test_conflicts_are_all_rows_of_a_hash_that_has_two_labels():
    frame = rows(("1", "x", "a"), ("2", "y", "a"), ("3", "x", "b"), ("4", "y", "a"), ("5", "z", "b"), ("6", "x", "a"))
    assert conflicts(frame["hash"], frame["label"]).tolist() == [True, False, True, False, False, True]


def test_each_conflicting_row_names_its_label_and_the_others():
    frame = rows(("1", "x", "a"), ("3", "x", "b"), ("6", "x", "a"), ("7", "w", "c"), ("8", "w", "b"))
    told = {p.file: p for p in conflict_problems(frame)}
    assert list(told) == ["1", "3", "6", "7", "8"] and {p.code for p in told.values()} == {"conflict"}
    assert "'a'" in told["1"].remedy and "'3'" in told["1"].remedy and "'7'" not in told["1"].remedy
    assert "'7'" in told["8"].remedy and "'8'" not in told["8"].remedy


def test_of_many_conflicting_rows_the_first_are_named_in_order():
    """They were named in an order that differed from run to run, some of them and then others."""
    frame = rows(*((str(i), "x", "ab"[i % 2]) for i in range(9)))
    assert all("'1', '2', '3'" in p.remedy for p in conflict_problems(frame) if p.file == "0")


# Leaks


def random_splits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.choice(SPLITS, 80), rng.choice([f"g{i}" for i in range(40)], 80), np.arange(80).astype(str)


@pytest.mark.parametrize("seed", range(5))
def test_leaks_are_the_groups_of_several_splits_with_a_row_of_each(seed):
    split, group, path = random_splits(seed)
    found = leaks(split, group, path).set_index("group")
    assert set(found.index) == {g for g in group if len(set(split[group == g])) > 1}
    for name, r in found.iterrows():
        assert r["splits"] == [s for s in SPLITS if s in split[group == name]] and r["rows"] == (group == name).sum()
        assert [split[int(p)] for p in r["paths"]] == r["splits"] and {group[int(p)] for p in r["paths"]} == {name}


@pytest.mark.parametrize("split", [["train", "train", "test"], ["", "", ""], []])
def test_groups_within_one_split_or_without_splits_are_no_leak(split):
    columns = (np.array(c[: len(split)], dtype=object) for c in (split, ["g", "g", "h"], ["1", "2", "3"]))
    found = leaks(*columns)
    assert len(found) == 0 and list(found) == ["group", "splits", "rows", "paths"]


@pytest.mark.parametrize("seed", range(5))
def test_rows_given_up_leave_no_leak_and_never_the_last_split(seed):
    split, group, path = random_splits(seed)
    gone = leaking_rows(split, group)
    assert len(leaks(split[~gone], group[~gone], path[~gone])) == 0
    for name in set(group):
        last = max(SPLITS.index(s) for s in split[group == name])
        assert (gone[group == name] == (split[group == name] != SPLITS[last])).all()


def test_refusing_names_pairs_splits_and_ways_out():
    split, group, path = random_splits(0)
    found = leaks(split, group, path)
    with pytest.raises(ValueError, match=rf"share {len(found)} groups or \(near\) duplicate images") as error:
        refuse_leaks(found, {g: [""] for g in found["group"]})
    said = str(error.value)
    assert (
        f"{found['rows'].sum()} rows" in said and "data.drop_leaks: true" in said and "data.allow_leaks: true" in said
    )
    assert len(said.splitlines()) == 1 + min(20, len(found)) + (len(found) > 20)
    first = found.iloc[0]
    assert f"{' = '.join(map(repr, first['paths']))} ({', '.join(first['splits'])})" in said


def test_refusing_also_names_the_groups_as_the_source_calls_them():
    split, path = np.array(["train", "test"] * 3, dtype=object), np.array([f"{i}.png" for i in range(6)], dtype=object)
    found = leaks(split, np.array(["p7", "p7", "x", "x", "y", "y"], dtype=object), path)
    with pytest.raises(ValueError) as error:
        refuse_leaks(found, {"p7": ["p7", "p7"], "x": ["p9", "p8"], "y": ["", ""]})
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "'0.png' = '1.png' (train, test; group 'p7')",
        "'2.png' = '3.png' (train, test; group 'p8', 'p9')",
        "'4.png' = '5.png' (train, test)",
    ]


# Scarce classes

COUNTS = {"a": 100, "b": 50, "c": 49, "d": 10, "e": 4}


@pytest.mark.parametrize(
    ("below", "of", "scarce"),
    [
        (0.5, "largest", ("c", "d", "e")),
        (0.5, "median", ("d", "e")),
        (1.0, "largest", ("b", "c", "d", "e")),
        (0.0, "largest", ()),
    ],
)
def test_scarce_classes_lie_below_a_share_of_the_reference(below, of, scarce):
    assert find_scarce(COUNTS, Scarce(classes="auto", below=below, of=of)) == scarce


def test_listed_classes_are_scarce_in_the_order_of_the_dataset():
    assert find_scarce(COUNTS, Scarce(classes=["e", "a"], below=0.5, of="largest")) == ("a", "e")
    assert find_scarce(COUNTS, Scarce(classes=[], below=0.5, of="largest")) == ()


def test_a_listed_class_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"data.scarce.classes: \['x', 'z'\] are no classes .*'a', 'b', 'c', 'd', 'e'"):
        find_scarce(COUNTS, Scarce(classes=["z", "a", "x"], below=0.5, of="largest"))


# Classes that nothing can be said of


def per_split(**counts: tuple[int, int, int]) -> dict[str, dict[str, int]]:
    return {s: {c: n[i] for c, n in counts.items()} for i, s in enumerate(SPLITS)}


def test_plenty_of_rows_give_no_warning():
    assert check_classes(per_split(a=(50, 5, 9), b=(6, 5, 5)), {"a": 50, "b": 6}) == []


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_with_training_groups_to_spare_and_none_in_a_split_is_refused(split):
    counts = per_split(a=(50, 5, 9), b=(3, 5, 5))
    counts[split]["b"] = 0
    with pytest.raises(ValueError, match=rf"class 'b' has no row in {split}, .*train 3, val \d, test \d"):
        check_classes(counts, {"a": 50, "b": 3})


@pytest.mark.parametrize(
    ("cut", "says", "hides"),
    [
        ((), "the source gives that split: add some, or remove the class", "data.split"),
        (("val", "test"), "the cut came out so: set another data.split or a larger data.val_fraction", "add some"),
        (
            ("val",),
            "the cut came out so: set a larger data.val_fraction, or divide groups that hold several",
            "data.split",
        ),
    ],
)
def test_what_to_do_about_a_class_that_a_split_lacks_depends_on_who_cut_it(cut, says, hides):
    with pytest.raises(ValueError, match="class 'b' has no row in val, so nothing could be said of it; ") as error:
        check_classes(per_split(a=(50, 5, 9), b=(3, 0, 5)), {"a": 50, "b": 3}, cut)
    assert says in str(error.value) and hides not in str(error.value)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_class_of_too_few_groups_is_told_to_be_not_evaluable(groups):
    told = check_classes(per_split(a=(50, 5, 9), b=(2, 0, 0)), {"a": 50, "b": groups})
    assert len(told) == 3 and "near copies of them: b (2)" in told[2]
    assert all(
        "class b" in w and "not evaluable" in w and s in w for w, s in zip(told[:2], ("val", "test"), strict=True)
    )


def test_few_rows_in_a_split_are_warned_of_with_their_number():
    told = check_classes(per_split(a=(50, 4, 9), b=(20, 5, 1)), {"a": 50, "b": 20})
    assert len(told) == 2 and "class a" in told[0] and "4" in told[0] and "val" in told[0]
    assert "class b" in told[1] and "1" in told[1] and "test" in told[1]


# How finely test resolves


@pytest.mark.parametrize(("classes", "n", "recall"), [(2, 50, 0.8), (5, 20, 0.8), (3, 200, 0.6), (1, 30, 0.9)])
def test_resolution_of_equal_classes_is_that_of_one_proportion(classes, n, recall):
    expected = 1.96 * np.sqrt(recall * (1 - recall) / (n * classes))
    assert resolution({str(c): n for c in range(classes)}, recall) == pytest.approx(expected)


def test_resolution_agrees_with_a_simulation_of_unequal_classes():
    counts = {"a": 200, "b": 40, "c": 8}
    drawn = np.random.default_rng(0).binomial(list(counts.values()), 0.8, (20000, 3)) / list(counts.values())
    assert resolution(counts) == pytest.approx(1.96 * drawn.mean(axis=1).std(), rel=0.03)


def test_classes_without_test_rows_are_left_out_of_the_resolution():
    assert resolution({"a": 20, "b": 0, "c": 20}) == resolution({"a": 20, "c": 20}) > resolution({"a": 40, "c": 40})
    assert resolution({"a": 0}) == 0


# Drift


def facts(**columns: np.ndarray) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    plain = {name: np.ones(n) for name in ("mean", "spread", "height", "width")}
    return pd.DataFrame(plain | columns)


def one(n: int) -> np.ndarray:
    return np.full(n, "a")


def test_drift_is_none_for_equal_and_whole_for_disjoint_values():
    split = np.repeat(SPLITS, 40)
    mean = np.concatenate([np.arange(40), np.arange(40), np.arange(40) + 100])
    told = {(d["what"], d["split"]): d for d in drift(facts(mean=mean), split, np.arange(120), one(120))}
    assert set(told) == {(w, s) for w in ("mean", "spread", "height", "width") for s in ("val", "test")}
    assert told["mean", "val"]["distance"] == pytest.approx(0) and told["mean", "val"]["p"] == pytest.approx(1)
    assert told["mean", "test"]["distance"] == pytest.approx(1) and told["mean", "test"]["p"] < 1e-6
    assert (told["mean", "test"]["train_mean"], told["mean", "test"]["split_mean"]) == pytest.approx((19.5, 119.5))
    assert told["width", "test"]["distance"] == pytest.approx(0) and told["width", "test"]["p"] == pytest.approx(1)


def test_drift_grows_with_the_shift():
    rng, split = np.random.default_rng(0), np.repeat(SPLITS, 200)
    x = rng.normal(size=600)
    distances = [
        drift(facts(spread=x + s * (split == "test")), split, np.arange(600), one(600))[3]["distance"]
        for s in (0, 0.5, 1, 2)
    ]
    assert distances == sorted(distances) and distances[0] < 0.15 < 0.6 < distances[-1]


def test_drift_of_groups_counts_each_once():
    """Ten pictures of a thing are no ten signs of drift: by rows more than half of splits by chance looked odd."""
    split, group, odd = np.repeat(SPLITS, 200), np.arange(600) // 10, 0
    for seed in range(40):
        mean = np.repeat(np.random.default_rng(seed).normal(size=60), 10)
        odd += sum(d["p"] < 0.05 for d in drift(facts(mean=mean), split, group, one(600))[:2])
    assert odd <= 10


MIXES = {"train": (200, 15, 60), "val": (40, 40, 40), "test": (20, 100, 0)}  # rows of three classes


def of_classes(rng: np.random.Generator, shift: float) -> list[dict]:
    """Drift of pictures whose brightness is another for each class, of which splits have other shares; test is brighter."""
    split, label = zip(*[(s, c) for s, ns in MIXES.items() for c, n in enumerate(ns) for _ in range(n)], strict=True)
    mean = 3.0 * np.array(label) + rng.normal(size=len(label)) + shift * (np.array(split) == "test")
    return drift(facts(mean=mean), np.array(split), np.arange(len(mean)), np.array([str(c) for c in label]))[:2]


def test_more_rows_of_a_class_are_no_drift():
    """A balanced test split beside imbalanced training rows differed from them with p < 0.001, whatever was in it."""
    chances = [d["p"] for seed in range(40) for d in of_classes(np.random.default_rng(seed), 0.0)]
    assert sum(p < 0.05 for p in chances) <= 6
    val, test = of_classes(np.random.default_rng(0), 0.0)
    assert abs(val["train_mean"] - val["split_mean"]) < 0.5 and abs(test["train_mean"] - test["split_mean"]) < 0.5


def test_drift_within_classes_is_seen_whatever_their_shares():
    val, test = of_classes(np.random.default_rng(0), 1.0)
    assert val["p"] > 0.05 and test["p"] < 1e-3 and 0.5 < test["split_mean"] - test["train_mean"] < 1.5


# The whole account


def whole(shipped, groups: list[str] | None = None, **changes: tuple[int, int, int]) -> dict:
    per_class = {"a": (8, 5, 6), "b": (4, 5, 5)} | changes
    label, split = zip(
        *[(c, s) for c, n in per_class.items() for s, k in zip(SPLITS, n, strict=True) for _ in range(k)], strict=True
    )
    ids = [str(i) for i in range(len(label))]
    frame = table(id=ids, group=groups or ids, label=label, split=split, origin=["real"] * len(ids), source_path=ids)
    rng = np.random.default_rng(0)
    seen = facts(mean=rng.normal(100, 5, len(ids))).assign(hash=ids, notes="")
    seen.loc[:1, "notes"], seen.loc[2, "hash"] = ["alpha deep", "alpha"], "1"
    return account(frame, seen, tuple(per_class), ("b",), groups is not None, shipped.data)


def test_the_account_counts_and_says_nothing_where_all_is_well(shipped):
    told = whole(shipped)
    assert told["counts"] == {"train": {"a": 8, "b": 4}, "val": {"a": 5, "b": 5}, "test": {"a": 6, "b": 5}}
    assert told["imbalance_ratio"] == 2 and told["scarce"] == ["b"] and told["warnings"] == []
    assert (told["leaking_groups"], told["leaking_rows"], told["rows_in_groups"], told["largest_group"]) == (0, 0, 0, 1)
    assert told["notes"] == {"alpha": 2, "deep": 1} and told["exact_duplicates"] == 1
    assert not told["group_column"] and told["groups"] == 33 and told["not_checked"]
    assert set(told["statistics"]) == {"train", "val", "test"}, "none was set aside"
    assert told["statistics"]["test"]["height"] == {"min": 1, "mean": 1, "max": 1}
    assert told["test_resolution"] == resolution({"a": 6, "b": 5})


def test_statistics_are_those_of_the_pictures_of_each_split():
    seen = facts(mean=[10.0, 20.0, 60.0, 5.0])
    found = statistics(seen, np.array(["train", "train", "test", "train"]))
    assert found["train"]["mean"] == {"min": 5, "mean": pytest.approx(35 / 3), "max": 20}
    assert found["test"]["mean"] == {"min": 60, "mean": 60, "max": 60} and list(found) == ["train", "test"]


def test_the_account_finds_leaks_and_groups(shipped):
    groups = [str(i) for i in range(33)]
    groups[0] = groups[1] = groups[9] = groups[14] = "same"  # two rows of train, one of val, one of test
    told = whole(shipped, groups)
    assert (told["leaking_groups"], told["leaking_rows"]) == (1, 4) and told["group_column"]
    assert told["leaks"] == [
        {"group": "same", "splits": ["train", "val", "test"], "rows": 4, "paths": ["0", "9", "14"]}
    ]
    assert (told["groups"], told["rows_in_groups"], told["largest_group"]) == (30, 4, 4)


@pytest.mark.parametrize(("b", "fine"), [((2, 0, 1), True), ((2, 5, 0), True), ((3, 0, 5), False), ((3, 5, 0), False)])
def test_only_training_groups_excuse_a_class_that_a_split_lacks(shipped, b, fine):
    if fine:
        assert any("class b" in w and "not evaluable" in w for w in whole(shipped, b=b)["warnings"])
    else:
        with pytest.raises(ValueError, match="class 'b' has no row in"):
            whole(shipped, b=b)


def test_the_account_is_plain_json(shipped):
    groups = [str(i // 2) for i in range(33)]
    told = whole(shipped, groups)
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_counts_name_every_class_in_every_split():
    frame = table(id=["1"], group=["1"], label=["b"], split=["val"], origin=["real"])
    assert count(frame, ("a", "b")) == {"train": {"a": 0, "b": 0}, "val": {"a": 0, "b": 1}, "test": {"a": 0, "b": 0}}


def test_of_many_equal_pictures_a_conflict_names_the_first_others_and_their_number():
    found = conflict_problems(rows(*((f"{i:03}", "x", "ab"[i % 2]) for i in range(200))))
    assert "in '000', '001', '002' and 196 more" in found[100].remedy
    assert "in '001', '002', '003' and 196 more" in found[0].remedy
    assert conflict_problems(rows(("1", "x", "a"), ("2", "x", "b")))[0].remedy.endswith("in '2'")
