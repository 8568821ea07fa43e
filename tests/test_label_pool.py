"""What becomes of an unlabelled pool. Run: python -m pytest tests/test_label_pool.py"""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import params
from pipeline.data.augment import Views
from pipeline.samples import Facts, Samples, with_pool
from stages import _learn, label_pool, retrain, train_baseline
from stages.augment import write_banks

SHIPPED = params.load(Path(params.__file__).parents[2] / "params.yaml")


@pytest.fixture(scope="module")
def small() -> params.Params:
    return SHIPPED.model_copy(
        update={
            "data": SHIPPED.data.model_copy(update={"unlabelled": "more"}),
            "augment": SHIPPED.augment.model_copy(update={"views_per_class": 20, "views_per_row": (2, 4)}),
            "classifier": SHIPPED.classifier.model_copy(update={"widths": [8], "batch": 16, "steps": 40}),
            "compute": SHIPPED.compute.model_copy(update={"accelerator": "cpu", "processes": 1}),
            "pool": params.Pool(precision=0.5, least=0.0, seeds=2),
        }
    )


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, toy, small) -> dict[str, Path]:
    """What the stages before have written, in the order of the stage's arguments."""
    root = tmp_path_factory.mktemp("pool")
    train, held, pool = (toy(n, seed=s) for n, s in (((24, 18, 8), 0), ((9, 8, 7), 1), ((12, 10, 8), 2)))
    unlabelled = pool.table.assign(label="", split="unlabelled", id=[f"pool{i}" for i in range(len(pool))])
    rows = {"train": train, "val": held, "unlabelled": Samples(unlabelled, pool.images, train.facts)}
    for name, samples in rows.items():
        Samples(samples.table, samples.images, Facts(train.classes, train.classes[1:])).save(root / name)
    write_banks(root / "views", Samples.load(root / "train"), small)
    (root / "views" / "policy.json").write_text("{}")
    (root / "baseline").mkdir()
    train_baseline.main(small, root / "train", root / "val", root / "views", root / "baseline")
    return {n: root / n for n in ("train", "val", "unlabelled", "views", "baseline")}


def known(gains: list[dict]):
    """What `gain` answers, call by call."""
    left = iter(gains)
    return lambda *_: next(left)


BETTER = {"gain": 1.0, "standard_error": 0.1, "correct": 0.0, "correct_error": 0.005}
WORSE = {"gain": -1.0, "standard_error": 0.1, "correct": 0.0, "correct_error": 0.005}
LIKE = {"gain": 0.05, "standard_error": 0.1, "correct": 0.0, "correct_error": 0.005}


@pytest.mark.parametrize(
    ("gains", "taken", "trials"),
    [
        ([BETTER, BETTER], "refined", 3),
        ([BETTER, LIKE], "teachers", 3),
        ([LIKE, WORSE], "teachers", 3),
        ([LIKE, BETTER | {"correct": -0.01}], "teachers", 3),
        ([WORSE], "none", 2),
    ],
)
def test_validation_decides_which_labels_are_learnt_from(small, places, tmp_path, monkeypatch, gains, taken, trials):
    monkeypatch.setattr(label_pool, "gain", known(gains))
    label_pool.main(small, *places.values(), tmp_path / "out")
    account, rows = json.loads((tmp_path / "out" / "summary.json").read_text()), Samples.load(tmp_path / "out")
    assert (account["taken"], len(account["trials"]), account["rows"]) == (taken, trials, 30)
    expected = {"none": 0, "teachers": account["trials"][1]["rows"], "refined": account["trials"][-1]["rows"]}[taken]
    assert len(rows) == expected == sum(c["kept"] for c in account["classes"].values())
    assert sum(c["judged"] for c in account["classes"].values()) == 30
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "nothing else is left"


def test_sure_rows_get_labels_views_and_their_history(small, places, tmp_path):
    for name in ("one", "two"):
        label_pool.main(small, *places.values(), tmp_path / name)
    rows, pool = Samples.load(tmp_path / "one"), Samples.load(places["unlabelled"])
    assert 0 < len(rows) <= len(pool) and set(rows.table["id"]) <= set(pool.table["id"])
    assert (rows.table["label"] == rows.table["judged"]).all() and rows.table["confidence"].between(0, 1).all()
    least = {
        n: c["threshold"] for n, c in json.loads((tmp_path / "one" / "summary.json").read_text())["classes"].items()
    }
    assert all(c >= least[n] for n, c in zip(rows.table["label"], rows.table["confidence"], strict=True))
    assert all(len(Views.load(tmp_path / "one" / "views" / k).start) == len(rows) + 1 for k in ("standard", "strong"))
    for file in (f for f in (tmp_path / "one").rglob("*") if f.is_file()):
        assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes()


def test_generators_learn_from_the_labelled_rows_behind_those_of_train(small, places, tmp_path):
    label_pool.main(small, *places.values(), tmp_path / "out")
    train, kept = Samples.load(places["train"]), Samples.load(tmp_path / "out")
    both = with_pool(places["train"], tmp_path / "out")
    assert len(both) == len(train) + len(kept) and both.facts == train.facts
    assert both.y.tolist() == [*train.y, *kept.y] and (both.images[len(train) :] == kept.images).all()


def test_without_a_pool_there_is_nothing_to_learn_and_nothing_is_trained(small, places, tmp_path, monkeypatch):
    pool = Samples.load(places["unlabelled"])
    pool.take(np.empty(0, int)).save(tmp_path / "none")
    monkeypatch.setattr(label_pool, "Trials", None)
    label_pool.main(small, *(places | {"unlabelled": tmp_path / "none"}).values(), tmp_path / "out")
    assert len(Samples.load(tmp_path / "out")) == 0
    assert len(with_pool(places["train"], tmp_path / "out")) == len(Samples.load(places["train"]))


@pytest.mark.parametrize("rows", [1, 2])
def test_a_pool_of_fewer_rows_than_folds_is_used_all_the_same(small, places, tmp_path, rows, monkeypatch):
    monkeypatch.setattr(label_pool, "thresholds", lambda *_: np.zeros(3))
    Samples.load(places["unlabelled"]).take(np.arange(rows)).save(tmp_path / "few")
    label_pool.main(small, *(places | {"unlabelled": tmp_path / "few"}).values(), tmp_path / "out")
    account = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert account["rows"] == rows and [t["labels"] for t in account["trials"]][:2] == ["none", "teachers"]
    assert len(Samples.load(tmp_path / "out")) == (0 if account["taken"] == "none" else rows)


def test_where_the_teachers_are_never_sure_the_pool_is_left_aside(small, places, tmp_path, monkeypatch):
    monkeypatch.setattr(label_pool, "thresholds", lambda *_: np.full(3, np.inf))
    label_pool.main(small, *places.values(), tmp_path / "out")
    account = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert account["taken"] == "none" and account["trials"] == [] and len(Samples.load(tmp_path / "out")) == 0
    assert [c["threshold"] for c in account["classes"].values()] == [None] * 3


def test_an_arm_learns_from_the_pool_as_from_real_rows(small, places, tmp_path, monkeypatch):
    label_pool.main(small, *places.values(), tmp_path / "pool")
    kept, train = Samples.load(tmp_path / "pool"), Samples.load(places["train"])
    (tmp_path / "plan.json").write_text('{"wanted": true}')
    (tmp_path / "search.json").write_text("{}")
    seen, mix = [], _learn.mix
    monkeypatch.setattr(_learn, "mix", lambda recipe, real, *rest: seen.append(real) or mix(recipe, real, *rest))
    monkeypatch.setattr(
        retrain.processes, "parallel", lambda f, jobs, *_: [f(*j, report=lambda *_: None) for j in jobs]
    )
    nothing = train.take(np.empty(0, int))
    nothing.save(tmp_path / "nothing")
    write_banks(tmp_path / "nothing" / "views", nothing, small)
    for arm, also in (("oversample", "nothing"), ("pool", "pool")):
        retrain.main(
            small,
            arm,
            tmp_path / "plan.json",
            *(places[n] for n in ("train", "val", "views")),
            tmp_path / "nothing",
            tmp_path / also,
            tmp_path / "search.json",
            tmp_path / "arms" / arm,
        )
    records = [json.loads((tmp_path / "arms" / arm / "record.json").read_text()) for arm in ("oversample", "pool")]
    assert [r["pool_rows"] for r in records] == [0, len(kept)]
    assert records[0]["initial_weights"] == records[1]["initial_weights"]
    plain, more = seen[0], seen[-1]
    assert len(plain.y) == len(train) and more.y.tolist() == [*train.y, *kept.y]
    last = more.view(np.array([len(train)]), np.zeros(1))
    assert (more.views.images[last[0]] == kept.images[0]).all()


def test_arms_of_the_pool_are_trained_only_where_there_is_one(small):
    assert {"pool", "pool_diffusion"} <= set(small.compared)
    assert not {"pool", "pool_diffusion"} & set(SHIPPED.compared)
    elsewhere = SHIPPED.data.model_copy(update={"unlabelled": "/else/where/sets/none.yaml"})
    assert "pool" not in SHIPPED.model_copy(update={"data": elsewhere}).compared
