"""Bytes that may be a picture: legal pixels, or a code and a remedy. Run: python -m pytest tests/fuzz/test_fuzz_pictures.py"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import intake
from pipeline.data.sources.base import Picture
from pipeline.data.sources.decode import decode
from pipeline.params import Data
from tests.fuzz import forms
from tests.fuzz.watch import inputs, refused, watched

KINDS = {"png": 60, "jpg": 40, "gif": 40, "tif": 90, "bmp": 40, "webp": 40, "ppm": 40, "dcm": 90}
MOST = 1_000_000  # pixels


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def own(kind: str) -> dict[str, bytes]:
    endings = (".pgm", ".ppm") if kind == "ppm" else (f".{kind}",)
    return {name: content for name, content in forms.pictures().items() if name.endswith(endings)}


def check(picture: Picture, data: Data) -> None:
    pixels = picture.pixels
    assert pixels.ndim == 3 and pixels.shape[2] in (1, 3) and pixels.dtype in (np.uint8, np.float32)
    assert pixels.shape[0] * pixels.shape[1] <= MOST and min(pixels.shape[:2]) >= data.min_side
    assert np.isfinite(pixels).all()
    assert picture.window is None or (np.isfinite(picture.window).all() and picture.window[0] < picture.window[1])


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_give_legal_pixels_or_a_code(kind, shipped, home):
    files = own(kind)
    base = shipped.data.model_copy(update={"max_pixels": MOST})
    for name, content in files.items():
        check(decode(content, name, base.model_copy(update={"frames": "first"})), base)

    @inputs(KINDS[kind])
    @given(drawn=st.data())
    def one(drawn: st.DataObject) -> None:
        name = drawn.draw(st.sampled_from(sorted(files)))
        content = drawn.draw(forms.damaged(files[name], tuple(files.values())))
        if kind == "png" and drawn.draw(st.booleans()):
            content = forms.mended(content)
        deep = base.deep.model_copy(
            update={"scale": drawn.draw(st.sampled_from(("auto", "full", "percentiles", "window")))}
        )
        data = base.model_copy(update={"deep": deep, "frames": drawn.draw(st.sampled_from(("first", "refuse")))})
        fit = drawn.draw(st.sampled_from(("letterbox", "crop", "stretch")))
        with watched(home):
            picture = refused(lambda: decode(content, name, data))
            seen, _, samples = intake.look_at(
                lambda _: decode(content, name, data), [0], home / "thumbs", lambda *_: None
            )
        if picture is None:
            assert seen["code"][0] and seen["remedy"][0]
            return
        check(picture, data)
        assert seen["code"][0] == "" and seen["spread"][0] >= 0 and all(np.isfinite(s).all() for s in samples.values())
        with watched(home):
            shown = intake.square(intake.to_bytes(picture, None), 8, picture.pixels.shape[2], fit)
        assert shown.shape == (8, 8, picture.pixels.shape[2])

    one()
