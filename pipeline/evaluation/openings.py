"""How often a test split has been looked at: each evaluation under other settings makes its figures a little less blind."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.params import Params


def settings_hash(settings: Params) -> str:
    """A hash of all that can change a result: params without how results are shown and gated, and where they are computed."""
    kept = settings.model_dump(mode="json", exclude={"report", "compute", "gate"})
    return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=8).hexdigest()


def note(folder: Path, test: str, settings: str) -> None:
    """Write down that a test split, by its fingerprint, was evaluated under these settings."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{test}-{settings}.json"
    if not file.exists():
        file.write_text(json.dumps({"test": test, "settings": settings, "at": time.time()}))


def opened(before: Mapping[str, list[str]], noted: Path, test: str, settings: str) -> dict[str, list[str]]:
    """The settings under which each test split was evaluated: those known before, those noted since, and these."""
    found = {name: list(known) for name, known in before.items()}
    notes = sorted((json.loads(file.read_text()) for file in noted.glob("*.json")), key=lambda n: n["at"])
    for one in [*notes, {"test": test, "settings": settings}]:
        known = found.setdefault(one["test"], [])
        if one["settings"] not in known:
            known.append(one["settings"])
    return found
