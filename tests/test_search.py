"""The search tries, takes what is surely better, keeps to its budget. Run: python -m pytest tests/test_search.py"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline import generators, params
from pipeline.data import splits
from pipeline.errors import Diverged
from pipeline.evaluation.utility import gain, likelihood, surely_better
from pipeline.params.sections import Cap
from pipeline.samples import Facts, Samples
from pipeline.seeds import derive
from stages import _trials, check, retrain, search, train_baseline
from stages.augment import write_banks

SHIPPED = params.load(Path(params.__file__).parents[2] / "params.yaml")
Y = np.repeat([0, 1], [60, 20])


class Judged:
    """Trials whose outcome is known: how likely a validation row is grows with what `worth` says of the settings."""

    def __init__(self, worth, trainings: int, noise: float = 0.0) -> None:
        block = SHIPPED.search.model_copy(update={"trainings": trainings, "seeds": 2})
        self.params, self.worth, self.noise = (
            SHIPPED.model_copy(update={"search": block, "profile": "full"}),
            worth,
            noise,
        )
        self.left, self.asked = trainings, []
        frame = pd.DataFrame({"group": [str(i) for i in range(len(Y))]})
        self.held = SimpleNamespace(y=Y, table=frame)

    def affords(self, several: int) -> int:
        return min(several, self.left // 2)

    def matters(self, key: str, value: object) -> bool:
        return value != "full"

    def passes(self, name: str, found: dict) -> bool:
        return True

    def run(self, name: str, several: list[dict]) -> list[np.ndarray]:
        self.left -= 2 * len(several)
        self.asked += [(name, found) for found in several]
        return [self.said(self.worth(name, found)) for found in several]

    def said(self, worth: float) -> np.ndarray:
        rng = np.random.default_rng(int(1000 * worth))
        right = 1 / (1 + np.exp(-worth - self.noise * rng.normal(size=len(Y))))
        p = np.stack([np.where(Y == 0, right, 1 - right), np.where(Y == 0, 1 - right, right)], axis=1)
        return np.stack([p, p])


def climbed(trials: Judged, *names: str) -> list[search.Climb]:
    climbs = search.best_first(trials, names)
    search.climb(trials, climbs)
    return climbs


def test_better_values_are_taken_one_key_after_the_other():
    """0.3 is the best share, and more noise helps only with it; nothing else changes anything."""

    def worth(name: str, found: dict) -> float:
        return 1 + (found.get("share") == 0.3) + (found.get("strength") == [0.6, 0.9] and found.get("share") == 0.3)

    (one,) = climbed(Judged(worth, 100), "translate")
    assert one.found == {"share": 0.3, "strength": [0.6, 0.9]}
    taken = [(row["key"], row["value"]) for row in one.table[1:] if row["taken"]]
    assert taken == [("share", "0.3"), ("strength", "[0.6, 0.9]")]
    space = SHIPPED.search.space
    tried = [row.get("key") for row in one.table]
    assert tried.count("share") == len(space.share)
    assert tried.count("strength") == 1 < len(space.strength), "the others are of augmentation, and no noise"


def test_a_recipe_is_judged_over_three_generators_and_taken_for_all_but_those_surely_worse_with_it(
    small, places, tmp_path, monkeypatch
):
    """The three best at the start try all; the others what they took. One of each kind is worse with it, and goes without."""
    start = {"diffusion": 2.0, "translate": 1.0, "cvae": 0.5, "gmm": 0.4, "smote": 0.3}

    def worth(name: str, found: dict) -> float:
        changes = {"cutmix": {"cvae": -0.1, "gmm": -0.3, "smote": 0.0}.get(name, 0.5), "strong": 0.2 * (name == "cvae")}
        return start[name] + changes.get(found.get("recipe"), 0)

    space = {key: [] for key in SHIPPED.search.space.model_dump()} | {"recipe": ["mixup", "cutmix", "strong"]}
    arms = {name: SHIPPED.arms[name] for name in ("real", *start)}
    block = params.Search(trainings=100, seeds=2, space=space)
    trials = Judged(worth, 100)
    blocks = small.generators | {name: SHIPPED.generators[name] for name in start if name not in small.generators}
    trials.params = small.model_copy(update={"search": block, "arms": arms, "generators": blocks})
    monkeypatch.setattr(search, "Trials", lambda *_: trials)
    monkeypatch.setattr(search, "failure", lambda folder: "")
    search.main(trials.params, *places.values(), tmp_path / "out")
    asked = [(name, found["recipe"]) for name, found in trials.asked if found]
    judges = ("diffusion", "translate", "cvae")
    assert asked == [*((name, r) for name in judges for r in space["recipe"]), ("gmm", "cutmix"), ("smote", "cutmix")]
    found, cutmix = found_in(tmp_path / "out"), search.spelt_out(SHIPPED, "recipe", "cutmix")
    assert {name for name in found if found[name]} == {"diffusion", "smote", "translate"}
    assert all(found[name] in ({}, cutmix) for name in found)
    tried = pd.read_csv(tmp_path / "out" / "tried.csv").iloc[len(start) :]
    tried = tried.sort_values("generator", key=lambda names: ~names.str.contains(","), kind="stable")
    assert tried["generator"].tolist() == 3 * [", ".join(judges)] + list(start)
    assert tried["taken"].tolist() == [False, True, False, True, True, False, False, True]
    said = {name: [trials.said(start[name] + x) for x in (0, -0.1 if name == "cvae" else 0.5)] for name in judges}
    gains = [(likelihood(new, Y) - likelihood(old, Y)).mean() for old, new in said.values()]
    assert tried["gain"].iloc[1] == pytest.approx(np.mean(gains)) and tried["gain"].iloc[6] < 0
    assert tried["gain"].iloc[3:6].to_numpy() == pytest.approx(gains)
    old, new = (np.concatenate([pair[i] for pair in said.values()]) for i in (0, 1))
    error = gain(new, old, Y, np.arange(len(Y)), several=3)["standard_error"]
    assert tried["standard_error"].iloc[1] == pytest.approx(error)


def test_where_no_recipe_is_surely_better_over_the_three_each_keeps_its_own():
    """Better with the likeliest generator alone: by chance, as like as not."""
    start = {"cgan": 2.0, "gmm": 1.5, "cvae": 1.0, "smote": 0.5}
    trials = Judged(lambda n, found: start[n] + (found.get("recipe") == "mixup") * (0.5 if n == "cgan" else -0.3), 200)
    assert not any("recipe" in one.found for one in climbed(trials, *start))
    assert {name for name, found in trials.asked if "recipe" in found} == {"cgan", "gmm", "cvae"}


def test_a_generator_of_whose_rows_none_passes_judges_no_recipe(monkeypatch):
    """Real rows alone may be likelier under another recipe; that says nothing of added ones."""
    start = {"cgan": 2.0, "gmm": 1.5, "cvae": 1.0, "smote": 0.5}
    trials = Judged(lambda n, found: start[n] + (found.get("recipe") == "mixup") * (5.0 if n == "cgan" else 0.3), 200)
    monkeypatch.setattr(trials, "passes", lambda name, found: name != "cgan")
    climbs = climbed(trials, *start)
    lines = [line for line in climbs[0].table if line.get("key") == "recipe" and ", " in line["generator"]]
    assert {line["generator"] for line in lines} == {"gmm, cvae, smote"}
    assert [line["value"] for line in lines if line["taken"]] == ['"mixup"']
    assert all(one.found["mix"] == "mixup" for one in climbs), "and has it like the others"


def test_what_is_not_surely_better_is_not_taken():
    (one,) = climbed(Judged(lambda name, found: 1 + 0.01 * len(found), 100, noise=2.0), "cvae")
    assert one.found == {} and not any(row["taken"] for row in one.table[1:])
    tried = {row["key"] for row in one.table[1:]}
    assert tried == {"recipe", "weight", "share", "dose"}, "cvae has no strength"


def test_the_best_of_several_values_has_to_be_ahead_by_more_than_a_single_one():
    """Of six that are worth nothing, one was ahead by one standard error in half of all searches."""
    rng = np.random.default_rng(0)
    for many in (1, 3, 6):
        gains = rng.normal(size=(4000, many))
        told = [{"gain": g, "standard_error": 1.0, "correct": 0.0, "correct_error": 1.0} for g in gains.max(axis=1)]
        taken = np.mean([surely_better(found, many) for found in told])
        assert abs(taken - 0.1587) < 0.02


def test_every_row_of_a_control_is_learnt_from_so_it_may_judge(small, places, tmp_path):
    """Selection drops what copies on purpose; with kept rows alone asked for, duplicates could never say which recipe is better."""
    arms = small.arms | {"duplicate": small.arms["duplicate"].model_copy(update={"tuned": True})}
    strict = small.selection.model_copy(update={"copy_false_alarms": 0.01})
    block = small.model_copy(update={"arms": arms, "selection": strict})
    model = generators.build(block.generators["duplicate"], block.compute, "duplicate")
    model.fit(Samples.load(places["train"]), 0)
    model.save(tmp_path / "models" / "duplicate")
    source = retrain.Real(places["train"], places["val"], places["views"])
    trials = search.Trials(block, source, places["pool"], tmp_path / "models", places["baseline"], tmp_path)
    rows = Samples.load(trials.judged("duplicate", {}))
    assert len(rows) and not rows.table["keep"].any() and trials.passes("duplicate", {})


def test_a_likelier_value_with_surely_fewer_rows_right_is_not_taken(monkeypatch):
    told = {"gain": 1.0, "standard_error": 0.1, "correct": -0.01}
    monkeypatch.setattr(search, "gain", lambda *_: told | {"correct_error": 0.009})
    (one,) = climbed(Judged(lambda name, found: 1.0, 100), "cvae")
    assert one.found == {} and len(one.table) > 1
    monkeypatch.setattr(search, "gain", lambda *_: told | {"correct_error": 0.011})
    (one,) = climbed(Judged(lambda name, found: 1.0, 100), "cvae")
    assert set(one.found) >= {"recipe", "weight", "share", "dose"}, "one row in six hundred may be wrong by chance"


@pytest.mark.parametrize("trainings", [0, 1, 2, 5, 7, 12, 30, 47, 52])
def test_no_more_is_trained_than_the_budget_allows_and_every_generator_has_its_recipe_before_any_has_the_rest(
    trainings,
):
    worth = {"cvae": 1.0, "cgan": 3.0, "gmm": 2.0, "smote": 0.5}
    trials = Judged(lambda name, found: worth[name] + 0.5 * (found.get("recipe") == "mixup"), trainings)
    climbs = climbed(trials, *worth)
    assert 2 * len(trials.asked) <= trainings and trials.left >= 0
    started = list(worth)[: trainings // 2]
    assert [one.name for one in climbs] == [name for name in ("cgan", "gmm", "cvae", "smote") if name in started]
    if trainings > 2 * (4 + 3 * len(SHIPPED.search.space.recipe) + 1):
        assert all(one.found["recipe"] == "mixup" for one in climbs)
        assert climbs[-1].table[-1].get("key") != "dose", "the budget was to end before the last key"
    tried = [row["key"] for one in climbs for row in one.table[1:]]
    assert not tried or tried[0] == "recipe", "what no recipe was tried for was tried with other keys"
    taken, judges = "recipe" in climbs[0].found if climbs else False, min(len(climbs), 3)
    shared = sum(row["key"] == "recipe" for row in climbs[0].table[1:]) - taken if climbs else 0
    more = (
        shared * (judges - 1) - judges * taken
    )  # a line of what is taken is noted for each, and trained for the others
    assert len(tried) + len(climbs) + more == len(trials.asked)


@pytest.fixture(scope="module")
def small() -> params.Params:
    """Tiny settings: one generator of rows, one whose drawing is searched."""
    names = ("nothing", "duplicate", "diffusion", "translate")
    tiny = {"epochs": 1, "batch": 8, "width": 8, "ema": [0.0], "snapshots": 1, "sampler_steps": 2}
    blocks = {n: SHIPPED.generators[n] for n in names}
    blocks["diffusion"] = params.Generator(**(blocks["diffusion"].model_dump() | tiny))
    lenient = {"unlike": 1e6, "alike": 0.0, "third_class": 1.0, "copy_false_alarms": 0.0}  # of a hardly fitted model
    space = {k: [] for k in SHIPPED.search.space.model_dump()} | {
        "strength": [(0.1, 0.2), (0.2, 0.3)],
        "dose": ["quarter"],
    }
    return SHIPPED.model_copy(update={
        "profile": "full",
        "generators": blocks,
        "arms": {
            n: SHIPPED.arms[n].model_copy(update={"tuned": n == "translate"}) for n in ("real", "duplicate", "translate")
        },
        "search": params.Search(trainings=10, seeds=2, space=space),
        "selection": SHIPPED.selection.model_copy(update=lenient),
        "augment": SHIPPED.augment.model_copy(update={"views_per_class": 20, "views_per_row": (2, 4)}),
        "classifier": SHIPPED.classifier.model_copy(update={"widths": [8], "batch": 16, "steps": 3}),
        "compute": SHIPPED.compute.model_copy(update={"accelerator": "cpu", "processes": 1}),
    })  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory, toy, small) -> dict[str, Path]:
    """What the stages before have written: rows, views, a baseline, a fitted model."""
    root = tmp_path_factory.mktemp("search")
    train, held = toy((14, 9, 4)), toy((6, 5, 4), seed=9, split="val")
    train, held = (Samples(s.table, s.images, Facts(s.classes, s.classes[1:])) for s in (train, held))
    train.save(root / "train")
    held.save(root / "val")
    train.take(np.empty(0, int)).save(root / "pool")
    write_banks(root / "views", train, small, ["standard"])
    model = generators.build(small.generators["diffusion"], small.compute, "diffusion")
    model.fit(train, 0)
    model.save(root / "models" / "diffusion")
    (root / "baseline").mkdir()
    train_baseline.main(small, *(root / n for n in ("train", "val", "views")), root / "baseline")
    assert len(np.unique(splits.folds(train.y, train.table["group"].to_numpy(), 3, derive(0, "folds")))) == 3
    return {n: root / n for n in ("train", "pool", "val", "views", "models", "baseline")}


def found_in(folder: Path) -> dict[str, dict]:
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}


def test_a_search_writes_what_it_tried_and_found_and_leaves_nothing_else(small, places, tmp_path):
    for name in ("one", "two"):
        search.main(small, *places.values(), tmp_path / name)
    found, tried = found_in(tmp_path / "one"), pd.read_csv(tmp_path / "one" / "tried.csv")
    assert set(found) == {*small.generators, "heldback"} and not any(found[n] for n in found if n != "translate")
    assert tried["generator"].unique().tolist() == ["translate"] and tried["key"].isna().sum() == 1
    assert tried["key"].dropna().tolist() == ["strength", "strength", "dose"], "10 trainings are 5 trials"
    assert set(found["translate"]) == set(tried[tried["taken"]]["key"].dropna())
    assert {p.name for p in (tmp_path / "one").iterdir()} == {"tried.csv", "drawn", *(f"{n}.json" for n in found)}
    drawn = found_in(tmp_path / "one" / "drawn")
    asked = {name: {k: v for k, v in said.items() if k == "strength"} for name, said in found.items()}
    assert drawn == asked, "a dose or a recipe asks for no other rows"
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*")]
    assert len(files) == 1 + 2 * len(found)
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_rows_that_a_killed_search_has_judged_are_not_drawn_again(small, places, tmp_path, monkeypatch):
    asked, judge = [], search.judge

    def at_most(many: int):
        def judged(*given):
            asked.append(given[3])
            if len(asked) > many:
                raise KeyboardInterrupt
            return judge(*given)

        return judged

    kept, once = tmp_path / "unfinished", tmp_path / "once"
    search.main(small, *places.values(), once)
    monkeypatch.setattr(search, "judge", at_most(2))
    with pytest.raises(KeyboardInterrupt):
        search.main(small, *places.values(), tmp_path / "killed", kept)
    (kept / "rows" / "draft").mkdir()
    (kept / "rows" / "draft" / "half").touch()
    monkeypatch.setattr(search, "judge", at_most(9))
    search.main(small, *places.values(), tmp_path / "again", kept)
    assert len(asked) == 4, (
        "three settings draw: as params have it, and two strengths; the second run judged the third alone"
    )
    assert not (kept / "rows" / "draft").exists() and len(list((kept / "rows").glob("*"))) == 3
    for file in once.glob("*.*"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_a_generator_is_tried_with_those_options_alone_that_say_how_it_draws():
    """`classic` has a strength too, but of its views, and one number: the search once ended with an error."""
    every = SHIPPED.search.space.model_dump(mode="json")
    tried = {name: set(search.space(SHIPPED, name)) for name in ("classic", "cvae", "diffusion", "translate")}
    of_use = set(every) - set(params.GUIDING)
    assert tried["cvae"] == tried["diffusion"] == of_use
    assert tried["classic"] == tried["translate"] == of_use | {"strength"}
    assert search.space(SHIPPED, "translate")["strength"] == [[0.6, 0.9]]
    assert search.space(SHIPPED, "classic")["strength"] == [1.0, 2.0]
    now = SHIPPED.generators["classic"].model_copy(update={"strength": 2.0})
    stronger = SHIPPED.model_copy(update={"generators": SHIPPED.generators | {"classic": now}})
    assert search.space(stronger, "classic")["strength"] == [1.0], "what is in use anyway is not tried"


def test_what_a_generator_is_used_with_anyway_is_not_tried():
    """smote learns with the full weight as it is: two trainings for a gain of 0.000."""
    trials = Judged(lambda name, found: 1.0, 100)
    space = SHIPPED.search.space.model_copy(update={"weight": [0.3, 1.0]})
    trials.params = trials.params.model_copy(
        update={"search": trials.params.search.model_copy(update={"space": space})}
    )
    tried = {
        one.name: [row["value"] for row in one.table if row.get("key") == "weight"]
        for one in climbed(trials, "smote", "cvae")
    }
    assert tried == {"smote": ["0.3"], "cvae": ["1.0"]}


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"family": "smote", "model": "smote", "neighbours": 9}, r"generators\.wide draws from the model of smote, .*neighbours is 9"),
        ({"family": "translate", "model": "cvae", "strength": [0.4, 0.7], "across": 0.5},
         r"generators\.wide draws from the model of cvae, so its options are those of cvae"),
    ],
)  # fmt: skip
def test_a_generator_that_cannot_draw_from_the_model_it_names_is_refused_before_anything_runs(block, words):
    """It failed after all fits, and was told to run them again."""
    blocks = {**SHIPPED.generators, "wide": type(SHIPPED.generators["smote"])(**block)}
    with pytest.raises(ValueError, match=words):
        check.makes_sense(SHIPPED.model_copy(update={"generators": blocks}))


def test_a_strength_that_no_generator_takes_is_warned_of(caplog):
    check.makes_sense(SHIPPED)
    assert "search.space" not in caplog.text
    block = SHIPPED.search.space.model_copy(update={"strength": [1.0, 2.5, (0.6, 0.9)]})
    without = {name: model for name, model in SHIPPED.generators.items() if name != "translate"}
    changed = {"search": SHIPPED.search.model_copy(update={"space": block}), "generators": without}
    check.makes_sense(SHIPPED.model_copy(update=changed | {"arms": {}, "profile": "quick"}))
    assert "search.space.strength: no generator takes (0.6, 0.9), so it is not tried" in caplog.text
    assert caplog.text.count("no generator takes") == 1


def test_controls_with_rows_of_their_own_are_searched_for_as_candidates_are():
    """A recipe that is found for candidates alone is a gain of the recipe, and seems to be one of their rows."""
    full = SHIPPED.model_copy(update={"profile": "full"})
    assert {"smote", "classic", "duplicate", "diffusion"} <= set(full.searched)
    assert search.stand_in(full, "smote") == full.arms["smote"]


def test_a_generator_that_makes_no_rows_is_not_searched_for():
    arm = SHIPPED.arms["pool_diffusion"].model_copy(update={"rows": "nothing"})
    asked = SHIPPED.model_copy(update={"profile": "full", "arms": {**SHIPPED.arms, "pool_alone": arm}})
    assert "nothing" in asked.made and "nothing" not in asked.searched and "diffusion" in asked.searched


def test_the_plainest_arm_of_a_generator_stands_for_it_wherever_it_is_named(shipped):
    """With diffusion_sqrt first, every trial of a dose was the same one."""
    arms = {name: shipped.arms[name] for name in ("mixture", "diffusion_sqrt", "real", "cvae", "diffusion")}
    assert (
        search.stand_in(shipped.model_copy(update={"arms": arms, "profile": "full"}), "diffusion") == arms["diffusion"]
    )


def test_a_trial_that_diverges_is_not_taken_and_the_search_goes_on(small, places, monkeypatch, caplog):
    def learn(*_):
        raise Diverged("the loss of Training is nan by step 2")

    monkeypatch.setattr(_trials, "learn", learn)
    source, settings = retrain.Real(places["train"], places["val"], places["views"]), SimpleNamespace(classes=3)
    said = _trials.answers("translate", small, settings, small.recipes["plain"], 0, [], source, None, None, None)
    assert np.array_equal(said, np.full((15, 3), 1 / 3))
    assert "a trial of translate counts as one that knows nothing: the loss of Training is nan" in caplog.text


def test_a_strength_of_whose_rows_none_passes_is_not_tried(small, places, tmp_path, monkeypatch, caplog):
    """On X-rays all rows of low strengths were copies; the arm without any was likelier, and the strength was taken."""
    (ask, judge), strengths = (search.ask, search.judge), []

    def asked(given: params.Params, *rest) -> Samples:
        strengths.append(given.generators["translate"].options["strength"])
        return ask(given, *rest)

    def refused(*given) -> Samples:
        judged = judge(*given)
        judged.table["keep"] &= strengths[-1] != [0.1, 0.2]
        return judged

    monkeypatch.setattr(search, "ask", asked)
    monkeypatch.setattr(search, "judge", refused)
    search.main(small, *places.values(), tmp_path / "out")
    tried = pd.read_csv(tmp_path / "out" / "tried.csv")
    assert tried[tried["key"] == "strength"]["value"].tolist() == ["[0.2, 0.3]"]
    assert 'translate is not tried with {"strength": [0.1, 0.2]}: of its rows none passes selection' in caplog.text


@pytest.mark.parametrize(("ratio", "differs"), [(1.0, False), (10.0, True)])
def test_a_dose_that_the_cap_makes_equal_is_not_tried(small, places, tmp_path, ratio, differs):
    """Of 14, 9 and 4 rows: filled to the geometric mean, 2 and 3 are added; by a cap of one row in ten, 0 either way."""
    cap = Cap(rows=(1, 200), ratio=(ratio / 10, ratio / 10))
    block = small.generation.model_copy(update={"cap": cap})
    settled = small.model_copy(update={"generation": block})
    source = retrain.Real(places["train"], places["val"], places["views"])
    trials = search.Trials(settled, source, places["pool"], places["models"], places["baseline"], tmp_path)
    assert trials.matters("dose", "sqrt") == differs and not trials.matters("dose", "double")


@pytest.mark.parametrize("why", ["profile", "budget", "scarce"])
def test_where_there_is_nothing_to_search_nothing_is_trained_and_arms_are_as_params_say(
    small, places, tmp_path, monkeypatch, why
):
    monkeypatch.setattr(search, "Trials", None)
    change = {"profile": {"profile": "quick"}, "budget": {"search": small.search.model_copy(update={"trainings": 0})}}
    if why == "scarce":
        rows = Samples.load(places["train"])
        Samples(rows.table, rows.images, Facts(rows.classes, ())).save(tmp_path / "train")
        places = places | {"train": tmp_path / "train"}
    search.main(small.model_copy(update=change.get(why, {})), *places.values(), tmp_path / "out")
    assert not any(found_in(tmp_path / "out").values()) and len(pd.read_csv(tmp_path / "out" / "tried.csv")) == 0
