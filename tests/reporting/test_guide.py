"""What the guides show can be pasted, and is what a run says. Run: python -m pytest tests/reporting/test_guide.py"""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.evaluation.words import classify
from pipeline.params import Arm, Params

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    YAML(typ="safe").load(text) for text in re.findall(r"```yaml\n(.*?)```", (DOCS / "report.md").read_text(), re.S)
]
ARMS = [block for block in BLOCKS if "arms" in block]


def test_the_guide_shows_arms():
    assert [list(block["arms"]) for block in ARMS] == [["some_real", "more_real"]]


@pytest.mark.parametrize("block", ARMS)
def test_arms_that_the_guide_shows_can_be_pasted(block, shipped):
    """Their line lacked a key, and was refused."""
    for arm in block["arms"].values():
        Arm.model_validate(arm)
    raw = shipped.model_dump(mode="json")
    raw["data"] |= block["data"]
    raw["arms"] |= block["arms"]
    assert set(block["arms"]) <= set(Params.model_validate(raw).compared)


@pytest.mark.parametrize(("ends", "word"), [((-0.005, 0.005), "NEUTRAL"), ((-0.03, -0.02), "HURTS")])
def test_the_gate_is_shown_with_reasons_as_a_run_gives_them(ends, word, shipped):
    found, reason = classify(*ends, 0.03, 6, 100, shipped.evaluation)
    assert found == word and f"{word} ({reason})" in (DOCS / "ci.md").read_text()
