"""What stages decide for themselves. Run: python -m pytest tests/test_stages.py"""

import logging
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML

from pipeline import devices
from pipeline.samples import Facts, Samples, table
from pipeline.selection import copies
from stages import check, pseudo_label
from stages.report import in_graph
from stages.retrain import added_rows

ROOT = Path(__file__).parents[1]


def samples(y, keep=True):
    names = [f"c{c}" for c in y]
    frame = table(
        id=[str(i) for i in range(len(y))],
        group=[str(i) for i in range(len(y))],
        label=names,
        split=["train"] * len(y),
        origin=["x"] * len(y),
        keep=keep,
    )
    return Samples(frame, np.zeros((len(y), 4, 4, 1), np.uint8), Facts(("c0", "c1"), ("c1",)))


REAL = samples([0] * 40 + [1] * 8)


def rows_of(params, *made, dose="full", generation="full", recipe=None, **arm):
    """The rows that the arm cvae, changed so, adds of each generator."""
    one = params.arms["cvae"].model_copy(update={"dose": dose, **arm})
    recipes = {one.recipe: params.recipes[one.recipe].model_copy(update=recipe or {})}
    dose = params.generation.model_copy(update={"dose": generation})
    changed = params.model_copy(update={"arms": {"cvae": one}, "recipes": recipes, "generation": dose})
    return added_rows(changed, one, recipes[one.recipe], REAL, made)


@pytest.mark.parametrize("use", ["all", "kept"])
@pytest.mark.parametrize(
    ("dose", "generation", "rows"),
    [
        ("full", "full", 32),
        ("quarter", "full", 8),
        ("full", "quarter", 8),
        ("sqrt", "median", 9),
        ("median", "full", 16),
    ],
)
def test_an_arm_adds_its_dose_but_no_more_than_was_generated_for(shipped, use, dose, generation, rows):
    (chosen,) = rows_of(shipped, samples([1] * 64), dose=dose, generation=generation, use=use)
    assert chosen.tolist() == list(range(rows))


def test_kept_rows_only_where_the_arm_says_so(shipped):
    made = samples([1] * 40, keep=np.arange(40) % 2 == 1)
    kept, mixed_up = rows_of(shipped, made, use="kept")[0], rows_of(shipped, made, use="shuffled")[0]
    assert kept.tolist() == mixed_up.tolist() == list(range(1, 40, 2))
    assert len(rows_of(shipped, made, use="all")[0]) == 32


@pytest.mark.parametrize("recipe", [{"share": 0.0}, {"weight": 0.0}])
def test_an_arm_whose_recipe_uses_no_synthetic_row_adds_none(shipped, recipe):
    assert [len(rows) for rows in rows_of(shipped, samples([1] * 40), recipe=recipe)] == [0]
    assert [len(rows) for rows in rows_of(shipped, *[samples([1] * 40)] * 2, recipe=recipe)] == [0, 0]


def test_a_mixture_adds_half_of_its_dose_from_each_generator(shipped):
    first, second = rows_of(shipped, samples([1] * 40), samples([0] * 5 + [1] * 40))
    assert first.tolist() == list(range(16)) and second.tolist() == list(range(5, 21))


def test_a_generator_that_kept_too_few_rows_leaves_its_part_to_the_other(shipped):
    few = samples([1] * 40, keep=np.arange(40) >= 35)
    first, second = rows_of(shipped, few, samples([1] * 40))
    assert first.tolist() == list(range(35, 40)) and second.tolist() == list(range(27))
    assert [len(rows) for rows in rows_of(shipped, samples([1] * 40), few)] == [27, 5]
    assert [len(rows) for rows in rows_of(shipped, few, few)] == [5, 5]


def test_a_candidate_whose_rows_are_all_dropped_learns_from_real_rows_and_that_is_told(shipped):
    made = samples([1] * 40, keep=False).with_columns(reason=["third_class"] * 10 + ["unlike"] * 30)
    assert [len(rows) for rows in rows_of(shipped, made)] == [0]
    account = pseudo_label.summarise(made, np.array([0, 32]), copies.Rule(0.01, 0.3), shipped.selection)
    one = account["classes"]["c1"]
    assert (one["kept"], one["generated"], one["dropped"]["unlike"], account["refused"]) == (0, 40, 30, "")
    (warning,) = account["warnings"]
    assert warning.startswith("class c1: 0 of the 32 rows aimed for passed the rules; of 40, unlike dropped 30: ")


def test_what_is_judged_is_written_down_before_the_test_split_is_opened():
    text = (Path(__file__).parents[1] / "stages" / "evaluate.py").read_text()
    order = [
        text.index(words)
        for words in ("verdict.choose(", '"choices.json").write', "Samples.load(test)", "score_arm, jobs")
    ]
    assert order == sorted(order)


def test_paths_above_the_data_do_not_reach_the_report(shipped):
    """Comments, quoted letters and paths that lead out half-way gave them away."""
    from stages.report import settings

    def told(**paths: str) -> dict:
        data = shipped.data.model_copy(update=paths)
        text = settings(shipped.model_copy(update={"data": data}))
        assert "jo" not in text and "#" not in text
        return {k: YAML(typ="safe").load(text)["data"][k] for k in paths}

    assert told(source="/home/jo/scans", unlabelled="../jo/more", downloads="d") == {
        "source": "scans",
        "unlabelled": "more",
        "downloads": "d",
    }
    assert told(source="../", unlabelled="./../../jo/x") == {"source": "..", "unlabelled": "x"}
    assert told(source="/home/jo''s/müller") == {"source": "müller"}


def test_the_settings_in_the_report_are_the_params(shipped):
    from stages.report import settings

    assert type(shipped).model_validate(YAML(typ="safe").load(settings(shipped))) == shipped


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """A git repository with some code in it, which is also where we are; `git` runs git there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline").mkdir()
    for name in ("pipeline/a.py", "dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text("1")

    def git(*words):
        named = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        done = subprocess.run(["git", *named, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", "-A")
    return git


def test_the_code_has_the_version_of_its_commit_and_says_what_has_changed_since(committed, tmp_path):
    from stages.report import code_version

    parts = [Path("pipeline"), Path("dvc.yaml")]
    assert code_version(parts) == "not committed"
    committed("commit", "-qm", "start")
    whole = f"commit {committed('rev-parse', 'HEAD')}"
    (tmp_path / "params.yaml").write_text("2")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b.py").write_text("1")
    assert code_version(parts) == whole, "params and data have hashes of their own"
    (tmp_path / "dvc.yaml").write_text("22")
    (tmp_path / "pipeline" / "new.py").write_text("1")
    (tmp_path / "pipeline" / "a.py").unlink()
    assert code_version(parts) == f"{whole}, changed since in dvc.yaml, pipeline/a.py, pipeline/new.py"


def test_code_that_is_in_no_repository_has_no_version(tmp_path, monkeypatch):
    from stages.report import code_version

    monkeypatch.chdir(tmp_path)
    assert code_version([Path("pipeline")]) == "not in a git repository of its own"


def test_a_class_called_na_keeps_its_name_in_scores(tmp_path):
    from pipeline import csvs

    (tmp_path / "scores.csv").write_text("arm,seed,class,metric,value\nreal,0,NA,recall,0.5\nreal,0,,accuracy,\n")
    frame = csvs.read(tmp_path / "scores.csv", ("arm", "class"))
    assert frame["class"].tolist() == ["NA", ""] and frame["value"].isna().tolist() == [False, True]


def test_a_pipe_in_the_data_is_named_before_dvc_waits_for_it(shipped, tmp_path):
    from stages.check import main

    (tmp_path / "set" / "cat").mkdir(parents=True)
    os.mkfifo(tmp_path / "set" / "cat" / "x.png")
    data = shipped.data.model_copy(update={"source": str(tmp_path / "set")})
    with pytest.raises(ValueError, match=r"data\.source: '.*x\.png' is neither a file nor a folder"):
        main(shipped.model_copy(update={"data": data}))


def test_control_characters_do_not_reach_the_terminal():
    from stages.__main__ import Plain

    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", ("ü\x1b[31m\r\x07 red\nnext",), None)
    assert Plain("%(message)s").format(record) == "ü\\x1b[31m\\r\\x07 red\nnext"


def test_times_of_removed_arms_and_generators_are_left_out(shipped):
    names = [
        "prepare",
        "retrain-cvae",
        "retrain-gone",
        "fit_generator-cvae",
        "generate-gone",
        "train_baseline",
        "export",
    ]
    assert not in_graph({"stage": "prepare"}, shipped), "of a version that did not tell the device"
    assert [n for n in names if in_graph({"stage": n, "device": ""}, shipped)] == [
        "prepare",
        "retrain-cvae",
        "fit_generator-cvae",
        "train_baseline",
    ]


@pytest.mark.parametrize(
    ("kind", "processes", "beside", "expected"),
    [
        ("cpu", "auto", 1, 16),
        ("cuda", "auto", 1, 8),
        ("cuda", "auto", 2, 4),
        ("cuda", "auto", 20, 1),
        ("cuda", 7, 2, 7),
    ],
)
def test_processes_side_by_side(shipped, monkeypatch, kind, processes, beside, expected):
    """At most four to each of two GPUs, whatever other stages run at once."""
    monkeypatch.setattr(devices, "cores", lambda: 16)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("SIDE_BY_SIDE", str(beside))
    monkeypatch.setattr(devices, "device", lambda compute: devices.torch.device(kind))
    assert devices.workers(shipped.compute.model_copy(update={"processes": processes})) == expected


@pytest.mark.parametrize("content", ["", '{"write": {"data/pl', "{}"])
def test_notes_that_a_killed_dvc_left_half_written_are_removed(tmp_path, monkeypatch, caplog, content):
    """dvc ends with `Unable to read RWLock-file` for ever after."""
    monkeypatch.setattr(check.time, "sleep", lambda seconds: None)
    check.mend(tmp_path / "rwlock")
    assert not caplog.text
    (tmp_path / "rwlock").write_text(content)
    check.mend(tmp_path / "rwlock")
    assert (tmp_path / "rwlock").exists() == (content == "{}") and ("half written" in caplog.text) == (content != "{}")


def test_folders_of_removed_arms_and_generators_are_removed_and_no_others(shipped, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    there = [f"models/arms/{name}" for name in ("real", "gone", "by_hand")]
    there += [
        f"{part}/{name}"
        for part in ("models/generators", "data/synthetic", "data/selected")
        for name in ("cvae", "old")
    ]
    there += ["data/selected/heldback", "outside"]
    for folder in there:
        (tmp_path / folder).mkdir(parents=True)
    made = [
        "retrain@real",
        "retrain@gone",
        "retrain@../../outside",
        "fit_generator@cvae",
        "fit_generator@old",
        "generate@old",
    ]
    made += ["pseudo_label@old", "prepare"]
    record = {"schema": "2.0", "stages": {name: {"cmd": "true"} for name in made}}
    with (tmp_path / "dvc.lock").open("w") as file:
        YAML().dump(record, file)
    gone = ["data/selected/old", "data/synthetic/old", "models/arms/gone", "models/generators/old"]
    assert check.orphans(shipped, Path("dvc.yaml"), Path("dvc.lock")) == [Path(folder) for folder in gone]
    monkeypatch.setattr(check, "makes_sense", lambda params: None)
    with caplog.at_level(logging.INFO):
        check.main(shipped)
    assert [folder for folder in there if not Path(folder).exists()] == sorted(gone, key=there.index)
    assert caplog.text.count("dvc's cache keeps it") == 4
    check.main(shipped)
    assert caplog.text.count("dvc's cache keeps it") == 4


def test_notes_that_are_being_written_are_left_alone(tmp_path, monkeypatch):
    (tmp_path / "rwlock").write_text("")
    monkeypatch.setattr(check.time, "sleep", lambda seconds: (tmp_path / "rwlock").write_text("{}"))
    check.mend(tmp_path / "rwlock")
    assert (tmp_path / "rwlock").read_text() == "{}"


@pytest.mark.parametrize("seed", range(8))
def test_a_record_that_a_killed_dvc_left_half_written_is_cut_off_behind_its_last_whole_stage(
    tmp_path, monkeypatch, seed
):
    """dvc ends with `'./dvc.lock' validation failed` for ever after; what it cannot read no more it has in its cache."""
    monkeypatch.setattr(check.time, "sleep", lambda seconds: None)
    record, text = tmp_path / "dvc.lock", (ROOT / "dvc.lock").read_text()
    whole, rng, cut = COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(text))["stages"], np.random.default_rng(seed), 0
    for size in (0, 3, *rng.integers(len(text), size=4)):
        record.write_text(text[:size])
        told = check.cut_short(record)
        check.mend_record(record)
        stages = COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(record.read_text())).get("stages", {})
        if told:
            assert stages == {name: whole[name] for name in list(whole)[: len(stages)]}
            cut += 1
        else:
            assert record.read_text() == text[:size], "dvc reads it as it is"
    assert cut >= 2


@pytest.mark.parametrize(
    "end", ["", "<<<<<<< ours\n  report:\n    cmd: x\n=======\n  report:\n    cmd: y\n>>>>>>> theirs\n"]
)
def test_a_record_with_the_marks_of_a_merge_is_left_to_the_person_who_merges(tmp_path, monkeypatch, caplog, end):
    monkeypatch.setattr(check.time, "sleep", lambda seconds: None)
    record, text = tmp_path / "dvc.lock", (ROOT / "dvc.lock").read_text()
    merged = (
        text.replace("  prepare:\n", "<<<<<<< ours\n  prepare:\n=======\n>>>>>>> theirs\n", 1)
        if not end
        else text + end
    )
    record.write_text(merged)
    check.mend_record(record)
    assert record.read_text() == merged and not caplog.text


def test_a_record_that_is_whole_or_being_written_is_left_alone(tmp_path, monkeypatch, caplog):
    record, text = tmp_path / "dvc.lock", (ROOT / "dvc.lock").read_text()
    check.mend_record(record)
    assert not record.exists()
    record.write_text(text)
    check.mend_record(record)
    assert record.read_text() == text and not caplog.text
    record.write_text(text[:5000] + "\n - ")
    assert check.cut_short(record)
    monkeypatch.setattr(check.time, "sleep", lambda seconds: record.write_text(text))
    check.mend_record(record)
    assert record.read_text() == text and not caplog.text


@pytest.mark.parametrize("rows", [300, 700])
def test_several_processes_look_for_copies_and_find_what_one_does(shipped, tmp_path, monkeypatch, rows):
    rng = np.random.default_rng(0)
    real, made = (samples([0] * n) for n in (40, rows))
    real, made = (Samples(s.table, rng.integers(0, 256, (len(s), 8, 8, 1), np.uint8), s.facts) for s in (real, made))
    real.save(tmp_path / "train")
    real.take(np.empty(0, int)).save(tmp_path / "pool")
    monkeypatch.setattr(pseudo_label, "ask_teachers", lambda *_: None)
    found = []
    for cores in (1, 2, 3):
        monkeypatch.setattr(pseudo_label.processes, "cores", lambda n=cores: n)
        found.append(pseudo_label.look(shipped, (tmp_path / "train", tmp_path / "pool"), made, tmp_path)[1])
    for near, place in found[1:]:
        assert np.array_equal(near, found[0][0]) and np.array_equal(place, found[0][1])
    assert found[0][0].shape == (rows, copies.NEIGHBOURS) and np.isfinite(found[0][0]).all()
