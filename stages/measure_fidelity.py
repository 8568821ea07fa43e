"""measure_fidelity: distances, precision, recall, density, coverage and copies, per generator and class."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.evaluation.fidelity import compare
from pipeline.params import Params
from pipeline.samples import Samples
from stages import Output


def main(params: Params, train: Path, val: Path, selected: Path, baseline: Path, out: Output) -> None:
    from pipeline import devices
    from pipeline.classifier import predict

    devices.set_threads(params.compute)
    where, network = devices.device(params.compute), predict.load(baseline / "baseline")
    held, fitted = Samples.load(val), Samples.load(train)
    sets = {"real": fitted} | {
        name: Samples.load(selected / name) for name in params.generators if len(Samples.load(selected / name))
    }
    reference = predict.run(network, held.images, where)[1]
    rows = []
    for name, samples in sets.items():
        features = predict.run(network, samples.images, where)[1]
        for label, mine, theirs in parts(samples, held):
            block = params.fidelity
            values = compare(reference[theirs], features[mine], block.neighbours, block.min_rows)
            own = samples.table[mine]
            values |= {
                "rows": float(mine.sum()),
                "kept": float(own["keep"].mean()),
                "copies": float((own["reason"] == "copy").mean()),
            }
            rows += [(name, label, metric, value) for metric, value in values.items()]
    pd.DataFrame(rows, columns=["generator", "class", "metric", "value"]).to_csv(out, index=False)


def parts(samples: Samples, held: Samples) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(class name, mask of these rows, mask of the held-out rows) for all scarce classes together ("") and one by one."""
    classes = samples.scarce
    together = [("", np.isin(samples.y, classes), np.isin(held.y, classes))] if len(classes) else []
    return together + [(samples.classes[c], samples.y == c, held.y == c) for c in classes if (samples.y == c).any()]
