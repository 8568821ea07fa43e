"""Each message of docs/troubleshooting.md is one that the code has. Run: python -m pytest tests/test_troubleshooting.py"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
GAP = "\0"  # what an f-string fills in
CELL = re.compile(r"^\| `([^`]+)` \| ", re.M)


def texts() -> list[str]:
    """Every text of the code, joined over lines, with a gap for each value that is filled in; and the Makefile."""
    found = [(ROOT / "Makefile").read_text()]
    for folder in ("pipeline", "stages"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return [re.sub(r"%[sd.\d]+f?", GAP, text).replace("`", "") for text in found]


TEXTS = texts()


def stands_in(message: str, text: str) -> bool:
    """Whether a message with ... for gaps is a part of a text, of which each gap of the page may hide anything."""
    pieces = [re.escape(piece.strip()) for piece in message.split("...") if piece.strip()]
    return re.search(r"[\s\S]*?".join(pieces), text) is not None


MESSAGES = CELL.findall(PAGE.partition("\n## Without a message")[0])


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_the_code(message):
    assert len(re.sub(r"[.\s;:()]", "", message)) >= 4
    assert any(stands_in(message, text) for text in TEXTS), message


def test_there_are_messages_to_look_at_and_a_wrong_one_would_be_seen():
    assert len(MESSAGES) > 40
    assert not any(stands_in("the flux capacitor is ... empty", text) for text in TEXTS)
    assert not any(stands_in("data.source ... does not exist; expected two named sets", text) for text in TEXTS)


def test_exit_codes_are_those_of_the_entry():
    entry = (ROOT / "stages" / "__main__.py").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \|", PAGE, re.M)
    for words, code in rows:
        if code in "234":
            assert f'return {code}, "{words}' in entry, words
    assert {code for _, code in rows} == {"1", "2", "3", "4", "130", "143"}
