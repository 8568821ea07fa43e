"""fit_generator: one conditional model fitted on all classes of train; scarcity decides only what is generated."""

import json
from pathlib import Path

from pipeline import generators
from pipeline.params import Params, pick
from pipeline.processes import Progress
from pipeline.samples import Samples
from pipeline.seeds import derive
from stages import Output


def main(params: Params, name: str, train: Path, out: Output) -> None:
    rows = Samples.load(train)
    model = generators.build(pick(params.generators, name, "generators"), params.compute, name)
    with Progress(f"fit {name}", model.steps(rows)) as progress:
        curve = model.fit(rows, derive(params.seed, "fit", name), progress.step)
    model.save(out)
    (out / "curve.json").write_text(json.dumps(curve))
