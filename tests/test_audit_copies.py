"""The copy audit as a stage: generators that copy are told from honest ones. Run: python -m pytest tests/test_audit_copies.py"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import generators
from pipeline.classifier import predict
from pipeline.classifier.model import Network, Settings
from pipeline.params import Generator
from pipeline.samples import Facts, Samples
from stages import audit_copies

CLASSES = ("a", "b", "c")
ENDS = ("value", "ci_low", "ci_high")


def textures(rows: dict[str, int], split: str, seed: int, toy) -> Samples:
    """Smooth random pictures, of another scale in each class; of all but the first class they are scarce."""
    rng, images = np.random.default_rng(seed), []
    base = toy(tuple(rows[c] for c in CLASSES), split=split, seed=seed)
    for c in base.y:
        coarse = rng.normal(size=(4 + 2 * c, 4 + 2 * c))
        big = torch.nn.functional.interpolate(torch.from_numpy(coarse)[None, None], size=(16, 16), mode="bicubic")
        images.append((big[0, 0].numpy() * 40 + 128).clip(0, 255))
    return Samples(base.table, np.stack(images).astype(np.uint8)[..., None], Facts(CLASSES, CLASSES[1:]))


@pytest.fixture(scope="module")
def audited(tmp_path_factory, toy, shipped) -> pd.DataFrame:
    """An honest generator, one that repeats training rows, and one that was given held-out rows."""
    root: Path = tmp_path_factory.mktemp("audit")
    train, held = (
        textures({"a": 20, "b": 60, "c": 60}, "train", 0, toy),
        textures({"a": 20, "b": 60, "c": 60}, "val", 1, toy),
    )
    rng, scarce = np.random.default_rng(5), np.flatnonzero(train.y > 0)
    copied = train.take(rng.choice(scarce, 150))
    noisy = np.clip(copied.images + rng.normal(0, 4, copied.images.shape), 0, 255).astype(np.uint8)
    made = {
        "honest": textures({"a": 0, "b": 75, "c": 75}, "synthetic", 2, toy),
        "copying": Samples(copied.table, noisy, copied.facts),
        "told": held.take(rng.choice(np.flatnonzero(held.y > 0), 150)),
        "idle": train.take(np.empty(0, int)),
    }
    block = {**shipped.generators["diffusion"].model_dump(), "epochs": 1, "width": 8, "snapshots": 1, "ema": [0.0]}
    blocks = {name: Generator(**{**block, "model": name}) for name in made}
    blocks["told"] = Generator(family="duplicate", model="told")
    params = shipped.model_copy(update={
        "generators": blocks,
        "compute": shipped.compute.model_copy(update={"accelerator": "cpu", "processes": 1}),
    })  # fmt: skip
    for name, samples in made.items():
        samples.save(root / "selected" / name)
        model = generators.build(blocks[name], params.compute, name)
        model.fit(train, 0)
        model.save(root / "models" / name)
    train.save(root / "train")
    held.save(root / "val")
    train.take(np.empty(0, int)).save(root / "pool")
    settings = Settings(size=16, channels=1, classes=3, widths=(8, 16), depth=1, fold=1, batch=4, steps=1, lr=0.1, weight_decay=0.1,
                        dropout=0.1, label_smoothing=0.1)  # fmt: skip
    for number, name in enumerate(("baseline", "encoder")):
        torch.manual_seed(number)
        predict.save(Network(settings), settings, root / name / name)
    folders = [root / name for name in ("train", "pool", "val", "selected", "models", "baseline", "encoder")]
    for file in ("one", "two"):
        audit_copies.main(params, *folders, root / file)
    assert (root / "one").read_bytes() == (root / "two").read_bytes()
    return pd.read_csv(root / "one", keep_default_na=False, dtype={"class": str}, na_values={key: [""] for key in ENDS})


def line(found: pd.DataFrame, generator: str, space: str, measure: str, label: str = "") -> dict:
    rows = found[(found[["generator", "class", "space", "measure"]] == [generator, label, space, measure]).all(axis=1)]
    assert len(rows) == 1
    return rows.iloc[0].to_dict()


@pytest.mark.parametrize("space", ["pixels", "baseline", "encoder"])
def test_copies_are_told_in_every_space_and_honest_rows_are_not(audited, space):
    assert line(audited, "copying", space, "closer")["value"] > 0.9
    assert line(audited, "copying", space, "auc")["value"] > 0.8
    assert line(audited, "told", space, "closer")["value"] < 0.1, "these are the held-out rows"
    honest = line(audited, "honest", space, "closer")
    assert honest["ci_low"] <= 0.5 <= honest["ci_high"]
    assert 0.3 < line(audited, "honest", space, "auc")["value"] < 0.7
    assert line(audited, "honest", space, "near")["value"] < 0.06 < line(audited, "copying", space, "near")["value"]


def test_each_class_and_each_generator_with_rows_is_there_once(audited):
    assert set(audited["generator"]) == {"unseen rows", "honest", "copying", "told"}
    for name in ("honest", "copying", "told"):
        for label in ("b", "c"):
            counts = line(audited, name, "pixels", "closer", label)
            assert (counts["train"], counts["held"]) == (60, 60) and counts["made"] > 50
    assert set(audited["class"]) == {"", "b", "c"}, "class a is not scarce"


@pytest.mark.parametrize("space", ["pixels", "baseline", "encoder"])
def test_real_rows_that_nobody_trained_on_say_what_learning_nothing_by_heart_looks_like(audited, space):
    """Where training and validation rows differ, that is not 0.5, and copies looked safer than they are beside it."""
    unseen = line(audited, "unseen rows", space, "closer")
    assert unseen["ci_low"] <= 0.5 <= unseen["ci_high"], "here they do not differ"
    assert (unseen["made"], unseen["train"], unseen["held"]) == (60, 120, 60), "the other half of validation is held"
    assert 0.3 < line(audited, "unseen rows", space, "auc")["value"] < 0.7
    assert np.isnan(line(audited, "unseen rows", space, "near")["value"]), (
        "half of 120 are too few for one in a hundred"
    )


def test_halves_of_validation_have_no_group_in_common(toy):
    rows = toy((30, 12, 2), split="val")
    rows = rows.with_columns(group=[f"g{i // 2}" for i in range(len(rows))])
    one, other = audit_copies.halves(rows, 0)
    groups = [set(half.table["group"]) for half in (one, other)]
    assert not groups[0] & groups[1] and set().union(*groups) == set(rows.table["group"])
    assert abs(len(one) - len(other)) <= 4 and not set(one.table["id"]) & set(other.table["id"])


def test_the_loss_of_the_model_is_asked_where_a_family_can_tell(audited):
    asked = audited[audited["space"] == "model"]
    assert set(asked["generator"]) == {"honest", "copying"} and set(asked["measure"]) == {"auc", "tpr"}
    assert (asked["made"] == 0).all() and (asked["train"] == 120).all()
    assert asked["value"].between(0, 1).all()
