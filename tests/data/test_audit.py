"""What cannot be read is listed, limited and never skipped in silence. Run: python -m pytest tests/data/test_audit.py"""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipeline.data.audit import choose_size, decode_all, find_scarce, summary
from pipeline.data.sources import Source, Unreadable
from pipeline.params import Data, Scarce
from pipeline.samples import table


def source(labels: str, broken: set[int] = frozenset(), draw: Callable[[int], Image.Image] | None = None) -> Source:
    """One grey picture of brightness i per letter; those in `broken` cannot be read."""

    def pixels(i: int) -> Image.Image:
        if i in broken:
            raise Unreadable("truncated", "fetch it again")
        return draw(i) if draw else Image.new("L", (12, 12), i)

    paths = [f"{label}/{i}.png" for i, label in enumerate(labels)]
    return Source(tuple(sorted(set(labels))), list(labels), [""] * len(labels), paths, pixels)


@pytest.fixture
def data(shipped) -> Callable[..., Data]:
    return lambda **changes: shipped.data.model_copy(update=changes)


def test_everything_readable_is_decoded_in_order(data):
    images, rows, hashes, quarantine = decode_all(source("aabbb"), data())
    assert images.shape == (5, 12, 12, 1) and images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert rows.tolist() == [0, 1, 2, 3, 4] and len(set(hashes)) == 5 and len(quarantine) == 0


def test_what_cannot_be_read_is_listed_with_its_code_and_left_out(data):
    images, rows, hashes, quarantine = decode_all(source("aabbb", {1, 3}), data(max_quarantined=0.4))
    assert rows.tolist() == [0, 2, 4] and images[:, 0, 0, 0].tolist() == [0, 2, 4] and len(hashes) == 3
    assert quarantine.to_dict("records") == [
        {"file": "a/1.png", "code": "truncated", "remedy": "fetch it again"},
        {"file": "b/3.png", "code": "truncated", "remedy": "fetch it again"},
    ]


def test_the_limit_is_a_share_of_all_files_and_names_the_first(data):
    decode_all(source("a" * 50 + "b" * 50, {0}), data(max_quarantined=0.01))
    with pytest.raises(ValueError, match=r"2 of 100 .* data.max_quarantined = 0.01 (?s:.*)a/0.png: truncated"):
        decode_all(source("a" * 50 + "b" * 50, {0, 1}), data(max_quarantined=0.01))


def test_a_class_that_loses_all_rows_stops_the_run(data):
    with pytest.raises(ValueError, match=r"no readable image is left in \['b'\](?s:.*)b/4.png"):
        decode_all(source("aaaab", {4}), data(max_quarantined=1.0))


def test_equal_pixels_have_equal_hashes_and_other_sizes_do_not(data):
    pictures = [Image.new("L", (12, 12)), Image.new("L", (12, 12)), Image.new("L", (9, 16)), Image.new("RGB", (4, 12))]
    _, _, hashes, _ = decode_all(source("aabb", draw=lambda i: pictures[i]), data())
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def test_auto_channels_is_one_only_if_every_image_is_grey(data):
    def draw(colours: dict[int, tuple[int, int, int]]) -> Callable[[int], Image.Image]:
        return lambda i: Image.new("RGB", (12, 12), colours.get(i, (i, i, i)))

    assert decode_all(source("aabb", draw=draw({})), data())[0].shape[3] == 1
    assert decode_all(source("aabb", draw=draw({3: (9, 9, 8)})), data())[0].shape[3] == 3
    assert decode_all(source("aabb", draw=draw({})), data(channels=3))[0].shape[3] == 3
    assert decode_all(source("aabb", draw=draw({3: (9, 9, 8)})), data(channels=1))[0].shape[3] == 1


def test_each_row_is_decoded_twice_and_counted_twice(data):
    seen = []
    decode_all(source("aabb", {0}), data(max_quarantined=1.0), lambda rows: (seen.append(i) or i for i in rows))
    assert seen == [0, 1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize(
    ("sides", "size"),
    [([8], 8), ([3, 3, 3], 8), ([28, 28, 500], 28), ([30, 31], 28), ([32], 32), ([1000, 900], 32), ([10, 20, 90], 20)],
)
def test_auto_size_is_the_median_short_side_in_fours(sides, size):
    assert choose_size("auto", sides) == size
    assert choose_size(50, sides) == 50


COUNTS = {"a": 100, "b": 50, "c": 49, "d": 10, "e": 4}


@pytest.mark.parametrize(
    ("below", "of", "scarce"),
    [
        (0.5, "largest", ("c", "d", "e")),
        (0.5, "median", ("d", "e")),
        (1.0, "largest", ("b", "c", "d", "e")),
        (0.0, "largest", ()),
    ],
)
def test_scarce_classes_lie_below_a_share_of_the_reference(below, of, scarce):
    assert find_scarce(COUNTS, Scarce(classes="auto", below=below, of=of)) == scarce


def test_listed_classes_are_scarce_in_the_order_of_the_dataset():
    assert find_scarce(COUNTS, Scarce(classes=["e", "a"], below=0.5, of="largest")) == ("a", "e")
    assert find_scarce(COUNTS, Scarce(classes=[], below=0.5, of="largest")) == ()


def test_a_listed_class_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"data.scarce.classes: \['x', 'z'\] are no classes .*'a', 'b', 'c', 'd', 'e'"):
        find_scarce(COUNTS, Scarce(classes=["z", "a", "x"], below=0.5, of="largest"))


def rows(spec: list[tuple[str, str, int]], groups: list[str] | None = None) -> object:
    """A table with so many rows of each (label, split)."""
    label = [name for name, _, n in spec for _ in range(n)]
    split = [where for _, where, n in spec for _ in range(n)]
    ids = [str(i) for i in range(len(label))]
    return table(id=ids, group=groups or ids, label=label, split=split, origin=["real"] * len(ids))


FULL = [("a", "train", 8), ("b", "train", 2), ("a", "val", 5), ("b", "val", 5), ("a", "test", 6), ("b", "test", 5)]


def test_summary_counts_and_says_nothing_where_all_is_well():
    told = summary(rows(FULL), ("a", "b"), ("b",))
    assert told["counts"] == {"train": {"a": 8, "b": 2}, "val": {"a": 5, "b": 5}, "test": {"a": 6, "b": 5}}
    assert told["imbalance_ratio"] == 4 and told["scarce"] == ["b"]
    assert told["rows_shared_between_splits"] == 0 and told["warnings"] == []


def test_summary_warns_of_thin_classes_and_of_pixels_in_two_splits():
    thin = [("a", "train", 8), ("b", "train", 2), ("a", "val", 5), ("b", "val", 4), ("a", "test", 6)]
    groups = [str(i) for i in range(25)]
    groups[8] = groups[10] = groups[0] = "same"
    told = summary(rows(thin, groups), ("a", "b"), ("b",))
    assert told["rows_shared_between_splits"] == 3
    assert len(told["warnings"]) == 3
    for warning, words in zip(
        told["warnings"], (("b", "4 rows", "val"), ("b", "0 rows", "test"), ("3 rows",)), strict=True
    ):
        assert all(word in warning for word in words), warning


def test_summary_is_plain_json():
    import json

    told = summary(rows(FULL), ("a", "b"), ("b",))
    assert json.loads(json.dumps(told)) == told


def test_images_are_as_large_as_asked(data):
    images, *_ = decode_all(source("aabb", draw=lambda i: Image.new("L", (10 + i, 30))), data(image_size=5))
    assert images.shape == (4, 5, 5, 1) and images.dtype == np.uint8
