"""How often a test split has been looked at: each evaluation under other settings makes its figures a little less blind."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.params import Params

log = logging.getLogger(__name__)


def settings_hash(settings: Params) -> str:
    """A hash of all that can change a result: params without how results are shown and gated, and where they are computed."""
    kept = settings.model_dump(mode="json", exclude={"report", "compute", "gate"})
    return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=8).hexdigest()


def note(folder: Path, test: str, settings: str) -> None:
    """Write down that a test split, by its fingerprint, was evaluated under these settings."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{test}-{settings}.json"
    if not file.exists() or said(file) is None:
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps({"test": test, "settings": settings, "at": time.time()}))
        os.replace(draft, file)


def said(file: Path) -> tuple[float, str, str] | None:
    """When which test split was evaluated under which settings; None if the note cannot be read."""
    try:
        told = json.loads(file.read_text())
        return float(told["at"]), str(told["test"]), str(told["settings"])
    except (ValueError, KeyError, TypeError):
        return None


def named(file: Path) -> tuple[float, str, str]:
    """The same of a note that cannot be read, by its name: a look must not be lost. Raises ValueError if it has no such name."""
    log.warning("warning: %s cannot be read; the look at the test split is counted by its name", file)
    test, _, settings = file.stem.rpartition("-")
    if not test or not settings:
        raise ValueError(
            f"{file} is no note of a look at the test split: expected <fingerprint>-<settings>.json with "
            "{test, settings, at}; move it elsewhere, or give it its name back if it has lost it"
        )
    return file.stat().st_mtime, test, settings


def opened(before: Mapping[str, list[str]], noted: Path, test: str, settings: str) -> dict[str, list[str]]:
    """The settings under which each test split was evaluated: those known before, those noted since, and these."""
    found = {name: list(known) for name, known in before.items()}
    notes = sorted(said(file) or named(file) for file in noted.glob("*.json"))
    for _, split, under in [*notes, (0.0, test, settings)]:
        known = found.setdefault(split, [])
        if under not in known:
            known.append(under)
    return found
