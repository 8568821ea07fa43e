"""The page, one self-contained HTML file with every text escaped and every picture embedded, and its markdown digest."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.reporting import tables
from pipeline.reporting.markdown import written
from pipeline.reporting.tables import Told

MOST_LINES = 59  # of the digest
LONG = 48  # characters; a longer text in a table is broken into lines


def picture(png: bytes, alt: str) -> Markup:
    data = base64.b64encode(png).decode()
    return Markup('<img src="data:image/png;base64,{}" alt="{}">').format(data, alt)


def table(frame: pd.DataFrame, label: str) -> Markup:
    """A table in a box of its own, which the keyboard can reach to scroll it, and which is read out as `label`."""
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in frame.columns)
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in frame.itertuples(index=False))
    box = Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">').format(label)
    return box + Markup(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>")


def cell(value: object) -> str:
    """One cell; a whole sentence may run over several lines."""
    text = str(value)
    return f'<td class="long">{escape(text)}</td>' if len(text) > LONG else f"<td>{escape(text)}</td>"


def page(facts: Told) -> str:
    """The whole report."""
    return render("report.html.jinja", facts, table, autoescape=True)


def digest(facts: Told) -> str:
    """The report for a pull request, in under 60 lines of markdown; of many arms those that fit, controls going first."""
    arms, verdict = facts["arms"], facts["verdict"]

    def showing(some: pd.DataFrame) -> str:
        gone = arms["arm"][~arms["arm"].isin(some["arm"])].tolist()
        return in_markdown("report.md.jinja", {**facts, "arms": some, "left_out": gone})

    room = max(MOST_LINES - len(showing(arms[:0]).splitlines()), 2)
    last = np.where(
        arms["arm"].isin([verdict["best_control"], verdict["chosen_arm"]]), 0, 1 + (arms["role"] == "control")
    )
    return showing(arms.iloc[np.sort(np.argsort(last, kind="stable")[:room])])


def in_markdown(template: str, facts: Told) -> str:
    """A template of markdown, with every text in it escaped."""
    return render(template, facts, lambda frame: Markup(tables.markdown(frame)), finalize=written)


def render(template: str, facts: Told, table: Callable[..., str], **escaping: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **escaping,
    )
    environment.filters |= {"table": table}
    return environment.get_template(template).render(facts)
