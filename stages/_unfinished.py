"""Where a stage that is killed finds its work again: a folder named after all that determines what it comes to.

Beside it lies, in a file of its name, how long earlier starts worked at it.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import reduce
from importlib.metadata import version
from operator import getitem
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from pipeline.imports import reached
from pipeline.params import Params, load, pick
from pipeline.params.fields import read

ROOT = Path(__file__).parents[1]
STAGES, FAMILIES = Path("stages"), Path("pipeline", "generators")
CODE = ("pipeline", "stages", "sets")
NEEDED = ("torch", "lightning", "numpy", "safetensors")  # what computes the numbers


def folder(
    home: Path, stage: str, params: Params, values: dict[str, Path | str], outputs: Iterable[str], clear: bool = True
) -> Path:
    """The folder in `home` for what this stage is asked for, by its code, these versions and these inputs; not made yet.

    Of what lies in `home` for others all but the latest is removed, if `clear`: a long run may be interrupted for a quick one.
    """
    inputs = {name: value for name, value in values.items() if name not in outputs}
    facts = {
        "stage": stage,
        "params": asked(stage, params, inputs.get("name")),
        "code": code(params, stage, inputs.get("name"), ROOT),
        "inputs": {name: content(v) if isinstance(v, Path) else v for name, v in inputs.items()},
        "versions": [platform.python_version(), *map(version, NEEDED)],
    }
    mine = home / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    others = {other.with_suffix("") for other in home.glob("*")} - {mine} if clear else set()
    for other in sorted(others, key=lambda o: note_of(o).stat().st_mtime if note_of(o).exists() else 0.0)[:-1]:
        forget(other)
    return mine


def note_of(work: Path) -> Path:
    return work.with_suffix(".json")


def forget(work: Path) -> None:
    """Removes what lies there for it, done or not wanted any more."""
    shutil.rmtree(work, ignore_errors=True)
    for file in work.parent.glob(f"{work.name}.*"):
        file.unlink()
    if work.parent.exists() and not any(work.parent.iterdir()):
        work.parent.rmdir()


def begin(work: Path) -> float:
    """Seconds that earlier starts worked at this, each up to the last that it kept; notes that another begins now."""
    note, draft = note_of(work), work.with_suffix(".draft")
    known = {"seconds": 0.0, "begun": time.time()}
    if note.exists():
        with suppress(ValueError):  # torn by a power cut: then only seconds are lost
            known = json.loads(note.read_text())
    last = max((f.stat().st_mtime for f in work.rglob("*") if f.is_file()), default=0.0)
    seconds = known["seconds"] + max(0.0, last - known["begun"])
    note.parent.mkdir(parents=True, exist_ok=True)
    draft.write_text(json.dumps({"seconds": seconds, "begun": time.time()}))
    os.replace(draft, note)
    return seconds


def stamps(stage: str, params: Params) -> dict[str, tuple[int, int]]:
    """When each file of the code, and of the data that a stage of the graph reads, was last written to, and its bytes."""
    files = [f for part in ("pipeline", "stages") for end in ("py", "jinja") for f in (ROOT / part).rglob(f"*.{end}")]
    for place in [*named(stage, params), *(ROOT / part for part in set(CODE) & set(deps(stage)))]:
        files += [place, *(f for f in place.rglob("*") if not hidden(f.relative_to(place)))]
    found = {}
    for file in files:
        with suppress(OSError):  # gone meanwhile, or not to be looked at: then others tell
            told = file.stat()
            if not S_ISDIR(told.st_mode):
                found[Path(os.path.relpath(file, ROOT)).as_posix()] = told.st_mtime_ns, told.st_size
    return found


def hidden(path: Path) -> bool:
    """Whether dvc does not look at it, or nobody does."""
    return any(part.startswith((".", "__pycache__")) for part in path.parts)


def named(stage: str, params: Params) -> list[Path]:
    """The paths of data that params name and the stage depends on."""
    raw = params.model_dump(mode="json")
    return [Path(value(raw, found[1])) for dep in deps(stage) if (found := re.fullmatch(r"\$\{(.+)\}", dep))]


def deps(stage: str) -> list[str]:
    """What dvc.yaml says that a stage depends on, as it stands there; of one of a block nothing."""
    stages = read(ROOT / "dvc.yaml")["stages"] if (ROOT / "dvc.yaml").exists() else {}
    return stages.get(stage, {}).get("deps", [])


def refuse_edits(stage: str, params: Params, name: str | None, before: Mapping[str, tuple[int, int]]) -> None:
    """Raises ValueError if params, code or data that a stage of the graph depends on were edited while it ran.

    dvc looks at them when the stage has ended, and would take its results for those of the edited ones ever after.
    """
    if not (ROOT / "dvc.yaml").exists() or stage not in read(ROOT / "dvc.yaml")["stages"]:
        return
    after = stamps(stage, params)
    touched = sorted(f for f in before.keys() | after.keys() if before.get(f) != after.get(f))
    ours = code(params, stage, name, ROOT) if touched else {}
    whole = deps(stage)  # of the folders of code that are not in it, a stage depends on what it may run alone
    found = [
        f for f in touched if f in ours or not f.startswith(tuple(f"{part}/" for part in CODE if part not in whole))
    ]
    try:
        now = asked(stage, load(), name)
    except ValueError:
        now = {}
    found += [f"{key} in params.yaml" for key, value in asked(stage, params, name).items() if now.get(key) != value]
    if found:
        raise ValueError(
            f"{', '.join(found[:8])}{' and more' if len(found) > 8 else ''}: edited while this stage ran, so dvc would take its "
            "results for those of what stands there now; run `dvc repro` again. What a stage keeps of its work when it is ended "
            "is of use again once the edit is put back"
        )


def asked(stage: str, params: Params, name: str | None) -> dict[str, Any]:
    """The params that dvc.yaml says a stage depends on, by key; `name` is the block that the stage is for, if there is one.

    Raises ValueError for a block that there is not.
    """
    raw = params.model_dump(mode="json")
    block = read(ROOT / "dvc.yaml")["stages"][stage]
    known = raw
    if "foreach" in block:
        section = block["foreach"][2:-1]
        known = raw | {"key": name, "item": pick(raw[section], str(name), section)}
        block = block["do"]
    keys = [re.sub(r"\$\{(.+?)\}", lambda found: value(known, found[1]), key) for key in block.get("params", raw)]
    return {key: value(raw, key) for key in keys}


def value(blocks: Mapping[str, Any], key: str) -> Any:
    return reduce(getitem, key.split("."), blocks)


def code(params: Params, stage: str, name: str | None, root: Path) -> dict[str, str]:
    """Hashes of the files that a stage may run, for the block of this name if it is for one; paths are relative to `root`."""
    begin = [STAGES / f"{part}.py" for part in (stage, "__init__", "__main__")]
    blocks, of_one = params.generators, stage in ("fit_generator", "generate", "pseudo_label")
    own = [] if stage == "retrain" else [blocks[name]] if of_one and name else blocks.values()
    families = {f for block in own for f in (block.family, blocks[block.model].family)}
    by_name = {FAMILIES / "__init__.py": [FAMILIES / f"{family}.py" for family in families]}
    return {file.as_posix(): digest(root / file) for file in sorted(reached(begin, by_name, root))}


def content(path: Path) -> list[tuple[str, str]] | str:
    """Names and hashes of all files in a folder, or the hash of a file; empty if there is nothing."""
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file())
        return [(f.relative_to(path).as_posix(), digest(f)) for f in files]
    return digest(path) if path.exists() else ""


def digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
