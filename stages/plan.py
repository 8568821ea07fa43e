"""plan: what this profile asks of each stage, and with what code, a file each, so that others re-run nothing of theirs."""

import json
from pathlib import Path

from pipeline.params import Params
from stages import Output
from stages._unfinished import STAGES, code

HERE = Path()  # dvc runs a stage in the folder of the project


def main(params: Params, out: Output) -> None:
    fitted = [name for name in params.made if params.generators[name].model == name]
    asked = {"fit_generator": fitted, "generate": params.made, "pseudo_label": params.made, "retrain": params.compared}
    for stage in sorted(script.stem for script in STAGES.glob("[!_]*.py")):
        if stage not in asked:
            write(out / f"{stage}.json", True, code(params, stage, None, HERE))
        for name in params.arms if stage == "retrain" else params.generators if stage in asked else ():
            wanted = name in asked[stage]
            write(out / stage / f"{name}.json", wanted, code(params, stage, name, HERE) if wanted else {})


def write(place: Path, wanted: bool, hashes: dict[str, str]) -> None:
    """Whether the stage has anything to do, and if so a hash of every file that it may run."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"wanted": wanted, "code": hashes}, indent=1))
