"""The stage prepare: what goes into the splits, what stays out, and what is refused. Run: python -m pytest tests/test_prepare.py"""

import io
import json
import logging
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from PIL import Image

from pipeline import csvs, processes
from pipeline.data import grouping
from pipeline.data.intake import Form
from pipeline.data.sources.base import Picture, Source
from pipeline.data.sources.base import table as source_table
from pipeline.params import EMBEDDED, Params
from pipeline.processes import Progress
from pipeline.reporting import portable
from pipeline.samples import Facts, Samples, table
from stages import export
from stages.prepare import main, written
from tests.data.sources.test_dicom import dataset as dicom
from tests.data.sources.test_dicom import stored as dicom_file

ROOT = Path(__file__).parents[1]

REAL_SPREAD = processes.parallel
OUTPUTS = ("train", "val", "test", "heldback", "unlabelled", "quarantine.csv", "about")
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module", autouse=True)
def inline() -> Iterator[None]:
    """Jobs are done in this process, which is faster for so few; one run below uses real processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "parallel", lambda f, jobs, *_: [f(*job, report=lambda *_: None) for job in jobs])
        yield


def picture(seed: int, side: int = 20) -> np.ndarray:
    """A texture unlike that of any other seed."""
    x = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(side, side)).astype(np.float32), (0, 0), 1.2)
    return np.clip(128 + 45 * x / x.std(), 0, 255).astype(np.uint8)


def faded(pixels: np.ndarray) -> np.ndarray:
    return (pixels * 0.6 + 50).astype(np.uint8)


def row(name: str, label: str, pixels: np.ndarray | bytes, **more: object) -> dict:
    return {"path": f"{name}.png", "label": label, "pixels": pixels, **more}


def base(n: int = 24, **more: object) -> list[dict]:
    """Rows of classes a and b in turn; `more` columns are functions of the row's number."""
    return [row(str(i), "ab"[i % 2], picture(i), **{k: f(i) for k, f in more.items()}) for i in range(n)]


def given(i: int) -> str:
    return ("train", "train", "val", "test")[i // 2 % 4]


def stored(folder: Path, rows: list[dict]) -> Path:
    """The rows as a table beside their files; later rows of one path do not write it again."""
    folder.mkdir()
    for r in rows:
        file, pixels = folder / r["path"], r.get("pixels")
        if pixels is not None and not file.exists():
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(pixels) if isinstance(pixels, bytes) else Image.fromarray(pixels).save(file)
    pd.DataFrame([{k: v for k, v in r.items() if k != "pixels"} for r in rows]).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


@dataclass
class Result:
    folder: Path
    train: Samples
    val: Samples
    test: Samples
    heldback: Samples
    unlabelled: Samples
    quarantine: pd.DataFrame
    audit: dict

    @property
    def split(self) -> dict[str, str]:
        """The split of each path."""
        return {p: s for s in SPLITS for p in getattr(self, s).table["source_path"]}

    @property
    def rows(self) -> pd.DataFrame:
        return pd.concat([getattr(self, s).table for s in SPLITS])

    @property
    def codes(self) -> dict[str, str]:
        return dict(zip(self.quarantine["file"], self.quarantine["code"], strict=True))


def prepared(params: Params, source: Path, out: Path, **changes: object) -> Result:
    out.mkdir()
    data = params.data.model_copy(update={"source": str(source), **changes})
    main(params.model_copy(update={"data": data}), *(out / name for name in OUTPUTS))
    return Result(
        out,
        *(Samples.load(out / name) for name in OUTPUTS[:5]),
        pd.read_csv(out / "quarantine.csv", dtype=str, keep_default_na=False),
        json.loads((out / "about" / "audit.json").read_text()),
    )


@pytest.fixture
def prepare(shipped, tmp_path) -> Callable[..., Result]:
    """Prepares rows, or a table that is already there."""

    def run(rows: list[dict] | Path, **changes: object) -> Result:
        number = len(list(tmp_path.iterdir()))
        source = stored(tmp_path / f"set{number}", rows) if isinstance(rows, list) else rows
        return prepared(shipped, source, tmp_path / f"out{number}", **changes)

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_who_is_named_in_dicom_tags_stands_in_no_output(prepare):
    told = {"PatientBirthDate": "19380123", "InstitutionName": "Ward Seven", "StudyDescription": "Zebulon Quill again"}
    files = [dicom_file(dicom(picture(i), **told)) for i in range(24)]
    files[5] = files[5][:-200]  # what is refused is told of in the quarantine
    found = prepare(
        [row(str(i), "ab"[i % 2], f) | {"path": f"{i}.dcm"} for i, f in enumerate(files)], max_quarantined=0.1
    )
    assert len(found.rows) == 23 and found.codes == {"5.dcm": "broken"}
    outputs = content(found.folder) | {"tables": found.rows.to_csv().encode()}  # Parquet may pack text
    assert b"5.dcm" in outputs["quarantine.csv"]
    for name, written_there in outputs.items():
        for secret in (*told.values(), "Secret", "secret-number"):
            assert secret.encode() not in written_there, (name, secret)


# One run over a set with a little of everything, and a pool


@dataclass
class Whole:
    one: Result
    two: Result
    rows: dict[str, dict]
    untouched: bool


@pytest.fixture(scope="module")
def whole(shipped, tmp_path_factory) -> Whole:
    """Groups of one to three rows, weights, a rare class, copies, conflicts, broken files; twice, once in processes."""
    folder, rng = tmp_path_factory.mktemp("prepare"), np.random.default_rng(0)
    rows, group = [], 0
    while len(rows) < 72:
        label = rng.choice(["a", "b"], p=[0.6, 0.4])
        for _ in range(rng.integers(1, 4)):
            i = len(rows)
            rows.append(row(f"x/{i}", label, picture(i), group=f"patient{group}", weight=round(0.1 + i / 50, 2)))
        group += 1
    more = [row(f"rare{i}", "rare", picture(500 + i), group=f"rare{i}", weight=1) for i in range(2)]
    for i in range(0, 30, 3):  # near copies, said to be of other patients
        more.append(row(f"near{i}", rows[i]["label"], faded(rows[i]["pixels"]), group=f"other{i}", weight=1))
    more.append(row("equal", rows[1]["label"], rows[1]["pixels"], group="another", weight=1))
    more.append(row("torn1", "a", picture(600), group="torn1", weight=1))
    more.append(row("torn2", "b", picture(600), group="torn2", weight=1))
    more.append(row("broken", "a", b"no picture", group="broken", weight=1))
    rows += [*more, rows[0]]
    table, allowed = stored(folder / "set", rows), {"max_quarantined": 0.1}
    first = prepared(shipped, table, folder / "first", **allowed)
    pool = folder / "pool"
    (pool / "deeper").mkdir(parents=True)
    for i in range(5):
        Image.fromarray(picture(700 + i)).save(pool / f"new{i}.png")
    for s in ("val", "test", "train"):
        pixels = np.array(getattr(first, s).images[0, ..., 0])
        Image.fromarray(pixels).save(pool / "deeper" / f"{s}_equal.png")
        Image.fromarray(faded(faded(pixels))).save(pool / f"{s}_near.png")
    (pool / "broken.jpg").write_bytes(b"")
    allowed["unlabelled"] = str(pool)
    before = content(folder / "set") | content(pool), [f.stat().st_mtime_ns for f in sorted(folder.rglob("*/*.png"))]
    one = prepared(shipped, table, folder / "one", **allowed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "parallel", REAL_SPREAD)
        two = prepared(shipped, table, folder / "two", **allowed)
    after = content(folder / "set") | content(pool), [f.stat().st_mtime_ns for f in sorted(folder.rglob("*/*.png"))]
    return Whole(one, two, {r["path"]: r for r in rows}, before == after)


def test_the_same_source_gives_the_same_bytes_in_one_process_and_in_several(whole):
    one, two = content(whole.one.folder), content(whole.two.folder)
    assert one.keys() == two.keys() and [name for name in one if one[name] != two[name]] == []


def test_the_originals_are_not_touched(whole):
    assert whole.untouched


def test_nothing_but_the_outputs_is_left(whole):
    assert sorted(p.name for p in whole.one.folder.iterdir()) == sorted(OUTPUTS)


def test_every_row_is_in_one_split_or_in_quarantine(whole):
    kept = whole.one.rows["source_path"].tolist()
    assert len(set(kept)) == len(kept) and not set(kept) & {"torn1.png", "torn2.png", "broken.png"}
    assert set(kept) | {"torn1.png", "torn2.png", "broken.png"} == set(whole.rows)


def test_labels_weights_and_pixels_arrive(whole):
    for s in SPLITS:
        part = getattr(whole.one, s)
        assert set(part.table["split"]) == {s} and part.shape == (20, 20, 1)
        for r, image in zip(part.table.itertuples(), part.images, strict=True):
            assert (r.label, r.weight) == (whole.rows[r.source_path]["label"], whole.rows[r.source_path]["weight"])
            assert np.array_equal(image[..., 0], whole.rows[r.source_path]["pixels"])


def test_ids_are_unique_and_equal_pixels_have_related_ones(whole):
    ids = dict(zip(whole.one.rows["source_path"], whole.one.rows["id"], strict=True))
    assert len(set(ids.values())) == len(ids)
    assert ids["equal.png"] == ids["x/1.png"] + "-2"


def test_the_quarantine_list_names_file_row_code_and_remedy(whole):
    kept_out = whole.one.quarantine
    assert list(kept_out) == ["file", "row", "code", "remedy"] and kept_out["remedy"].str.len().min() > 10
    own = {
        f: c for f, c in whole.one.codes.items() if c != "leak" and f not in ("broken.jpg", "deeper/train_equal.png")
    }
    assert own == {
        "torn1.png": "conflict",
        "torn2.png": "conflict",
        "x/0.png": "repeated",
        "broken.png": "unreadable",
    }
    assert "torn2.png" in kept_out.set_index("file")["remedy"]["torn1.png"]
    lines = {path: str(i + 2) for i, path in enumerate(whole.rows)}  # below the header
    lines |= {"x/0.png": str(len(whole.rows) + 2)}  # where it stands again
    assert dict(zip(kept_out["file"], kept_out["row"], strict=True)) == {
        path: lines.get(path, "") for path in kept_out["file"]
    }
    assert kept_out.set_index("file")["row"]["broken.jpg"] == "", "the pool is a folder"


def test_patients_and_copies_stand_in_one_split(whole):
    split = whole.one.split
    for name, r in whole.rows.items():
        if name.startswith("x/"):
            mates = {split[m] for m, other in whole.rows.items() if other["group"] == r["group"]}
            assert mates == {split[name]}
    together = [split[f"near{i}.png"] == split[f"x/{i}.png"] for i in range(0, 30, 3)]
    assert all(together) and split["equal.png"] == split["x/1.png"]
    assert whole.one.rows.groupby("group")["split"].nunique().max() == 1


def test_every_split_has_about_its_share(whole):
    sizes = pd.Series(whole.one.split).value_counts()
    assert sizes["test"] / sizes.sum() == pytest.approx(0.25, abs=0.07)
    assert sizes["val"] / sizes.sum() == pytest.approx(0.15 * 0.75, abs=0.06)


def test_a_rare_class_stays_in_train_and_is_told_to_be_not_evaluable(whole):
    assert whole.one.split["rare0.png"] == whole.one.split["rare1.png"] == "train"
    assert sum("class rare" in w and "not evaluable" in w for w in whole.one.audit["warnings"]) == 2
    assert "rare" in whole.one.audit["scarce"] and "rare" in whole.one.train.facts.scarce


def test_the_audit_counts_what_was_found(whole):
    about = whole.one.audit
    assert about["quarantined"] == len(whole.one.quarantine) == sum(about["quarantine"].values())
    assert about["exact_duplicates"] == 1 and about["near_pairs"] == 10 and about["leaking_groups"] == 0
    assert {s: sum(n.values()) for s, n in about["counts"].items()} == {s: len(getattr(whole.one, s)) for s in SPLITS}
    assert about["group_column"] and about["unlabelled"] == len(whole.one.unlabelled)
    assert about["source"] == "rows.csv"


def test_the_audit_holds_a_hash_of_the_content_of_every_split(whole):
    splits = (*SPLITS, "heldback")
    assert whole.one.audit["fingerprints"] == {split: getattr(whole.one, split).fingerprint() for split in splits}
    assert len(set(whole.one.audit["fingerprints"].values())) >= 3


def test_examples_of_near_duplicates_are_pairs_of_training_rows_from_the_least_alike_on(whole):
    found, train = whole.one.audit["near_examples"], whole.one.train.table.set_index("id")
    group, scores = train["group"], [s for *_, s in found]
    assert found and scores == sorted(scores) and scores[0] > whole.one.audit["near_bound"]
    assert all(a != b and group[a] == group[b] for a, b, _ in found)


def test_all_duplicates_are_listed_by_name(whole):
    names = ["path", "label", "other_path", "other_label", "kind"]
    pairs = csvs.read(whole.one.folder / "about" / "duplicates.csv", names)
    labelled = pairs[(pairs["label"] != "") & (pairs["other_label"] != "")]
    about = whole.one.audit
    assert labelled["kind"].value_counts().to_dict() == {
        "near": about["near_pairs"],
        "equal": about["exact_duplicates"],
    }
    assert (pairs["correlation"][pairs["kind"] == "equal"] == 1).all()
    assert (pairs["correlation"][pairs["kind"] == "near"] > about["near_bound"]).all()
    table = pd.concat([getattr(whole.one, s).table for s in (*SPLITS, "heldback")]).set_index("source_path")
    there = labelled[labelled["path"].isin(table.index) & labelled["other_path"].isin(table.index)]
    group, label = table["group"], table["label"]
    assert len(there) and (group[there["path"]].to_numpy() == group[there["other_path"]].to_numpy()).all()
    assert (label[there["path"]].to_numpy() == there["label"]).all()
    pool = pairs[(pairs["label"] == "") ^ (pairs["other_label"] == "")]
    assert {"deeper/train_equal.png", "val_near.png"} <= {*pool["path"], *pool["other_path"]}


def test_no_output_holds_an_absolute_path(whole):
    for name, data in content(whole.one.folder).items():
        assert str(whole.one.folder.parent).encode() not in data, name


def test_the_pool_is_kept_apart_without_labels(whole):
    pool = whole.one.unlabelled
    assert set(pool.table["split"]) == {"unlabelled"} and set(pool.table["label"]) == {""}
    assert pool.facts == whole.one.train.facts and pool.shape == whole.one.train.shape
    new = np.flatnonzero(pool.table["source_path"] == "new3.png")
    assert np.array_equal(pool.images[new[0], ..., 0], picture(703))


def test_pool_rows_that_show_a_validation_or_test_row_are_left_out(whole):
    expected = {f"new{i}.png" for i in range(5)} | {"train_near.png"}
    assert set(whole.one.unlabelled.table["source_path"]) == expected
    assert whole.one.codes["deeper/train_equal.png"] == "repeated", "it counted twice, once under its label"
    shown = ("deeper/val_equal.png", "deeper/test_equal.png", "val_near.png", "test_near.png")
    assert [whole.one.codes[name] for name in shown] == ["leak"] * 4
    assert whole.one.codes["broken.jpg"] == "empty"


def test_no_id_of_the_pool_is_that_of_a_labelled_row(whole):
    ids = [set(s.table["id"]) for s in (whole.one.train, whole.one.val, whole.one.test, whole.one.unlabelled)]
    assert len(set.union(*ids)) == sum(map(len, ids))


def test_a_pool_row_like_training_rows_shares_their_group(whole):
    groups = whole.one.unlabelled.table.set_index("source_path")["group"]
    train = whole.one.train.table
    assert groups["train_near.png"] in set(train["group"])
    assert not {groups[f"new{i}.png"] for i in range(5)} & set(train["group"])


def test_a_pool_changes_no_split(prepare, tmp_path):
    rows, pool = base(24), tmp_path / "pool"
    table = stored(tmp_path / "set", rows)
    pool.mkdir()
    for i in range(24):
        Image.fromarray(faded(rows[i]["pixels"])).save(pool / f"{i}.png")
    without, done = prepare(table), prepare(table, unlabelled=str(pool))
    for one, other in zip((without.train, without.val, without.test), (done.train, done.val, done.test), strict=True):
        assert one.table.equals(other.table) and np.array_equal(one.images, other.images)
    kept = {p.removesuffix(".png") for p in done.unlabelled.table["source_path"]}
    assert {rows[int(i)]["path"] for i in kept} == set(done.train.table["source_path"])


# Splits that the source gives


def test_another_split_is_another_cut_of_the_same_rows_and_the_same_each_time(prepare):
    rows = base(60)
    first, same, other, again = (prepare(rows, **change) for change in ({}, {"split": 0}, {"split": 1}, {"split": 1}))
    assert first.split == same.split and other.split == again.split and first.split != other.split
    assert first.split.keys() == other.split.keys()
    assert sorted(first.split.values()) == sorted(other.split.values()), "as many rows in each"


def test_the_digits_have_other_splits_too(prepare):
    first, other = (prepare(Path(EMBEDDED), **change) for change in ({}, {"split": 1}))
    assert first.test.fingerprint() != other.test.fingerprint() and len(first.test) == len(other.test)


def test_the_digits_are_the_embedded_set_however_their_path_is_spelt(prepare, shipped):
    again = "./stages/../sets/digits.yaml"
    first, other = prepare(Path(EMBEDDED), split=1), prepare(Path(again), split=1)
    assert first.test.fingerprint() == other.test.fingerprint()
    assert shipped.model_copy(update={"data": shipped.data.model_copy(update={"source": again})}).is_quick


@pytest.mark.parametrize("how", ["split", "repeats"])
def test_other_splits_of_a_source_with_a_test_split_are_refused(shipped, tmp_path, how):
    source = stored(tmp_path / "set", base(24, split=given))
    block = shipped.evaluation.model_copy(update={"repeats": 3 if how == "repeats" else 1})
    with pytest.raises(
        ValueError, match=r"brings a test split of its own; set data\.split: 0 and evaluation\.repeats: 1"
    ):
        prepared(
            shipped.model_copy(update={"evaluation": block}), source, tmp_path / "out", split=2 if how == "split" else 0
        )


def leaking() -> list[dict]:
    """Given splits; row 4 (val) has the pixels of row 0 (train), and row 6 (test) those of row 4."""
    rows = base(24, split=given)
    rows[4]["pixels"] = rows[6]["pixels"] = rows[0]["pixels"]
    return rows


@pytest.fixture(scope="module")
def leak(tmp_path_factory) -> Path:
    return stored(tmp_path_factory.mktemp("leak") / "set", leaking())


@pytest.mark.parametrize("near", ["group", "ignore"])
def test_equal_pictures_in_two_given_splits_are_refused_by_name(prepare, leak, near):
    with pytest.raises(
        ValueError, match=r"share 1 groups .*, 3 rows(?s:.*)'0\.png' = '4\.png' = '6\.png' \(train, val, test\)$"
    ):
        prepare(leak, near_duplicates=near)


def test_drop_leaks_takes_rows_from_the_earlier_splits(prepare, leak):
    done = prepare(leak, drop_leaks=True)
    assert done.codes == {"0.png": "leak", "4.png": "leak"} and done.split["6.png"] == "test"
    assert done.split == {f"{i}.png": given(i) for i in range(24) if i not in (0, 4)}
    assert done.audit["leaking_groups"] == 0


def test_allow_leaks_goes_on_and_records_them(prepare, leak, caplog):
    with caplog.at_level(logging.WARNING):
        done = prepare(leak, allow_leaks=True)
    assert done.split == {f"{i}.png": given(i) for i in range(24)} and len(done.quarantine) == 0
    assert (done.audit["leaking_groups"], done.audit["leaking_rows"]) == (1, 3)
    assert done.audit["leaks"][0]["paths"] == ["0.png", "4.png", "6.png"]
    assert any("1 groups stand in more than one split" in r.message for r in caplog.records)


def test_dropping_leaks_may_not_drop_a_class(prepare):
    rows = base(24, split=given, group=str)
    rows[0]["label"], rows[0]["group"] = "c", rows[6]["group"]
    with pytest.raises(ValueError, match=r"data\.drop_leaks leaves no row of classes \['c'\]"):
        prepare(rows, drop_leaks=True)


def test_dropping_leaks_may_not_drop_a_given_split(prepare):
    """A validation split that was a copy of the test split went, and another was cut from train without a word."""
    rows = base(24, split=given, group=str)
    held = [[r for r in rows if r["split"] == name] for name in ("val", "test")]
    for row, twin in zip(*held, strict=False):
        row["group"] = twin["group"]
    left = [r for r in rows if r["split"] != "val"] + held[0][: len(held[1])]
    with pytest.raises(ValueError, match=r"data\.drop_leaks leaves no row of the val split"):
        prepare(left, drop_leaks=True)


def test_a_group_in_two_given_splits_is_refused(prepare):
    rows = base(24, split=given, group=lambda i: f"g{i}")
    rows[7]["group"] = "g0"
    with pytest.raises(ValueError, match=r"share 1 groups (?s:.*)'0\.png' = '7\.png' \(train, test; group 'g0'\)"):
        prepare(rows, near_duplicates="ignore")


@pytest.fixture(scope="module")
def near(tmp_path_factory) -> Path:
    """Given splits; row 6 (test) is a faded copy of row 0 (train)."""
    rows = base(24, split=given)
    rows[6]["pixels"] = faded(rows[0]["pixels"])
    return stored(tmp_path_factory.mktemp("near") / "set", rows)


@pytest.mark.parametrize(("mode", "says"), [("group", r"share 1 groups"), ("error", r"1 pairs of images are")])
def test_near_copies_in_two_given_splits_are_refused(prepare, near, mode, says):
    with pytest.raises(ValueError, match=says + r"(?s:.*)'0\.png' = '6\.png'"):
        prepare(near, near_duplicates=mode)


def test_near_copies_can_be_warned_of_only(prepare, near):
    done = prepare(near, near_duplicates="warn")
    assert done.audit["near_pairs"] == 1 and 0.7 <= done.audit["near_bound"] < 1
    assert any("1 pairs of near duplicates" in w for w in done.audit["warnings"])
    assert done.split["0.png"] == "train" and done.split["6.png"] == "test" and done.audit["leaking_groups"] == 0


def test_near_copies_can_be_ignored(prepare, near):
    done = prepare(near, near_duplicates="ignore")
    assert done.audit["near_pairs"] == 0 and done.audit["near_bound"] is None
    assert not any("duplicates" in w for w in done.audit["warnings"])


def test_near_duplicates_error_also_refuses_equal_pictures_of_one_split(prepare):
    rows = base(24, split=given)
    rows[8]["pixels"] = rows[0]["pixels"]
    with pytest.raises(ValueError, match=r"1 pairs of images are equal or near (?s:.*)'0\.png' = '8\.png'"):
        prepare(rows, near_duplicates="error")


def test_a_class_without_test_rows_in_given_splits_is_refused(prepare):
    rows = base(24, split=given)
    for r in rows:
        r["label"] = "a" if r["split"] == "test" else r["label"]
    with pytest.raises(ValueError, match=r"class 'b' has no row in test, .*Rows: train 6, val 3, test 0"):
        prepare(rows, near_duplicates="ignore")


def test_test_pictures_decide_nothing_about_the_others(prepare):
    """Other test pictures, deeper by far, leave every byte of train and val as it was."""
    plain = base(24, split=given)
    for r in plain:
        r["pixels"] = r["pixels"].astype(np.uint16) * 20
    odd = [
        r | {"pixels": picture(900 + i).astype(np.uint16) * 250} if r["split"] == "test" else r
        for i, r in enumerate(plain)
    ]
    one, two = prepare(plain), prepare(odd)
    for name in ("train", "val"):
        assert content(one.folder / name) == content(two.folder / name)
    assert one.train.images.std() > 40 and not np.array_equal(one.test.images, two.test.images)


def test_deep_pictures_for_which_no_training_row_decides_a_range_are_told(prepare, tmp_path):
    def rows(*deep: str) -> list[dict]:
        out = base(24, split=given)
        return [r | {"pixels": r["pixels"].astype(np.uint16) * 20} if r["split"] in deep else r for r in out]

    def told(done: Result) -> list[str]:
        return [w for w in done.audit["warnings"] if "no training row decides their range" in w]

    pool = tmp_path / "pool"
    pool.mkdir()
    Image.fromarray(picture(80).astype(np.uint16) * 9).save(pool / "deep.png")
    within = {"near_duplicates": "ignore"}
    done = prepare(rows("test", "val"), **within)
    assert [w.split()[0] for w in told(done)] == ["12"] and done.test.images.max() == 255
    assert [w.split()[0] for w in told(prepare(rows("test"), unlabelled=str(pool), **within))] == ["7"]
    assert not told(prepare(rows("train", "test"), **within)) and not told(prepare(rows("train"), **within))
    assert not told(prepare(rows(), **within))


@pytest.mark.parametrize("scale", ["window", "full"])
def test_a_range_that_is_asked_for_needs_no_training_row(prepare, shipped, scale):
    rows = [
        r | {"pixels": r["pixels"].astype(np.uint16) * 20} if r["split"] == "test" else r for r in base(24, split=given)
    ]
    block = shipped.data.deep.model_copy(update={"scale": scale, "window": (0.0, 255 * 20.0)})
    done = prepare(rows, deep=block, near_duplicates="ignore")
    assert not any("no training row decides" in w for w in done.audit["warnings"])
    factor = 1 if scale == "window" else 20 * 255 / 65535
    assert np.abs(one_image(done, "6.png") - picture(6) * factor).max() <= 0.51


# Copies in numbers


def test_near_copies_are_found_also_among_crowds_of_equal_pictures(prepare):
    rows = [
        row(f"{i}_{k}_{kind}", "ab"[i % 2], change(picture(i)))
        for i in range(12)
        for k in range(9)
        for kind, change in (("plain", np.asarray), ("faded", faded))
    ]
    done = prepare(rows)
    assert done.audit["groups"] == 12 and done.audit["largest_group"] == 18
    assert (done.audit["near_pairs"], done.audit["exact_duplicates"]) == (12, 12 * 16)


def sessions(count: int) -> list[dict]:
    """Ten pictures of each of so many things a class, changed as much as frames of a film are."""
    noise = np.random.default_rng(0).normal(0, 6, (20 * count, 20, 20))
    each = [np.clip(picture(i % (2 * count)) + noise[i], 0, 255).astype(np.uint8) for i in range(20 * count)]
    return [row(str(i), "ab"[i % 2], pixels, group=f"film {i % (2 * count)}") for i, pixels in enumerate(each)]


def test_where_a_class_is_hardly_more_than_one_session_it_is_told_that_duplicates_are_not(prepare):
    """Then most pairs of a class show one thing, and no bound tells them from those that do not."""
    told = "near duplicates cannot be told from others: if a class was recorded in a few sessions"
    without = [{k: v for k, v in r.items() if k != "group"} for r in sessions(1)]
    (warning,) = (w for w in prepare(without).audit["warnings"] if told in w)
    assert "data.manifest.group" in warning
    many = [{k: v for k, v in r.items() if k != "group"} for r in sessions(6)]
    done = prepare(many)
    assert not any(told in w for w in done.audit["warnings"]) and done.audit["groups"] == 12


def test_a_class_that_is_one_scene_beside_varied_ones_is_told_of(prepare):
    """All of it is one group, so that no other split has a row of it: once without a word why."""
    rng = np.random.default_rng(1)
    scene = picture(99)
    rows = [row(f"v{i}", "varied", picture(i)) for i in range(40)]
    rows += [
        row(f"s{i}", "scene", np.clip(scene + rng.normal(0, 6, scene.shape), 0, 255).astype(np.uint8))
        for i in range(12)
    ]
    done = prepare(rows)
    (told,) = (w for w in done.audit["warnings"] if "two pictures of class scene have a correlation of" in w)
    assert "most of the class is one group" in told and "data.near_duplicates: ignore" in told
    assert any(
        "class scene has no row in test, having too few groups to give any (1)" in w for w in done.audit["warnings"]
    )


def test_where_copies_cannot_be_noticed_it_is_told_of():
    found, rows = grouping.duplicates.NOTHING, pd.DataFrame({"label": ["b", "a"]})
    found = found._replace(bound=0.9993, medians=np.array([0.1, 0.6]), typical=0.3)
    (told,) = grouping.too_alike(found, rows)
    assert "near duplicates are noticed only above a correlation of 0.9993" in told
    assert grouping.too_alike(found._replace(bound=0.99), rows) == []


def test_a_test_split_that_can_give_no_verdict_is_told_of_at_once(prepare):
    """And not after hours of training."""
    few = prepare(
        [row(f"{c}{i}", c, picture(100 * (c == "b") + i)) for c, n in (("a", 60), ("b", 12)) for i in range(n)]
    )
    (told,) = (w for w in few.audit["warnings"] if "the verdict can only be CANNOT TELL: " in w)
    assert "the test split has only " in told and told.endswith("raise data.test_fraction if the split is cut here")
    many = prepare(
        [row(f"{c}{i}", c, picture(100 * (c == "b") + i)) for c in "ab" for i in range(90)], test_fraction=0.3
    )
    assert not any("the verdict can only be" in w for w in many.audit["warnings"])


def test_where_groups_are_given_pictures_may_be_all_alike(prepare):
    rows = [r | {"split": s} for r in sessions(1) for s in [("train", "val", "test")[int(r["path"][:-4]) // 2 % 3]]]
    rows = [r | {"group": r["path"]} for r in rows]
    done = prepare(rows, near_duplicates="warn")
    assert not any("cannot be told" in w for w in done.audit["warnings"])


# What cannot be used


@pytest.fixture(scope="module")
def torn(tmp_path_factory) -> Path:
    """Rows 4 and 5 have equal pixels and different labels."""
    rows = base(24)
    rows[5]["pixels"] = rows[4]["pixels"]
    return stored(tmp_path_factory.mktemp("torn") / "set", rows)


def test_conflicts_are_dropped_and_listed(prepare, torn):
    done = prepare(torn, conflicts="drop", max_quarantined=0.1, near_duplicates="ignore")
    assert done.codes == {"4.png": "conflict", "5.png": "conflict"} and len(done.rows) == 22
    assert "'5.png'" in done.quarantine["remedy"][0] and done.audit["quarantine"] == {"conflict": 2}


def test_conflicts_count_as_losses(prepare, torn):
    with pytest.raises(ValueError, match=r"2 of 24 .* data\.max_quarantined = 0\.01(?s:.*)'4\.png': conflict"):
        prepare(torn, conflicts="drop")


def test_a_row_that_stands_there_twice_is_listed_and_is_no_loss(prepare):
    rows = base(24)
    done = prepare([*rows, rows[3], rows[8]], max_quarantined=0.0, near_duplicates="ignore")
    assert done.quarantine[["file", "code"]].to_numpy().tolist() == [["3.png", "repeated"], ["8.png", "repeated"]]
    assert sorted(done.rows["source_path"]) == sorted(r["path"] for r in rows)
    assert done.audit["quarantine"] == {"repeated": 2}


def test_rows_that_stand_there_twice_do_not_hide_a_loss(prepare):
    rows = base(24)
    rows[5]["pixels"] = b""
    with pytest.raises(ValueError, match=r"1 of 24 images cannot be used(?s:.*)'5\.png': empty") as error:
        prepare([*rows, *rows[:3] * 40], max_quarantined=0.04)
    assert "repeated" not in str(error.value)


def test_names_do_not_break_the_lines_of_the_log(prepare, tmp_path, caplog):
    caplog.set_level("WARNING")
    rows = base(24)
    rows[3]["path"], rows[3]["pixels"] = "3\n12:00:00 prepare: done.png", b""
    prepare(rows, max_quarantined=0.1, near_duplicates="ignore")
    assert r"3\n12:00:00 prepare: done.png': empty" in caplog.text and "\n12:00:00" not in caplog.text


def test_files_with_a_wrong_ending_are_read_counted_and_named(prepare, tmp_path, caplog):
    caplog.set_level("WARNING")
    rows, pool = base(24), tmp_path / "pool"
    for i in (2, 5):
        buffer = io.BytesIO()
        Image.fromarray(rows[i]["pixels"]).save(buffer, "BMP")
        rows[i]["pixels"] = buffer.getvalue()
    pool.mkdir()
    Image.fromarray(picture(80)).save(pool / "spare.jpg", "PNG")
    done = prepare(rows, near_duplicates="ignore", unlabelled=str(pool))
    assert sum("3 files hold another format than their names say" in w for w in done.audit["warnings"]) == 1
    assert "named like another format: '2.png', '5.png', 'spare.jpg'" in caplog.text
    assert len(done.quarantine) == 0 and np.array_equal(one_image(done, "5.png"), picture(5))
    assert not any(".png" in w or ".jpg" in w for w in done.audit["warnings"]), "the report shows these"


def one_image(done: Result, path: str) -> np.ndarray:
    part = getattr(done, done.split[path])
    return part.images[part.table["source_path"].tolist().index(path), ..., 0]


def test_colours_outside_train_that_are_left_out_are_told(prepare):
    rows = base(24, split=given)
    coloured = np.repeat(rows[6]["pixels"][..., None], 3, axis=2)
    coloured[0, 0, 0] ^= 64
    rows[6]["pixels"] = coloured
    done = prepare(rows, near_duplicates="ignore")
    assert done.train.shape[2] == 1 and any("1 pictures have colours" in w for w in done.audit["warnings"])


def test_a_listed_class_without_images_stops_the_run(prepare):
    with pytest.raises(ValueError, match=r"there is no image of 'c'; correct data\.classes"):
        prepare(base(24), classes=["a", "b", "c"])


def test_conflicts_can_be_refused(prepare, torn):
    with pytest.raises(
        ValueError,
        match=r"2 rows have the pixels of a row with another label(?s:.*)line 6: '4\.png': conflict, labelled 'a'",
    ):
        prepare(torn, conflicts="error", max_quarantined=1.0)


def test_broken_files_stop_the_run_above_the_limit_and_are_listed_below_it(prepare, tmp_path):
    rows = base(40)
    rows[3]["pixels"] = rows[10]["pixels"] = b"no picture"
    table = stored(tmp_path / "set", rows)
    with pytest.raises(ValueError, match=r"2 of 40 images cannot be used(?s:.*)'3\.png': unreadable(?s:.*)'10\.png'"):
        prepare(table, max_quarantined=0.04)
    done = prepare(table, max_quarantined=0.05, near_duplicates="ignore")
    assert set(done.codes) == {"3.png", "10.png"} and len(done.rows) == 38


@pytest.mark.parametrize("pixels", [b"", np.full((20, 20), 7, np.uint8)])
def test_a_class_that_loses_all_rows_is_refused(prepare, pixels):
    rows = [*base(24), row("x", "c", pixels), row("y", "c", b"also no picture")]
    with pytest.raises(ValueError, match=r"no usable image is left in 'c'(?s:.*)x\.png"):
        prepare(rows, max_quarantined=0.5)


def test_a_set_of_one_class_is_refused(prepare):
    with pytest.raises(ValueError, match=r"all rows are of one class, 'a'"):
        prepare([r | {"label": "a"} for r in base(12)])


def encoded(pixels: np.ndarray, kind: str, *more: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    frames = {"save_all": True, "append_images": [Image.fromarray(p) for p in more]} if more else {}
    Image.fromarray(pixels).save(buffer, kind, **frames)
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few bytes whose header claims so many pixels a side."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def holed() -> bytes:
    values, buffer = picture(0).astype(np.float32), io.BytesIO()
    values[3, 4] = np.nan
    tifffile.imwrite(buffer, values)
    return buffer.getvalue()


def test_one_run_lists_every_kind_of_file_that_cannot_be_used(prepare):
    bad = {
        "nothing.png": (b"", "empty"),
        "text.jpg": (b"<html>not found</html>", "unreadable"),
        "cut.jpg": (encoded(picture(90, 40), "JPEG")[:-200], "truncated"),
        "cut.png": (encoded(picture(91, 40), "PNG")[:-400], "truncated"),
        "bomb.png": (bomb(16_000), "too_large"),
        "holes.tif": (holed(), "non_finite"),
        "blank.png": (np.full((20, 20), 7, np.uint8), "blank"),
        "small.png": (picture(92, 40)[:3, :3], "too_small"),
        "long.png": (np.repeat(picture(93, 40), 30, axis=1), "aspect"),
        "moving.gif": (encoded(picture(94), "GIF", picture(95), picture(96)), "frames"),
    }
    rows = base(24) + [{"path": name, "label": "a", "pixels": content} for name, (content, _) in bad.items()]
    rows.append({"path": "nowhere/absent.png", "label": "a"})
    done = prepare(rows, max_quarantined=0.5, near_duplicates="ignore")
    assert done.codes == {name: code for name, (_, code) in bad.items()} | {"nowhere/absent.png": "not_a_file"}
    assert done.quarantine["remedy"].str.len().min() > 10
    assert sorted(done.rows["source_path"]) == sorted(f"{i}.png" for i in range(24))
    assert done.audit["quarantine"]["truncated"] == 2 and done.audit["quarantined"] == len(bad) + 1


# Pictures that say they are synthetic


def exported(folder: Path, label: str, count: int) -> list[bytes]:
    """PNGs as the export writes them."""
    ids = [f"cvae-{label}-{i}" for i in range(count)]
    frame = table(id=ids, group=ids, label=[label] * count, split=["synthetic"] * count, origin=["cvae"] * count)
    images = np.stack([picture(3000 + i)[..., None] for i in range(count)])
    made = Samples(frame, images, Facts(("a", "b"), ("a",)))
    folder.mkdir(exist_ok=True)
    lines = export.write_rows(made, {label: label}, "hash", "0.1.0", folder, Progress("write", count))
    return [(folder / path).read_bytes() for path in lines["path"]]


def marked(folder: Path, split: str) -> list[dict]:
    """Given splits, and in one of them three rows that were exported."""
    more = {} if split == "" else {"split": split}
    rows = base(24, split=given) if split else base(24)
    return rows + [row(f"made{i}", "a", png, **more) for i, png in enumerate(exported(folder / "export", "a", 3))]


@pytest.mark.parametrize("split", ["val", "test", ""])
def test_exported_pictures_are_refused_where_they_would_be_judged(prepare, tmp_path, split):
    with pytest.raises(ValueError, match=r"3 of 27 pictures are marked as synthetic.*Remove them") as error:
        prepare(marked(tmp_path, split), near_duplicates="ignore")
    assert all(f"line {26 + i}: 'made{i}.png'" in str(error.value) for i in range(3))
    assert ("no test and no val split" in str(error.value)) == (split == "")


@pytest.mark.parametrize("missing", ["val", "test"])
def test_exported_pictures_are_refused_where_a_split_is_cut_from_them(prepare, tmp_path, missing):
    rows = [r for r in marked(tmp_path, "train") if r["split"] != missing]
    with pytest.raises(ValueError, match=f"the source gives no {missing} split"):
        prepare(rows, near_duplicates="ignore")


def test_exported_pictures_in_a_given_train_split_are_used_counted_and_warned_of(prepare, tmp_path):
    rows, pool = marked(tmp_path, "train"), tmp_path / "pool"
    pool.mkdir()
    (pool / "spare.png").write_bytes(exported(tmp_path / "more", "b", 4)[3])
    done = prepare(rows, near_duplicates="ignore", unlabelled=str(pool))
    assert all(done.split[f"made{i}.png"] == "train" for i in range(3)) and done.audit["notes"]["synthetic"] == 3
    assert sum("3 training pictures are marked as synthetic" in w for w in done.audit["warnings"]) == 1
    assert sum("1 pictures of the unlabelled pool are marked as synthetic" in w for w in done.audit["warnings"]) == 1


def test_pictures_with_other_texts_are_no_synthetic_ones(prepare):
    rows = base(24)
    for i, texts in enumerate([{"synthetic": "false"}, {"Comment": "synthetic: true"}, {"synthetic rubber": "true"}]):
        rows[i]["pixels"] = portable.png(rows[i]["pixels"][..., None], texts)
    done = prepare(rows, near_duplicates="ignore")
    assert "synthetic" not in done.audit["notes"] and not any("synthetic" in w for w in done.audit["warnings"])


def archived(folder: Path, side: int = 20) -> Path:
    """An .npz in which rows 3 and 8 of train and row 1 of test are blank."""
    parts = {"train": range(24), "val": range(24, 32), "test": range(32, 40)}
    images = {s: np.stack([picture(i, 20)[:side, :side] for i in rows]) for s, rows in parts.items()}
    images["train"][[3, 8]], images["test"][1] = 9, 0
    labels = {f"{s}_labels": np.arange(len(rows)) % 2 for s, rows in parts.items()}
    np.savez(folder / "set.npz", **{f"{s}_images": x for s, x in images.items()}, **labels)
    return folder / "set.npz"


def test_blank_rows_of_an_archive_are_listed_and_move_no_other_row(prepare, tmp_path):
    done = prepare(archived(tmp_path), max_quarantined=0.1, near_duplicates="ignore")
    assert done.codes == {"train/3": "blank", "train/8": "blank", "test/1": "blank"}
    assert (len(done.train), len(done.val), len(done.test)) == (22, 8, 7)
    assert np.array_equal(one_image(done, "train/9"), picture(9))
    assert np.array_equal(one_image(done, "test/2"), picture(34))


def test_an_archive_of_pictures_that_are_too_small_is_refused(prepare, tmp_path):
    with pytest.raises(ValueError, match=r"40 of 40 images cannot be used(?s:.*)'train/0': too_small, 3x3"):
        prepare(archived(tmp_path, side=3), max_quarantined=0.1)


def staged(folder: Path, **changes: object) -> subprocess.CompletedProcess:
    """The stage as dvc runs it, in a folder that holds the source."""
    block = yaml.safe_load((ROOT / "params.yaml").read_text())
    block["data"] |= {"source": "set/rows.csv", "unlabelled": str(ROOT / "sets" / "none.yaml"), **changes}
    (folder / "params.yaml").write_text(yaml.safe_dump(block, sort_keys=False))
    words = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["prepare"]["cmd"].split()[1:]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_a_stopped_run_leaves_the_whole_list_in_the_form_of_the_quarantine_list(tmp_path):
    rows = base(30)
    for i in range(1, 30):
        rows[i]["pixels"] = b"no picture" if i % 2 else picture(i)
    stored(tmp_path / "set", [*rows * 2, row("again", "b", b"")])
    done = staged(tmp_path, near_duplicates="ignore")
    assert done.returncode == 2 and "16 of 31 images cannot be used" in done.stderr, done.stderr
    assert ".work/quarantine.csv" in done.stderr and "line 3: '1.png': unreadable" in done.stderr
    listed = pd.read_csv(tmp_path / ".work" / "quarantine.csv", dtype=str, keep_default_na=False)
    assert list(listed) == ["file", "row", "code", "remedy"] and listed["remedy"].str.len().min() > 10
    codes = Counter(listed["code"])
    assert codes == {"repeated": 30, "unreadable": 15, "empty": 1}, "more than the message shows"
    assert listed[listed["code"] == "unreadable"]["row"].tolist() == [str(i + 2) for i in range(1, 30, 2)]
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").rglob("quarantine.csv"))


def test_a_path_out_of_the_source_ends_the_stage_and_publishes_nothing(tmp_path):
    rows = base(24)
    stored(tmp_path / "set", rows)
    Image.fromarray(picture(99)).save(tmp_path / "secret.png")
    table = pd.read_csv(tmp_path / "set" / "rows.csv")
    table.loc[5, "path"] = "../secret.png"
    table.to_csv(tmp_path / "set" / "rows.csv", index=False)
    done = staged(tmp_path, max_quarantined=1.0)
    assert done.returncode == 2, done.stderr
    assert "line 7" in done.stderr and "'../secret.png'" in done.stderr and "nothing was published" in done.stderr
    assert [f for f in (tmp_path / "data").rglob("*") if f.is_file()] == []
    assert [f for f in (tmp_path / ".work" / "drafts").iterdir() if f.suffix != ".lock"] == []


# Small classes, odd pictures


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_class_of_very_few_rows_keeps_one_for_training_and_is_no_fault(prepare, n):
    rows = base(30) + [row(f"c{i}", "c", picture(900 + i)) for i in range(n)]
    done = prepare(rows, near_duplicates="ignore")
    counts = {s: done.audit["counts"][s]["c"] for s in SPLITS}
    assert counts["train"] >= min(n, 2) and sum(counts.values()) == n
    told = [w for w in done.audit["warnings"] if "class c" in w]
    assert len(told) == 2 and sum("not evaluable" in w for w in told) == sum(counts[s] == 0 for s in ("val", "test"))
    if n < 3:
        assert counts["train"] == n


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_rare_class_that_is_never_the_commonest_of_a_patient_is_in_every_split(prepare, number):
    nevi = [row(f"n{i}", "nevus", picture(i), group=f"p{i // 3}") for i in range(90)]
    rare = [row(f"m{i}", "melanoma", picture(500 + i), group=f"p{2 * i}") for i in range(4)]
    done = prepare(nevi + rare, near_duplicates="ignore", split=number)
    assert [done.audit["counts"][s]["melanoma"] for s in SPLITS] == [2, 1, 1]
    assert done.audit["leaking_groups"] == 0 and done.audit["groups"] == 30


def test_a_class_that_the_cut_leaves_out_is_told_to_be_the_cuts_doing(prepare):
    """Class a stands in three groups, all of which count under b, and none of them is drawn."""
    mixed = [row(f"a{i}", "a", picture(i), group=f"g{i // 10}") for i in range(30)]
    rare = [row(f"b{i}", "b", picture(100 + i), group=f"g{i}") for i in range(24)]
    with pytest.raises(
        ValueError, match=r"class 'a' has no row in val, .*; the cut came out so: set another data\.split"
    ):
        prepare(mixed + rare, near_duplicates="ignore", split=0)


@pytest.mark.parametrize(("colourful", "asked", "channels"), [(0, "auto", 1), (1, "auto", 3), (1, 1, 1), (0, 3, 3)])
def test_channels_are_one_only_if_every_picture_is_grey(prepare, colourful, asked, channels):
    rows = base(24)
    rows[7]["pixels"] = np.repeat(rows[7]["pixels"][..., None], 3, axis=2)
    rows[7]["pixels"][0, 0, 0] ^= 64 * colourful
    done = prepare(rows, channels=asked, near_duplicates="ignore")
    assert done.train.shape == (20, 20, channels) and done.audit["channels"] == channels


@pytest.mark.parametrize("what", ["pool of broken files", "pool of test rows"])
def test_a_pool_of_which_nothing_is_left_is_empty(prepare, tmp_path, what):
    table, pool = stored(tmp_path / "set", base(24, split=given)), tmp_path / "pool"
    pool.mkdir()
    if what == "pool of broken files":
        (pool / "x.png").write_bytes(b"no picture")
    else:
        Image.fromarray(picture(6)).save(pool / "x.png")
    done = prepare(table, unlabelled=str(pool))
    assert len(done.unlabelled) == 0 and done.unlabelled.shape == (20, 20, 1) and set(done.codes) == {"x.png"}


def test_a_pool_row_of_a_patient_in_validation_or_test_is_left_out(prepare, tmp_path):
    """The column was passed over, and pictures of these patients were labelled and learnt from."""
    rows = [row(f"{i}", "ab"[i % 2], picture(i), group=f"p{i // 4}") for i in range(120)]
    pool = tmp_path / "pool"
    pool.mkdir()
    for i in range(30):
        Image.fromarray(picture(1000 + i)).save(pool / f"{i}.png")
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(30)], "group": [f"p{i}" for i in range(29)] + ["new"]})
    table.to_csv(pool / "pool.csv", index=False)
    table[["path"]].to_csv(pool / "other.csv", index=False)
    done = prepare(rows, unlabelled=str(pool / "pool.csv"))
    of = {int(p.removesuffix(".png")) // 4: split for p, split in done.split.items()}
    kept = {int(p.removesuffix(".png")) for p in done.unlabelled.table["source_path"]}
    assert kept == {29} | {i for i in range(29) if of[i] == "train"} and len(kept) < 30
    told = done.quarantine.set_index("file")
    assert all(told.loc[f"{i}.png", "code"] == "leak" for i in range(29) if i not in kept)
    unnamed = "the source says which rows belong together and data.unlabelled does not"
    assert not any(unnamed in w for w in done.audit["warnings"])
    assert sum(unnamed in w for w in prepare(rows, unlabelled=str(pool / "other.csv")).audit["warnings"]) == 1


def test_a_share_of_the_scarce_classes_is_set_aside_whole_groups_at_a_time(prepare):
    def rows() -> list[dict]:
        many = [row(f"a{i}", "a", picture(i), group=f"a{i // 2}") for i in range(60)]
        return many + [row(f"b{i}", "b", picture(100 + i), group=f"b{i // 2}") for i in range(24)]

    without, done = prepare(rows()), prepare(rows(), heldback=0.5)
    aside = done.heldback.table
    assert len(without.heldback) == 0 and without.audit["heldback"] == 0
    assert set(aside["label"]) == {"b"} and set(aside["split"]) == {"heldback"} and done.audit["heldback"] == len(aside)
    fit = without.train.table[without.train.table["label"] == "b"]
    assert 0.35 <= len(aside) / len(fit) <= 0.65
    assert set(aside["source_path"]) < set(fit["source_path"])
    assert not set(aside["group"]) & set(done.rows["group"])
    assert set(done.val.table["id"]) == set(without.val.table["id"]), "validation and test stay what they are"
    assert set(done.test.table["id"]) == set(without.test.table["id"])


def test_scarce_classes_are_those_before_rows_are_set_aside(prepare):
    """Class b shares its groups with the scarce class c, and loses as many rows with them as to look scarce itself."""
    parts = {
        "a": [f"a{i}" for i in range(80)],
        "b": [f"g{i // 2}" for i in range(60)],
        "c": [f"g{i}" for i in range(30)],
    }
    names = [(label, group) for label, groups in parts.items() for group in groups]
    rows = [row(f"{i}", label, picture(i), group=group) for i, (label, group) in enumerate(names)]
    done = prepare(rows, heldback=0.6, near_duplicates="ignore")
    assert done.audit["counts"]["train"]["b"] < 0.5 * done.audit["counts"]["train"]["a"]
    assert done.audit["scarce"] == ["c"] == list(done.train.facts.scarce)


def test_a_pool_row_like_one_set_aside_is_told_so(prepare, tmp_path):
    rows, pool = base(60) + [row(f"c{i}", "c", picture(100 + i)) for i in range(12)], tmp_path / "pool"
    pool.mkdir()
    for i in range(12):
        Image.fromarray(picture(100 + i)).save(pool / f"{i}.png")
    done = prepare(rows, heldback=0.5, unlabelled=str(pool))
    aside = {p.removeprefix("c") for p in done.heldback.table["source_path"]}
    told = done.quarantine.set_index("file")["remedy"]
    assert aside and all("or as one set aside" in told[name] for name in aside)


# Memory


def test_memory_of_writing_the_splits_does_not_grow_with_the_set(shipped, tmp_path):
    side, plain = 96, shipped.augment.model_copy(update={"flips": "none"})
    params = shipped.model_copy(update={"augment": plain})

    def peak(n: int) -> int:
        label, split = ["ab"[i % 2] for i in range(n)], np.array(["train", "train", "train", "val", "test"])
        facts = {"path": "x", "group": "", "weight": 1.0, "hash": [f"{i:016}" for i in range(n)], "place": np.arange(n)}
        rows = pd.DataFrame({"label": label, "split": split[np.arange(n) // 2 % 5], **facts})
        source = Source(("a", "b"), source_table(label=label), list(range(n)), lambda i: Picture(colour + i % 50))
        (tmp_path / str(n)).mkdir()
        tracemalloc.start()
        samples = written(rows, source, (), Form(side, 3, "crop", None), tmp_path / str(n) / "squares.npy", params)
        for name in SPLITS:
            samples.save(tmp_path / str(n) / name, rows["split"].to_numpy() == name)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        for name in SPLITS:
            part = Samples.load(tmp_path / str(n) / name)
            expected = np.flatnonzero(rows["split"] == name)
            assert part.table["id"].tolist() == rows["hash"][expected].tolist()
            assert (part.images[:, 0, 0, 0] == expected % 50 + colour[0, 0, 0]).all()
        return most

    colour = np.random.default_rng(0).integers(0, 200, (side, side, 3)).astype(np.uint8)
    peak(8)  # imports
    small, large = peak(512), peak(2048)
    assert large < 1.4 * small and large < 0.25 * 2048 * colour.size
