"""augment: the bank of augmented views of the training rows, made once and shared by all arms and seeds."""

import json
from pathlib import Path

from pipeline.data import augment
from pipeline.params import Params
from pipeline.samples import Samples
from pipeline.seeds import derive
from stages import Output


def main(params: Params, train: Path, views: Output) -> None:
    rows = Samples.load(train)
    bank, name = write_bank(views, rows, params)
    (views / "policy.json").write_text(
        json.dumps(
            {
                "policy": name,
                "flips": list(rows.facts.flips),
                "strength": params.augment.strength,
                "views": len(bank.images),
                "rows": len(rows),
            },
            indent=1,
        )
    )


def write_bank(folder: Path, rows: Samples, params: Params) -> tuple[augment.Views, str]:
    """Views of any rows, real or synthetic, by the one policy, and its name; the seed of a row's views comes from its id."""
    name = augment.choose_policy(params.augment.policy, rows.shape[0])
    policy = augment.policy(name, rows.facts.flips, params.augment.strength)
    seeds = [derive(params.seed, "views", i) for i in rows.table["id"]]
    counts = augment.views_per_row(rows.y, params.augment)
    return augment.write_views(folder, rows.images, counts, seeds, policy), name
