"""augment: banks of augmented views of the training rows, and of those set aside, shared by all arms and seeds."""

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.data import augment
from pipeline.params import Params
from pipeline.samples import Samples
from pipeline.seeds import derive
from stages import Output

KINDS = ("standard", "strong")  # of views, as recipes name them


def main(params: Params, train: Path, heldback: Path, views: Output, set_aside: Output) -> None:
    rows, spare = Samples.load(train), Samples.load(heldback)
    spare.save(set_aside)
    write_banks(set_aside / "views", spare, params)
    write_banks(views, rows, params)
    told = {
        "policy": augment.choose_policy(params.augment.policy, rows.shape[0]),
        "flips": list(rows.facts.flips),
        "strength": params.augment.strength,
        "strong": params.augment.strong.model_dump(),
        "views": len(augment.Views.load(views / "standard").images),
        "rows": len(rows),
    }
    (views / "policy.json").write_text(json.dumps(told, indent=1))


def write_banks(folder: Path, rows: Samples, params: Params, kinds: Iterable[str] = KINDS) -> None:
    """Views of any rows, real or synthetic: standard, by the one policy, and strong, by RandAugment.

    A row's seed comes from its id.
    """
    block, flips = params.augment, rows.facts.flips
    for kind in kinds:
        policy = None  # without rows albumentations is not even imported
        if len(rows) and kind == "strong":
            policy = augment.randaugment(flips, block.strong.transforms, block.strong.magnitude)
        elif len(rows):
            policy = augment.policy(augment.choose_policy(block.policy, rows.shape[0]), flips, block.strength)
        seeds = [derive(params.seed, "strong views" if kind == "strong" else "views", i) for i in rows.table["id"]]
        augment.write_views(folder / kind, rows.images, augment.views_per_row(rows.y, block), seeds, policy)
