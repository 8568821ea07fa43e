"""check: does params.yaml make sense? Run before the graph, so that a misspelt option does not show up an hour later.

And it removes what would keep dvc from running after one that was killed, and folders of blocks that params have no more.
"""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ruamel.yaml import YAML, YAMLError

from pipeline import generators
from pipeline.data import sources
from pipeline.params import GUIDING, Params, borrowing
from pipeline.params.fields import read
from stages._space import knows

NOTES = Path(".dvc/tmp/rwlock")  # in which dvc notes who reads and writes what
GRAPH = Path("dvc.yaml")
RECORD = Path("dvc.lock")  # of what stages were made of, which dvc writes anew after each
WHOLE = r"\n +(size|nfiles): \d+\n$|\n +isexec: true\n$"  # how a record ends that dvc wrote to its end
PAUSES = (1, 1, 0)  # seconds after each look at a file that is not whole: a dvc that lives may be writing it
log = logging.getLogger("stages")


def main(params: Params) -> None:
    mend(NOTES)
    mend_record(RECORD)
    for folder in orphans(params, GRAPH, RECORD):
        log.info("%s is of a block that params.yaml has no more; removed, dvc's cache keeps it", folder)
        shutil.rmtree(folder)
    makes_sense(params)


def makes_sense(params: Params) -> None:
    """Raises ValueError for what params ask for and there is not. Changes nothing."""
    source, pool = sources.locate(params.data.source, "data.source"), Path(params.data.unlabelled)
    sources.check_manifest(source, params.data)
    sources.check_apart(source, pool, params.data)
    if not pool.exists():
        raise ValueError(
            f"data.unlabelled: {params.data.unlabelled!r} does not exist; expected a folder, a table, or sets/none.yaml"
        )
    mistakes = [
        f"data.{key}: {str(path)!r} is neither a file nor a folder; remove it, for dvc would wait for it for ever"
        for key in ("source", "unlabelled")
        for path in odd(Path(getattr(params.data, key)))
    ]
    models = {}
    for name, block in params.generators.items():
        try:
            models[name] = generators.build(borrowing(params.generators, name), params.compute, name)
            if name in params.made:
                models[name].ready()
        except ValueError as error:
            lent = f"generators.{name} draws from the model of {block.model}, so its options are those of {block.model} and its own. "
            mistakes.append(f"{lent if block.model != name else ''}{error}")
    mistakes += [wrong for name in models if (wrong := unlent(params, models, name))]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    for key in GUIDING:
        takers = [model for model in models.values() if key in model.drawn]
        for value in getattr(params.search.space, key):
            if not any(knows(model.options, key, value) for model in takers):
                log.warning("search.space.%s: no generator takes %s, so it is not tried", key, value)


def unlent(params: Params, models: Mapping[str, generators.Generator], name: str) -> str:
    """Which options of a generator are not those of the model that it draws from, though that was fitted with them; or nothing."""
    lender = params.generators[name].model
    if name == lender or lender not in models:
        return ""
    own, lent = (models[name].fixed(models[one].options.model_dump()) for one in (name, lender))
    other = [f"{key} is {own[key]!r}, there {lent.get(key)!r}" for key in own if own[key] != lent.get(key)]
    if not other:
        return ""
    return (
        f"generators.{name} draws from the model of {lender}, which is fitted with other options: {'; '.join(other)}. Leave "
        f"them out, or have a model of its own fitted: model: {name}, with all of its options"
    )


def mend(notes: Path) -> None:
    """Removes the notes if they are no JSON: dvc, killed while it writes them, leaves them so, and runs no more."""
    for pause in PAUSES:
        if not half_written(notes):
            return
        time.sleep(pause)
    log.warning("%s was left half written by a dvc that was killed; removed", notes)
    notes.unlink()


def half_written(notes: Path) -> bool:
    """Whether the file is there, and no JSON."""
    try:
        json.loads(notes.read_bytes() if notes.exists() else "{}")
    except ValueError:
        return True
    return False


def mend_record(record: Path) -> None:
    """Takes the stage that is not whole off the record's end: dvc, killed while it writes it, leaves it cut short, and runs no more.

    What dvc knew of that stage and those behind it lies in its cache, too, from where `dvc repro` takes it.
    """
    for pause in PAUSES:
        if not cut_short(record):
            return
        time.sleep(pause)
    lines = record.read_text(errors="replace").splitlines(keepends=True)
    begins = [number for number, line in enumerate(lines) if re.match(r"  \S", line)]
    whole = "".join(lines[: begins[-1]]) if len(begins) > 1 else "schema: '2.0'\nstages: {}\n"
    if refused(whole):
        return  # more is wrong with it than its end, as after a merge: dvc says what, and a person knows better
    draft = record.with_name(f".{record.name}.draft")
    draft.write_text(whole)
    os.replace(draft, record)
    log.warning("%s was left half written by a dvc that was killed; cut off behind its last whole stage", record)


def cut_short(record: Path) -> bool:
    """Whether the record is there, and does not end as dvc ends it, and dvc would not read it."""
    if not record.exists():
        return False
    text = record.read_text(errors="replace")
    return not re.search(WHOLE, text) and refused(text)


def refused(text: str) -> bool:
    """Whether dvc would not read this record."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(text))
    except (YAMLError, Invalid):
        return True
    return False


def orphans(params: Params, graph: Path, record: Path) -> list[Path]:
    """Folders that a stage made, by the record, for a block that params have no more.

    Stages behind depend on the folder that holds them all, which would be another one where these were never made.
    """
    if not (graph.exists() and record.exists()):
        return []
    raw, made, found = params.model_dump(), record.read_text(errors="replace"), []
    for stage, block in read(graph)["stages"].items():
        if "foreach" in block:
            gone = set(re.findall(rf"^  {stage}@(\w+):$", made, re.MULTILINE)) - set(raw[block["foreach"][2:-1]])
            found += [Path(out.replace("${key}", name)) for name in gone for out in block["do"]["outs"]]
    return sorted(folder for folder in found if folder.is_dir())


def odd(root: Path) -> Iterator[Path]:
    """Pipes, sockets and devices below a folder, or the path itself if it is one."""
    files = [Path(folder, name) for folder, _, names in os.walk(root) for name in names] if root.is_dir() else [root]
    yield from (f for f in files if f.exists() and not f.is_file())
