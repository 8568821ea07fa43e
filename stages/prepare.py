"""prepare: the source becomes data/real/{train,val,test}, with a quarantine list and a summary."""

import json
import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.data import audit, augment, sources, splits
from pipeline.params import Params
from pipeline.samples import Facts, Samples, table
from pipeline.seeds import derive
from stages import Output

log = logging.getLogger("stages")


def main(params: Params, train: Output, val: Output, test: Output, about: Output) -> None:
    data = params.data
    source = sources.read(data, params.sources.digits, derive(params.seed, "digits"))
    images, rows, hashes, quarantine = audit.decode_all(
        source, data, lambda x: tqdm(x, desc="decode", leave=False, disable=None)
    )
    labels = [source.labels[i] for i in rows]
    split = splits.assign(
        labels,
        hashes,
        [source.splits[i] for i in rows],
        {"test": data.test_fraction, "val": data.val_fraction},
        derive(params.seed, "splits"),
    )
    frame = table(
        id=unique(hashes),
        group=hashes,
        label=labels,
        split=split,
        origin=["real"] * len(labels),
        source_path=[source.paths[i] for i in rows],
    )
    counts = {c: int(((frame["label"] == c) & (split == "train")).sum()) for c in source.classes}
    scarce = audit.find_scarce(counts, data.scarce)
    everything = Samples(frame, images, Facts(source.classes, scarce))
    fit = everything.take(split == "train")
    flips = augment.choose_flips(
        params.augment.flips, fit.images, fit.y, fit.table["group"].to_numpy(), params.augment.flip_tolerance
    )
    everything = Samples(frame, images, Facts(source.classes, scarce, flips))
    for name, folder in (("train", train), ("val", val), ("test", test)):
        everything.take(split == name).save(folder)
    summary = audit.summary(frame, source.classes, scarce)
    write_about(about, summary, quarantine, everything, Path(data.source).name)
    log.info(
        "%d rows of %dx%dx%d: %s; scarce: %s",
        len(frame),
        *everything.shape,
        ", ".join(f"{s} {sum(n.values())}" for s, n in summary["counts"].items()),
        ", ".join(scarce) or "no class",
    )
    for warning in summary["warnings"]:
        log.warning("warning: %s", warning)


def write_about(folder: Path, summary: dict, quarantine: object, everything: Samples, source: str) -> None:
    folder.mkdir(parents=True)
    quarantine.to_csv(folder / "quarantine.csv", index=False)
    chosen = {
        "source": source,
        "image_size": everything.shape[0],
        "channels": everything.shape[2],
        "flips": list(everything.facts.flips),
        "classes": list(everything.classes),
    }
    (folder / "summary.json").write_text(json.dumps(chosen | summary | {"quarantined": len(quarantine)}, indent=1))


def unique(hashes: list[str]) -> list[str]:
    """Content hashes as row ids: the second row with the same pixels gets -2 behind its hash, and so on."""
    seen: dict[str, int] = {}
    out = []
    for h in hashes:
        seen[h] = seen.get(h, 0) + 1
        out.append(h if seen[h] == 1 else f"{h}-{seen[h]}")
    assert len(set(out)) == len(out), "ids repeat"
    return [str(x) for x in np.array(out)]
