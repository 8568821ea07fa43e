"""The automatic choice of the network's size, and its shapes. Run: python -m pytest tests/classifier/test_model.py"""

import pytest
import torch

from pipeline.classifier.model import Convolution, Network, Settings, settings
from pipeline.params import Classifier


def tiny(**changes: object) -> Settings:
    plain = dict(size=8, channels=1, classes=3, widths=(8, 16), depth=1, fold=1, batch=16, steps=10, lr=0.003)
    return Settings(**{**plain, "weight_decay": 0.05, "dropout": 0.1, "label_smoothing": 0.05, **changes})


@pytest.mark.parametrize(("size", "levels"), [(4, 2), (8, 2), (32, 2), (33, 3), (64, 3)])
def test_auto_widths_gain_a_level_above_32_pixels(shipped, size, levels):
    assert settings(shipped.classifier, (size, size, 1), 3, 100).widths == (32, 64, 128)[:levels]


@pytest.mark.parametrize(
    ("rows", "batch"), [(1, 32), (5000, 32), (5001, 64), (20_000, 64), (20_001, 128), (10**6, 128)]
)
def test_auto_batch_grows_with_the_rows(shipped, rows, batch):
    assert settings(shipped.classifier, (8, 8, 1), 3, rows).batch == batch


@pytest.mark.parametrize(("rows", "steps"), [(0, 600), (4, 601), (400, 700), (10**6, 20_000)])
def test_auto_steps_grow_with_the_rows_up_to_a_limit(shipped, rows, steps):
    assert settings(shipped.classifier, (8, 8, 1), 3, rows).steps == steps


def test_auto_steps_grow_with_the_side():
    """At 32 px the rule for 8 px left classifiers of 800 photographs hardly trained."""
    block = Classifier(
        widths="auto",
        depth=1,
        fold="auto",
        batch="auto",
        steps="auto",
        lr=0.1,
        weight_decay=0,
        dropout=0,
        label_smoothing=0,
    )
    assert [settings(block, (n, n, 1), 3, 0).steps for n in (8, 16, 32)] == [600, 1200, 2400]


@pytest.mark.parametrize(("size", "fold"), [(8, 1), (23, 1), (24, 2), (64, 2)])
def test_auto_folds_pixels_from_24_on(shipped, size, fold):
    assert settings(shipped.classifier, (size, size, 1), 3, 100).fold == fold


def test_five_blocks_a_level_are_the_32_layers_of_resnet_32():
    network = Network(tiny(size=32, channels=3, classes=10, widths=(16, 32, 64), depth=5))
    layers = [
        m for n, m in network.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) and "skip" not in n
    ]
    assert len(layers) == 32 and 0.46e6 < sum(p.numel() for p in network.parameters()) < 0.47e6
    small = torch.nn.Sequential(network.stem, network.blocks)(torch.rand(1, 3, 32, 32))
    assert small.shape == (1, 64, 8, 8)


def test_what_is_set_is_not_chosen():
    block = Classifier(
        widths=[16, 24], depth=2, fold=1, batch=7, steps=9, lr=0.1, weight_decay=0.2, dropout=0.3, label_smoothing=0.4
    )
    chosen = settings(block, (12, 12, 3), 5, 10**6)
    assert chosen.model_dump() == {"size": 12, "channels": 3, "classes": 5} | block.model_dump() | {"widths": (16, 24)}
    assert Settings.model_validate_json(chosen.model_dump_json()) == chosen


@pytest.mark.parametrize("size", [4, 5, 7, 9, 10, 23, 24, 25, 27, 33])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fold", [1, 2])
def test_any_size_gives_logits_and_features(size, channels, fold):
    network = Network(tiny(size=size, channels=channels, fold=fold)).eval()
    x = torch.rand(2, channels, size, size) * 2 - 1
    assert network(x).shape == (2, 3) and network.features(x).shape == (2, 16)
    assert torch.equal(network(x), network.head(network.features(x)))


def test_a_network_is_its_features_and_what_it_makes_of_them():
    network, x = Network(tiny(dropout=0.5)).train(), torch.rand(4, 1, 8, 8) * 2 - 1
    features = network.features(x)
    assert torch.equal(features, network.features(x)), "features are not dropped"
    torch.manual_seed(1)
    whole = network(x)
    torch.manual_seed(1)
    assert torch.equal(whole, network.classify(features))
    assert not torch.equal(whole, network.classify(features)), "what the head sees is"


@pytest.mark.parametrize("size", [8, 24, 25])
def test_an_images_logits_do_not_depend_on_its_batch(size):
    network = Network(tiny(size=size, fold=2 if size > 8 else 1)).train()
    network.drop.p = 0.0
    x = torch.rand(6, 1, size, size) * 2 - 1
    assert torch.allclose(network(x)[4], network(x[4:5])[0], atol=1e-5)


def test_folding_pixels_loses_none_of_them():
    network = Network(tiny(size=24, fold=2)).eval()
    x = torch.rand(1, 1, 24, 24, requires_grad=True)
    network(x).square().sum().backward()
    assert (x.grad != 0).all()


def test_every_parameter_is_trained():
    network = Network(tiny(widths=(8, 16, 16), size=16))
    network(torch.rand(4, 1, 16, 16)).logsumexp(dim=1).sum().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in network.parameters())


def test_more_levels_than_the_image_can_be_halved_still_work():
    assert Network(tiny(size=4, widths=(8,) * 6)).eval()(torch.rand(2, 1, 4, 4)).shape == (2, 3)


def test_contrast_and_colours_of_a_picture_are_seen():
    """With group normalisation a picture at half its contrast was the same one, and flat colours were hardly told."""
    network, x = Network(tiny(channels=3)).eval(), torch.randn(2, 3, 8, 8)
    assert torch.allclose(network.features(x / 2), network.features(x) / 2, atol=1e-5)
    red, green = (torch.zeros(1, 3, 8, 8).index_fill_(1, torch.tensor([c]), 1.0) for c in (0, 1))
    assert (network.features(red) - network.features(green)).abs().mean() > 0.1


@pytest.mark.parametrize("depth", [1, 5])
def test_signals_keep_their_size_through_all_blocks(depth):
    torch.manual_seed(0)
    network = Network(tiny(size=32, channels=3, widths=(32, 64, 128), depth=depth)).eval()
    sizes = []
    for block in network.blocks:
        block.register_forward_hook(lambda block, _, out: sizes.append(float(out.detach().var()) / block.outgoing))
    network(torch.randn(16, 3, 32, 32))
    assert len(sizes) == 3 * depth and min(sizes) > 0.5 and max(sizes) < 2


def test_weights_are_normalised_whatever_their_size():
    network, x = Network(tiny()).eval(), torch.randn(2, 1, 8, 8)
    before = network(x)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, Convolution):
                layer.weight.mul_(100).add_(3)
    assert torch.allclose(network(x), before, atol=1e-3)
