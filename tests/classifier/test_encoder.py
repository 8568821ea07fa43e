"""The encoder that never sees a label. Run: python -m pytest tests/classifier/test_encoder.py"""

import json

import numpy as np
import pytest
import torch

from pipeline.classifier import encoder, predict
from pipeline.data.augment import Views
from pipeline.data.loaders import Pairs
from pipeline.samples import Samples
from stages import train_encoder
from stages.augment import write_banks


def test_the_loss_is_eq_1_of_the_paper():
    z = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    unit, found = z / z.norm(dim=1, keepdim=True), []
    for i in range(10):
        like = {j: float(unit[i] @ unit[j]) / 0.3 for j in range(10) if j != i}
        found.append(-like[(i + 5) % 10] + np.log(sum(np.exp(v) for v in like.values())))
    assert float(encoder.contrast(z, 0.3)) == pytest.approx(np.mean(found), rel=1e-5)


def bank(counts=(3, 1, 4, 2, 5)) -> Views:
    """Every view is a flat picture of the grey 10 * row + view."""
    greys = [10 * i + v for i, n in enumerate(counts) for v in range(n)]
    return Views(
        np.array(greys, np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8), np.cumsum([0, *counts])
    )


@pytest.mark.parametrize("step", range(5))
def test_a_pair_is_two_views_of_one_row_and_rows_come_once(step):
    pairs = Pairs(bank(), 4, 5, 0)
    (images,) = pairs[step]
    greys = ((images[:, 0, 0, 0] + 1) * 127.5).round().int().numpy().reshape(2, 4)
    rows = greys // 10
    assert (rows[0] == rows[1]).all() and len(set(rows[0])) == 4
    assert (greys[0] != greys[1])[rows[0] != 1].all(), "row 1 has one view"
    assert torch.equal(images, Pairs(bank(), 4, 5, 0)[step][0])
    assert not np.array_equal(pairs.draw(step), Pairs(bank(), 4, 5, 1).draw(step))


def test_of_few_rows_all_are_drawn():
    pairs = Pairs(bank((2, 2, 2)), 64, 1, 0)
    assert pairs.draw(0).shape == (2, 3) and len(pairs) == 1 and pairs.side == 4


@pytest.fixture
def written(tmp_path, toy, shipped):
    params = shipped.model_copy(
        update={
            "augment": shipped.augment.model_copy(update={"views_per_class": 20, "views_per_row": (2, 4)}),
            "classifier": shipped.classifier.model_copy(update={"widths": [8], "steps": 24}),
            "encoder": shipped.encoder.model_copy(update={"rows": 8}),
            "compute": shipped.compute.model_copy(update={"accelerator": "cpu", "processes": 1}),
        }
    )
    rows = toy((14, 9, 4))
    rows.save(tmp_path / "train")
    rows.take(np.arange(3)).save(tmp_path / "pool")
    for name in ("train", "pool"):
        write_banks(tmp_path / name / "views", Samples.load(tmp_path / name), params)

    def run(name: str, pool: str = "none", train: str = "train"):
        rows.take(np.empty(0, int)).save(tmp_path / "none")
        train_encoder.main(params, tmp_path / train, tmp_path / pool, tmp_path / "train" / "views", tmp_path / name)
        return predict.run(predict.load(tmp_path / name / "encoder"), rows.images, torch.device("cpu"))[1]

    return run, tmp_path, rows


def test_the_stage_is_repeatable_learns_and_never_sees_a_label(written):
    run, folder, rows = written
    one = run("one")
    assert one.shape == (len(rows), 8) and np.isfinite(one).all() and np.array_equal(one, run("two"))
    other = rows.with_columns(label=rows.table["label"].to_numpy()[::-1])
    other.save(folder / "relabelled")
    assert np.array_equal(one, run("three", train="relabelled"))
    told = json.loads((folder / "one" / "training.json").read_text())
    assert told["curve"][-1]["step"] == 12 and told["slowed"] is False, "half of the classifier's steps"
    assert not np.array_equal(one, run("four", pool="pool")), "rows of the pool are learnt from too"
