"""How often a test split has been looked at: each evaluation under other settings makes its figures a little less blind."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.params import Params


def settings_hash(settings: Params) -> str:
    """A hash of all that can change a result: params without how results are shown and gated, and where they are computed.

    Nor does it hold where the data lie, for the copies of `evaluation.repeats` name them in full; and `auto` is a profile.
    """
    kept = settings.model_dump(mode="json", exclude={"report", "compute", "gate"}) | {"profile": settings.is_quick}
    kept["data"] |= {key: Path(kept["data"][key]).name for key in ("source", "unlabelled", "downloads")}
    return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=8).hexdigest()


def note(folder: Path, test: str, settings: str) -> None:
    """Write down, by the name of a file, that a test split of this fingerprint was evaluated under these settings."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{test}-{settings}.json"
    if not file.exists():
        file.touch()


def named(file: Path) -> tuple[float, str, str]:
    """When which test split was evaluated under which settings. Raises ValueError if the file has no such name."""
    test, _, settings = file.stem.rpartition("-")
    if not test or not settings:
        raise ValueError(
            f"{file} is no note of a look at the test split: expected <fingerprint>-<settings>.json; move it elsewhere, or "
            "give it its name back if it has lost it"
        )
    return file.stat().st_mtime, test, settings


def opened(before: Mapping[str, list[str]], noted: Path, test: str, settings: str) -> dict[str, list[str]]:
    """The settings under which each test split was evaluated: those known before, those noted since, and these."""
    found = {name: list(known) for name, known in before.items()}
    for _, split, under in [*sorted(map(named, noted.glob("*.json"))), (0.0, test, settings)]:
        known = found.setdefault(split, [])
        if under not in known:
            known.append(under)
    return found
