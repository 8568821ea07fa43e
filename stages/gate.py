"""gate: may this change pass? Exit 0 if so, 1 if the verdict or a guardrail forbids it. Run: make gate

The rules are in gate. It reads what the last run wrote and runs nothing itself.
"""

import logging
from pathlib import Path

from pydantic import BaseModel, ValidationError

from pipeline.params import Gate, Params
from pipeline.params.sections import Word

log = logging.getLogger("stages")


class Rail(BaseModel, strict=True):
    name: str
    broken: bool | None  # None: not judged


class Verdict(BaseModel, strict=True):
    """What the gate needs of verdict.json."""

    verdict: Word
    reason: str
    guardrails: list[Rail]
    refused: list[str]  # generators


def main(params: Params, verdict: Path) -> None:
    found, rules = read(verdict), params.gate
    why = objections(found, rules)
    if not why:
        log.info("open: %s (%s); %s", found.verdict, found.reason, looked_for(rules))
        return
    log.error("SHUT: %s", "; ".join(why))
    raise SystemExit(1)


def read(file: Path) -> Verdict:
    """Raises ValueError that says what to do if the file is missing or is no verdict."""
    try:
        return Verdict.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); run `make repro`, which writes it") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{file} is no verdict ({key + ': ' if key else ''}{first['msg']}); run `make repro`, which writes it"
        ) from None


def objections(found: Verdict, rules: Gate) -> list[str]:
    """Why the gate is shut, as texts; none if it is open."""
    why = []
    if found.verdict in rules.fail_on:
        why.append(f"the verdict is {found.verdict} ({found.reason})")
    broken = [rail.name for rail in found.guardrails if rail.broken]
    if rules.guardrails and broken:
        why.append(f"guardrails broken: {', '.join(broken)}")
    if rules.copies and found.refused:
        why.append(f"generators whose rows are copies of training rows: {', '.join(found.refused)}")
    return why


def looked_for(rules: Gate) -> str:
    kinds = [*rules.fail_on, *["a broken guardrail"] * rules.guardrails, *["a refused generator"] * rules.copies]
    return f"gate stops {', '.join(kinds) or 'nothing'}"
