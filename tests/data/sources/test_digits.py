"""The embedded digits are as scarce as params say. Run: python -m pytest tests/data/sources/test_digits.py"""

import pickle

import numpy as np
import pytest

from pipeline.data.sources.digits import read_digits
from pipeline.params.sections import Digits


def test_digits_have_the_counts_asked_for_and_no_row_twice():
    source = read_digits(Digits(commonest=80, rarest=5, val_rows=150, test_rows=803), 0)
    counts = source.rows.groupby(["split", "label"]).size()
    assert counts["train"].tolist() == np.round(np.geomspace(80, 5, 10)).astype(int).tolist()
    assert counts["val"].sum() == 150 and counts["test"].tolist() == [81] * 3 + [80] * 7
    assert source.rows["path"].is_unique and len(set(source.refs)) == len(source.rows)
    assert source.classes == tuple("0123456789") and not source.problems and not source.grouped


@pytest.mark.parametrize(("commonest", "rarest"), [(60, 60), (5, 60)])
def test_digits_may_be_balanced_or_scarce_the_other_way(commonest, rarest):
    source = read_digits(Digits(commonest=commonest, rarest=rarest, val_rows=10, test_rows=10), 0)
    train = source.rows[source.rows["split"] == "train"]["label"].value_counts()
    assert train["0"] == commonest and train["9"] == rarest


def test_digits_are_grey_8x8_pictures_of_their_label():
    from sklearn.datasets import load_digits

    source, truth = read_digits(Digits(commonest=8, rarest=2, val_rows=10, test_rows=10), 3), load_digits()
    for ref, label, path in zip(source.refs, source.rows["label"], source.rows["path"], strict=True):
        row, seen = int(path.split("/")[1]), source.load(ref)
        assert seen.pixels.shape == (8, 8, 1) and seen.pixels.dtype == np.uint8 and seen.window is None
        assert str(truth.target[row]) == label
        assert np.abs(seen.pixels[..., 0] / 255 - truth.images[row] / 16).max() < 0.003


def test_digits_depend_on_the_seed_alone():
    block = Digits(commonest=20, rarest=5, val_rows=20, test_rows=100)
    one, again, other = (read_digits(block, seed).rows["path"].tolist() for seed in (1, 1, 2))
    assert one == again != other


def test_digits_travel_to_other_processes():
    source = read_digits(Digits(commonest=8, rarest=2, val_rows=10, test_rows=10), 0)
    load = pickle.loads(pickle.dumps(source.load))
    assert np.array_equal(load(source.refs[0]).pixels, source.load(source.refs[0]).pixels)


def test_more_digits_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"class \d has 1\d\d rows, but test_rows, val_rows and the .* lower one"):
        read_digits(Digits(commonest=150, rarest=5, val_rows=150, test_rows=800), 0)
