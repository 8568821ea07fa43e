"""What the documents say of the report is true. Run: python -m pytest tests/test_docs.py"""

import re
import tomllib
from pathlib import Path

import pytest

from pipeline.params import load
from pipeline.reporting import html
from tests.reporting.test_html import Reader, facts

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "report.md").read_text()


@pytest.mark.parametrize(
    "file", [f.name for f in ROOT.glob("*.md")] + [f"docs/{f.name}" for f in (ROOT / "docs").glob("*.md")]
)
def test_links_lead_to_files_that_exist(file):
    text = (ROOT / file).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / file).parent / link).exists()] == []
    assert file != "README.md" or "docs/report.md" in links


def test_the_guide_names_every_section_of_the_page():
    page = html.page(facts())
    sections = re.findall(r'<h2 id="\w+">([^<]+)</h2>', page)
    assert len(sections) == 11 and "Closest pairs" in Reader(page).text
    assert [s for s in sections if f"| {s} |" not in GUIDE] == []


def test_the_guide_says_what_to_do_for_each_word_and_explains_the_terms():
    for word in ("HELPS", "NEUTRAL", "HURTS", "CANNOT_TELL"):
        assert f"| {word} | " in GUIDE
    for term in ("contender", "guardrail", "ECE", "AUPRC", "Holm", "paired seed", "dose", "unlike", "exchange rate"):
        assert f"\n| {term} | " in GUIDE, term


def test_the_numbers_of_arms_in_the_readme_are_those_of_params():
    params, text = load(ROOT / "params.yaml"), (ROOT / "README.md").read_text()
    arms = [arm for arm in params.arms.values() if arm.also != "pool"]
    trained = sum(arm.role != "skip" for arm in arms)
    assert f"all {trained} arms" in text and f"trains all {trained}," in text
    assert sum(arm.quick for arm in arms) == 11 and "eleven arms" in text
    assert len(params.arms) - len(arms) == 2 and "two more arms" in text


def test_the_changes_begin_with_the_version_of_the_project():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())[1] == version


def test_every_guide_is_reached_from_the_readme():
    """By links, of guides to guides too."""
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in seen:
            seen.add(page)
            links = re.findall(r"\]\(([^)#]+\.md)", page.read_text())
            todo += [(page.parent / link).resolve() for link in links if "://" not in link]
    pages = {*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")}
    assert pages - seen == set()
