"""Each tensor lies where its network lies, which the device `meta` shows. Run: python -m pytest tests/test_elsewhere.py"""

from contextlib import nullcontext
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline import generators, params, pieces
from pipeline.averages import Averages
from pipeline.classifier.encoder import Contrast
from pipeline.classifier.model import Network, Settings
from pipeline.classifier.train import Training
from pipeline.generators import _dpsgd, private
from pipeline.generators._blocks import NetworkGenerator

META = torch.device("meta")  # shapes and places of tensors without their numbers
FAMILIES = [
    f for f in params.families() if issubclass(import_module(f"pipeline.generators.{f}").Model, NetworkGenerator)
]
RECIPES = ["plain", "class_weighted", "balanced_softmax", "logit_adjusted", "mixup", "cutmix", "feature_smote"]
ASKS = {"_local_scalar_dense", "item", "is_nonzero"}
MOVES = {"_to_copy", "copy_"}  # what brings a tensor from one place to another
INDEXED = {"index", "index_put", "index_put_"}  # on CUDA by tensors of the CPU too


class OnePlace(TorchDispatchMode):
    """Fails at a call of torch with tensors of two devices, as CUDA does; single numbers may come from the CPU.

    `meta` has no numbers: who asks for one is told 1, and a mask takes all rows.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, given = function.overloadpacket.__name__, args
        if name in ASKS and args[0].is_meta:
            return 1
        if name in INDEXED:
            given = (*args[:1], *args[2:])
            args = (args[0], [place for mask in args[1] for place in everything(mask)], *args[2:])
        places = {t.device.type for t in tree_leaves((given, kwargs)) if isinstance(t, torch.Tensor) and t.ndim}
        assert len(places) < 2 or name in MOVES, f"{function} is given tensors on {' and '.join(sorted(places))}"
        return function(*args, **(kwargs or {}))


def everything(mask):
    """In place of a mask on `meta`, the indices of all that it could let through; other indices as they are."""
    if mask is None or not mask.is_meta or mask.dtype != torch.bool:
        return [mask]
    return [torch.zeros(mask.numel(), dtype=torch.long, device=META)] * mask.ndim


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    """`meta` knows no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **values: nullcontext())


def batch(count=8, channels=1, side=(8, 8)):
    y = torch.zeros(count, dtype=torch.long, device=META)
    return torch.zeros(count, channels, *side, device=META), y, torch.ones(count, device=META)


def small(**changes) -> Settings:
    plain = {"size": 8, "channels": 1, "classes": 3, "widths": (8, 16), "depth": 1, "fold": 1, "batch": 8, "steps": 9,
             "lr": 0.01, "weight_decay": 0.05, "dropout": 0.2, "label_smoothing": 0.05}  # fmt: skip
    return Settings(**plain | changes)


def generator(family, shipped, compute, toy) -> NetworkGenerator:
    """A family that was asked for toy rows of 20 pixels a side, which its network sees larger, and not fitted."""
    name = next(name for name, block in shipped.generators.items() if block.family == family)
    model, rows = generators.build(params.borrowing(shipped.generators, name), compute, name), toy((6, 5, 4), size=20)
    model.shape, model.classes = rows.shape, len(rows.classes)
    model.start_from(rows)
    return model


def test_what_lies_in_two_places_is_seen():
    with OnePlace():
        assert (torch.ones(2, device=META) @ torch.ones(2, 2, device=META)).is_meta
        assert (torch.ones(2, device=META) * torch.tensor(2.0)).is_meta
        with pytest.raises(AssertionError, match=r"aten\.mv\S* is given tensors on cpu and meta"):
            torch.ones(2, 2, device=META) @ torch.ones(2)


def test_what_is_tried_is_all_there_is(shipped):
    assert {"autoregressive", "cgan", "cvae", "diffusion", "translate"} <= set(FAMILIES)
    assert set(RECIPES) >= {"plain"} | {
        name for name, recipe in shipped.recipes.items() if recipe.mix != "none" or recipe.tau
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [1, 2])
def test_a_generator_learns(family, count, shipped, compute, toy):
    model = generator(family, shipped, compute, toy)
    game = model.game().train().to(META)
    averages = Averages([0.0, 0.9], [])
    with OnePlace():
        averages.begin(game)
        for _, losses in pieces.turns(game, batch(side=model.side), 0.5, count):
            for loss in losses:
                assert loss.is_meta
                loss.backward()
        assert any(p.grad is not None and p.grad.is_meta for p in game.parameters())
        averages.after(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generator_draws(family, shipped, compute, toy):
    model = generator(family, shipped, compute, toy)
    network = model.build().eval().to(META)
    with OnePlace(), torch.inference_mode():
        images = model.draw(network, np.arange(5) % 3, np.arange(5), META)
    assert images.is_meta and images.shape == (5, 1, *model.side)


def test_diffusion_says_how_much_a_row_surprises_it(shipped, compute, toy):
    network = generator("diffusion", shipped, compute, toy).build().eval().to(META)
    x, y, _ = batch(side=(20, 20))
    with OnePlace(), torch.inference_mode():
        assert network.surprise(x, y).is_meta


def test_cvae_asks_its_encoder_where_it_is(shipped, compute, toy, monkeypatch):
    """All rows were encoded on one core, once for each of its snapshots, while the GPU waited."""
    model, rows, seen = generator("cvae", shipped, compute, toy), toy((60, 50, 4), size=20), []
    network = model.build().eval().to(META)

    def encode(x, y):
        seen.append(len(x))
        assert x.is_meta and y.is_meta
        return torch.zeros(len(x), model.options.latent), torch.zeros(len(x), model.options.latent)

    monkeypatch.setattr(network, "encode", encode)
    network.fit_prior(model.padded(rows.images), rows.y)
    assert sum(seen) == 114 and max(seen) == 64 and network.prior_std.is_meta


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_classifier_learns(recipe, pieces, shipped):
    about = SimpleNamespace(seed=1, mean_share=np.array([0.5, 0.3, 0.2]))
    module = Training(Network(small()), small(), shipped.recipes[recipe], about).train().to(META)
    module.micro_batches = pieces
    with OnePlace():
        loss = module.loss(batch(), 3)
        loss.backward()
    assert loss.is_meta and all(p.grad is not None for p in module.parameters())


def test_an_encoder_learns():
    module = Contrast(Network(small()), small(), 0.2).train().to(META)
    with OnePlace():
        loss = module.loss(batch(), 3)
        loss.backward()
    assert loss.is_meta


def test_a_private_generator_learns(shipped):
    options = private.Options(**shipped.generators["private"].options)
    network = private.Network((8, 8, 1), 3, options).to(META)
    x, y, _ = batch()
    with OnePlace():
        total = _dpsgd.clipped_sum(network, (x, y, torch.zeros(8, options.latent, device=META)), 1.0)
    assert [t.shape for t in total] == [p.shape for p in network.parameters()] and all(t.is_meta for t in total)
