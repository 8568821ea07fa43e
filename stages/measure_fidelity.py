"""measure_fidelity: how synthetic rows lie beside real ones in two feature spaces, and what they alone teach, per generator."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import csvs
from pipeline.evaluation.fidelity import compare, deviation, transfer
from pipeline.params import Params
from pipeline.samples import Samples, spaced
from pipeline.seeds import derive
from pipeline.selection import spectra
from stages import Output

COLUMNS = ["generator", "class", "space", "metric", "value", "spread"]
# How far a row lies from the nearest training row, as either network sees it.
SEEN = ["generator", "id", "baseline", "encoder"]
Line = tuple[str, str, str, str, float, float]


def main(
    params: Params, train: Path, val: Path, selected: Path, baseline: Path, encoder: Path, out: Output, opinions: Output
) -> None:
    from pipeline import devices
    from pipeline.classifier import predict

    devices.set_threads(params.compute)
    where, held, fitted = devices.device(params.compute), Samples.load(val), Samples.load(train)
    sets = {"real": fitted} | {
        name: Samples.load(selected / name) for name in params.generators if len(Samples.load(selected / name))
    }
    alike = [np.bincount(rows.y, minlength=len(rows.classes)) for name, rows in sets.items() if name != "real"]
    mix = shared(np.bincount(held.y, minlength=len(held.classes)), alike, held.scarce)
    masks = {name: parts(rows, held, None if name == "real" else mix) for name, rows in sets.items()}
    lines: list[Line] = [
        (name, label, "", "rows", float(mine.sum()), float("nan"))
        for name, found in masks.items()
        for label, mine, _ in found
    ]
    groups, apart = (rows.table["group"].to_numpy() for rows in (fitted, held))
    said = {name: {"id": (held if name == "real" else rows).table["id"].to_numpy()} for name, rows in sets.items()}
    for space, stem in (("baseline", baseline / "baseline"), ("encoder", encoder / "encoder")):
        network = predict.load(stem)
        reference, own = (predict.run(network, rows.images, where)[1] for rows in (held, fitted))
        for name, samples in sets.items():
            features = own if name == "real" else predict.run(network, samples.images, where)[1]
            said[name][space] = spectra.relative(reference if name == "real" else features, own, groups)
            for label, mine, theirs in masks[name]:
                least = (params.fidelity.neighbours, params.fidelity.min_rows)
                found = compare(reference[theirs], features[mine], *least)
                seed = derive(params.seed, "fidelity", name, label)
                strays = deviation(reference[theirs], apart[theirs], features[mine], *least, seed)
                lines += [(name, label, space, m, v, strays[m]) for m, v in found.items()]
            if len(fitted.scarce) and np.isin(fitted.scarce, samples.y).all():
                learnt = taught(features, samples, own, fitted)
                lines.append((name, "", space, "transfer", *transfer(*learnt, reference, held.y, apart)))
    csvs.write(pd.DataFrame(lines, columns=COLUMNS), out)
    rows = pd.concat([pd.DataFrame({"generator": name} | columns) for name, columns in said.items()])
    csvs.write(rows[SEEN].round(4), opinions)


def taught(features: np.ndarray, samples: Samples, own: np.ndarray, fitted: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes to learn from: of scarce classes these samples, of the others the training rows."""
    common, scarce = ~np.isin(fitted.y, fitted.scarce), np.isin(samples.y, fitted.scarce)
    return np.concatenate([own[common], features[scarce]]), np.concatenate([fitted.y[common], samples.y[scarce]])


def shared(held: np.ndarray, made: list[np.ndarray], scarce: np.ndarray) -> np.ndarray:
    """How many rows of each scarce class all generators can give in the class mix of the held-out rows, int (K,).

    `held` and `made` count rows by class (K,); of generators those that have rows of every class. Zeros where that is none.
    """
    own = [c for c in scarce if held[c]]
    most = min((rows[c] / held[c] for rows in made if rows[own].all() for c in own), default=0.0)
    out = np.zeros(len(held), int)
    out[own] = np.floor(most * held[own] + 1e-9)
    return out


def parts(samples: Samples, held: Samples, mix: np.ndarray | None) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(class name, mask of these rows, mask of the held-out rows) for all scarce classes together ("") and one by one.

    Together so many rows of each class as `mix` says, int (K,), if it says so of any; else all.
    """
    classes = samples.scarce
    whole = np.isin(samples.y, classes)
    if mix is not None and mix.any():
        whole = np.zeros(len(samples), bool)
        for c in np.flatnonzero(mix):
            own = np.flatnonzero(samples.y == c)
            whole[own[spaced(len(own), mix[c])]] = True
    together = [("", whole, np.isin(held.y, classes))] if len(classes) else []
    return together + [(samples.classes[c], samples.y == c, held.y == c) for c in classes if (samples.y == c).any()]
