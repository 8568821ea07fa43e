"""augment: banks of augmented views of the training rows, and of those set aside, shared by all arms and seeds."""

import json
from pathlib import Path

from pipeline.data import augment
from pipeline.params import Params
from pipeline.samples import Samples
from pipeline.seeds import derive
from stages import Output


def main(params: Params, train: Path, heldback: Path, views: Output, set_aside: Output) -> None:
    rows, spare = Samples.load(train), Samples.load(heldback)
    spare.save(set_aside)
    write_bank(set_aside / "views", spare, params)
    bank = write_bank(views / "standard", rows, params)
    write_bank(views / "strong", rows, params, strong=True)
    (views / "policy.json").write_text(
        json.dumps(
            {
                "policy": augment.choose_policy(params.augment.policy, rows.shape[0]),
                "flips": list(rows.facts.flips),
                "strength": params.augment.strength,
                "strong": params.augment.strong.model_dump(),
                "views": len(bank.images),
                "rows": len(rows),
            },
            indent=1,
        )
    )


def write_bank(folder: Path, rows: Samples, params: Params, strong: bool = False) -> augment.Views:
    """Views of any rows, real or synthetic, by the one policy, or by RandAugment; a row's seed comes from its id."""
    block, flips, policy = params.augment, rows.facts.flips, None  # without rows albumentations is not even imported
    if len(rows) and strong:
        policy = augment.randaugment(flips, block.strong.transforms, block.strong.magnitude)
    elif len(rows):
        policy = augment.policy(augment.choose_policy(block.policy, rows.shape[0]), flips, block.strength)
    seeds = [derive(params.seed, "strong views" if strong else "views", i) for i in rows.table["id"]]
    return augment.write_views(folder, rows.images, augment.views_per_row(rows.y, block), seeds, policy)
