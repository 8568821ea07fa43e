"""One contract for every generator family of the folder. Run: python -m pytest tests/generators/test_contract.py"""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from pipeline import generators, params
from pipeline.generators.base import MARK, Generator
from pipeline.samples import Samples

Build = Callable[[], Generator]
COUNTS = (12, 7, 1)  # the last class has a single row
LIVELY = {"epochs": 2, "batch": 8, "lr": 0.02, "ema": [0.0]}  # a few steps, after which no layer is as it began


@pytest.fixture(scope="module", params=params.families())
def build(request, shipped, compute) -> Build:
    """Builds an unfitted generator of each family with its shipped options, but for a short and lively training."""
    names = [name for name, block in shipped.generators.items() if block.family == request.param]
    assert names, f"params.yaml has no block of the family {request.param}"
    options = params.borrowing(shipped.generators, names[0]).options
    short = {key: value for key, value in LIVELY.items() if key in options}
    block = params.Generator(family=request.param, model=request.param, **(options | short))
    return lambda: generators.build(block, compute, request.param)


@pytest.fixture(scope="module")
def real(toy) -> Samples:
    return toy(COUNTS)


@pytest.fixture(scope="module")
def fitted(build, real) -> Generator:
    model = build()
    model.fit(real, 1)
    return model


def asked(model: Generator, n: int = 21) -> tuple[np.ndarray, np.ndarray]:
    """Labels and seeds to ask a family for: none where it makes no rows."""
    n = n if model.makes_rows else 0
    return np.arange(n) % len(COUNTS), np.random.default_rng(0).integers(2**63, size=n)


def differs(model: Generator, one: np.ndarray, other: np.ndarray) -> bool:
    return not model.makes_rows or not np.array_equal(one, other)


def test_shape_and_type(fitted, real):
    labels, seeds = asked(fitted)
    images = fitted.sample(labels, seeds)
    assert images.shape == (len(labels), *real.shape) and images.dtype == np.uint8


def test_asking_for_nothing_gives_nothing(fitted, real):
    assert fitted.sample(np.zeros(0, int), np.zeros(0, int)).shape == (0, *real.shape)


def test_an_image_does_not_depend_on_its_neighbours_in_the_call(fitted):
    labels, seeds = asked(fitted, 70)  # more than a chunk
    images = fitted.sample(labels, seeds)
    order = np.random.default_rng(1).permutation(len(labels))
    assert np.array_equal(fitted.sample(labels[order], seeds[order]), images[order])
    for part in (slice(0, 1), slice(69, 70), slice(60, 68), slice(3, 40, 7)):
        assert np.array_equal(fitted.sample(labels[part], seeds[part]), images[part])
    thrice = fitted.sample(np.repeat(labels[5:6], 3), np.repeat(seeds[5:6], 3))
    assert np.array_equal(thrice, np.repeat(images[5:6], 3, axis=0))


def test_other_seeds_give_other_images(fitted):
    labels, seeds = asked(fitted)
    assert differs(fitted, fitted.sample(labels, seeds), fitted.sample(labels, seeds ^ 1))
    several = {image.tobytes() for image in fitted.sample(np.zeros_like(labels), seeds)}
    assert len(several) > 3 or not fitted.makes_rows


def test_global_random_state_changes_nothing_and_is_not_needed(fitted):
    labels, seeds = asked(fitted)
    images = fitted.sample(labels, seeds)
    np.random.seed(99)
    torch.manual_seed(99)
    assert np.array_equal(fitted.sample(labels, seeds), images)


def test_what_is_loaded_gives_the_same_images(fitted, build, real, tmp_path):
    labels, seeds = asked(fitted)
    fitted.save(tmp_path / "model")
    back = build().load(tmp_path / "model", real)
    assert back.shape == fitted.shape and back.classes == fitted.classes
    assert np.array_equal(back.sample(labels, seeds), fitted.sample(labels, seeds))


def test_what_is_loaded_saves_the_same_files(fitted, build, real, tmp_path):
    fitted.save(tmp_path / "one")
    build().load(tmp_path / "one", real).save(tmp_path / "two")
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert "generator.json" in names and names == sorted(p.name for p in (tmp_path / "two").iterdir())
    assert (tmp_path / "one/generator.json").read_text() == (tmp_path / "two/generator.json").read_text()


def test_saved_options_can_be_read_by_a_person_and_must_match(fitted, build, real, tmp_path):
    fitted.save(tmp_path / "model")
    file: Path = tmp_path / "model" / "generator.json"
    state = json.loads(file.read_text())
    assert state["options"] == json.loads(json.dumps(fitted.options.model_dump()))
    state["options"]["strangeness"] = 1
    file.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="fitted with other options than"):
        build().load(tmp_path / "model", real)


def weights_of(fitted: Generator, folder: Path) -> Path:
    """Where a saved family keeps its weights; the test is over for a family that has none."""
    fitted.save(folder)
    if not (folder / "weights.safetensors").exists():
        pytest.skip("keeps rows, not weights")
    return folder / "weights.safetensors"


def test_weights_carry_the_warning_that_they_may_hold_copies(fitted, tmp_path):
    with safe_open(weights_of(fitted, tmp_path / "model"), "numpy") as weights:
        assert weights.metadata() == MARK and "not to be shared" in MARK["sharing"]


def test_weights_that_were_cut_short_are_named_with_what_to_do(fitted, build, real, tmp_path):
    fitted.save(tmp_path / "model")
    file = next((tmp_path / "model").glob("*.[sn][ap]*"), None)
    if file is None:
        pytest.skip("keeps nothing")
    whole = file.read_bytes()
    for tenths in range(10):
        file.write_bytes(whole[: len(whole) * tenths // 10])
        with pytest.raises(ValueError, match=rf"model/{file.name} is damaged \(.+\); delete it and run `dvc repro`"):
            build().load(tmp_path / "model", real)
    file.write_bytes(whole)
    build().load(tmp_path / "model", real)


class Touch:
    """Whoever unpickles this creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def test_weights_that_would_run_something_when_unpickled_are_refused_and_run_nothing(fitted, build, real, tmp_path):
    file, trap = weights_of(fitted, tmp_path / "model"), tmp_path / "owned"
    torch.save({"weights": Touch(trap)}, file)
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        build().load(tmp_path / "model", real)
    assert not trap.exists()
    torch.load(io.BytesIO(file.read_bytes()), weights_only=False)  # by the name alone it would refuse as well
    assert trap.exists(), "the trap is none"


@pytest.mark.parametrize(
    ("labels", "seeds", "says"),
    [
        ([0, 3], [1, 2], r"labels must lie in \[0, 3\), got 0 to 3"),
        ([-1, 0], [1, 2], r"labels must lie in \[0, 3\), got -1 to 0"),
        ([0, 1], [1], "two vectors of one length"),
        ([[0, 1]], [[1, 2]], "two vectors of one length"),
    ],
)
def test_impossible_requests_are_refused(fitted, labels, seeds, says):
    with pytest.raises(ValueError, match=says):
        fitted.sample(np.array(labels), np.array(seeds))


@pytest.mark.parametrize(("size", "channels"), [(10, 3), (4, 1), (18, 1)])
def test_sizes_that_are_no_multiple_of_four_and_colour(build, toy, tmp_path, size, channels):
    model, real = build(), toy(COUNTS, size, channels)
    model.fit(real, 1)
    labels, seeds = asked(model, 5)
    images = model.sample(labels, seeds)
    assert images.shape == (len(labels), size, size, channels) and images.dtype == np.uint8
    model.save(tmp_path)
    assert np.array_equal(build().load(tmp_path, real).sample(labels, seeds), images)


def test_fitting_twice_gives_the_same_generator(fitted, build, real):
    again = build()
    np.random.seed(99)
    torch.manual_seed(99)
    curve = again.fit(real, 1)
    labels, seeds = asked(fitted)
    assert np.array_equal(again.sample(labels, seeds), fitted.sample(labels, seeds))
    assert all(set(point) >= {"step", "loss"} for point in curve)


def test_fitting_leaves_the_rows_alone(build, toy):
    rows = toy(COUNTS)
    before = rows.fingerprint()
    model = build()
    model.fit(rows, 1)
    model.sample(*asked(model, 3))
    assert rows.fingerprint() == before


def test_rows_on_disk_and_a_class_without_any(build, toy, tmp_path):
    rows = toy(COUNTS)
    rows.take(rows.y != 1).save(tmp_path)
    model = build()
    model.fit(Samples.load(tmp_path), 1)
    labels, seeds = asked(model, 4)
    assert model.sample(np.where(labels == 1, 0, labels), seeds).shape == (len(labels), *rows.shape)


def test_one_row_in_all_is_enough_to_fit(build, real):
    model = build()
    model.fit(real.take([0]), 1)
    labels, seeds = asked(model, 2)
    assert model.sample(labels * 0, seeds).shape == (len(labels), *real.shape)


def test_no_rows_cannot_be_fitted(build, real):
    with pytest.raises(ValueError, match="at least one real row"):
        build().fit(real.take([]), 1)


def test_progress_adds_up_for_fitting_and_for_sampling(build, real):
    fit_told, sample_told, model = [], [], build()
    model.fit(real, 1, lambda count, note="": fit_told.append(count))
    assert sum(fit_told) == model.steps(real)
    labels, seeds = asked(model, 70)
    model.sample(labels, seeds, lambda count, note="": sample_told.append(count))
    assert sum(sample_told) == len(labels)


def test_flips_of_the_dataset_survive_saving(build, real, tmp_path):
    model, real = build(), replace(real, facts=replace(real.facts, flips=("horizontal",)))
    model.fit(real, 1)
    model.save(tmp_path)
    labels, seeds = asked(model, 5)
    assert np.array_equal(build().load(tmp_path, real).sample(labels, seeds), model.sample(labels, seeds))


def test_a_family_that_makes_no_rows_says_so_and_refuses(real, compute):
    model = generators.build(params.Generator(family="nothing", model="nothing"), compute, "nothing")
    assert not model.makes_rows
    model.fit(real, 1)
    with pytest.raises(TypeError, match="makes no rows"):
        model.sample(np.array([0]), np.array([1]))


def test_a_class_without_rows_has_nothing_to_start_from(real, compute):
    model = generators.build(params.Generator(family="duplicate", model="duplicate"), compute, "duplicate")
    model.fit(real.take(real.y != 2), 1)
    with pytest.raises(ValueError, match="class index 2 has no real row to start from"):
        model.sample(np.array([0, 2]), np.array([1, 1]))
