"""What SECURITY.md promises is held by tests that exist. Run: python -m pytest tests/test_security.py"""

import ast
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

from stages.__main__ import ENVIRONMENT

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text()
PROMISES = re.findall(r"^\| (?!promise|---)(.+?) \| (`tests/.+`) \|$", PAGE, re.M)


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_each_promise_names_a_test():
    rows = [line for line in section("What is promised").splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 15 and len([row for row in rows if row.endswith("` |")]) == len(rows)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", PAGE))))
def test_a_test_that_is_named_exists(name):
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_what_dependencies_would_send_is_switched_off():
    config = ConfigParser()
    config.read_string(re.sub(r"(?m)^\s+", "", (ROOT / ".dvc" / "config").read_text()))
    assert config["core"]["analytics"] == "false" and ENVIRONMENT["NO_ALBUMENTATIONS_UPDATE"] == "1"
    text = (ROOT / "pipeline" / "data" / "augment.py").read_text()
    imports = [m.start() for m in re.finditer("import albumentations", text)]
    for place in imports:  # each in a function, behind the line that switches the look-up off
        assert "NO_ALBUMENTATIONS_UPDATE" in text[text.rindex("\ndef ", 0, place) : place]
    assert imports and "logger=False" in (ROOT / "pipeline" / "trainer.py").read_text()
    elsewhere = [f for d in ("pipeline", "stages") for f in (ROOT / d).rglob("*.py") if f.name != "augment.py"]
    assert not any("import albumentations" in f.read_text() for f in elsewhere)


def test_no_target_asks_dvc_for_its_newest_version():
    for file in ("Makefile", ".github/workflows/report.yml", ".github/workflows/tests.yml", ".ci/run"):
        assert "dvc version" not in (ROOT / file).read_text() and "dvc doctor" not in (ROOT / file).read_text()


def test_the_bound_of_archives_is_the_one_that_is_named():
    from pipeline.data.sources.npz import MOST_RATIO, SMALL

    assert f"at most {MOST_RATIO} times its size (small ones to {MOST_RATIO * SMALL >> 20} MiB)" in PAGE


@pytest.mark.parametrize(
    ("lock", "least"), [("requirements.lock", 100), ("requirements-audit.lock", 20), ("requirements-fuzz.lock", 0)]
)
def test_a_lock_has_a_hash_for_each_package(lock, least):
    entries = re.split(r"(?m)^(?=[a-z0-9])", (ROOT / lock).read_text())[1:]
    assert len(entries) > least and all(re.match(r"[\w.-]+==\S+", e) and "--hash=sha256:" in e for e in entries)


def test_torch_is_pinned_and_audited_beside_the_lock():
    recipe = re.search(r"^audit:\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    assert all(f"-r {file}\n" in recipe for file in ("requirements.lock", "requirements-torch.txt"))
    assert recipe.count("--strict") == 2 and "--require-hashes -r requirements-audit.lock" in recipe
    assert re.fullmatch(r"torch==[\d.]+\n", (ROOT / "requirements-torch.txt").read_text())
