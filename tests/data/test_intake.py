"""Two passes over any source give the same squares, whoever does them. Run: python -m pytest tests/data/test_intake.py"""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import processes
from pipeline.data import intake
from pipeline.data.intake import Form, choose_size, common_range, is_grey, look, square, thumbnail, to_bytes, write
from pipeline.data.sources import folder
from pipeline.data.sources.base import Picture, Source, Unreadable, table


@pytest.fixture
def inline(monkeypatch) -> list[tuple[int, int]]:
    """Jobs are done in this process; holds how many steps each call announced and how many it reported."""
    calls: list[tuple[int, int]] = []

    def parallel(function, jobs, most, title, steps, preload=()):
        done = []
        results = [function(*job, report=lambda count, note: done.append(count)) for job in jobs]
        calls.append((steps, sum(done)))
        return results

    monkeypatch.setattr(processes, "parallel", parallel)
    return calls


def noise(seed: int, height: int = 12, width: int = 10, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def source(pictures: list[np.ndarray | Picture | Unreadable]) -> Source:
    """One row per picture; an Unreadable among them is raised when that row is loaded."""
    kept = [Picture(p) if isinstance(p, np.ndarray) else p for p in pictures]

    def load(i: int) -> Picture:
        if isinstance(kept[i], Unreadable):
            raise kept[i]
        return kept[i]

    paths = [f"{i}.png" for i in range(len(kept))]
    return Source(("a",), table(label=["a"] * len(kept), path=paths), list(range(len(kept))), load)


def deep(seed: int, low: int, high: int, window: tuple[float, float] | None = None) -> Picture:
    values = np.random.default_rng(seed).integers(low, high, (16, 16, 1))
    return Picture(values.astype(np.float32), ("deep",), window)


BAD = Unreadable("truncated", "fetch it again")


# The same result, whoever does the work and in whatever order


@pytest.fixture
def files(tmp_path, shipped) -> Source:
    """Grey, coloured, long and broken files in class folders, a few of each."""
    root = tmp_path / "set"
    for i in range(18):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = noise(i, 12 + i, 30 - i)
        image = Image.fromarray(pixels if i % 3 else pixels[..., 0])
        image.save(root / "ab"[i % 2] / f"{i:02}.{('png', 'jpg', 'bmp')[i % 3 - 1]}")
    (root / "a" / "broken.png").write_bytes(b"no picture")
    (root / "b" / "empty.jpg").write_bytes(b"")
    Image.fromarray((noise(50)[..., 0].astype(np.uint16) + 1) * 200).save(root / "b" / "deep.png")
    return folder.read(root, shipped.data, tmp_path)


def everything(source: Source, scratch: Path) -> dict:
    """What both passes give, as plain lists by path."""
    scratch.mkdir()
    seen = look(source, scratch / "small")
    good = np.flatnonzero(seen.table["code"] == "")
    window = common_range(seen.samples, (0.5, 99.5))
    squares = write(source, good, scratch / "squares.npy", Form(16, 3, "letterbox", window))
    facts = seen.table.astype(object).where(seen.table.notna(), None)
    return {
        source.refs[i]: (tuple(facts.iloc[i]), seen.samples[seen.sampled == i].tobytes(), small, big)
        for i in range(len(source.refs))
        for small, big in [
            (seen.thumbs[i].tolist(), squares[list(good).index(i)].tolist()) if i in good else (None, None)
        ]
    }


def test_processes_chunks_and_order_change_nothing(files, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(intake, "CHUNK", 4)
        spread_out = everything(files, tmp_path / "one")
    order = np.random.default_rng(0).permutation(len(files.refs))
    turned = Source(files.classes, files.rows.iloc[order], [files.refs[i] for i in order], files.load)
    monkeypatch.setattr(processes, "parallel", lambda f, jobs, *_: [f(*job, report=lambda *_: None) for job in jobs])
    plain, other = everything(files, tmp_path / "two"), everything(turned, tmp_path / "three")
    assert len(plain) == 21 and sum(big is not None for *_, big in plain.values()) == 19
    assert spread_out == plain == other


def test_what_cannot_be_read_becomes_a_code_and_the_rest_is_seen(files, tmp_path, inline):
    seen = look(files, tmp_path / "small").table.set_index(files.rows["path"])
    bad = seen[seen["code"] != ""]
    assert sorted(bad.index) == ["a/broken.png", "b/empty.jpg"]
    assert bad.loc["b/empty.jpg", "code"] == "empty" and all(bad["remedy"]) and set(bad["hash"]) == {""}
    good = seen[seen["code"] == ""]
    assert (good["hash"].str.len() == 16).all() and good["mean"].between(0, 255).all()
    assert "deep" in good.loc["b/deep.png", "notes"]
    assert good.loc["a/02.jpg", ["height", "width"]].tolist() == [14, 28]
    assert not good.loc["b/01.png", "grey"] and good.loc["a/00.bmp", "grey"]


def test_rows_that_fail_move_no_other_row(inline, tmp_path):
    pictures = [noise(i) for i in range(9)]
    holed = [BAD if i in (0, 4, 8) else p for i, p in enumerate(pictures)]
    whole, part = (look(source(p), tmp_path / str(k)) for k, p in enumerate((pictures, holed)))
    for i in range(9):
        if i in (0, 4, 8):
            assert part.table["code"][i] == "truncated"
        else:
            assert part.table["hash"][i] == whole.table["hash"][i]
            assert np.array_equal(part.thumbs[i], whole.thumbs[i])


def test_every_row_is_reported_once_in_each_pass(inline, tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "CHUNK", 3)
    rows = source([BAD if i == 3 else noise(i) for i in range(8)])
    look(rows, tmp_path / "small")
    write(rows, np.array([0, 1, 2, 4]), tmp_path / "x.npy", Form(8, 1, "crop", None))
    assert inline == [(8, 8), (4, 4)]


# Hashes


def hashes(pictures: list, folder: Path) -> list[str]:
    return look(source(pictures), folder).table["hash"].tolist()


def test_hashes_are_of_pixels_and_not_of_files(tmp_path, shipped, inline):
    for name in ("a/1.png", "a/2.bmp", "b/3.tif", "b/other.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(name == "b/other.png")).save(tmp_path / "set" / name)
    Image.fromarray(noise(0)).save(tmp_path / "set" / "b" / "4.png", compress_level=0)
    rows = folder.read(tmp_path / "set", shipped.data, tmp_path)
    found = look(rows, tmp_path / "small").table["hash"].tolist()
    assert rows.refs == ["a/1.png", "a/2.bmp", "b/3.tif", "b/4.png", "b/other.png"]
    assert len(set(found[:4])) == 1 and found[4] != found[0]


def test_a_grey_picture_stored_as_colours_is_the_same_picture(inline, tmp_path):
    grey, coloured = noise(0, 12, 8, 1), noise(1, 12, 8, 3)
    found = hashes([grey, np.repeat(grey, 3, axis=2), coloured, coloured[..., :1]], tmp_path / "small")
    assert found[0] == found[1] and len(set(found)) == 3


def test_one_pixel_another_shape_or_another_depth_is_another_hash(inline, tmp_path):
    plain = noise(0, 12, 8, 1)
    touched = plain.copy()
    touched[3, 3] ^= 1
    others = [touched, plain.reshape(8, 12, 1), plain.reshape(8, 4, 3), Picture(plain.astype(np.float32))]
    found = hashes([plain, plain.copy(), *others], tmp_path / "small")
    assert found[0] == found[1] and len(set(found)) == 1 + len(others)


# Deep pictures


def test_deep_pictures_share_the_range_of_the_training_rows(inline, tmp_path):
    step = np.linspace(500, 3500, 256, dtype=np.float32).clip(1000, 3000).reshape(16, 16, 1)
    train, test = [Picture(step), Picture(step[::-1])], [Picture(step + 500), Picture(step * 20)]
    rows = source(train + test)
    window = common_range(look(rows, tmp_path / "small").samples[:2], (0, 100))
    assert window == (1000, 3000)
    out = write(rows, np.arange(4), tmp_path / "x.npy", Form(16, 1, "stretch", window)).astype(int)
    expected = np.round((step - 1000) / 2000 * 255).astype(int)
    assert np.array_equal(out[0], expected) and np.array_equal(out[1], expected[::-1])
    assert np.abs(out[2] - np.clip(expected + 63.75, 0, 255)).max() <= 1  # brighter, and seen to be
    assert (out[3] == 255).all()


def test_a_window_of_its_own_wins_and_stays_out_of_the_common_range(inline, tmp_path):
    own = deep(1, 0, 100, window=(0.0, 99.0))
    rows = source([deep(0, 5000, 6000), own, noise(0, channels=1)])
    seen = look(rows, tmp_path / "small")
    assert seen.sampled.tolist() == [0] and seen.samples.shape == (1, intake.SAMPLE) and np.isfinite(seen.samples).all()
    low, high = common_range(seen.samples, (0.5, 99.5))
    assert 5000 <= low < high < 6000
    out = write(rows, np.arange(3), tmp_path / "x.npy", Form(16, 1, "stretch", (low, high)))
    assert out[1].min() == 0 and out[1].max() == 255 and out[1].std() > 50


def test_eight_bits_are_never_scaled():
    pixels = noise(0) // 4
    assert to_bytes(Picture(pixels), (0.0, 63.0)) is pixels


def test_deep_pixels_outside_the_window_are_clipped_and_order_is_kept():
    values = np.array([-1e9, -5, 0, 1, 50, 99, 100, 1e9], np.float32).reshape(2, 4, 1)
    out = to_bytes(Picture(values), (0, 100)).reshape(-1)
    assert out.dtype == np.uint8 and out[:3].tolist() == [0, 0, 0] and out[-2:].tolist() == [255, 255]
    assert (np.diff(out.astype(int)) >= 0).all() and abs(int(out[4]) - 127.5) <= 1


def test_the_common_range_is_that_of_all_pixels_up_to_sampling(inline, tmp_path):
    pictures = [deep(i, 200 * i, 200 * i + 4000) for i in range(30)]
    seen = look(source(pictures), tmp_path / "small")
    values = np.concatenate([p.pixels.reshape(-1) for p in pictures])
    for asked in ((0.5, 99.5), (10, 90)):
        truth = np.percentile(values, asked)
        assert np.abs(np.array(common_range(seen.samples, asked)) - truth).max() < 0.02 * np.ptp(values)


def test_what_is_bright_at_a_few_places_of_every_picture_counts(inline, tmp_path):
    """All pictures of a size were asked at the same 256 places, where of so small a part hardly any lay."""
    pictures = []
    for i in range(60):
        values = np.random.default_rng(i).normal(1000, 100, (64, 64, 1))
        values[30:36, 30:36] += 2000  # 0.9 % of the pixels, aligned in all
        pictures.append(Picture(values.astype(np.float32), ("deep",)))
    _, high = common_range(look(source(pictures), tmp_path / "small").samples, (0.5, 99.5))
    assert high == pytest.approx(np.percentile([p.pixels for p in pictures], 99.5), rel=0.03)


@pytest.mark.parametrize("height", [255, 256, 510])
def test_the_sample_of_a_deep_picture_is_of_all_its_columns(inline, tmp_path, height):
    """Evenly spaced, those of a picture of 255 rows all lay in its last column."""
    columns = np.broadcast_to(np.arange(40.0)[None, :, None] * 1000, (height, 40, 1)).astype(np.float32)
    seen = look(source([Picture(columns, ("deep",))]), tmp_path)
    assert len(np.unique(seen.samples)) == 40
    low, high = common_range(seen.samples, (0.5, 99.5))
    assert low < 2000 and high > 37000


def test_without_deep_rows_there_is_no_range_and_a_range_of_one_value_is_refused():
    assert common_range(np.full((3, 4), np.nan), (0.5, 99.5)) is None
    assert common_range(np.empty((0, 4)), (0.5, 99.5)) is None
    with pytest.raises(ValueError, match=r"data\.deep: percentiles \[0\.5, 99\.5\] .* are both 7; set a window"):
        common_range(np.full((3, 4), 7.0), (0.5, 99.5))


def test_brightness_is_that_of_bytes_also_for_deep_pictures(inline, tmp_path):
    grey = noise(0, channels=1)
    seen = look(source([grey, deep(0, 0, 60000), deep(1, 0, 60000, (0.0, 120000.0))]), tmp_path / "small").table
    assert seen["mean"][0] == pytest.approx(grey.mean()) and seen["spread"][0] == pytest.approx(grey.std())
    assert 110 < seen["mean"][1] < 145 and 55 < seen["mean"][2] < 72


# Thumbnails


@pytest.mark.parametrize("shape", [(160, 160, 1), (7, 90, 3), (400, 100, 1), (90, 1000, 3), (4, 80, 1)])
def test_thumbnails_are_grey_and_small_and_keep_the_shape(shape):
    small = thumbnail(noise(0, *shape))
    assert small.ndim == 2 and small.dtype == np.uint8 and max(small.shape) == min(160, max(shape))
    factor = max(small.shape) / max(shape[:2])
    assert np.abs(np.array(small.shape) - factor * np.array(shape[:2])).max() <= 1
    if max(shape) <= 160 and shape[2] == 1:
        assert np.array_equal(small, noise(0, *shape)[..., 0])


def test_thumbs_of_two_looks_can_be_taken_and_joined(inline, tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "CHUNK", 2)
    pictures = [noise(i, 8 + i, 9, 1) for i in range(8)]
    first, second = look(source(pictures[:5]), tmp_path / "1").thumbs, look(source(pictures[5:]), tmp_path / "2").thumbs
    both = first.take(np.array([4, 1])) + second.take(np.array([2, 0]))
    for place, picture in enumerate((4, 1, 7, 5)):
        assert np.array_equal(both[place], pictures[picture][..., 0])


# The second pass


def test_squares_come_in_the_order_asked_for(inline, tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "CHUNK", 2)
    pictures = [noise(i, 8, 8, 1) for i in range(6)]
    out = write(source(pictures), np.array([5, 0, 3, 3, 1]), tmp_path / "x.npy", Form(8, 1, "crop", None))
    assert np.array_equal(out, np.stack([pictures[i] for i in (5, 0, 3, 3, 1)]))
    assert np.array_equal(np.load(tmp_path / "x.npy"), out)


def test_no_rows_give_no_squares(inline, tmp_path):
    assert write(source([]), np.empty(0, int), tmp_path / "x.npy", Form(8, 3, "crop", None)).shape == (0, 8, 8, 3)
    assert inline == []


def test_a_source_that_changes_between_the_passes_is_refused(inline, tmp_path):
    with pytest.raises(ValueError, match=r"1 was readable at first: truncated; the source changed"):
        write(source([noise(0), BAD]), np.arange(2), tmp_path / "x.npy", Form(8, 3, "crop", None))


# The square


@pytest.mark.parametrize(
    ("sides", "size"),
    [([8], 8), ([3, 3, 3], 8), ([28, 28, 500], 28), ([30, 31], 28), ([32], 32), ([1000, 900], 32), ([10, 20, 90], 20)],
)
def test_auto_size_is_the_median_short_side_in_fours(sides, size):
    assert choose_size("auto", sides) == size
    assert choose_size(50, sides) == 50


FITS = ["letterbox", "crop", "stretch"]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(8, 8), (30, 7), (7, 30), (1, 1), (500, 1), (1, 500)])
def test_any_shape_becomes_the_square(fit, shape):
    for channels, of in ((1, 3), (3, 1), (1, 1), (3, 3)):
        out = square(noise(0, *shape, of), 8, channels, fit)
        assert out.shape == (8, 8, channels) and out.dtype == np.uint8


@pytest.mark.parametrize("shape", [(10, 200), (200, 10)])
def test_a_letterbox_shows_something_of_the_longest_picture(shape):
    """A side of 0.4 pixels became none, and the square was of one colour."""
    halves = np.where(np.arange(200) < 100, 0, 255).astype(np.uint8).repeat(10).reshape(200, 10, 1)
    out = square(halves if shape[0] == 200 else halves.transpose(1, 0, 2), 8, 1, "letterbox")
    assert np.unique(out).size > 1 and np.ptp(out) > 200


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_square_of_the_right_size_is_left_alone(fit, channels):
    assert np.array_equal(square(noise(0, 8, 8, channels), 8, channels, fit), noise(0, 8, 8, channels))


def test_letterbox_shows_everything_crop_the_centre_and_stretch_both():
    wide = np.zeros((8, 16, 1), np.uint8)
    wide[:, 4:12] = 100
    wide[:, :4], wide[:, 12:] = 200, 200
    boxed = square(wide, 8, 1, "letterbox")[..., 0]
    assert (boxed[:2] == boxed[0, 0]).all() and (boxed[6:] == boxed[0, 0]).all()
    assert boxed[4, 0] > 150 > boxed[4, 4]
    assert (square(wide, 8, 1, "crop") == 100).all()
    stretched = square(wide, 8, 1, "stretch")[..., 0]
    assert (stretched == stretched[:1]).all() and stretched[0, 0] > 150 > stretched[0, 4]


@pytest.mark.parametrize("colour", [(7, 90, 201), (255, 255, 255), (0, 0, 0)])
def test_letterbox_pads_with_the_median_colour_of_the_picture(colour):
    wide = np.full((6, 24, 3), colour, np.uint8)
    wide[:, :5] = 128
    boxed = square(wide, 24, 3, "letterbox")
    assert (boxed[:8] == colour).all() and (boxed[17:] == colour).all()


def test_grey_is_recognised_whatever_the_channels():
    grey = noise(0, channels=1)
    colour = np.repeat(grey, 3, axis=2)
    assert is_grey(grey) and is_grey(colour) and is_grey(colour.astype(np.float32))
    colour[0, 0, 0] ^= 1
    assert not is_grey(colour)


# A folder that fights back


def hostile() -> dict[str, bytes]:
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 2_000_000_000, 2_000_000_000, 8, 2, 0, 0, 0)
    return {"empty": b"", "text": b"<html>", "head": b"\x89PNG\r\n\x1a\n", "bomb": bomb + b"\0" * 4}


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_file_is_a_code_beside_its_readable_neighbours(name, tmp_path, shipped, inline):
    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.fromarray(noise(0)).save(tmp_path / "set" / "a" / "good.png")
    (tmp_path / "set" / "a" / "odd.png").write_bytes(hostile()[name])
    seen = look(folder.read(tmp_path / "set", shipped.data, tmp_path), tmp_path / "small").table
    assert seen["code"][0] == "" and seen["code"][1] and seen["remedy"][1]
    assert str(tmp_path) not in seen["remedy"][1]
