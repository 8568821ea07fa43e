"""plan: what this profile asks of each stage, and with what code, a file each, so that others re-run nothing of theirs."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.imports import reached
from pipeline.params import Params
from stages import Output


def main(params: Params, library: Path, scripts: Path, out: Output) -> None:
    blocks = params.generators
    fitted = {name for name in params.made if blocks[name].model == name}
    asked = {"fit_generator": fitted, "generate": set(params.made), "pseudo_label": set(params.made)}
    for script in sorted(scripts.glob("[!_]*.py")):
        begin = [script, scripts / "__init__.py", scripts / "__main__.py"]
        if script.stem in asked:
            for name, block in blocks.items():
                families = {block.family, blocks[block.model].family}
                write(out / script.stem / name, name in asked[script.stem], begin, library, families)
        elif script.stem == "retrain":
            for name in params.arms:
                write(out / script.stem / name, name in params.compared, begin, library)
        else:
            write(out / script.stem, True, begin, library, {block.family for block in blocks.values()})


def write(place: Path, wanted: bool, begin: Iterable[Path], library: Path, families: Iterable[str] = ()) -> None:
    """Whether the stage has anything to do, and if so a hash of every file that it may run with these families."""
    code = {}
    if wanted:
        folder = library / "generators"
        files = reached(begin, {folder / "__init__.py": [folder / f"{family}.py" for family in families]})
        code = {f.as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_name(f"{place.name}.json").write_text(json.dumps({"wanted": wanted, "code": code}, indent=1))
