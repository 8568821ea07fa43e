"""The table and its images travel together and unchanged. Run: python -m pytest tests/test_samples.py"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.samples import COLUMNS, Facts, Samples, concat, room, spread, table, to_network, to_pixels
from tests.conftest import toy_samples

NAMES = ("001", "1.0", "NA", "None", "a b", "nan", "é\n<b>", "")


@pytest.fixture
def odd() -> Samples:
    """One row per odd class name, with odd values in every column."""
    n = len(NAMES)
    rng = np.random.default_rng(0)
    frame = table(
        id=[f"r{i}" for i in range(n)],
        group=["007"] * n,
        label=list(NAMES),
        split=["train"] * n,
        origin=["real"] * n,
        seed=[2**63 - 1 - i for i in range(n)],
        keep=[i % 2 == 0 for i in range(n)],
        confidence=[np.nan, *np.linspace(0, 1, n - 1)],
        reason=["null"] * n,
        source_path=["a/é .png"] * n,
    )
    return Samples(frame, rng.integers(0, 256, (n, 5, 4, 3), dtype=np.uint8), Facts(NAMES, ("NA",), ("horizontal",)))


def test_save_and_load_give_everything_back(odd, tmp_path):
    odd.save(tmp_path / "a" / "b")
    back = Samples.load(tmp_path / "a" / "b")
    pd.testing.assert_frame_equal(back.table, odd.table)
    assert np.array_equal(back.images, odd.images) and back.facts == odd.facts
    assert back.fingerprint() == odd.fingerprint()


def test_loaded_images_stay_on_disk_and_cannot_be_written(odd, tmp_path):
    odd.save(tmp_path)
    images = Samples.load(tmp_path).images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


@pytest.mark.parametrize("what", ["a column more", "a column less", "other facts"])
def test_a_folder_of_another_version_is_refused_by_name(odd, tmp_path, what):
    odd.save(tmp_path)
    file = tmp_path / "table.parquet"
    if what == "a column more":
        pd.read_parquet(file).assign(band=1.0).to_parquet(file, index=False)
    elif what == "a column less":
        pd.read_parquet(file).drop(columns="reason").to_parquet(file, index=False)
    else:
        facts = json.loads((tmp_path / "facts.json").read_text())
        (tmp_path / "facts.json").write_text(json.dumps(facts | {"mean": [0.5]}))
    with pytest.raises(ValueError, match=r"written by another version.*expected id, .*make repro"):
        Samples.load(tmp_path)


def test_a_disk_without_room_says_how_many_bytes_are_needed(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=999))
    with pytest.raises(OSError, match=r"rows\.npy takes 1,000 bytes, and 999 bytes of its disk are free"):
        room(tmp_path / "rows.npy", np.uint8, (10, 100))
    assert not list(tmp_path.iterdir())
    assert room(tmp_path / "rows.npy", np.uint8, (9, 100)).shape == (9, 100)


FULL = """
import shutil, sys
from pathlib import Path
import numpy as np
from pipeline.samples import room
usage = shutil.disk_usage(".")
shutil.disk_usage = lambda _: usage._replace(free=10**9)  # another process takes the room in between
try:
    room(Path(sys.argv[1]), np.uint8, (3_000_000,))[:] = 1
except OSError as error:
    sys.exit(f"said: {error}")
"""


def test_a_disk_that_fills_up_meanwhile_is_an_error_and_not_the_end_of_the_process(tmp_path):
    """Without taking the room at first, the write ends it with SIGBUS."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("a small disk takes the right to mount one")
    try:
        command = [sys.executable, "-c", FULL, tmp_path / "rows.npy"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert done.returncode == 1 and "said: [Errno 28] No space left on device" in done.stderr, done


def test_a_set_without_rows_survives(odd, tmp_path):
    empty = odd.take(np.zeros(len(odd), bool))
    empty.save(tmp_path)
    back = Samples.load(tmp_path)
    assert len(back) == 0 and back.shape == odd.shape and back.counts.tolist() == [0] * len(NAMES)
    assert back.table.dtypes.to_dict() == odd.table.dtypes.to_dict()


def test_pickled_images_are_not_loaded(odd, tmp_path):
    odd.save(tmp_path)
    np.save(tmp_path / "images.npy", np.array([{}] * len(odd)), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        Samples.load(tmp_path)


def test_every_pixel_value_survives_the_network_range():
    images = np.arange(256, dtype=np.uint8).reshape(2, 8, 16, 1).repeat(3, axis=3)
    floats = to_network(images)
    assert floats.shape == (2, 3, 8, 16) and floats.dtype == torch.float32
    assert floats.min() == -1 and floats.max() == 1
    assert np.array_equal(to_pixels(floats), images)


def test_rows_columns_and_channels_keep_their_place():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    floats = to_network(images)
    assert abs(float(floats[3, 2, 4, 1]) - (images[3, 4, 1, 2] / 127.5 - 1)) < 1e-6
    assert np.array_equal(to_pixels(floats), images)


def test_pixels_are_clipped_and_rounded():
    values = torch.tensor([-9.0, -1.001, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 1.001, 9.0]).view(1, 1, 1, 6)
    assert to_pixels(values).ravel().tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("view", ["memmap", "reversed", "channels"])
def test_any_memory_layout_converts_without_touching_the_source(view, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    seen = {
        "memmap": np.load(tmp_path / "images.npy", mmap_mode="r"),
        "reversed": images[::-1, :, ::-1],
        "channels": images[..., ::-1],
    }[view]
    before = np.array(seen)
    to_network(seen).zero_()
    assert np.array_equal(seen, before) and np.array_equal(to_pixels(to_network(seen)), before)


def test_table_and_images_must_agree(odd):
    with pytest.raises(ValueError, match="a table of 8 rows beside 7 images"):
        replace(odd, images=odd.images[1:])


@pytest.mark.parametrize("images", [np.zeros((8, 5, 4, 3)), np.zeros((8, 5, 4), np.uint8)])
def test_images_must_be_uint8_with_channels(odd, images):
    with pytest.raises(ValueError, match=r"uint8 \(N, H, W, C\), got"):
        replace(odd, images=images)


def test_a_label_must_be_a_class(odd):
    with pytest.raises(ValueError, match=r"\['lynx'\] are not among the classes"):
        odd.with_columns(label=["lynx"] * len(odd))


def test_y_counts_and_scarce_follow_the_order_of_the_classes(toy):
    rows = replace(toy((4, 2, 1)), facts=Facts(("c", "a", "b"), ("b", "c")))
    assert rows.y.tolist() == [1] * 4 + [2] * 2 + [0] and rows.y.dtype == np.int64
    assert rows.counts.tolist() == [1, 4, 2]
    assert rows.scarce.tolist() == [0, 2]
    assert rows.classes == ("c", "a", "b") and rows.shape == (8, 8, 1)


def test_take_by_position_and_by_mask(toy):
    rows = toy((4, 2, 1))
    mask = rows.y == 1
    for taken in (rows.take(mask), rows.take(np.flatnonzero(mask)), rows.take([4, 5])):
        assert taken.table["id"].tolist() == ["train4", "train5"] and list(taken.table.index) == [0, 1]
        assert np.array_equal(taken.images, rows.images[4:6])
    assert rows.take([5, 0, 5]).table["id"].tolist() == ["train5", "train0", "train5"]
    assert len(rows.take([])) == 0


def test_concat_undoes_take(toy):
    rows = toy((4, 2, 1))
    together = concat(rows.take(np.arange(i, i + 1)) for i in range(len(rows)))
    pd.testing.assert_frame_equal(together.table, rows.table)
    assert together.fingerprint() == rows.fingerprint()


def test_concat_with_no_rows_keeps_the_column_types(toy):
    rows = toy((4, 2, 1))
    pd.testing.assert_frame_equal(concat([rows.take([]), rows]).table, rows.table)


def test_with_columns_replaces_only_those(toy):
    rows = toy((4, 2, 1))
    judged = rows.with_columns(judged=["a"] * len(rows), keep=rows.y == 0)
    assert judged.table["keep"].tolist() == (rows.y == 0).tolist() and set(judged.table["judged"]) == {"a"}
    assert list(judged.table.columns) == list(COLUMNS) and rows.table["keep"].all()
    pd.testing.assert_frame_equal(
        judged.table.drop(columns=["judged", "keep"]), rows.table.drop(columns=["judged", "keep"])
    )


def test_a_column_that_does_not_exist_is_refused(toy):
    with pytest.raises(AssertionError, match="keeep"):
        toy().with_columns(keeep=True)


def test_the_fingerprint_changes_with_a_pixel_a_label_a_group_and_the_order(toy):
    rows = toy((4, 2, 1))
    images = rows.images.copy()
    images[3, 2, 1, 0] ^= 1
    others = [
        replace(rows, images=images),
        rows.with_columns(label=["b", *rows.table["label"][1:]]),
        rows.with_columns(group=["x", *rows.table["group"][1:]]),
        rows.take(np.arange(len(rows))[::-1]),
        rows.take(np.arange(len(rows) - 1)),
    ]
    prints = {s.fingerprint() for s in (rows, *others)}
    assert len(prints) == 1 + len(others)
    assert toy((4, 2, 1)).fingerprint() == rows.fingerprint()


def test_the_same_pictures_are_known_whatever_size_groups_and_order_they_have(toy):
    """A look at the test split counts again where it is made in another size, of which the fingerprint is another."""
    rows = toy((4, 2, 1))
    small = replace(rows, images=rows.images[:, ::2, ::2]).with_columns(group=["x", *rows.table["group"][1:]])
    turned = small.take(np.arange(len(rows))[::-1])
    assert turned.pictures() == rows.pictures() and turned.fingerprint() != rows.fingerprint()
    assert rows.take(np.arange(len(rows) - 1)).pictures() != rows.pictures()


def test_the_fingerprint_does_not_depend_on_where_the_images_lie(toy, tmp_path):
    rows = toy((3000, 1500), size=4)
    rows.save(tmp_path)
    assert Samples.load(tmp_path).fingerprint() == rows.fingerprint()


def test_the_spread_of_each_class_is_compared_with_that_of_its_real_rows():
    real = toy_samples((12, 7, 300, 1))
    own = [real.images[real.y == c] for c in range(4)]
    images = np.concatenate([own[0], own[1][:1].repeat(5, axis=0), own[2] // 2, own[3].repeat(2, axis=0)])
    found = spread(images, np.repeat(np.arange(4), [12, 5, 300, 2]), real)
    assert found[:3] == pytest.approx([1.0, 0.0, 0.5], abs=0.02)
    assert np.isnan(found[3]), "one real row says nothing of a spread"
    assert np.isnan(spread(images[:1], np.zeros(1, int), real)).all(), "nor does one picture"
    assert np.isnan(spread(images[:0], np.zeros(0, int), real)).all()
