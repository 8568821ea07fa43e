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

from benchmarks import groups, intake, leak, project
from pipeline import params
from pipeline.data.sources import manifest
from stages import Output
from stages.prepare import main

ROOT = Path(__file__).parents[1]
READ_SECONDS, MANY = 120, 1_000_000  # it takes about 15 s; a table, without its pictures


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
    begun = time.monotonic()
    source = manifest.read(large, shipped.data, tmp_path)
    seconds = time.monotonic() - begun
    assert seconds < READ_SECONDS, f"{seconds:.0f} s"
    assert len(source.rows) == MANY and len(source.classes) == 10 and source.grouped and not source.problems
    last = source.rows.iloc[-1]
    assert (last["path"], last["row"]) == ("999/999999.png", str(MANY + 1))
    assert source.rows["group"].nunique() == -(-MANY // 7) and source.rows["split"].nunique() == 3


@pytest.mark.slow
def test_a_wrong_line_at_the_end_of_a_million_is_named(large, shipped, tmp_path):
    (tmp_path / "rows.csv").write_bytes(large.read_bytes() + b"a/b.png,Class 3,patient x,train,1\r\n")
    begun = time.monotonic()
    with pytest.raises(ValueError, match=rf"lines {MANY + 2}: label 'Class 3'; did you mean 'class 3'\?"):
        manifest.read(tmp_path / "rows.csv", shipped.data, tmp_path)
    assert time.monotonic() - begun < READ_SECONDS
