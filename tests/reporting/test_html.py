"""The page and its figures. Run: python -m pytest tests/reporting/test_html.py"""

import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.reporting import figures, html

NASTY = '<script>alert("x")</script>&<b onload=1>'
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Collects every tag with its attributes, the text, and tags left open or closed twice."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open, self.wrong = [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text += data


def metrics(names, classes=("cat", "dog")):
    keys = ("balanced_accuracy", *(f"recall_{c}" for c in classes))
    ends = (("", 0.0), ("_ci_low", -0.02), ("_ci_high", 0.02))
    return {n: {k + end: 0.8 + 0.01 * i + d for k in keys for end, d in ends} for i, n in enumerate(names)}


def facts(name="cat", **change):
    """The least that the page needs; `name` is a class, an arm and a word in every table and text."""
    frame, picture = pd.DataFrame({"class": [name], name: ["1"]}), html.picture(b"\x89PNG", f"recall of {name}")
    return {
        "verdict": {
            "verdict": "CANNOT_TELL",
            "chosen_arm": name,
            "best_control": name,
            "test": {"fingerprint": "00ff", "rows": 9},
            "seeds": 6,
            "confidence": 0.95,
        },
        "sentence": f"Cannot tell whether {name} helps.",
        "advice": f"Keep {name}.",
        "beside": [f"Not trained: {name}."],
        "max_class_loss": 0.02,
        "specificity": 0.95,
        "binary": True,
        "warnings": [f"class {name} has 1 row"],
        "leaks": "",
        "openings": "Evaluated once.",
        "contact": picture,
        "near": picture,
        "about": {
            "source": name,
            "image_size": 8,
            "channels": 3,
            "imbalance_ratio": 4.0,
            "scarce": [name],
            "quarantined": 0,
            "not_checked": [name],
        },
        "settings": {"steps": 10, "batch": 4},
        "validation_rows": 7,
        "metric": "balanced accuracy",
        "reasons": {"unlike": name},
        "samples": {name: [(f"kept, {name}", picture)]},
        "pairs": {name: picture},
        "disputed": {name: picture},
        "copy_rule": {"distance": 0.05, "ratio": 0.4},
        "false_alarms": 0.01,
        "show_real": True,
        "some_made": True,
        "copies_said": [f"{name}: no copy found."],
        "promises": [f"{name}: fitted with differential privacy."],
        "fidelity_by_class": {name: frame},
        "teachers_said": {"held_out_accuracy": 0.9, "held_out_ece": 0.05},
        "no_dose": f"No curve of {name}.",
        "params": f"classes: [{name}]",
        **dict.fromkeys(
            ("arms", "measured", "comparisons", "repeats", "classes", "selection", "fidelity", "counts", "times"), frame
        ),
        **dict.fromkeys(
            (
                "automatic",
                "statistics",
                "drift",
                "checks",
                "guardrails",
                "tuned",
                "costs",
                "hashes",
                "search",
                "points",
                "pool",
                "pool_trials",
                "copy_audit",
                "opinions",
                "rules",
                "copies_by_class",
            ),
            frame,
        ),
        **dict.fromkeys(
            ("forest", "recall", "confusion", "curves", "losses", "dose", "reliability", "teachers"), picture
        ),
    } | change


EMPTY = {
    **{
        k: pd.DataFrame()
        for k in (
            "comparisons",
            "repeats",
            "selection",
            "times",
            "guardrails",
            "search",
            "points",
            "pool",
            "copy_audit",
        )
    },
    "beside": [],
    "copies_said": [],
    "promises": [],
    "dose": "",
    "samples": {},
    "disputed": {},
    "pairs": {},
    "copy_rule": None,
    "losses": "",
    "warnings": [],
    "contact": "",
    "near": "",
    "show_real": False,
    "some_made": False,
}


@pytest.mark.parametrize("given", [facts(), facts(NASTY), facts(**EMPTY)], ids=["plain", "nasty", "empty"])
def test_the_page_renders_with_every_tag_closed(given):
    page = Reader(html.page(given))
    assert page.wrong == [] and page.open == []
    assert [t for t, _ in page.tags].count("h1") == 1


def test_a_leak_stands_in_red_above_everything_else():
    page = html.page(facts(leaks="The splits leak: 3 groups."))
    assert page.index('<p class="leak">The splits leak: 3 groups.</p>') < page.index("<h1>")
    assert 'class="leak"' not in html.page(facts())


def test_the_page_shows_the_verdict_the_sentence_and_the_settings():
    text = Reader(html.page(facts())).text
    for fact in (
        "CANNOT TELL",
        "Cannot tell whether cat helps.",
        "Keep cat.",
        "class cat has 1 row",
        "00ff",
        "0.050",
        "0.40 times",
    ):
        assert fact in text, fact


def test_markup_in_names_is_text_on_the_page():
    source = html.page(facts(NASTY))
    page, plain = Reader(source), Reader(html.page(facts()))
    assert [t for t, _ in page.tags] == [t for t, _ in plain.tags]
    assert not any(a.startswith("on") for _, attrs in page.tags for a in attrs)
    assert NASTY in page.text and "<script" not in source


@pytest.mark.parametrize("given", [facts(), facts(**EMPTY)], ids=["plain", "empty"])
def test_the_page_asks_nothing_of_the_outside(given):
    source = html.page(given)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", source)
    for tag, attrs in Reader(source).tags:
        assert tag not in ("script", "link", "iframe", "object", "embed"), tag
        for name in ("src", "href", "srcset", "action", "poster"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)


def test_every_picture_is_embedded_and_has_a_text_alternative():
    pictures = [a for t, a in Reader(html.page(facts(NASTY))).tags if t == "img"]
    assert len(pictures) == 13
    for attrs in pictures:
        assert attrs["src"].startswith("data:image/png;base64,") and NASTY in attrs["alt"]


def test_every_link_of_the_contents_leads_somewhere():
    tags = Reader(html.page(facts())).tags
    ids = {a["id"] for _, a in tags if "id" in a}
    links = {a["href"][1:] for t, a in tags if t == "a"}
    assert links and links <= ids


@pytest.mark.parametrize("name", ["cat", NASTY])
def test_what_scrolls_can_be_reached_by_keyboard_and_has_a_name(name):
    tags = Reader(html.page(facts(name))).tags
    boxes = [a for t, a in tags if a.get("class") == "scroll" or t == "pre"]
    assert len(boxes) == sum(t in ("table", "pre") for t, _ in tags) > 10
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in boxes)
    labels = [a["aria-label"] for a in boxes]
    assert len(set(labels)) == len(labels), "each is another"


def test_a_profile_without_doses_says_so_in_their_place():
    assert "<h3>Dose</h3>\nNo curve of cat." in html.page(facts(dose=""))
    assert "No curve of cat." not in html.page(facts())


def test_only_a_whole_sentence_in_a_table_is_broken_into_lines():
    text = html.table(
        pd.DataFrame({"arm": ["cvae"], "why": ["the interval is too wide to tell a gain from a loss"]}), "x"
    )
    assert "<td>cvae</td>" in text and '<td class="long">the interval' in text


def test_hidden_real_images_are_said_to_be_hidden():
    assert "hidden by report.show_real_images" in html.page(facts(show_real=False))
    assert "hidden by" not in html.page(facts(show_real=True))


def pixels(count, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)


ENDS = {"difference": 0.01, "ci_low": -0.005, "ci_high": 0.02}


def dose_points(names):
    rows = [(n, n, k, 0.9 + k / 1000, 0.89, 0.95) for n in names for k in (10, 40)]
    return pd.DataFrame(rows, columns=["curve", "arm", "rows", "balanced_accuracy", "ci_low", "ci_high"])


def bins(names):
    rows = [(n, c, c - 0.1, 0.5) for n in names for c in (0.4, 0.8)]
    return pd.DataFrame(rows, columns=["arm", "confidence", "accuracy", "share"])


def every_figure(names=("cat", "dog"), channels=1):
    """Each figure of the report by its name, drawn from small random numbers."""
    rng, names = np.random.default_rng(0), list(names)
    steps = [{"arm": a, "step": s, "loss": 1 / s, "val_balanced_accuracy": s / 30} for a in names for s in (10, 20)]
    return {
        "forest": lambda: figures.forest({names[0]: ENDS}, names[1], "balanced accuracy", names, names[:1]),
        "doses": lambda: figures.doses(dose_points(names), "balanced_accuracy", 0.9, names[0], figures.colours(names)),
        "reliability": lambda: figures.reliability(bins(names), names, figures.colours(names)),
        "recall_bars": lambda: figures.recall_bars(metrics(names, names), names, names, figures.colours(names)),
        "confusions": lambda: figures.confusions({n: rng.permutation(np.eye(2)) * 9 for n in names}, names),
        "curves": lambda: figures.curves(pd.DataFrame(steps), names, names[:1]),
        "losses": lambda: figures.losses(
            {n: [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}] for n in names}, figures.colours(names)
        ),
        "grid": lambda: figures.grid(pixels(5, channels), [[0, 1, 2], [4]], names, 2),
        "pairs": lambda: figures.pairs(pixels(2, channels), pixels(2, channels, 1), names),
        "pairs_hidden": lambda: figures.pairs(pixels(2, channels), None, names),
    }


FIGURES = list(every_figure())


@pytest.mark.parametrize("name", FIGURES)
def test_equal_inputs_give_equal_pictures(name):
    one, two = (every_figure()[name]() for _ in range(2))
    assert one == two
    assert one.startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize("name", ["grid", "pairs", "pairs_hidden"])
def test_colour_images_are_drawn_too(name):
    assert every_figure(channels=3)[name]() != every_figure()[name]()


@pytest.mark.parametrize("name", FIGURES)
def test_any_name_can_be_drawn(name):
    """Dollar signs in a class name are no formula that can be wrong."""
    every_figure(names=(r"$\nosuch{$", "_a_<b>"))[name]()


@pytest.mark.parametrize("name", ["pneumonia_bacterial", "MALIGNANT MELANOMA", "cat"])
def test_captions_over_neighbouring_pictures_do_not_overlap(monkeypatch, name):
    kept = []
    monkeypatch.setattr(figures, "png", kept.append)
    figures.pairs(pixels(8), pixels(8), [f"{name}\n0.123"] * 8)
    kept[0].canvas.draw()
    ends = [axes.title.get_window_extent() for axes in kept[0].axes[:8]]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(ends))


def test_a_long_name_keeps_its_beginning_and_its_end():
    assert figures.short("cat") == "cat" and figures.short("") == ""
    left, right = map(figures.short, ("adenocarcinoma_left", "adenocarcinoma_right"))
    assert left != right and left.startswith("adeno") and left.endswith("left")
    assert len(figures.short("黑色素瘤" * 3)) == 5, "wide letters count twice"


def test_missing_scores_leave_a_gap():
    values = metrics(["real", "new"])
    values["new"] = dict.fromkeys(values["new"]) | {"balanced_accuracy": 0.5}
    figures.recall_bars(values, ["cat", "dog"], ["real", "new"], figures.colours(["real", "new"]))


def test_the_legend_names_the_arms_even_if_the_first_class_has_no_recall():
    drawn = []
    for name in ("real", "other"):
        values = metrics([name])
        values[name] |= dict.fromkeys(("recall_cat", "recall_cat_ci_low", "recall_cat_ci_high"))
        drawn.append(figures.recall_bars(values, ["cat", "dog"], [name], figures.colours([name])))
    assert drawn[0] != drawn[1]


def pixels_of(png: bytes) -> set[tuple[int, ...]]:
    return {tuple(c) for c in np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3).tolist()}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def test_curves_have_the_colours_of_their_arms_and_generators():
    """They began with the first colour of the palette, which is another arm's."""
    shade = figures.colours(["real", "oversample", "cvae", "cvae_half"])
    points = dose_points(["cvae"]).assign(arm=["cvae_half", "cvae"])
    drawn = pixels_of(figures.doses(points, "balanced_accuracy", 0.9, "real", shade))
    assert rgb(shade["cvae"]) in drawn and not {rgb(shade[a]) for a in ("real", "cvae_half")} & drawn
    curve = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    drawn = pixels_of(figures.losses({"cvae": curve}, {"cvae": shade["cvae"]}))
    watched = [{**point, "KL, nats": 1.0 + i} for i, point in enumerate(curve)]
    assert figures.losses({"cvae": watched}, {}) != figures.losses({"cvae": curve}, {}), "what else is watched is drawn"
    assert rgb(shade["cvae"]) in drawn and rgb(shade["real"]) not in drawn
    assert rgb(figures.INK) in pixels_of(figures.losses({"unused": curve}, {})), "no arm, no colour"


def test_each_arm_has_a_colour_of_its_own_that_its_place_decides():
    arms = [f"arm{i}" for i in range(24)]
    shade = figures.colours(arms)
    assert len(set(shade.values())) == 24
    assert figures.colours(arms[:3]) == {a: shade[a] for a in arms[:3]}
