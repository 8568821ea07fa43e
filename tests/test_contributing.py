"""The worked example of CONTRIBUTING.md works, and what the page names exists. Run: python -m pytest tests/test_contributing.py"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from test_graph import LONGEST_FILE, LONGEST_FUNCTION, problems

from pipeline.params import load

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
FOLDERS = ("pipeline", "stages", "tests", "docs", "sets")


def example(language: str) -> str:
    """The only code block of the page in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)
    return found


def with_lines(params: str, sections: str) -> str:
    """The text of params.yaml with the lines of the example below the sections of their names, as a person would add them."""
    parts = re.findall(r"^(\w+):\n((?:  .+\n)+)", sections, re.M)
    assert [name for name, _ in parts] == ["generators", "arms"]
    for name, lines in parts:
        params, times = re.subn(rf"^{name}:\n", lambda head, lines=lines: head[0] + lines, params, flags=re.M)
        assert times == 1, name
    return params


def test_what_to_read_first_is_there_as_long_as_the_page_says_and_read_in_two_hours():
    (part,) = re.findall(r"^## What to read first\n(.*?)^## ", PAGE, re.M | re.S)
    files = re.findall(r"`((?:pipeline|stages)/[\w/]+\.py)`", part)
    lines = sum(len((ROOT / file).read_text().splitlines()) for file in files)
    assert len(set(files)) == len(files) > 20 and lines < 4500, f"{lines} lines: what of it is a leaf?"
    first, whole = (int(n.replace(",", "")) for n in re.findall(r"[\d,]{5,}", part)[:2])
    every = [f for room in ("pipeline", "stages") for f in (ROOT / room).rglob("*.py")]
    assert lines == pytest.approx(first, rel=0.05)
    assert sum(len(f.read_text().splitlines()) for f in every) == pytest.approx(whole, rel=0.05)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with the file, the block and the arm of the example, and nothing else edited."""
    root, code = tmp_path_factory.mktemp("project"), example("python")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("dvc.yaml", "pyproject.toml"):
        shutil.copy(ROOT / file, root)
    place = re.match(r"# (pipeline/generators/\w+\.py)\n", code)
    (root / place[1]).write_text(code.removeprefix(place[0]))
    (root / "params.yaml").write_text(with_lines((ROOT / "params.yaml").read_text(), example("yaml")))
    return root


def run(project: Path, *arguments: str) -> str:
    """What a Python program says in the copy, which must have ended well."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"PYTHONPATH": str(project)}
    done = subprocess.run([sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_params_with_the_block_and_the_arm_of_the_example_load(project):
    code = (
        "import json; from pipeline.params import load\n"
        "p = load().model_copy(update={'profile': 'full'})\n"
        "print(json.dumps([p.model_dump(mode='json'), list(p.compared), list(p.made)]))\n"
    )
    added, before = YAML(typ="safe", pure=True).load(example("yaml")), load(ROOT / "params.yaml")
    after, trained, made = json.loads(run(project, "-c", code))
    for section in ("generators", "arms"):
        assert set(after[section]) - set(getattr(before, section)) == set(added[section]) == {"jitter"}
        assert after[section]["jitter"] == added[section]["jitter"]
    assert "jitter" in trained and "jitter" in made


def test_the_family_of_the_example_is_found_and_keeps_the_contract(project):
    run(project, "-m", "stages", "check")
    said = run(project, "-m", "pytest", "-p", "no:cacheprovider", "tests/generators/test_contract.py", "-k", "jitter")
    passed = int(re.search(r"(\d+) passed", said)[1])
    assert passed >= 15 and "failed" not in said and "error" not in said


def test_the_example_adds_noise_of_the_spread_that_its_block_asks_for(project, tmp_path):
    code = (
        "import sys, numpy as np; from tests.conftest import toy_samples; from pipeline import generators, params\n"
        "p = params.load(); model = generators.build(p.generators['jitter'], p.compute, 'jitter')\n"
        "real = toy_samples((1, 1)); model.fit(real, 0)\n"
        "made = model.sample(np.zeros(500, int), np.arange(500))\n"
        "np.save(sys.argv[1], made.astype(float) - real.images[0])\n"
    )
    run(project, "-c", code, str(tmp_path / "noise.npy"))
    noise = np.load(tmp_path / "noise.npy", allow_pickle=False)
    assert abs(noise.mean()) < 1 and noise.std() == pytest.approx(12, abs=1)


def test_the_example_breaks_no_rule_of_the_house(project):
    assert [p for p in problems(project) if "jitter" in p] == []
    run(project, "-m", "ruff", "check", "--no-cache", "pipeline/generators/jitter.py")
    run(project, "-m", "ruff", "format", "--no-cache", "--check", "pipeline/generators/jitter.py")


def test_files_and_names_that_the_page_tells_of_exist():
    for file in re.findall(r"`((?:pipeline|stages|tests)/[\w/.]*)`", PAGE):
        assert (ROOT / file).exists(), file
    for name, file in {
        "FORMATS": "pipeline/data/sources/__init__.py",
        "def locate": "pipeline/data/sources/__init__.py",
        "MOST_RATIO": "pipeline/data/sources/npz.py",
        "SUFFIXES": "pipeline/data/sources/decode.py",
        "FORMS": "tests/data/sources/test_formats.py",
        "per_class": "pipeline/evaluation/scores.py",
        "def from_confusion": "pipeline/evaluation/scores.py",
        "primary_metric": "pipeline/params/sections.py",
        "TITLES": "pipeline/reporting/tables.py",
        "GUIDING": "pipeline/params/__init__.py",
        "drawn": "pipeline/generators/base.py",
        "def to_network": "pipeline/samples.py",
    }.items():
        assert name.removeprefix("def ") in PAGE and re.search(rf"\b{name}\b", (ROOT / file).read_text()), name


def test_the_limits_that_the_page_names_are_those_that_are_checked():
    assert f"functions above {LONGEST_FUNCTION} lines and files above {LONGEST_FILE}" in PAGE


def test_only_stages_derive_seeds():
    callers = [f for f in (ROOT / "pipeline").rglob("*.py") if re.search(r"(?<!def )\bderive\(", f.read_text())]
    assert "only stages call `derive`" in PAGE and callers == []


@pytest.mark.parametrize("target", re.findall(r"^make ([\w-]+)", PAGE, re.M))
def test_make_targets_that_the_page_names_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_no_generator_is_named_outside_of_its_file_but_nothing():
    own = {f.stem for f in (ROOT / "pipeline" / "generators").glob("[!_]*.py")} - {"base", "smote"}  # a way to mix, too
    others = [f for d in ("pipeline", "stages") for f in (ROOT / d).rglob("*.py") if f.parent.name != "generators"]
    named = {name for f in others for name in own if re.search(rf"""["']{name}["']""", f.read_text())}
    assert named == {"nothing"}
