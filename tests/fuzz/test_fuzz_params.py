"""params.yaml edited at random: valid, or refused by its key. Run: python -m pytest tests/fuzz/test_fuzz_params.py"""

import copy
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import generators
from pipeline import params as settings
from pipeline.params import Params
from tests.fuzz import forms
from tests.fuzz.watch import inputs, refused, watched

SHIPPED = Path(settings.__file__).parents[2] / "params.yaml"
TEXT = SHIPPED.read_text()
RAW = YAML(typ="safe", pure=True).load(TEXT)
NUMBERS = [0, 1, -1, 2, 7, 10**9, 10**30, -(10**18), 0.0, -0.0, 0.5, 1.0, 1e-9, 1e300, -1e300, math.nan, math.inf, -math.inf,
           2**63, 2**64]  # fmt: skip
WORDS = ["no", "yes", "on", "1e-4", "1_000", "0x10", "auto", "none", "", " ", "nothing", "../x", "a;touch x", "$(x)", "\0", "\x1b[2J",
         "é", "x" * 500, "${seed}", "heldback", "pool", "cvae", "real", "2026-01-01", "!!python/object:os.system"]  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.sampled_from(WORDS)
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=5), v, max_size=3), max_leaves=6
)
TAGS = ["!!python/object/apply:os.system [x]", "!!python/name:os.system", "!!binary aGk=", "!!set {a, b}", "!!timestamp 2026-01-01",
        "!x y", "!!int no", "!!float x", "&a [*a]", "*nowhere", "<<: 1", "? [a, b]", "{? {a: b} : c}", "!!omap [a: 1]", "!!null x",
        ".nan", ".inf", "0o17", "1:30", "- - -", "|\n  x", "'", '"\\x', "[", "{", "@x", "`x`", "%x", "\t", "!!pairs [a: 1]",
        "[1, 2", "2026-13-45", "!!bool x", "[" * 900]  # fmt: skip


def places(block: Any, path: tuple = ()) -> Iterator[tuple]:
    """The way to every value of the file."""
    items = block.items() if isinstance(block, dict) else enumerate(block) if isinstance(block, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


PLACES = list(places(RAW))


@st.composite
def edited(draw: st.DrawFn) -> dict:
    raw = copy.deepcopy(RAW)
    for _ in range(draw(st.integers(1, 4))):
        *way, last = draw(st.sampled_from(PLACES))
        block = raw
        for key in way:
            inside = (isinstance(block, dict) and key in block) or (
                isinstance(block, list) and isinstance(key, int) and key < len(block)
            )
            block = block[key] if inside else None
        if not isinstance(block, dict | list) or (isinstance(block, list) and last not in range(len(block))):
            continue
        match draw(st.sampled_from(("value", "value", "value", "drop", "add", "rename", "swap"))):
            case "value":
                block[last] = draw(VALUES)
            case "drop" if isinstance(block, list) or last in block:
                del block[last]
            case "add" if isinstance(block, dict):
                block[draw(st.sampled_from([*WORDS, *RAW, *RAW["arms"]]) | st.text(max_size=8))] = draw(VALUES)
            case "rename" if isinstance(block, dict) and last in block:
                block[f"{last}{draw(st.sampled_from(('_', ' ', 's', '.', '-')))}"] = block.pop(last)
            case "swap":
                block[last] = copy.deepcopy(RAW[draw(st.sampled_from(sorted(RAW)))])
    return raw


@st.composite
def marred(draw: st.DrawFn) -> str:
    lines = TEXT.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 3))):
        i = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(("tag", "tag", "drop", "twice", "indent", "cut", "text"))):
            case "tag":
                lines[i] = f"{lines[i].partition(':')[0]}: {draw(st.sampled_from(TAGS))}\n"
            case "drop":
                lines[i] = ""
            case "twice":
                lines[i] *= 2
            case "indent":
                lines[i] = draw(st.sampled_from((" ", "\t", "  ", "- ", "? "))) + lines[i]
            case "cut":
                lines[i] = lines[i][: draw(st.integers(0, len(lines[i])))]
            case "text":
                lines[i] = draw(st.text(max_size=20)) + lines[i]
    return "".join(lines)


def check(path: Path, home: Path, raw: Any = RAW) -> None:
    """Loads the file as a stage does and builds every generator, as `check` does."""
    every = {str(key) or "''" for way in [*places(raw), *PLACES] for key in way}
    long = {key for key in every if len(key) > 2}  # a shorter one may stand in any word
    short = {f"{before}{key}: " for key in every - long for before in "\n ."}

    def load() -> Params:
        return settings.load(path)

    with watched(home):
        params = refused(load, *long, *short, "not valid YAML", "expected a mapping", "is no text")
        if params is None:
            return
        assert params.compared and isinstance(params.is_quick, bool) and isinstance(params.has_pool, bool)
        assert set(params.searched) <= set(params.made) <= set(params.generators)
        for name in params.generators:
            refused(
                lambda name=name: generators.build(settings.borrowing(params.generators, name), params.compute, name),
                name,
            )
        assert all(
            re.fullmatch(r"[a-z0-9_]{1,40}", name) for section in (params.arms, params.generators) for name in section
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory, shipped, compute) -> Path:
    for name in shipped.generators:  # so that what they import is there before anything is watched
        generators.build(settings.borrowing(shipped.generators, name), compute, name)
    return tmp_path_factory.mktemp("params").resolve()


def test_random_edits_are_valid_or_refused_by_a_key(home):
    @inputs(50)
    @given(raw=edited())
    def one(raw: dict) -> None:
        (home / "params.yaml").write_text(json.dumps(raw))  # which is YAML too
        check(home / "params.yaml", home, raw)

    one()


def test_random_text_is_valid_or_refused_by_a_key_or_a_line(home):
    @inputs(25)
    @given(text=marred())
    def one(text: str) -> None:
        (home / "params.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        check(home / "params.yaml", home)

    one()


def test_damaged_bytes_are_valid_or_refused(home):
    @inputs(20)
    @given(content=forms.damaged(TEXT.encode()))
    def one(content: bytes) -> None:
        (home / "params.yaml").write_bytes(content)
        check(home / "params.yaml", home)

    one()
