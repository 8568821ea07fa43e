"""repeat: the whole run again on other splits of the same rows, each in a folder of its own, up to its verdict."""

import json
import logging
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.params import Params
from pipeline.processes import die_with_parent
from stages import Output

log = logging.getLogger("stages")


def main(
    params: Params,
    work: Path,
    openings: Path,
    evaluation: Path,
    about: Path,
    graph: Path,
    library: Path,
    scripts: Path,
    sets: Path,
    out: Output,
) -> None:
    """`evaluation` and `about` are read from each copy, where its run wrote them; `openings` too, and added to those here."""
    settings, found = Path("params.yaml"), []
    raw = YAML(typ="safe").load(settings)  # once: an edit meanwhile is not for the splits that are left
    for number in range(1, params.evaluation.repeats):
        log.info("split %d of %d", number + 1, params.evaluation.repeats)
        folder = work / str(number)
        set_up(folder, [graph, library, scripts, sets])
        with (folder / settings).open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(elsewhere(deepcopy(raw), params.data.split + number, sets), file)
        openings.mkdir(parents=True, exist_ok=True)
        try:
            dvc(folder, "repro", "evaluate")
        finally:
            for look in (folder / openings).glob("*.json"):  # at other test splits; none where the cache had the answer
                shutil.copy2(look, openings)
        found.append({"split": params.data.split + number} | said(folder / evaluation, folder / about))
        shutil.rmtree(folder)  # all of it lies in the cache
    shutil.rmtree(work, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1))


def set_up(folder: Path, parts: list[Path]) -> None:
    """A copy of the project's code that shares the project's cache, so that nothing is trained twice.

    Of one that was killed, what its stages have in hand stays, but not what they said of errors; what they finished is in
    the cache.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for told in (folder / ".work").glob("error-*.txt"):
        told.unlink()
    for old in folder.iterdir():
        if old.name != ".work":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for part in parts:
        copy = shutil.copytree if part.is_dir() else shutil.copy
        copy(part, folder / part)
    dvc(folder, "init", "--quiet", "--no-scm")
    dvc(folder, "config", "cache.dir", str(cache()))


def cache() -> Path:
    """The project's cache. Raises ValueError with what dvc says if there is none."""
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(
            f"`dvc cache dir` failed, so the copies have no cache to share: {done.stderr.strip()}; expected a project that "
            "dvc knows: run it where .dvc/config lies, by `dvc repro`"
        )
    return Path(done.stdout.strip()).absolute()


def elsewhere(raw: dict, split: int, sets: Path) -> dict:
    """The settings with this split; what lies in the user's own folders is found from the copy too."""
    data = raw["data"]
    for key in ("source", "unlabelled", "downloads"):
        if Path(data[key]).parent != sets:
            data[key] = str(Path(data[key]).absolute())
    data["split"], raw["evaluation"]["repeats"] = split, 1
    return raw


def dvc(folder: Path, *words: str) -> None:
    """Runs dvc in the folder, its messages among ours. Raises ValueError if it fails, which has then been explained."""
    # It goes on when the stages beside it are done, so it may use all cores; and `dvc init` would report its use.
    alone = {k: v for k, v in os.environ.items() if k != "SIDE_BY_SIDE"} | {"DVC_NO_ANALYTICS": "1"}
    words = (sys.executable, "-m", "dvc", *words)
    process = subprocess.Popen(words, cwd=folder, env=alone, preexec_fn=die_with_parent)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
        told = sorted(map(str, (folder / ".work").glob("error-*.txt")))
        details = f", details in {', '.join(told)}" if told else ""
        raise ValueError(
            f"`dvc {' '.join(words[3:])}` failed in {folder}, see above{details}; what it finished is in the cache"
        )


def said(evaluation: Path, about: Path) -> dict:
    """The verdict on one split, and how many rows it was trained and tested on."""
    found = json.loads((evaluation / "verdict.json").read_text())
    counts = json.loads((about / "audit.json").read_text())["counts"]
    keys = ("best_control", "chosen_arm", "difference", "ci_low", "ci_high", "verdict", "reason", "synthetic_rows",
            "controls_failed")  # fmt: skip
    rows = {f"{split}_rows": sum(counts[split].values()) for split in ("train", "test")}
    return {k: found[k] for k in keys} | rows
