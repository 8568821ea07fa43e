"""Names in markdown are text. Run: python -m pytest tests/reporting/test_markdown.py"""

import html
import re

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from pipeline.reporting import tables
from pipeline.reporting.markdown import plain
from tests.reporting.test_answer import digest

GITHUB = MarkdownIt("commonmark").enable(["table", "strikethrough"])
LIVE = [
    "![x](https://evil.example/p.png)", "[x](//evil.example)", "![0.1, 0.2](x)", "[0.1, 0.2]: x", "<img src=x>", "</table>",
    "<!-- x", "*x*", "**x**", "_x_", "__x__", "a __b__ c", "~~x~~", "~x~", "`x`", "&lt;b&gt;", "&#60;", "a\\_b_", "# x",
    "a|b", "a\\|b", "\\", "x\\\\*y*", "$x$", "[^1]", "<https://evil.example>",
]  # fmt: skip
ORDINARY = [
    "oversample_sqrt against real: +1.5 points [+0.2, +2.7], 98.8 [97.0, 100.0] and -0.004 [-0.008, +0.001]",
    "p < 0.001, <0.001, 95 %, 2 / 64, +-margin (data.scarce); data/selected/x.y: R&D, 3 - 1 = 2 #4!",
    "the noise is ±0.5, 日本 é",
]


def shown(text: str) -> str:
    """What a reader sees of it."""
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def tags(text: str) -> list[str]:
    return re.findall(r"<(\w+)", text)


@pytest.mark.parametrize("name", LIVE)
def test_marks_in_a_name_are_shown_and_do_nothing(name):
    for prefix in ("", "Class "):
        page = GITHUB.render(prefix + plain(name))
        assert tags(page) == ["p"] and shown(page).strip() == prefix + name
    page = GITHUB.render(tables.markdown(pd.DataFrame({name: [name]})))
    assert sorted(set(tags(page))) == sorted({"table", "thead", "tr", "th", "tbody", "td"})
    assert [line for line in shown(page).split("\n") if line] == [name, name]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text):
    assert plain(text) == text and shown(GITHUB.render(text)).strip() == text


def test_addresses_and_people_are_not_linked():
    """GitHub does so by itself; neither "https://" nor "www." nor "@name" may be left as one."""
    said = plain("https://evil.example www.evil.example @someone mail@evil.example")
    assert not re.search(r"://|www\.|@\w", said)
    assert shown(GITHUB.render(said)).strip() == "https://evil.example www.evil.example @someone mail@evil.example"


CALM = {
    **{"sentence": "Cannot tell.", "advice": "Keep.", "warnings": ["class x"], "leaks": "Leaks: x"},
    **{"about": {"source": "x", "image_size": 8}, "beside": ["Broken: x."], "promises": ["private: x"]},
    "rails": pd.DataFrame({"guardrail": ["recall of x"]}),
}


@pytest.mark.parametrize("name", LIVE)
def test_no_name_of_the_data_is_live_in_the_digest(name):
    """A class ![x](https://evil.example/p.png) came through as a picture."""
    told = {"sentence": f"Cannot tell {name}.", "advice": f"Keep {name}.", "warnings": [f"class {name}"]}
    told |= {"about": {"source": name, "image_size": 8}, "leaks": f"Leaks: {name}", "beside": [f"Broken: {name}."]}
    told |= {"rails": pd.DataFrame({"guardrail": [f"recall of {name}"]}), "promises": [f"private: {name}"]}
    found, calm = (GITHUB.render(digest(**given)) for given in (told, CALM))
    assert tags(found) == tags(calm) and shown(found).count(name) >= 8
