"""export: the model that the report advises and the synthetic rows of the arm to judge, as a folder to hand on.

Run it with `make export`, after `make repro`. It is no part of the graph: nothing depends on it.
"""

import json
import logging
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import csvs
from pipeline.params import Arm, Params, Recipe, pick
from pipeline.processes import Progress
from pipeline.reporting import cards, copies, portable
from pipeline.samples import Samples, spaced
from stages import Output
from stages._unfinished import digest
from stages.retrain import added_rows, settle

SOFTWARE = ("torch", "numpy", "safetensors", "onnx", "onnxscript", "pillow")
log = logging.getLogger("stages")


def main(
    params: Params,
    train: Path,
    val: Path,
    selected: Path,
    models: Path,
    search: Path,
    evaluation: Path,
    reports: Path,
    project: Path,
    out: Output,
) -> None:
    run = read_run(params, evaluation, reports, project)
    real, held = Samples.load(there(train)), Samples.load(there(val))
    out.mkdir(parents=True)
    write_model(run, models / "arms", search, held, out)
    arm = run.verdict["chosen_arm"]
    rows = learnt(params, arm, record_of(params, models / "arms", search, arm), real, selected) if arm else []
    kept = [(g, made.take(made.table["keep"].to_numpy())) for g, made in rows]
    left_out = sum(len(made) for _, made in rows) - sum(len(made) for _, made in kept)
    if any(len(made) for _, made in kept):
        write_set(run, arm, kept, left_out, selected, models / "generators", out / "synthetic")
    else:
        log.info("no synthetic set: the arm that validation chose, if any, learnt from no row that selection kept")


def read_run(params: Params, evaluation: Path, reports: Path, project: Path) -> cards.Run:
    """Raises ValueError if the run was not finished, or the reports tell of another evaluation."""
    found, verdict = read(evaluation / "verdict.json"), read(reports / "verdict.json")
    if any(verdict.get(key) != value for key, value in found.items()):
        raise ValueError(f"{reports} tells of another run than {evaluation}; run `make repro`, then export again")
    return cards.Run(
        params=params,
        version=tomllib.loads(there(project).read_text(encoding="utf-8"))["project"]["version"],
        about=read(reports / "data.json"),
        verdict=verdict,
        choices=read(evaluation / "choices.json"),
        metrics=read(reports / "metrics.json"),
        scores=csvs.read(there(reports / "scores.csv"), ("arm", "class")),
        software={name: version(name) for name in SOFTWARE},
    )


def there(path: Path) -> Path:
    """The path itself. Raises ValueError if there is nothing."""
    if not path.exists():
        raise ValueError(f"{path} is missing: only a finished run can be exported; run `make repro`, then export again")
    return path


def read(path: Path) -> Any:
    return json.loads(there(path).read_text())


def record_of(params: Params, arms: Path, search: Path, name: str) -> dict:
    """What an arm trained with. Raises ValueError if params.yaml and what the search found say something else by now."""
    arm, record = pick(params.arms, name, "arms"), read(arms / name / "record.json")
    said = [block.model_dump(mode="json") for block in settle(params, arm, read(search / f"{arm.rows}.json"))]
    if [record.get("arm"), record.get("recipe")] != said:
        raise ValueError(f"arm {name} was trained with other params than params.yaml has now; run `make repro`")
    return record


def write_model(run: cards.Run, arms: Path, search: Path, held: Samples, out: Path) -> None:
    """model.safetensors, model.onnx, model.json and MODEL_CARD.md of the best seed of the advised arm."""
    from pipeline import devices
    from pipeline.classifier import predict

    for name in ("torch.onnx", "onnxscript", "onnx_ir"):  # they tell of every pass over the graph
        logging.getLogger(name).setLevel(logging.ERROR)
    devices.set_threads(run.params.compute)
    arm = cards.advised(run.verdict)
    record, seed = record_of(run.params, arms, search, arm), run.choices["best_seed"][arm]
    weights = there(arms / arm / f"seed{seed}.safetensors")
    network = predict.load(weights.with_suffix(""))
    model = portable.to_onnx(network, held.shape, {"classes": json.dumps(held.classes), "pixels": "uint8 / 127.5 - 1"})
    rows = spaced(len(held), portable.CHECKED)
    difference = portable.largest_difference(model, network, held.images[rows])
    if not difference <= portable.TOLERANCE:  # not a number is refused too
        raise ValueError(
            f"the ONNX model of arm {arm} differs from the trained one by {difference:.2g} in a logit of {len(rows)} "
            f"validation rows, more than {portable.TOLERANCE:g}; it is not fit to be handed on, and nothing was exported"
        )
    log.info("ONNX and torch differ by at most %.1e on %d validation rows", difference, len(rows))
    checked = {"agrees_to": portable.TOLERANCE, "rows_checked": len(rows)}  # how far exactly depends on the machine
    (out / "model.safetensors").write_bytes(weights.read_bytes())
    (out / "model.onnx").write_bytes(model)
    files = {name: {"sha256": digest(out / name)} for name in ("model.safetensors", "model.onnx")}
    files["model.onnx"] |= checked
    card = cards.model(run, record, seed, files)
    (out / "model.json").write_text(json.dumps(card, indent=1))
    (out / "MODEL_CARD.md").write_text(cards.model_page(run, card), encoding="utf-8")
    log.info("model: arm %s, seed %d", arm, seed)


def learnt(params: Params, name: str, record: dict, real: Samples, selected: Path) -> list[tuple[str, Samples]]:
    """By generator, the rows that this arm learnt from. Raises ValueError if they are not those of its training."""
    arm, recipe = Arm.model_validate(record["arm"]), Recipe.model_validate(record["recipe"])
    made = [Samples.load(there(selected / g)) for g in arm.generators]
    chosen = added_rows(params, arm, recipe, real, made)
    rows = [(g, m.take(positions)) for g, m, positions in zip(arm.generators, made, chosen, strict=True)]
    counts = sum(m.counts for _, m in rows)
    if counts.tolist() != [record["synthetic_rows"][c] for c in real.classes]:
        raise ValueError(f"arm {name} was trained with other synthetic rows than {selected} holds; run `make repro`")
    return rows


def write_set(
    run: cards.Run,
    arm: str,
    kept: list[tuple[str, Samples]],
    left_out: int,
    selected: Path,
    generators: Path,
    out: Path,
) -> None:
    """An image folder with a manifest and DATASET_CARD.md; `kept` are rows the arm learnt from and selection kept."""
    folders = portable.folders(kept[0][1].classes)
    lent = {g: generators / run.params.generators[g].model for g, _ in kept}
    hashes = {g: weights_hash(folder) for g, folder in lent.items()}
    out.mkdir()
    with Progress("write pictures", sum(len(made) for _, made in kept)) as progress:
        lines = [write_rows(made, folders, hashes[g], run.version, out, progress) for g, made in kept]
    manifest = pd.concat(lines, ignore_index=True)
    csvs.write(manifest, out / "manifest.csv")
    sources = [
        {
            "name": g,
            "family": run.params.generators[g].family,
            "weights": hashes[g],
            "rows": len(made),
            "summary": read(selected / g / "summary.json"),
            "promise": copies.promise(read(lent[g] / "generator.json")),
        }
        for g, made in kept
    ]
    counts = manifest["label"].value_counts()
    shown = {c: {"folder": folder, "rows": int(counts[c])} for c, folder in folders.items() if c in counts}
    (out / "DATASET_CARD.md").write_text(cards.dataset_page(run, arm, shown, sources, left_out), encoding="utf-8")
    log.info("synthetic set: %d rows of arm %s", len(manifest), arm)


def write_rows(
    made: Samples, folders: dict[str, str], weights: str, pipeline: str, out: Path, progress: Progress
) -> pd.DataFrame:
    """One PNG per row, with its history in text chunks; returns their lines of the manifest."""
    lines = pd.DataFrame(
        {
            "path": [f"{folders[c]}/{i}.png" for c, i in zip(made.table["label"], made.table["id"], strict=True)],
            "label": made.table["label"],
            "generator": made.table["origin"],
            "generator_weights_sha256": weights,
            **{name: made.table[name] for name in ("seed", "confidence", "judged", "distance", "copy_distance")},
            "synthetic": "true",
        }
    )
    for folder in sorted({folders[c] for c in made.table["label"]}):
        (out / folder).mkdir(exist_ok=True)
    for line, image in zip(lines.to_dict("records"), made.images, strict=True):
        texts = {key: str(line[key]) for key in ("synthetic", "generator", "generator_weights_sha256")}
        texts |= {"class": line["label"], "seed": str(line["seed"]), "confidence": str(line["confidence"])}
        (out / line["path"]).write_bytes(portable.png(image, texts | {"pipeline_version": pipeline}))
        progress.step(1)
    return lines


def weights_hash(folder: Path) -> str:
    """Of a generator's weights, as `sha256sum` gives it for weights.safetensors; empty for a generator without any."""
    file = there(folder) / "weights.safetensors"
    return digest(file) if file.exists() else ""
