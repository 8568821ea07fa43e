"""train_encoder: a network that learns without labels what pictures are like, from training rows and labelled pool rows."""

import json
from pathlib import Path

from pipeline.data.augment import Views
from pipeline.data.loaders import Pairs
from pipeline.params import Params
from pipeline.processes import Progress
from pipeline.samples import Samples
from pipeline.seeds import derive
from stages import Output, within


def main(params: Params, train: Path, pool: Path, views: Path, out: Output, unfinished: Path | None = None) -> None:
    from pipeline.classifier import encoder, model, predict

    rows, more, block = Samples.load(train), Samples.load(pool), params.encoder
    settings = model.settings(params.classifier, rows.shape, len(rows.classes), len(rows))
    steps = min(1000, max(1, settings.steps // 2)) if block.steps == "auto" else block.steps
    settings = settings.model_copy(update={"steps": steps})
    bank = Views.load(views / "standard")
    if len(more):
        bank = Views.joined([bank, Views.load(pool / "views" / "standard")])
    pairs = Pairs(bank, block.rows, steps, derive(params.seed, "encoder"))
    out.mkdir(parents=True)
    with Progress("train the encoder", steps) as progress:
        network, curve = encoder.train(
            pairs, settings, block.temperature, params.compute, progress.step, within(unfinished, "encoder")
        )
    predict.save(network, settings, out / "encoder")
    told = {"steps": steps, "curve": curve, "slowed": network.slowed, "micro_batches": network.micro_batches}
    (out / "training.json").write_text(json.dumps(told))
