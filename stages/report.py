"""report: everything a run writes for people and for CI; the only stage whose outputs git tracks."""

import hashlib
import io
import json
import logging
import os
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from pipeline import csvs
from pipeline.evaluation.openings import opened
from pipeline.params import POOL, Params
from pipeline.reporting import cautions, html, pictures
from pipeline.reporting import run as runs
from pipeline.samples import Samples, with_pool
from stages import Output, trained

log = logging.getLogger("stages")
MERGE = "if git left both sides of a merge in it, join their lists of each test split, for every look counts"
NAMES = ("arm", "generator", "class", "space", "measure", "metric", "id")  # columns of text


def main(
    params: Params,
    train: Path,
    about: Path,
    selected: Path,
    models: Path,
    results: Path,
    times: Path,
    noted: Path,
    openings: Path,
    graph: Path,
    library: Path,
    scripts: Path,
    sets: Path,
    lock: Path,
    metrics: Output,
    verdict: Output,
    scores: Output,
    plots: Output,
    figure: Output,
    markdown: Output,
    page: Output,
    data: Output,
    test_opened: Output,
) -> None:
    before = looks(openings)
    code = {"code": code_version([graph, library, scripts, sets]), lock.name: digest(lock)}
    run = read_run(params, train, about, selected, models, results, times, noted, before, code)
    facts = runs.facts(run)
    metrics.write_text(json.dumps(facts["metrics"], indent=1))
    told = {"sentence": facts["sentence"], "refused": cautions.refused(run), "warnings": facts["warnings"]}
    verdict.write_text(json.dumps(run.verdict | told, indent=1))
    csvs.write(run.scores, scores)
    plots.mkdir(parents=True)
    for name, frame in runs.plots(run, facts["metrics"]).items():
        csvs.write(frame, plots / f"{name}.csv")
    figure.write_bytes(pictures.forest(run))
    markdown.write_text(html.digest(facts), encoding="utf-8")
    page.write_text(html.page(facts | pictures.pictures(run, facts["metrics"])), encoding="utf-8")
    data.write_text(json.dumps(run.about, indent=1))
    test_opened.write_text(json.dumps(run.openings, indent=1))
    log.info("%s", facts["sentence"])


def read_run(
    params: Params,
    train: Path,
    about: Path,
    selected: Path,
    models: Path,
    results: Path,
    times: Path,
    noted: Path,
    before: dict[str, list[str]],
    code: dict[str, str],
) -> runs.Run:
    """Everything that the stages before wrote; `before` and `noted` say how the test splits were opened until now.

    `code` names the versions of this project and of what it needs.
    """
    arms = trained(params, models / "arms")[0].compared
    with np.load(results / "evaluation" / "predictions.npz", allow_pickle=False) as file:
        y, predicted = file["y"], {a: file[f"arm_{a}"] for a in arms}
    verdict = read(results / "evaluation" / "verdict.json")
    return runs.Run(
        params=params,
        text=settings(params),
        about=read(about / "audit.json"),
        verdict=verdict,
        code=code,
        openings=opened(before, noted, verdict["test"]["fingerprint"], verdict["test"]["settings"]),
        choices=read(results / "evaluation" / "choices.json"),
        scores=csvs.read(results / "evaluation" / "scores.csv", NAMES),
        y=y,
        predicted=predicted,
        reliability=csvs.read(results / "evaluation" / "reliability.csv", NAMES),
        records={a: read(models / "arms" / a / "record.json") for a in arms},
        curves=pd.concat([csvs.read(models / "arms" / a / "curves.csv", NAMES) for a in arms]),
        generators={g: fitted(models / "generators" / g) for g in params.made},
        losses={g: read(models / "generators" / g / "curve.json") for g in params.made},
        selections={g: read(selected / g / "summary.json") for g in params.made},
        tried=csvs.read(results / "search" / "tried.csv", NAMES),
        copies=csvs.read(results / "copies.csv", NAMES),
        fidelity=csvs.read(results / "fidelity.csv", NAMES),
        opinions=csvs.read(results / "opinions.csv", NAMES),
        encoder=read(models / "encoder" / "training.json"),
        teachers=read(models / "baseline" / "teachers.json"),
        pool=read(selected / POOL / "summary.json"),
        train=Samples.load(train),
        fitted_on=with_pool(train, selected / POOL),
        synthetic={g: Samples.load(selected / g) for g in params.made},
        times=[t for f in sorted(times.glob("*.json")) if in_graph(t := read(f), params)],
    )


def fitted(folder: Path) -> dict[str, Any]:
    """What a generator was fitted with, and a hash of its weights where it has any."""
    files = sorted(folder.glob("*.safetensors"))
    hashes = {"weights": hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]} if files else {}
    return read(folder / "generator.json") | hashes


def code_version(parts: list[Path]) -> str:
    """The commit at which these files of the project stand, and whether they have changed since."""
    from dulwich import porcelain
    from dulwich.errors import NotGitRepository
    from dulwich.repo import Repo

    try:
        with Repo(".") as repo:
            commit, status = repo.head().decode(), porcelain.status(repo, untracked_files="normal")
    except NotGitRepository:
        return "not in a git repository of its own"
    except KeyError:
        return "not committed"
    files = {os.fsdecode(f) for f in chain(*status.staged.values(), status.unstaged, status.untracked)}
    touched = sorted(f for f in files if any(Path(f).is_relative_to(part) for part in parts))
    return f"commit {commit}" + (f", changed since in {', '.join(touched)}" if touched else "")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.exists() else "no such file here"


def settings(params: Params) -> str:
    """The params as YAML, without the folders above the user's data, which may name people."""
    raw = params.model_dump(mode="json")
    raw["data"] |= {key: inside(raw["data"][key]) for key in ("source", "unlabelled", "downloads")}
    text = io.StringIO()
    writer = YAML(typ="safe")
    writer.sort_base_mapping_type_on_output, writer.default_flow_style, writer.width = False, None, 160
    writer.dump(raw, text)
    return text.getvalue()


def inside(path: str) -> str:
    """A path as it stands, or of one that leads out of the project the last part alone."""
    return Path(path).name if os.path.normpath(path).startswith(("/", "~", "..")) else path


def in_graph(noted: dict, params: Params) -> bool:
    """Whether a noted time, of `evaluate` or `retrain-oversample`, is that of a stage of this run, not of a removed block.

    Nor of `export`, nor one that a version of this project wrote which did not yet say where networks ran.
    """
    stage, _, name = noted["stage"].partition("-")
    return "device" in noted and stage != "export" and (not name or name in params.compared or name in params.made)


def looks(path: Path) -> dict[str, list[str]]:
    """Under which settings each test split was evaluated until now, as git tracks it; nothing before the first report."""
    known = read(path, MERGE) if path.exists() else {}
    if not isinstance(known, dict) or not all(isinstance(one, list) for one in known.values()):
        raise ValueError(f"{path}: expected a list of settings for each test split; take the file as git last had it")
    return known


def read(path: Path, remedy: str = "remove it and run `dvc repro`, which makes it again") -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, but {error}; {remedy}") from error
