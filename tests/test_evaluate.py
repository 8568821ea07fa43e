"""What `evaluate` measures of an arm. Run: python -m pytest tests/test_evaluate.py"""

import json

import numpy as np
import pytest
import torch

from pipeline.classifier import predict
from pipeline.classifier.model import Network, Settings
from pipeline.evaluation.thresholds import sensitivity
from stages import evaluate
from tests.conftest import toy_samples

SETTINGS = Settings(size=8, channels=1, classes=2, widths=(8, 8), depth=1, fold=1, batch=4, steps=1, lr=0.1,
                    weight_decay=0.1, dropout=0.1, label_smoothing=0.1)  # fmt: skip


@pytest.mark.parametrize(("counts", "scarcer"), [((40, 60), 0), ((60, 40), 1), ((50, 50), 1), ((3, 2), 1), ((2, 3), 0)])
def test_sensitivity_is_that_for_the_class_with_fewer_training_rows(tmp_path, shipped, compute, counts, scarcer):
    """With both or neither of two classes scarce it was that for the second, whichever had fewer rows."""
    rows = toy_samples((30, 20), seed=1, split="test")
    rows.save(tmp_path / "test")
    torch.manual_seed(1)  # under which the two differ
    predict.save(Network(SETTINGS), SETTINGS, tmp_path / "arm" / "seed0")
    told = {"real_rows": dict(zip(rows.classes, counts, strict=True))}
    (tmp_path / "arm" / "record.json").write_text(json.dumps(told))
    held = np.random.default_rng(0).dirichlet([1.0, 1.0], (1, 12))
    np.savez(tmp_path / "arm" / "validation.npz", probabilities=held, y=np.arange(12) % 2)
    once = shipped.model_copy(
        update={"compute": compute, "retraining": shipped.retraining.model_copy(update={"seeds": 1})}
    )
    said, _, found = evaluate.score_arm(once, tmp_path / "test", tmp_path / "arm", lambda *_: None)
    (value,) = [value for _, label, name, value in found if name == "sensitivity" and not label]
    expected = [sensitivity(said[0][:, c], rows.y == c, shipped.evaluation.specificity) for c in (0, 1)]
    assert expected[0] != expected[1] and value == expected[scarcer]
