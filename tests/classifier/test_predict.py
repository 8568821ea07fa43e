"""What a trained classifier says: rows in order, calibrated. Run: python -m pytest tests/classifier/test_predict.py"""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from pipeline.classifier import predict
from pipeline.classifier.model import Network, Settings

CPU = torch.device("cpu")


@pytest.fixture
def settings() -> Settings:
    return Settings(
        size=8, channels=1, classes=3, widths=(8, 16), depth=1, fold=1, batch=16, steps=1, lr=1.0, weight_decay=0.0, dropout=0.5,
        label_smoothing=0.0,
    )  # fmt: skip


@pytest.fixture
def network(settings) -> Network:
    torch.manual_seed(3)
    return Network(settings)


def test_shapes_and_types(network, toy):
    logits, features = predict.run(network, toy().images, CPU)
    assert logits.shape == (22, 3) and features.shape == (22, 16)
    assert logits.dtype == features.dtype == np.float32


def test_rows_keep_their_order_and_dropout_is_off(network, toy):
    images = toy((9, 7, 5)).images
    order = np.random.default_rng(0).permutation(len(images))
    plain, turned = predict.run(network.train(), images, CPU), predict.run(network.train(), images[order], CPU)
    for a, b in zip(plain, turned, strict=True):
        assert np.allclose(a[order], b, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 4, 21, 100])
def test_the_batch_size_changes_nothing(network, toy, batch):
    images = toy((9, 7, 5)).images
    for a, b in zip(predict.run(network, images, CPU), predict.run(network, images, CPU, batch), strict=True):
        assert np.allclose(a, b, atol=1e-5)


def test_no_rows_give_no_rows(network, toy):
    logits, features = predict.run(network, toy().images[:0], CPU)
    assert logits.shape == (0, 3) and features.shape == (0, 16)


def test_images_on_disk_are_read_alike(network, toy, tmp_path):
    images = toy().images
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert np.array_equal(predict.run(network, mapped, CPU)[0], predict.run(network, images, CPU)[0])


def test_a_saved_network_says_the_same(network, settings, toy, tmp_path):
    predict.save(network, settings, tmp_path / "models" / "seed0")
    back = predict.load(tmp_path / "models" / "seed0")
    assert not back.training
    for a, b in zip(predict.run(network, toy().images, CPU), predict.run(back, toy().images, CPU), strict=True):
        assert np.array_equal(a, b)


def test_weights_of_another_network_are_refused(network, settings, tmp_path):
    predict.save(network, settings, tmp_path / "seed0")
    (tmp_path / "seed0.json").write_text(settings.model_copy(update={"classes": 4}).model_dump_json())
    with pytest.raises(RuntimeError, match="size mismatch"):
        predict.load(tmp_path / "seed0")


@pytest.mark.parametrize("tenths", range(10))
def test_weights_that_were_cut_short_are_named_with_what_to_do(network, settings, tmp_path, tenths):
    predict.save(network, settings, tmp_path / "seed0")
    file = tmp_path / "seed0.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * tenths // 10])
    with pytest.raises(ValueError, match=r"seed0\.safetensors is damaged \(.+\); delete it and run `dvc repro`"):
        predict.load(tmp_path / "seed0")
    file.write_bytes(whole)
    assert not predict.load(tmp_path / "seed0").training


class Touch:
    """Whoever unpickles this creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def test_weights_that_would_run_something_when_unpickled_are_refused_and_run_nothing(network, settings, tmp_path):
    predict.save(network, settings, tmp_path / "seed0")
    trap, file = tmp_path / "owned", tmp_path / "seed0.safetensors"
    torch.save({"weights": Touch(trap)}, file)
    with pytest.raises(ValueError, match=r"seed0\.safetensors is damaged"):
        predict.load(tmp_path / "seed0")
    assert not trap.exists()
    torch.load(io.BytesIO(file.read_bytes()), weights_only=False)  # by the name alone it would refuse as well
    assert trap.exists(), "the trap is none"


def test_probabilities_are_a_softmax_even_of_huge_logits():
    logits = np.random.default_rng(0).normal(0, 5, (50, 4)).astype(np.float32)
    p = predict.probabilities(logits, 2.0)
    assert p.dtype == np.float64 and np.allclose(p, softmax(logits.astype(float) / 2, axis=1))
    assert np.allclose(predict.probabilities(np.array([[1e4, 0.0], [-1e4, 0.0]])), [[1, 0], [0, 1]])
    assert predict.probabilities(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_of_scaled_logits_is_the_factor(factor):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (6000, 4))
    y = (softmax(logits, axis=1).cumsum(axis=1) > rng.random((6000, 1))).argmax(axis=1)
    found = predict.fit_temperature(factor * logits, y)
    assert abs(np.log(found / factor)) < 0.08
    assert abs(np.log(predict.fit_temperature(2 * factor * logits, y) / found / 2)) < 0.001


def test_temperature_never_raises_the_loss_and_stays_in_range():
    rng = np.random.default_rng(1)
    for scale in (0.001, 1.0, 1000.0):
        logits, y = rng.normal(0, scale, (200, 3)), rng.integers(0, 3, 200)
        t = predict.fit_temperature(logits, y)
        assert 0.05 <= t <= 20
        before, after = (-np.log(predict.probabilities(logits, k)[np.arange(200), y] + 1e-300).mean() for k in (1, t))
        assert after <= before + 1e-6
