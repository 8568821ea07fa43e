"""The measurements still fit the project that they copy. Run: python -m pytest tests/test_benchmarks.py"""

import inspect
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from benchmarks import (
    ablate,
    calibrate,
    groups,
    intake,
    laboratory,
    leak,
    paired,
    project,
    results,
    textures,
    yardstick,
)
from pipeline import params
from pipeline.data.sources import manifest
from pipeline.evaluation.utility import gain
from stages import Output
from stages.prepare import main

ROOT = Path(__file__).parents[1]
READ_SECONDS, MANY = 120, 1_000_000  # of the processor; it takes about 15; a table, without its pictures


def photographs(folder: Path, each: int = 6) -> Path:
    """JPEGs in two class folders, no two alike."""
    rng = np.random.default_rng(3)
    for label in ("left", "right"):
        (folder / label).mkdir(parents=True)
        for i in range(each):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            coarse.resize((24, 24), Image.Resampling.BICUBIC).save(folder / label / f"{i}.jpg", quality=90)
    return folder


def test_prepare_is_run_with_an_output_for_each_of_its_parameters(tmp_path, monkeypatch):
    wanted = [name for name, p in inspect.signature(main).parameters.items() if p.annotation is Output]
    ran = []
    monkeypatch.setattr(project, "run", lambda folder, *command: ran.append(command))
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    out = project.prepare(tmp_path)
    _, *words = ran[0]
    assert words[:3] == ["-m", "stages", "prepare"]
    assert [tmp_path / word for word in words[3:]] == [
        out / (f"{name}.csv" if name == "quarantine" else name) for name in wanted
    ]


@pytest.mark.parametrize("mode", ["ignore", "group"])
def test_what_is_left_of_the_params_to_weigh_a_leak_is_accepted(tmp_path, mode):
    yaml = YAML()
    changed = yaml.load(ROOT / "params.yaml")
    leak.trim(changed, tmp_path / "photographs", mode, 3)
    yaml.dump(changed, tmp_path / "params.yaml")
    read = params.load(tmp_path / "params.yaml")
    assert tuple(read.arms) == leak.ARMS and tuple(read.compared) == leak.ARMS
    assert (read.seed, read.data.near_duplicates, read.retraining.seeds) == (3, mode, leak.SEEDS)


def test_a_copy_that_was_killed_half_way_is_begun_anew_and_none_is_taken_for_whole(tmp_path, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(project, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        project.whole(tmp_path / "project", lambda params: None)
    assert not (tmp_path / "project").exists()
    monkeypatch.setattr(project, "run", lambda *_: None)
    project.whole(tmp_path / "project", lambda params: params.update(seed=7))
    assert YAML(typ="safe").load(tmp_path / "project" / "params.yaml")["seed"] == 7
    assert [f.name for f in tmp_path.iterdir()] == ["project"]


def test_intake_is_measured_on_a_source_that_is_enlarged(tmp_path, capfd):
    intake.main(photographs(tmp_path / "photographs"), [30])
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| (\d+) \|$", capfd.readouterr().out, re.M)
    assert [int(row[0]) for row in rows] == [30]
    assert all(float(seconds) > 0 and int(megabytes) > 10 for _, seconds, megabytes in rows)


def test_an_enlarged_source_has_the_rows_asked_for_and_no_two_alike(tmp_path):
    folder = intake.enlarge(photographs(tmp_path / "photographs"), 30, tmp_path / "large")
    assert len({file.read_bytes() for file in folder.rglob("*.jpg")}) == 30
    assert {file.parent.name for file in folder.rglob("*.jpg")} == {"left", "right"}


def test_groups_are_found_where_a_source_repeats_itself(tmp_path):
    folder = photographs(tmp_path / "photographs")
    for i in range(3):
        brighter = np.asarray(Image.open(folder / "left" / f"{i}.jpg")).astype(int) * 0.8 + 40
        Image.fromarray(brighter.astype(np.uint8)).save(folder / "left" / f"again{i}.jpg", quality=95)
    rows, audit = groups.prepared(str(folder))
    true = pd.Series({p: p.replace("again", "") for p in rows["source_path"]})
    whole = groups.agreement(rows, true).iloc[0]
    assert len(rows) == 15 and audit["rows_in_groups"] == 6
    assert whole["same"] == 3 and whole["same_together"] == 1.0 and whole["different_together"] == 0.0


def test_agreement_counts_pairs_within_a_class():
    rows = pd.DataFrame({"label": list("aaabb"), "source_path": list("vwxyz"), "group": ["1", "1", "2", "2", "2"]})
    table = groups.agreement(rows, pd.Series({"v": "p", "w": "p", "x": "p", "y": "p", "z": "q"}))
    assert table.set_index("class").loc["a"].tolist() == [3, pytest.approx(1 / 3), 0, 0.0]
    assert table.set_index("class").loc["b"].tolist() == [0, 0.0, 1, 1.0]
    assert table.set_index("class").loc["all classes"].tolist() == [3, pytest.approx(1 / 3), 1, 1.0]


def counted(
    false: int = 0,
    hurts: int = 0,
    neutral: int = 0,
    others: int = 0,
    placebo: int = 0,
    oracle: int = 20,
    held: int = 190,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Made-up runs: of 100 without effect and 100 with, of 20 trained ones each, and of all 200 so many are as named."""
    number = np.arange(200)
    simulated = pd.DataFrame({"setting": "world", "effect": np.where(number < 100, 0.0, 0.6)})
    simulated["verdict"] = np.where((number < false) | (number >= 150), "HELPS", "CANNOT_TELL")
    simulated.loc[(number >= 90) & (number < 90 + hurts), "verdict"] = "HURTS"
    simulated.loc[(number >= 100) & (number < 100 + neutral), "verdict"] = "NEUTRAL"
    simulated = simulated.assign(
        true=np.where(number < 100, 0.0, 0.06), ci_low=-0.1, ci_high=0.1, others=number < others
    )
    simulated.loc[number >= held, ["ci_low", "ci_high"]] = 0.07, 0.1
    helps = {"placebo": placebo, "shuffled": 20, "oracle": oracle}
    rows = [(name, "HELPS" if i < n else "NEUTRAL", 0.01) for name, n in helps.items() for i in range(20)]
    return simulated, pd.DataFrame(rows, columns=["candidate", "verdict", "difference"])


@pytest.mark.parametrize(
    ("counts", "missed"),
    [
        ({}, []),
        ({"false": 5, "hurts": 5, "neutral": 5, "others": 10, "placebo": 1, "oracle": 18, "held": 184}, []),  # just met
        ({"held": 196}, []),
        ({"false": 6}, ["HELPS without effect, simulated"]),
        ({"hurts": 6}, ["HURTS without effect, simulated"]),
        ({"neutral": 6}, ["NEUTRAL beyond the margin, simulated"]),
        ({"others": 11}, ["a wrong word of any arm not chosen, simulated"]),
        ({"placebo": 2}, ["HELPS for the placebo"]),
        ({"oracle": 17}, ["HELPS for the oracle"]),
        ({"held": 183}, ["coverage, simulated, without worlds of few rows"]),
        ({"held": 197}, ["coverage, simulated, without worlds of few rows"]),
    ],
)
def test_calibration_fails_when_a_target_is_missed_and_says_which(counts, missed, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(calibrate, "measure", lambda simulations, runs, seeds: counted(**counts))
    assert calibrate.main(100, 20, None, tmp_path / "out") == (1 if missed else 0)
    text = capfd.readouterr().out
    assert (tmp_path / "out" / "tables.md").read_text() == text
    assert re.findall(r"^- MISSED: ([^:]+):", text, re.M) == missed
    assert len(re.findall(r"^- met: ", text, re.M)) == 7 - len(missed)
    assert "| world | +6.0 points | 50.0 % [39.8, 60.2] | 0.0 % [0.0, 3.6] |" in text
    assert f"| placebo | +1.0 | {counts.get('placebo', 0)} | 0 | {20 - counts.get('placebo', 0)} | 0 |" in text
    assert len(pd.read_csv(tmp_path / "out" / "simulated.csv")) == 200


def test_a_world_of_few_rows_does_not_count_for_coverage():
    """Intervals are known to be too narrow there; what is asked of all others must not hang on how often it is simulated."""
    simulated, real = counted(held=184)
    few = simulated.assign(setting=next(w.name for w in calibrate.SETTINGS if w.rarest < 0.1), ci_low=1.0, ci_high=2.0)
    told = {t.name: t for t in calibrate.targets(pd.concat([simulated, few]), real)}
    coverage = told["coverage, simulated, without worlds of few rows"]
    assert coverage.met and len(coverage.hits) == 200


def test_a_target_that_nothing_was_run_for_is_missed():
    simulated, real = counted()
    found = calibrate.targets(simulated, real[real["candidate"] != "oracle"])
    assert [t.name for t in found if not t.met] == ["HELPS for the oracle"] and "no runs" in str(found[5])


def test_calibration_without_any_run_misses_all_its_targets():
    simulated, real = calibrate.measure(0, 0)
    assert not any(t.met for t in calibrate.targets(simulated, real))
    assert len(calibrate.simulated_table(simulated)) == len(calibrate.trained_table(real)) == 2, "heads of tables"


def test_a_share_comes_with_its_exact_interval():
    assert calibrate.share([True] * 40) == "100.0 % [91.2, 100.0]"
    assert calibrate.share([False] * 200) == "0.0 % [0.0, 1.8]"
    assert calibrate.share([True] * 29 + [False] * 11) == "72.5 % [56.1, 85.4]"


def test_a_simulated_run_is_judged_beside_the_difference_that_is_true():
    world = next(w for w in calibrate.SETTINGS if w.classes == 2)
    runs = pd.DataFrame([calibrate.one_simulation((world, effect, 0, 6)) for effect in (0.0, 0.6)])
    assert runs["true"].tolist() == [0.0, pytest.approx(0.063, abs=0.001)]
    assert set(runs["verdict"]) <= {"HELPS", "NEUTRAL", "HURTS", "CANNOT_TELL"} and runs["verdict"][0] != "HELPS"
    assert (runs["ci_low"] < runs["difference"]).all() and (runs["difference"] < runs["ci_high"]).all()
    assert calibrate.holds(runs).all() and len(calibrate.simulated_table(runs)) == 4
    again = calibrate.one_simulation((world, 0.6, 0, 6))
    assert again == runs.iloc[1].to_dict(), "the same run is the same again"


def test_rows_of_a_group_are_of_one_class_and_equally_hard():
    world = next(w for w in calibrate.SETTINGS if w.group == 5)
    luck = {"a": np.zeros(2)}
    seen, y = calibrate.draw(world._replace(seed_row=0.0), 101, {"a": 0.0}, luck, np.random.default_rng(0))
    assert np.bincount(seen.groups).tolist() == [5] * 20 + [1] and set(y) == set(range(10))
    right = seen.predicted("a") == y
    for group in range(21):
        own = seen.groups == group
        assert len(set(y[own])) == 1 and len(set(right[0, own])) == 1
    rare = next(w for w in calibrate.SETTINGS if w.rarest < 0.1)
    _, y = calibrate.draw(rare, rare.test, {"a": 0.0}, luck, np.random.default_rng(0))
    assert 3 < (y == 1).sum() < 20


def answers(right: float, rows: int = 120, seeds: int = 4, seed: int = 0) -> paired.Said:
    """Trainings that have about this share of validation rows of three classes right, and more the higher it is."""
    rng = np.random.default_rng(seed)
    y, luck = np.arange(rows) % 3, rng.random(rows) + rng.normal(0, 0.02, (seeds, rows))
    said = np.where(luck < right, y, (y + 1) % 3)
    return paired.Said(np.eye(3)[said] * 0.7 + 0.1, y, np.arange(rows))


def test_a_change_is_judged_by_the_difference_in_both_measures():
    better, worse = answers(0.8), answers(0.6)
    found, other = paired.compare([(better, worse)] * 2), paired.compare([(worse, better)] * 2)
    assert (found.verdict, other.verdict) == ("helps", "hurts")
    assert 0 < found.accuracy[1] < found.accuracy[0] < found.accuracy[2]
    assert found.accuracy[0] == pytest.approx(-other.accuracy[0])
    expected = gain(better.probabilities, worse.probabilities, better.y, better.groups)
    assert [found.accuracy[0], found.likelihood[0]] == pytest.approx([expected["correct"], expected["gain"]])
    same = paired.compare([(better, better)])
    assert same.verdict == "cannot tell" and same.accuracy == same.likelihood == (0, 0, 0)
    assert paired.Found((0.1, 0.05, 0.2), (-0.1, -0.2, -0.05)).verdict == "cannot tell", "the measures disagree"


def test_an_interval_is_narrower_the_more_splits_it_is_pooled_over():
    pairs = [(answers(0.7, seed=2 * s), answers(0.7, seed=2 * s + 1)) for s in range(8)]
    width = [np.ptp(paired.compare(some).accuracy[1:]) for some in (pairs[:1], pairs)]
    assert width[1] < 0.6 * width[0]


def test_ablations_are_told_by_group_with_their_figures():
    fit, first = (next(c for c in ablate.CHANGES if c.group == g) for g in ("fit", "use"))
    pair = (answers(0.8), answers(0.6))
    lines, figures = ablate.table(
        [ablate.Result(fit, [pair[::-1]], [(0.02, 0.01)]), ablate.Result(first, [pair], [(0.01, 0.01)])]
    )
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| **use**",
        f"| {first.text}",
        "| **fit**",
        f"| {fit.text}",
    ]
    assert re.search(r"\| \+[\d.]+ \[\+[\d.]+, \+[\d.]+\] \| \+0\.\d{3} \[.*\] \|  \| helps \|$", lines[3])
    assert lines[5].endswith("| 0.020, shipped 0.010 | hurts |")
    assert figures["verdict"].tolist() == ["helps", "hurts"] and figures["accuracy"].tolist()[0] > 0


def test_every_ablation_changes_something_that_params_have():
    shipped = ablate.base("photographs", 1, {"retraining.seeds": 3})
    before = ablate.changed(shipped, {})
    assert (before.data.split, before.retraining.seeds, before.searched) == (1, 3, [])
    for change in ablate.CHANGES:
        after = ablate.changed(shipped, change.keys)
        assert after != before or change.arm != change.against, change.text
        assert {change.arm, change.against} <= set(before.compared), change.text
    with pytest.raises(ValueError, match=r"params.yaml has no recipes.synthetic.wait"):
        ablate.changed(shipped, {"recipes.synthetic.wait": 1})
    with pytest.raises(ValueError, match=r"retraining.seeds"):
        ablate.changed(shipped, {"retraining.seeds": "many"})


def test_only_what_a_change_touches_is_made_again(tmp_path, monkeypatch):
    made = []
    for stage in (
        "train_baseline",
        "label_pool",
        "fit_generator",
        "generate",
        "pseudo_label",
        "retrain",
    ):
        main = lambda *given, stage=stage: (made.append(stage), given[-1].mkdir())  # noqa: E731
        monkeypatch.setattr(getattr(laboratory, stage), "main", main)
    monkeypatch.setattr(laboratory, "_prepare", lambda params, out: out.mkdir())
    monkeypatch.setattr(laboratory, "_augment", lambda params, train, heldback, out: out.mkdir())
    shipped = ablate.base("photographs", 0, {})
    lab = laboratory.Laboratory(tmp_path / "split0", ablate.changed(shipped, {}))

    def runs(**keys) -> str:
        made.clear()
        lab.trained(ablate.changed(shipped, {k.replace("__", "."): v for k, v in keys.items()}), "diffusion")
        return " ".join(dict.fromkeys(made))

    assert runs() == "fit_generator generate pseudo_label retrain"
    assert runs() == "", "what was made is kept"
    assert runs(recipes__synthetic__weight=1.0) == runs(arms__diffusion__use="all") == "retrain"
    assert runs(selection__third_class=1.0) == "pseudo_label retrain"
    assert runs(generators__diffusion__sampler_steps=9) == "generate pseudo_label retrain"
    assert runs(generators__diffusion__augment=0.0) == "fit_generator generate pseudo_label retrain"
    lab.closed = True
    assert runs(selection__third_class=1.0) == ""
    with pytest.raises(laboratory.NotMade, match="has not been made yet"):
        runs(selection__third_class=0.9)
    with pytest.raises(ValueError, match="made with other params"):
        laboratory.Laboratory(tmp_path / "split0", ablate.changed(shipped, {"data.split": 1}))


@pytest.mark.parametrize(("share", "rows"), [(1.0, 40), (0.5, 20), (0.01, 8)])
def test_the_yardstick_takes_a_share_of_each_class_and_its_params_are_accepted(tmp_path, share, rows):
    for split in ("train", "test"):
        (tmp_path / "set" / split / "cat").mkdir(parents=True)
        for i in range(40):
            (tmp_path / "set" / split / "cat" / f"{i:02}.png").write_bytes(b"")
    part = yardstick.part(tmp_path / "set", share, tmp_path / "part")
    counts = [len(list((part / split / "cat").iterdir())) for split in ("train", "test")]
    assert counts == [rows, max(rows, 30)]
    yaml = YAML()
    changed = yaml.load(ROOT / "params.yaml")
    yardstick.settings(changed, part, share)
    yaml.dump(changed, tmp_path / "params.yaml")
    read = params.load(tmp_path / "params.yaml")
    assert tuple(read.compared) == yardstick.ARMS and read.recipes["synthetic_cutmix"].mix == "cutmix"
    assert read.classifier.steps == {1.0: 19384, 0.5: 9692, 0.01: 194}[share] and not read.searched


def test_a_cut_of_x_rays_has_fewer_normal_rows_for_training_and_no_others_are_gone(tmp_path):
    rng, labels = np.random.default_rng(0), {"train": [0] * 30 + [1] * 50, "val": [0, 1] * 4, "test": [0, 1] * 6}
    whole = {f"{split}_labels": np.array(y)[:, None] for split, y in labels.items()}
    whole |= {f"{s}_images": rng.integers(0, 255, (len(y), 8, 8), np.uint8) for s, y in labels.items()}
    np.savez(tmp_path / "pneumoniamnist.npz", **whole)
    with np.load(results.x_rays(12)(tmp_path, tmp_path / "out")) as made:
        assert np.bincount(made["train_labels"].ravel()).tolist() == [12, 50]
        kept = {row.tobytes() for row in made["train_images"]}
        assert kept <= {row.tobytes() for row in whole["train_images"]} and len(kept) == 62
        assert all((made[name] == whole[name]).all() for name in whole if not name.startswith("train"))


def test_a_tenth_of_the_photographs_trains_and_others_validate(tmp_path):
    for split, counts in {"train": {"cat": 500, "dog": 80}, "test": {"cat": 40, "dog": 40}}.items():
        for label, count in counts.items():
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(count):
                (tmp_path / split / label / f"{i}.txt").write_text(f"{split}{label}{i}")
    out = results.photographs(tmp_path, tmp_path / "out")
    found = {
        split: {f.name: len(list(f.iterdir())) for f in (out / split).iterdir()} for split in ("train", "val", "test")
    }
    assert found == {"train": {"cat": 50, "dog": 8}, "val": {"cat": 30, "dog": 30}, "test": {"cat": 40, "dog": 40}}
    assert len({f.read_text() for f in out.rglob("*.txt")}) == sum(sum(n.values()) for n in found.values())


def test_textures_are_drawn_alike_each_time_and_no_two_of_them_alike(tmp_path, monkeypatch):
    for name, count in {"FEW": 2, "MANY": 3, "VAL": 1, "TEST": 2}.items():
        monkeypatch.setattr(textures, name, count)
    for out in ("one", "two"):
        textures.main(tmp_path / out)
    files = sorted((tmp_path / "one").rglob("*.png"))
    names = [file.relative_to(tmp_path / "one") for file in files]
    drawn = [file.read_bytes() for file in files]
    assert drawn == [(tmp_path / "two" / name).read_bytes() for name in names]
    assert len(set(drawn)) == len(drawn) == 6 * (1 + 2) + 3 * 2 + 3 * 3
    assert sum(name.parts[:2] == ("train", "rolled") for name in names) == 2
    assert all(Image.open(file).size == (64, 64) and Image.open(file).mode == "L" for file in files)


@pytest.mark.parametrize("cut", results.CUTS)
def test_params_of_every_cut_are_accepted(cut):
    raw = YAML(typ="safe").load(project.ROOT / "params.yaml")
    results.settings(raw, results.CUTS[cut].keys)
    assert params.Params.model_validate(raw).data.source


def test_a_wrong_command_is_told_plainly(capfd):
    with pytest.raises(SystemExit):
        ablate.arguments(["set", "--groups", "use,luck"])
    assert "there is no luck; there are: use, " in capfd.readouterr().err
    assert ablate.main(["set", "--set", "data.colour=1"]) == 2
    assert "cannot go on: params.yaml has no data.colour" in capfd.readouterr().err
    given = ablate.arguments(["set", "--set", "classifier.widths=[16, 32]", "--set", "data.split=2"])
    assert given.set == {"classifier.widths": [16, 32], "data.split": 2} and given.groups == list(ablate.GROUPS)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A table of MANY rows with every column, no two of one path."""
    number, folder = np.arange(MANY), tmp_path_factory.mktemp("large")
    frame = pd.DataFrame({"path": [f"{i // 1000:03}/{i:06}.png" for i in number]})
    frame = frame.assign(label=[f"class {i % 10}" for i in number], group=[f"patient {i // 7}" for i in number])
    frame = frame.assign(split=[("train", "val", "test")[i // 7 % 3] for i in number], weight=1 + number % 3)
    frame.to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


@pytest.mark.slow
def test_a_table_of_a_million_rows_is_read_and_checked_in_reasonable_time(large, shipped, tmp_path):
    begun = time.process_time()
    source = manifest.read(large, shipped.data, tmp_path)
    seconds = time.process_time() - begun
    assert seconds < READ_SECONDS, f"{seconds:.0f} s"
    assert len(source.rows) == MANY and len(source.classes) == 10 and source.grouped and not source.problems
    last = source.rows.iloc[-1]
    assert (last["path"], last["row"]) == ("999/999999.png", str(MANY + 1))
    assert source.rows["group"].nunique() == -(-MANY // 7) and source.rows["split"].nunique() == 3


@pytest.mark.slow
def test_a_wrong_line_at_the_end_of_a_million_is_named(large, shipped, tmp_path):
    (tmp_path / "rows.csv").write_bytes(large.read_bytes() + b"a/b.png,Class 3,patient x,train,1\r\n")
    begun = time.process_time()
    with pytest.raises(ValueError, match=rf"lines {MANY + 2}: label 'Class 3'; did you mean 'class 3'\?"):
        manifest.read(tmp_path / "rows.csv", shipped.data, tmp_path)
    assert time.process_time() - begun < READ_SECONDS
