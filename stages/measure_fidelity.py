"""measure_fidelity: how synthetic rows lie beside real ones in two feature spaces, and what they alone teach, per generator."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import csvs
from pipeline.evaluation.fidelity import compare, deviation, transfer
from pipeline.params import Params
from pipeline.samples import Samples
from pipeline.seeds import derive
from pipeline.selection import spectra
from stages import Output

COLUMNS = ["generator", "class", "space", "metric", "value", "spread"]
# How far a row lies from the nearest training row, as either network sees it.
SEEN = ["generator", "id", "baseline", "encoder"]
Line = tuple[str, str, str, str, float, float]


def main(
    params: Params,
    train: Path,
    val: Path,
    selected: Path,
    baseline: Path,
    encoder: Path,
    out: Output,
    opinions: Output,
) -> None:
    from pipeline import devices
    from pipeline.classifier import predict

    devices.set_threads(params.compute)
    where, held, fitted = devices.device(params.compute), Samples.load(val), Samples.load(train)
    sets = {"real": fitted} | {
        name: Samples.load(selected / name) for name in params.generators if len(Samples.load(selected / name))
    }
    lines: list[Line] = [
        (name, label, "", "rows", float(mine.sum()), float("nan"))
        for name, samples in sets.items()
        for label, mine, _ in parts(samples, samples)
    ]
    groups = fitted.table["group"].to_numpy()
    said = {name: {"id": (held if name == "real" else rows).table["id"].to_numpy()} for name, rows in sets.items()}
    for space, stem in (("baseline", baseline / "baseline"), ("encoder", encoder / "encoder")):
        network = predict.load(stem)
        reference, own = (predict.run(network, rows.images, where)[1] for rows in (held, fitted))
        for name, samples in sets.items():
            features = own if name == "real" else predict.run(network, samples.images, where)[1]
            said[name][space] = spectra.relative(reference if name == "real" else features, own, groups)
            for label, mine, theirs in parts(samples, held):
                given = (reference[theirs], features[mine], params.fidelity.neighbours, params.fidelity.min_rows)
                strays = deviation(*given, derive(params.seed, "fidelity", name, label))
                lines += [(name, label, space, m, v, strays[m]) for m, v in compare(*given).items()]
            if len(fitted.scarce) and np.isin(fitted.scarce, samples.y).all():
                learnt = taught(features, samples, own, fitted)
                lines.append((name, "", space, "transfer", *transfer(*learnt, reference, held.y)))
    csvs.write(pd.DataFrame(lines, columns=COLUMNS), out)
    rows = pd.concat([pd.DataFrame({"generator": name} | columns) for name, columns in said.items()])
    csvs.write(rows[SEEN].round(4), opinions)


def taught(features: np.ndarray, samples: Samples, own: np.ndarray, fitted: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes to learn from: of scarce classes these samples, of the others the training rows."""
    common, scarce = ~np.isin(fitted.y, fitted.scarce), np.isin(samples.y, fitted.scarce)
    return np.concatenate([own[common], features[scarce]]), np.concatenate([fitted.y[common], samples.y[scarce]])


def parts(samples: Samples, held: Samples) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(class name, mask of these rows, mask of the held-out rows) for all scarce classes together ("") and one by one."""
    classes = samples.scarce
    together = [("", np.isin(samples.y, classes), np.isin(held.y, classes))] if len(classes) else []
    return together + [(samples.classes[c], samples.y == c, held.y == c) for c in classes if (samples.y == c).any()]
