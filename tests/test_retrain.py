"""One arm from its rows to its record: recipes, mixtures, shuffled labels. Run: python -m pytest tests/test_retrain.py"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import params, processes
from pipeline.classifier import model
from pipeline.classifier.predict import load
from pipeline.data.augment import Views
from pipeline.data.loaders import Rows
from pipeline.errors import Diverged
from pipeline.samples import Facts, Samples, table
from stages import _learn, retrain, search, train_baseline, trained
from stages.augment import write_banks

SHIPPED = params.load(Path(params.__file__).parents[2] / "params.yaml")
CLASSES = ("a", "b", "c")
COUNTS = (12, 7, 3)


def quiet(count: int, note: str = "") -> None:
    pass


def made_by(name: str, labels: str, first: int, drop: tuple[int, ...] = ()) -> Samples:
    """Synthetic rows of one grey each, number i being `first` + i, so that a picture tells which row it is."""
    n = len(labels)
    images = np.broadcast_to(np.arange(first, first + n, dtype=np.uint8)[:, None, None, None], (n, 8, 8, 1)).copy()
    keep = [i not in drop for i in range(n)]
    frame = table(
        id=[f"{name}-{c}-{i}" for i, c in enumerate(labels)],
        group=[f"{name}{i}" for i in range(n)],
        label=list(labels),
        split=["synthetic"] * n,
        origin=[name] * n,
        keep=keep,
    )
    return Samples(frame, images, Facts(CLASSES, ("b", "c")))


@pytest.fixture(scope="module")
def settled() -> params.Params:
    """The shipped params, small; arms of one recipe each and those that the tests below name."""
    arms = {f"by_{r}": SHIPPED.arms["cvae"].model_copy(update={"also": "cgan", "recipe": r}) for r in SHIPPED.recipes}
    arms |= {name: SHIPPED.arms[name] for name in ("real", "cvae", "mixture", "shuffled", "mixup")}
    return SHIPPED.model_copy(
        update={
            "arms": {name: arm.model_copy(update={"dose": "full"}) for name, arm in arms.items()},
            "generation": SHIPPED.generation.model_copy(update={"dose": "full"}),
            "augment": SHIPPED.augment.model_copy(update={"views_per_class": 30, "views_per_row": (2, 4)}),
            "classifier": SHIPPED.classifier.model_copy(update={"widths": [8], "batch": 16, "steps": 3}),
            "retraining": SHIPPED.retraining.model_copy(update={"seeds": 2}),
            "compute": SHIPPED.compute.model_copy(update={"accelerator": "cpu", "processes": 1}),
            "profile": "full",
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory, toy, settled) -> SimpleNamespace:
    """The folders that the stages before have written; of `first`, the rows 0 and 4 were dropped."""
    root, train = tmp_path_factory.mktemp("data"), toy(COUNTS)
    train = Samples(train.table, train.images, Facts(CLASSES, ("b", "c")))
    train.save(root / "train")
    toy((4, 3, 2), seed=9, split="val").save(root / "val")
    write_banks(root / "views", train, settled)
    (root / "views" / "policy.json").write_text(json.dumps({"policy": "glyph"}))
    parts = {
        "first": made_by("first", "bbbbbccccccc", 100, drop=(0, 4)),
        "second": made_by("second", "ccccccccbbbbbb", 200),
        "nothing": made_by("nothing", "", 0),
    }
    for name, rows in parts.items():
        rows.save(root / name)
        write_banks(root / name / "views", rows, settled)
    return SimpleNamespace(root=root, real=train, **parts)


def parts_of(data, settled, name: str, *folders: str) -> list[tuple[Path, np.ndarray]]:
    arm = settled.arms[name]
    made = [getattr(data, f) for f in folders]
    chosen = retrain.added_rows(settled, arm, settled.recipes[arm.recipe], data.real, made)
    return [(data.root / folder, rows) for folder, rows in zip(folders, chosen, strict=True)]


def pictured(rows) -> np.ndarray:
    """The grey of each row's first view, which is the row itself."""
    place = np.arange(len(rows.y)) if rows.place is None else rows.place
    return rows.views.images[rows.views.start[place]][:, 0, 0, 0]


def train_one(data, settled, out: Path, name: str, *folders: str, number: int = 0) -> dict:
    real, places = data.real, [data.root / part for part in ("train", "val", "views")]
    settings = model.settings(settled.classifier, real.shape, 3, len(real))
    recipe, parts = settled.recipes[settled.arms[name].recipe], parts_of(data, settled, name, *folders)
    return retrain.train_seed(settled, settings, name, recipe, number, parts, retrain.Real(*places), out, None, quiet)


# ---- which rows are added ---------------------------------------------------------------------------------------


def test_one_generator_gives_its_kept_rows_up_to_the_dose(data, settled):
    ((folder, rows),) = parts_of(data, settled, "cvae", "second")
    assert (folder, rows.tolist()) == (data.root / "second", [*range(8), *range(8, 13)]), "9 of c asked for, 5 of b"
    made = _learn.synthetic_rows(settled.recipes["synthetic"], [(folder, rows)])
    assert made.y.tolist() == [2] * 8 + [1] * 5 and pictured(made).tolist() == list(range(200, 213))
    assert (made.weight == settled.recipes["synthetic"].weight).all()


def test_a_mixture_takes_rows_of_both_generators_and_fills_up_from_the_second(data, settled):
    """5 rows of b and 9 of c are asked for; first has 3 and 7 kept ones, of which 3 and 5 are its half."""
    parts = parts_of(data, settled, "mixture", "first", "second")
    assert [rows.tolist() for _, rows in parts] == [[1, 2, 3, 5, 6, 7, 8, 9], [0, 1, 2, 3, 8, 9]]
    made = _learn.synthetic_rows(settled.recipes["synthetic"], parts)
    assert made.y.tolist() == [1] * 3 + [2] * 5 + [2] * 4 + [1] * 2
    assert pictured(made).tolist() == [101, 102, 103, 105, 106, 107, 108, 109, 200, 201, 202, 203, 208, 209]


def test_the_views_of_a_mixture_are_those_of_its_parts(data, settled):
    parts = parts_of(data, settled, "mixture", "first", "second")
    made = _learn.synthetic_rows(settled.recipes["synthetic"], parts)
    expected = [
        bank.images[bank.start[row] : bank.start[row + 1]]
        for folder, rows in parts
        for bank in [Views.load(folder / "views" / "standard")]
        for row in rows
    ]
    assert np.array_equal(made.views.images, np.concatenate(expected))
    assert np.diff(made.views.start).tolist() == [len(views) for views in expected]


@pytest.mark.parametrize("seed", [0, 1])
def test_batches_of_a_mixture_hold_rows_of_both_generators(data, settled, seed):
    recipe = settled.recipes["synthetic"]
    made = _learn.synthetic_rows(recipe, parts_of(data, settled, "mixture", "first", "second"))
    own = Rows(data.real.y, Views.load(data.root / "views" / "standard"), np.ones(len(data.real)))
    batches = _learn.mix(recipe, own, 3, SimpleNamespace(batch=64, steps=40), seed, made)
    drawn = np.concatenate([row[swap] for _, row, swap, _ in map(batches.draw, range(40))])
    assert set(drawn) == set(range(14)), "each of the 14 rows comes sooner or later"
    assert (batches.balance, batches.share) == (recipe.balance, recipe.share)


def test_a_synthetic_row_weighs_what_is_asked_beside_a_real_one_of_its_class(data, settled):
    """With a column of weights it weighed three times as much as real rows of a weight of 0.1, instead of a third."""
    made = _learn.synthetic_rows(settled.recipes["synthetic"], parts_of(data, settled, "mixture", "first", "second"))
    weight = np.array([1.0, 0.1, 3.0])[data.real.y] * np.where(np.arange(len(data.real)) % 2, 0.9, 1.1)
    own = Rows(data.real.y, Views.load(data.root / "views" / "standard"), weight)
    batches = _learn.mix(settled.recipes["synthetic"], own, 3, SimpleNamespace(batch=64, steps=40), 0, made)
    for c in np.unique(made.y):
        beside = batches.synthetic.weight[made.y == c] / weight[data.real.y == c].mean()
        assert beside == pytest.approx(np.full(len(beside), settled.recipes["synthetic"].weight))


def test_only_a_control_with_its_recipe_could_answer_for_a_tuned_arm_of_the_pool():
    for name in ("pool", "pool_diffusion"):
        assert SHIPPED.arms[name].also == "pool" and not SHIPPED.arms[name].tuned
        arm = SHIPPED.arms[name].model_copy(update={"tuned": True})
        assert retrain.settle(SHIPPED, arm, {"weight": 0.7, "dose": "sqrt"}) == (arm, SHIPPED.recipes[arm.recipe])


def test_a_part_without_rows_is_left_out_and_no_part_at_all_is_none(data, settled):
    recipe, none = settled.recipes["synthetic"], (data.root / "nothing", np.zeros(0, np.int64))
    alone = _learn.synthetic_rows(recipe, [none, (data.root / "second", np.array([8, 0]))])
    assert pictured(alone).tolist() == [208, 200] and alone.y.tolist() == [1, 2]
    assert _learn.synthetic_rows(recipe, [none, none]) is None


def test_a_recipe_that_was_found_keeps_how_the_arm_uses_synthetic_rows(settled):
    found = search.spelt_out(settled, "recipe", "cutmix") | {"weight": 0.7}
    arm, recipe = retrain.settle(settled, SHIPPED.arms["diffusion"], json.loads(json.dumps(found)))
    assert arm.recipe == "cutmix"
    own, other = settled.recipes["synthetic"], settled.recipes["cutmix"]
    assert (recipe.mix, recipe.views, recipe.balance, recipe.weight) == ("cutmix", other.views, other.balance, 0.7)
    assert recipe.share == own.share
    progressive = search.spelt_out(settled, "recipe", "progressive")
    assert retrain.settle(settled, SHIPPED.arms["diffusion"], progressive)[1].balance == (1.0, 0.0)


def test_rows_set_aside_are_drawn_as_real_rows_are(settled):
    """Five times as many as the others came in half of the draws, so that synthetic rows seemed worth more of them."""
    arm = SHIPPED.arms["oversample"].model_copy(update={"role": "oracle", "rows": "heldback", "use": "all"})
    again, recipe = retrain.settle(settled, arm, {})
    assert again == arm and (recipe.share, recipe.weight) == (1.0, 1.0)
    assert recipe.model_dump(exclude={"share"}) == settled.recipes["balanced"].model_dump(exclude={"share"})


def test_a_tuned_arm_has_what_the_search_found_and_another_has_not(settled):
    found = {"share": 0.3, "weight": 0.2, "dose": "sqrt", "strength": [0.6, 0.9]}
    arm, recipe = retrain.settle(settled, SHIPPED.arms["diffusion"], found)
    assert (recipe.share, recipe.weight, arm.dose) == (0.3, 0.2, "sqrt")
    assert recipe.balance == settled.recipes["synthetic"].balance
    plain = SHIPPED.arms["mixup"]
    assert retrain.settle(settled, plain, found) == (plain, settled.recipes["mixup"])
    assert retrain.settle(settled, SHIPPED.arms["diffusion_quarter"], found)[0].dose == "quarter"


def test_mixed_up_labels_keep_their_number_and_change_their_places():
    y = np.repeat([0, 2, 3], [9, 5, 2])
    one, two, other = (retrain.mixed_up(y, 4, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    for found in (one, other):
        assert sorted(found) == sorted(y) and (found != y).any()


def test_labels_that_are_all_one_become_any_class():
    found = retrain.mixed_up(np.full(300, 1), 3, np.random.default_rng(0))
    assert set(found) == {0, 1, 2}, "a permutation of equal labels would change nothing"


def test_a_shuffled_arm_learns_from_the_same_pictures_under_other_labels(data, settled, tmp_path, monkeypatch):
    seen = []
    real = _learn.mix
    monkeypatch.setattr(_learn, "mix", lambda *a: seen.append(a[-1]) or real(*a))
    for name in ("mixture", "shuffled"):
        train_one(data, settled, tmp_path / name, name, "first", "second")
    plain, mixed = seen
    assert np.array_equal(pictured(plain), pictured(mixed)) and np.array_equal(plain.weight, mixed.weight)
    assert sorted(plain.y) == sorted(mixed.y) and (plain.y != mixed.y).any()


# ---- training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", SHIPPED.recipes)
def test_every_recipe_trains_and_does_the_same_again(data, settled, tmp_path, recipe):
    name = f"by_{recipe}"
    one, again = (train_one(data, settled, tmp_path / k, name, "first", "second") for k in ("one", "again"))
    losses = [point["loss"] for point in one["curve"] if "loss" in point]
    assert len(losses) == 3 and np.isfinite(losses).all() and np.isfinite(one["probabilities"]).all()
    np.testing.assert_array_equal(one["probabilities"], again["probabilities"])
    weights = [(tmp_path / k / "seed0.safetensors").read_bytes() for k in ("one", "again")]
    assert weights[0] == weights[1] and one["curve"] == again["curve"] and one["initial"] == again["initial"]
    other = train_one(data, settled, tmp_path / "other", name, "first", "second", number=1)
    assert other["initial"] != one["initial"] and not np.array_equal(other["probabilities"], one["probabilities"])


@pytest.mark.parametrize("recipe", SHIPPED.recipes)
def test_every_recipe_trains_in_half_precision(data, settled, tmp_path, recipe):
    compute = settled.compute.model_copy(update={"precision": "bf16-mixed"})
    half = settled.model_copy(update={"compute": compute})
    done = train_one(data, half, tmp_path, f"by_{recipe}", "first", "second")
    assert np.isfinite([point["loss"] for point in done["curve"] if "loss" in point]).all()


def test_arms_begin_with_the_same_weights_whatever_their_rows_and_recipe(data, settled, tmp_path):
    begun = {train_one(data, settled, tmp_path, f"by_{r}", "first", "second")["initial"] for r in ("plain", "mixup")}
    begun |= {train_one(data, settled, tmp_path, name, "nothing")["initial"] for name in ("real", "mixup")}
    assert len(begun) == 1


def test_shuffled_labels_teach_something_else(data, settled, tmp_path):
    plain, mixed_up = (train_one(data, settled, tmp_path / n, n, "second") for n in ("cvae", "shuffled"))
    assert plain["initial"] == mixed_up["initial"]
    assert not np.array_equal(plain["probabilities"], mixed_up["probabilities"])


@pytest.fixture
def handed(monkeypatch) -> list:
    """What trainings are given to learn from, instead of their taking place."""

    def instead(batches, held, settings, *rest):
        seen.append(batches)
        return model.Network(settings), []

    seen = []
    monkeypatch.setattr("pipeline.classifier.train.train", instead)
    return seen


@pytest.mark.parametrize(("recipe", "views"), [("balanced", "standard"), ("strong", "strong")])
def test_real_rows_have_the_views_of_the_recipe(data, settled, tmp_path, handed, recipe, views):
    train_one(data, settled, tmp_path, f"by_{recipe}", "first", "second")
    assert Path(handed[0].real.views.images.filename) == data.root / "views" / views / "views.npy"


@pytest.mark.parametrize("views", ["standard", "strong"])
def test_synthetic_rows_have_the_views_of_the_recipe(data, settled, views):
    recipe = settled.recipes["synthetic"].model_copy(update={"views": views})
    made = _learn.synthetic_rows(recipe, [(data.root / "second", np.array([8, 0]))])
    assert Path(made.views.images.filename) == data.root / "second" / "views" / views / "views.npy"


@pytest.mark.parametrize(("recipe", "views"), [("progressive", "standard"), ("strong", "strong")])
def test_teachers_are_trained_by_their_recipe(data, settled, tmp_path, handed, recipe, views):
    teachers = settled.teachers.model_copy(update={"recipe": recipe})
    changed, mask = settled.model_copy(update={"teachers": teachers}), np.arange(len(data.real)) % 2 == 0
    settings = model.settings(settled.classifier, data.real.shape, 3, len(data.real))
    source = _learn.Real(*(data.root / part for part in ("train", "val", "views")))
    train_baseline.train_one(changed, settings, "teacher0", mask, source, tmp_path, None, quiet)
    (batches,) = handed
    assert Path(batches.real.views.images.filename) == data.root / "views" / views / "views.npy"
    assert batches.balance == settled.recipes[recipe].balance and batches.synthetic is None
    assert np.array_equal(batches.real.place, np.flatnonzero(mask))


# ---- the stage --------------------------------------------------------------------------------------------------


@pytest.fixture
def one_by_one(monkeypatch) -> None:
    """Seeds trained here, one after the other, instead of in processes of their own."""
    monkeypatch.setattr(processes, "warm", lambda *modules: None)
    monkeypatch.setattr(processes, "parallel", lambda train, jobs, *_: [train(*job, report=quiet) for job in jobs])


def run(data, settled, name: str, rows: str, also: str, out: Path) -> dict:
    places = [data.root / part for part in ("plan.json", "train", "val", "views", rows, also)]
    (data.root / "plan.json").write_text(json.dumps({"wanted": name in settled.compared}))
    (data.root / "search.json").write_text("{}")
    retrain.main(settled, name, *places, data.root / "search.json", out)
    return json.loads((out / "record.json").read_text())


def test_a_record_says_what_an_arm_was_made_of(data, settled, tmp_path, one_by_one):
    record = run(data, settled, "mixture", "first", "second", tmp_path / "out")
    assert record["arm"] == settled.arms["mixture"].model_dump()
    assert record["recipe"] == json.loads(settled.recipes["synthetic"].model_dump_json())
    assert record["synthetic_rows"] == {"a": 0, "b": 5, "c": 9}
    assert record["seeds"] == [0, 1] and len(set(record["initial_weights"])) == 2
    assert record["settings"]["steps"] == 3
    assert record["machine"]["torch"] == torch.__version__ and record["machine"]["precision"] == "32-true"
    assert record["machine"]["device"].startswith("cpu, ") and record["machine"]["python"]
    with np.load(tmp_path / "out" / "validation.npz", allow_pickle=False) as file:
        assert file["probabilities"].shape == (2, 9, 3) and np.allclose(file["probabilities"].sum(axis=2), 1)
        assert file["y"].tolist() == [0] * 4 + [1] * 3 + [2] * 2 and len(np.unique(file["groups"])) == 5
    assert all(not load(tmp_path / "out" / f"seed{k}").training for k in (0, 1))


def test_a_second_generator_is_looked_at_only_where_the_arm_names_one(data, settled, tmp_path, one_by_one):
    record = run(data, settled, "cvae", "second", "no such folder", tmp_path / "out")
    assert record["synthetic_rows"] == {"a": 0, "b": 5, "c": 8}


def test_a_course_of_balance_is_written_as_the_two_numbers(data, settled, tmp_path, one_by_one):
    assert run(data, settled, "by_progressive", "first", "second", tmp_path / "out")["recipe"]["balance"] == [1.0, 0.0]


def left_out(settled, how: str) -> params.Params:
    key = {"role": "skip"} if how == "role" else {"quick": False}
    arms = {**settled.arms, "mixture": settled.arms["mixture"].model_copy(update=key)}
    return settled.model_copy(update={"arms": arms, "profile": "full" if how == "role" else "quick"})


@pytest.mark.parametrize("how", ["role", "profile"])
def test_an_arm_that_is_left_out_has_a_record_and_no_model(data, settled, tmp_path, monkeypatch, how):
    """With the profile `quick` every arm was trained all the same: only the role was looked at."""
    monkeypatch.setattr(processes, "parallel", lambda *_: pytest.fail("it was trained"))
    changed = left_out(settled, how)
    record = run(data, changed, "mixture", "first", "second", tmp_path / "out")
    assert record == {"arm": changed.arms["mixture"].model_dump()}
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["record.json"]


def test_an_arm_whose_training_diverges_says_so_and_leaves_nothing_else(data, settled, tmp_path, monkeypatch):
    def parallel(*_):
        raise Diverged("the loss of Training is nan by step 2")

    monkeypatch.setattr(processes, "parallel", parallel)
    record = run(data, settled, "mixture", "first", "second", tmp_path / "out")
    assert record["status"] == "failed" and record["reason"] == "the loss of Training is nan by step 2"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["record.json"]


def test_arms_whose_training_diverged_are_not_compared_but_one_control_has_to_be_left(settled, tmp_path):
    def told(**reasons):
        for name in settled.compared:
            (tmp_path / name).mkdir(exist_ok=True)
            record = {"reason": reasons[name]} if name in reasons else {"seeds": [0, 1]}
            (tmp_path / name / "record.json").write_text(json.dumps(record))
        return trained(settled, tmp_path)

    left, failed = told()
    assert left.compared == settled.compared and not failed
    left, failed = told(mixture="it is nan")
    assert failed == {"mixture": "it is nan"} and set(settled.compared) - set(left.compared) == {"mixture"}
    controls = {name: f"{name} is nan" for name, arm in settled.compared.items() if arm.role == "control"}
    with pytest.raises(Diverged, match="no control could be trained: real: real is nan; mixup: mixup is nan"):
        told(**controls)


def test_an_arm_that_does_not_exist_is_told_with_those_that_do(data, settled, tmp_path):
    with pytest.raises(ValueError, match=r"params\.yaml has no arms\.mixtures; there are: .*mixture"):
        run(data, settled, "mixtures", "first", "second", tmp_path / "out")
    assert not (tmp_path / "out").exists()
