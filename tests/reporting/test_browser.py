"""The page as a browser draws it: on a phone, on a desk, light and dark. Run: python -m pytest tests/reporting/test_browser.py

Needs Chromium or Chrome on the PATH; without one only the contrasts are checked.
"""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.reporting import figures, html, pictures
from pipeline.reporting import run as runs
from tests.reporting.test_html import facts
from tests.reporting.test_run import SHARES, finished

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars"
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")
STYLE = (Path(html.__file__).with_name("report.html.jinja")).read_text()


def browse(page: Path, *flags: str) -> str:
    command = [BROWSER, *FLAGS.split(), f"--user-data-dir={page.parent / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture
def page(tmp_path) -> Path:
    """A page with a wide table, a wide picture and long names."""
    wide = pd.DataFrame({f"a rather long column {i}": ["a value that is long too"] for i in range(12)})
    strip = figures.grid(np.zeros((9, 8, 8, 1), np.uint8), [range(9)], ["a class with a long name " * 3], 9)
    change = {"arms": wide, "classes": wide, "contact": html.picture(strip, "rows"), "params": "key: " + "x" * 400}
    file = tmp_path / "report.html"
    file.write_text(html.page(facts("class_" + "o" * 30, **change)))
    return file


@needs_browser
@pytest.mark.parametrize("width", [375, 1200])  # a phone, a desk
def test_nothing_sticks_out_at_the_side(page, width):
    """Headless Chromium opens no window as narrow as a phone, so the body is made that narrow."""
    script = f"document.body.style.width = '{width - 32}px'; document.title = document.body.scrollWidth"
    page.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    found = re.search(r"<title>(\d+)</title>", browse(page, "--window-size=1300,900", "--dump-dom"))
    assert found and int(found[1]) <= width


@needs_browser
def test_the_page_is_drawn_light_and_dark(page, tmp_path):
    shots = []
    for name, flag in (
        ("light", "--blink-settings=preferredColorScheme=1"),
        ("dark", "--blink-settings=preferredColorScheme=0"),
    ):
        file = tmp_path / f"{name}.png"
        browse(page, "--window-size=900,1400", flag, f"--screenshot={file}")
        shots.append(np.asarray(Image.open(file).convert("L"), float))
    light, dark = shots
    assert light[5, 5] > 250 and dark[5, 5] < 60, "the corner shows the paper"
    for shot in shots:
        ink = np.abs(shot - shot[5, 5]) > 60
        assert 0.01 < ink.mean() < 0.5 and ink[: len(ink) // 3].any() and ink[len(ink) // 3 :].any(), (
            "something is drawn"
        )


ANSWERS = {  # the share that the chosen arm has right on test, where the best control has 0.6, and test rows per class
    "HELPS": (0.8, 60),
    "HURTS": (0.4, 60),
    "NEUTRAL": (0.6, 200),
    "CANNOT_TELL": (0.8, 9),
}
FIRST = """<script>
const low = Math.max(...["h1", ".advice", ".badge"].map(s => document.querySelector(s).getBoundingClientRect().bottom));
document.title = low + " " + getComputedStyle(document.querySelector(".badge")).backgroundColor;
</script></body>"""


def answered(shipped, word: str) -> runs.Run:
    share, rows = ANSWERS[word]
    return finished(shipped, SHARES | {"cvae": share}, rows)


@pytest.mark.parametrize("word", ANSWERS)
def test_each_verdict_has_its_advice(shipped, word):
    run = answered(shipped, word)
    assert run.verdict["verdict"] == word
    what = {"HELPS": "Use the model of arm cvae", "CANNOT_TELL": "Keep the model of arm"}
    assert what.get(word, f"Use the model of arm {run.verdict['best_control']}") in runs.facts(run)["advice"]


@needs_browser
@pytest.mark.parametrize("word", ANSWERS)
def test_the_first_screen_of_each_verdict_says_what_to_do(shipped, tmp_path, word):
    """Badge, sentence and advice, of a whole run with every section, stand on the first screen, in the verdict's colour."""
    run = answered(shipped, word)
    told = runs.facts(run)
    file, shot = tmp_path / "report.html", tmp_path / "shot.png"
    file.write_text(html.page(told | pictures.pictures(run, told["metrics"])).replace("</body>", FIRST))
    low, colour = re.search(
        r"<title>([\d.]+) rgb\((.*?)\)</title>", browse(file, "--window-size=900,700", "--dump-dom")
    ).groups()
    badge = re.search(rf"\.{word} {{ background: (#\w+)", STYLE)[1]
    assert float(low) < 700 and bytes(map(int, colour.split(","))).hex() == badge[1:]
    browse(file, "--window-size=900,700", f"--screenshot={shot}")
    top = np.asarray(Image.open(shot).convert("RGB"))[:120, :400]
    assert (top == np.frombuffer(bytes.fromhex(badge[1:]), np.uint8)).all(axis=2).sum() > 500


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb (WCAG 2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    parts = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    return float(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("word", ["HELPS", "HURTS", "NEUTRAL", "CANNOT_TELL"])
def test_every_verdict_can_be_read_on_its_badge(word):
    assert contrast("#fff", re.search(rf"\.{word} {{ background: (#\w+)", STYLE)[1]) >= 4.5


def test_ink_can_be_read_on_paper_by_day_and_by_night():
    schemes = re.findall(r"--ink: (#\w+); --paper: (#\w+); --soft: (#\w+)", STYLE)
    assert len(schemes) == 2
    for ink, paper, soft in schemes:
        assert contrast(ink, paper) >= 7 and contrast(ink, soft) >= 7
    assert contrast("#fff", re.search(r"\.leak {{? ?background: (#\w+)", STYLE)[1]) >= 4.5


def oklab(colour: str) -> np.ndarray:
    """Lightness and two opponent colours, in which equal steps look alike (Ottosson, 2020)."""
    parts = np.array(list(bytes.fromhex(colour[1:]))) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    mixed = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    return np.array(mixed) @ np.cbrt(np.array(cones) @ linear)


@pytest.mark.parametrize("colour", figures.PALETTE)
def test_the_colours_of_arms_stand_out_from_white_and_from_the_dark_page(colour):
    dark = re.findall(r"--paper: (#\w+)", STYLE)[1]
    assert contrast(colour, "#fff") >= 3 and contrast(colour, dark) >= 3


def test_the_colours_of_arms_can_be_told_from_one_another():
    """A step of 0.02 is just seen; a full profile has 22 arms."""
    places = np.array([oklab(c) for c in figures.PALETTE])
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(len(places), 1)]
    assert len(places) >= 22 and apart.min() > 0.09
