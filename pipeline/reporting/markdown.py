"""Names and sentences as markdown that GitHub shows as they stand."""

import re

from markupsafe import Markup

INTERVAL = r"\[[+-]?\d[\d.]*, [+-]?\d[\d.]*\](?![(\[:])"  # neither a link nor what one refers to
MARKS = (
    r"[\\`*~$>\[\]]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|^#"
    r"|(?<![^\W_])_|_(?![^\W_])"  # within a word it is no mark
    r"|(?<=:)/(?=/)|(?<=www)\."  # addresses become links by themselves
)


def plain(text: str) -> str:
    """A text that markdown and a terminal show as it stands: marks are escaped, control characters spelt out."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    escaped = re.sub(f"({INTERVAL})|{MARKS}", lambda found: found[1] or f"\\{found[0]}", shown)
    return re.sub(r"@(?=\w)", "@<!-- -->", escaped)  # which calls nobody


def written(value: object) -> str:
    """What a template fills in: plain, unless it is markdown already."""
    return value if isinstance(value, Markup) else plain(str(value))
