"""What stages decide for themselves. Run: python -m pytest tests/test_stages.py"""

import logging
import os

import numpy as np
import pytest

from pipeline import devices
from pipeline.samples import Facts, Samples, table
from stages.report import in_graph
from stages.retrain import added_rows


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


def with_arm(params, dose="full", generation="full", **arm):
    one = params.arms["cvae"].model_copy(update={"dose": dose, **arm})
    made = params.generation.model_copy(update={"dose": generation})
    return params.model_copy(update={"arms": {"cvae": one}, "generation": made})


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
    made = samples([1] * 64)
    chosen = added_rows(with_arm(shipped, dose, generation, use=use), "cvae", REAL, made)
    assert chosen.tolist() == list(range(rows))


def test_kept_rows_only_where_the_arm_says_so(shipped):
    made = samples([1] * 40, keep=np.arange(40) % 2 == 1)
    assert (added_rows(with_arm(shipped, use="kept"), "cvae", REAL, made) % 2 == 1).all()
    assert len(added_rows(with_arm(shipped, use="all"), "cvae", REAL, made)) == 32


@pytest.mark.parametrize("recipe", [{"share": 0.0}, {"weight": 0.0}, {"real_only": 1.0}])
def test_an_arm_whose_recipe_uses_no_synthetic_row_adds_none(shipped, recipe):
    assert len(added_rows(with_arm(shipped, **recipe), "cvae", REAL, samples([1] * 40))) == 0


def test_paths_above_the_data_do_not_reach_the_report(shipped):
    from stages.report import without_folders

    data = shipped.data.model_copy(update={"source": "/home/jo/scans", "unlabelled": "../jo/more", "downloads": "d"})
    text = "source: /home/jo/scans\nunlabelled: ../jo/more\ndownloads: d\nimage_size: auto"
    cut = without_folders(text, shipped.model_copy(update={"data": data}))
    assert cut == "source: scans\nunlabelled: more\ndownloads: d\nimage_size: auto"


def test_a_class_called_na_keeps_its_name_in_scores(tmp_path):
    from stages.evaluate import read_scores

    (tmp_path / "scores.csv").write_text("arm,seed,class,metric,value\nreal,0,NA,recall,0.5\nreal,0,,accuracy,\n")
    frame = read_scores(tmp_path / "scores.csv")
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
    names = ["prepare", "retrain-cvae", "retrain-gone", "fit_generator-cvae", "generate-gone", "train_baseline"]
    assert [n for n in names if in_graph(n, shipped)] == [
        "prepare",
        "retrain-cvae",
        "fit_generator-cvae",
        "train_baseline",
    ]


@pytest.mark.parametrize(("kind", "processes", "expected"), [("cpu", "auto", 16), ("cuda", "auto", 4), ("cuda", 7, 7)])
def test_processes_side_by_side(shipped, monkeypatch, kind, processes, expected):
    monkeypatch.setattr(devices, "cores", lambda: 16)
    monkeypatch.setattr(devices, "device", lambda compute: devices.torch.device(kind))
    assert devices.workers(shipped.compute.model_copy(update={"processes": processes})) == expected
