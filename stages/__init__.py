"""One file per DVC stage: read, call the library, write. Run with `python -m stages <stage> <arguments as in dvc.yaml>`.

A `main` with an argument `unfinished` is given a folder that is kept if the stage is killed, for its next run to go on.
"""

import json
from pathlib import Path
from typing import NewType

from pipeline.errors import Diverged
from pipeline.params import Params

Output = NewType("Output", Path)  # an argument that a stage writes; it appears there only when the stage is done


def within(folder: Path | None, name: str) -> Path | None:
    """The place of this name in a folder, if there is a folder."""
    return None if folder is None else folder / name


def trained(params: Params, models: Path) -> tuple[Params, dict[str, str]]:
    """The params without the arms whose training diverged, and why it did, by arm; `models` has a folder of each arm.

    Raises Diverged if no control is left to compare with.
    """
    records = {name: json.loads((models / name / "record.json").read_text()) for name in params.compared}
    failed = {name: record["reason"] for name, record in records.items() if "reason" in record}
    left = params.model_copy(update={"arms": {n: arm for n, arm in params.arms.items() if n not in failed}})
    if not any(arm.role == "control" for arm in left.compared.values()):
        raise Diverged("no control could be trained: " + "; ".join(f"{n}: {why}" for n, why in failed.items()))
    return left, failed
