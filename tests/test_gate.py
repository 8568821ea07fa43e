"""The gate by its exit code and its one line, run as CI runs it. Run: python -m pytest tests/test_gate.py"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.evaluation import guardrails
from pipeline.params import Gate
from stages import gate

ROOT = Path(__file__).parents[1]
WORDS = ("HELPS", "NEUTRAL", "HURTS", "CANNOT_TELL")
SOUND = {"name": "AUPRC", "difference": 0.01, "ci_low": 0.0, "ci_high": 0.02, "broken": False}
BROKEN = {"name": "recall of 8", "difference": -0.1, "ci_low": -0.2, "ci_high": -0.05, "broken": True}


def verdict(word: str, *rails: dict, refused: tuple[str, ...] = ()) -> str:
    """verdict.json as the report stage writes it, with more keys than the gate reads."""
    return json.dumps(
        {
            "verdict": word,
            "reason": f"why {word}",
            "guardrails": list(rails),
            "refused": list(refused),
            "difference": None,
            "arms": {},
        }
    )


@pytest.fixture
def ask(tmp_path):
    """`ask(text, **rules)` writes a verdict (None: none) and gives the exit code and what the gate said of it."""

    def run(text: str | bytes | None, **rules) -> tuple[int, str]:
        with (ROOT / "params.yaml").open() as file:
            settings = YAML(typ="safe", pure=True).load(file)
        settings["gate"] |= rules
        (tmp_path / "params.yaml").write_text(json.dumps(settings))  # JSON is YAML too
        if text is not None:
            (tmp_path / "verdict.json").write_bytes(text.encode() if isinstance(text, str) else text)
        command = [sys.executable, "-m", "stages", "gate", "verdict.json"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr and "signal" not in done.stderr and not done.stdout
        return done.returncode, done.stderr

    return run


@pytest.mark.parametrize("word", WORDS)
def test_as_shipped_only_hurts_shuts_it(ask, word):
    code, said = ask(verdict(word, SOUND))
    assert code == (word == "HURTS") and len(said.splitlines()) == 1
    assert f"{word} (why {word})" in said and ("SHUT" in said) == (word == "HURTS")
    assert word == "HURTS" or "stops HURTS, a broken guardrail, a refused generator" in said


def test_a_broken_guardrail_shuts_it_and_is_named(ask):
    code, said = ask(verdict("CANNOT_TELL", SOUND, BROKEN))
    assert code == 1 and said.rstrip().endswith("SHUT: guardrails broken: recall of 8")


def test_both_reasons_stand_in_the_one_line(ask):
    code, said = ask(verdict("HURTS", BROKEN, BROKEN | {"name": "ECE"}))
    assert code == 1 and len(said.splitlines()) == 1
    assert "the verdict is HURTS (why HURTS); guardrails broken: recall of 8, ECE" in said


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("stopped", [(), ("HURTS", "CANNOT_TELL"), WORDS])
@pytest.mark.parametrize("guardrails", [True, False])
@pytest.mark.parametrize("rails", [(), (SOUND,), (SOUND, BROKEN)])
@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("refused", [(), ("cvae",)])
def test_params_say_what_counts(word, stopped, guardrails, rails, copies, refused):
    rules = Gate(fail_on=list(stopped), guardrails=guardrails, copies=copies)
    why = gate.objections(gate.Verdict.model_validate_json(verdict(word, *rails, refused=refused)), rules)
    assert len(why) == (word in stopped) + (guardrails and BROKEN in rails) + (copies and bool(refused))


def test_a_refused_generator_shuts_it_and_is_named(ask):
    code, said = ask(verdict("NEUTRAL", SOUND, refused=("cvae", "cgan")))
    assert code == 1 and said.rstrip().endswith("SHUT: generators whose rows are copies of training rows: cvae, cgan")


def test_a_gate_that_stops_nothing_says_so(ask):
    code, said = ask(verdict("HURTS", BROKEN, refused=("cvae",)), fail_on=[], guardrails=False, copies=False)
    assert code == 0 and "open: HURTS" in said and "stops nothing" in said


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("", "Invalid JSON"),
        ('{"verdict": "HELPS",', "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        ("[" * 5000, "Invalid JSON"),
        ("[]", "object"),
        ("{}", "verdict: Field required"),
        (verdict("PERHAPS"), "verdict: Input should be 'HELPS'"),
        ('{"verdict": "HELPS", "reason": ""}', "guardrails: Field required"),  # of a version without them
        (verdict("HELPS", SOUND | {"broken": "no"}), "guardrails.0.broken: Input should be a valid boolean"),
        (verdict("HELPS", {"name": "ECE"}), "guardrails.0.broken: Field required"),
    ],
)
def test_no_verdict_is_no_leave_to_pass(ask, text, named):
    code, said = ask(text)
    assert code == 2 and named in said and "run `make repro`" in said, said


def test_a_folder_in_its_place_is_answered_in_words(ask, tmp_path):
    (tmp_path / "verdict.json").mkdir()
    code, said = ask(None)
    assert code == 2 and "Is a directory" in said


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (
            {"fail_on": ["HURT"]},
            "gate.fail_on.0: Input should be 'HELPS', 'NEUTRAL', 'HURTS' or 'CANNOT_TELL'",
        ),
        ({"fail_on": "HURTS"}, "gate.fail_on: Input should be a valid list"),
        ({"fail_on": ["HURTS", "HURTS"]}, "each name may stand once"),
        ({"guardrails": "yes"}, "gate.guardrails"),
        ({"fail_of": []}, "gate.fail_of: unknown key"),
    ],
)
def test_mistakes_in_the_rules_are_named(ask, rules, named):
    code, said = ask(verdict("HELPS"), **rules)
    assert code == 2 and named in said, said


def test_it_reads_the_guardrails_that_a_run_writes(shipped):
    rng = np.random.default_rng(0)
    arm, control = rng.dirichlet(np.ones(3), (2, 2, 30))  # (S, N, K) each
    rails = guardrails.check(arm, control, np.arange(30) % 3, np.arange(30), "abc", shipped.evaluation, 0)
    found = gate.Verdict.model_validate_json(verdict("HELPS", *rails))
    assert [rail.name for rail in found.guardrails][-1] == "recall of c"
    assert [rail.broken for rail in found.guardrails] == [rail["broken"] for rail in rails]
