"""How often a test split has been looked at: each evaluation under other settings makes its figures a little less blind."""

import hashlib
import json
from collections.abc import Mapping

from pipeline.params import Params


def settings_hash(settings: Params) -> str:
    """A hash of all that can change a result: params without how results are shown and gated, and where they are computed."""
    kept = settings.model_dump(mode="json", exclude={"report", "compute", "gate"})
    return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=8).hexdigest()


def opened(before: Mapping[str, list[str]], test: str, settings: str) -> dict[str, list[str]]:
    """The settings under which each test split, by its fingerprint, was evaluated, in order, with these added if new."""
    known = before.get(test, [])
    return {**before, test: known if settings in known else [*known, settings]}
