"""docs/architecture.md draws the graph that dvc.yaml has, and follows rows as the code does.

Run: python -m pytest tests/test_architecture.py
"""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_graph import FLOORS, SAME_FLOOR, outs, within

from pipeline import generators
from pipeline.samples import COLUMNS, Samples
from pipeline.seeds import derive
from stages import generate, prepare

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
ROW = re.compile(r"^\| (?!step|---)(.+?) \| (.+) \| (.+) \|$", re.M)
Edge = tuple[str, str]


def spelt_out() -> list[tuple[str, list[str], list[str]]]:
    """Every stage as dvc makes it, with what it reads and writes; those of `foreach` once for each block."""
    found = []
    for name, stage in GRAPH.items():
        blocks = PARAMS[stage["foreach"][2:-1]] if "foreach" in stage else {"": {}}
        for key, item in blocks.items():
            known = {"key": key, **{f"item.{k}": v for k, v in item.items() if isinstance(v, str)}}
            known |= {"data.source": PARAMS["data"]["source"], "data.unlabelled": PARAMS["data"]["unlabelled"]}

            def filled(path: str, known: dict = known) -> str:
                return re.sub(r"\$\{([\w.]+)\}", lambda m: known[m[1]], path)

            body = stage.get("do", stage)
            found.append((name, [filled(d) for d in body["deps"]], [filled(o) for o in outs(body)]))
    return found


def arrows() -> set[Edge]:
    """Which stage reads what another one writes."""
    every = spelt_out()
    return {
        (maker, reader)
        for maker, _, made in every
        for reader, read, _ in every
        if maker != reader and any(within(d, o) or within(o, d) for d in read for o in made)
    }


def behind(start: str, edges: set[Edge]) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        here = todo.pop()
        new = {b for a, b in edges if a == here} - found
        found |= new
        todo += new
    return found


def drawn() -> dict[Edge, str]:
    """The arrows of the drawing, and what is written on each."""
    (text,) = re.findall(r"^```mermaid\nflowchart TD\n(.*?)^```$", PAGE, re.M | re.S)
    lines = [re.fullmatch(r'    (\w+) -->\|([\w./]+)\| (\w+)(\["\w+@"\])?', line) for line in text.splitlines()]
    assert all(lines), text
    return {(m[1], m[3]): m[2] for m in lines}


def test_the_drawing_has_every_stage_and_every_arrow_that_no_longer_way_implies():
    edges = arrows()
    needed = {(a, b) for a, b in edges if b not in behind(a, edges - {(a, b)})}
    assert set(drawn()) == needed
    assert {stage for edge in drawn() for stage in edge} == set(GRAPH)


def test_an_arrow_says_what_one_stage_writes_and_the_other_reads():
    made, read = ({name: [] for name in GRAPH} for _ in range(2))
    for name, deps, outputs in spelt_out():
        made[name] += outputs
        read[name] += deps
    for (maker, reader), path in drawn().items():
        assert any(within(o, path) for o in made[maker]), (maker, path)
        assert any(within(d, path) for d in read[reader]), (reader, path)


def test_stages_with_an_at_sign_are_those_of_which_there_are_several():
    assert set(re.findall(r'\["(\w+)@"\]', PAGE)) == {name for name, stage in GRAPH.items() if "foreach" in stage}


def test_what_the_page_says_of_readers_is_so():
    read = {name: deps for name, deps, _ in spelt_out()}
    assert {name for name, deps in read.items() if any(within(d, "data/plan") for d in deps)} == {
        name for name in GRAPH if name not in ("plan", "repeat")
    }
    assert "`data/real/train` by twelve" in PAGE
    assert sum("data/real/train" in deps for deps in read.values()) == 12
    assert [name for name, deps in read.items() if "data/real/test" in deps] == ["evaluate"]


def test_the_floors_are_those_that_are_checked():
    (text,) = re.findall(r"^## Floors\n.*?^```\n(.*?)^```$", PAGE, re.M | re.S)
    lines = text.splitlines()
    assert lines[0].startswith("stages/")
    assert [set(line.split()) for line in reversed(lines[1:])] == list(FLOORS)
    assert {("training", "data"), ("training", "averages")} == SAME_FLOOR
    assert "but for `training`, which uses `data` and `averages`" in PAGE


@pytest.mark.parametrize("step", ROW.findall(PAGE), ids=lambda step: step[0][:30])
def test_functions_stand_in_the_files_that_a_step_names(step):
    _, by, where = step
    texts = [(ROOT / file).read_text() for file in re.findall(r"`((?:pipeline|stages)/[\w/]+\.py)`", by)]
    functions = re.findall(r"`([a-z_]+)`", by)
    assert texts and functions
    for name in functions:
        assert any(re.search(rf"def {name}\(", text) for text in texts), name
    for column in re.findall(r"`(id|group|judged|confidence|distance|nearest|copy_distance|keep|reason)`", where):
        assert column in COLUMNS


@pytest.fixture(scope="module")
def rows(shipped, tmp_path_factory) -> Path:
    """data/real of the default run."""
    folder = tmp_path_factory.mktemp("real")
    names = ("train", "val", "test", "heldback", "unlabelled", "quarantine.csv", "about")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # sets/ lies there
        prepare.main(shipped, *(folder / name for name in names))
    return folder


def row_of(table, words: str) -> dict:
    """The row of a table that a step names, with what it says of the row's columns, both as texts."""
    said = {"id": r"`id` and `group` `([\w-]+)`", "group": r"`id` and `group` `([\w-]+)`"}
    said |= {c: rf"`{c}` `([\w/]+)`" for c in ("label", "split", "origin", "source_path")}
    told = {c: m[1] for c, text in said.items() if (m := re.search(text, words))}
    row = table.iloc[int(re.search(r"row (\d+)", words)[1])]
    assert {c: str(row[c]) for c in told} == told
    return told


def test_the_real_row_is_where_the_page_says(rows):
    samples = Samples.load(rows / "test")
    told = row_of(samples.table, next(w for _, _, w in ROW.findall(PAGE) if "data/real/test/table.parquet" in w))
    assert set(told) == {"id", "group", "label", "source_path"}
    from sklearn.datasets import load_digits

    number = int(told["source_path"].removeprefix("digits/"))
    image = load_digits().images[number]
    place = int(re.search(r"slice (\d+)", PAGE)[1])
    assert np.array_equal(samples.images[place][..., 0], np.round(image * (255 / 16)))
    assert f"number {number} of scikit-learn's digits" in PAGE and load_digits().target[number] == 9
    assert f"`y[{place}]`" in PAGE and f"`arm_real[0, {place}]`" in PAGE


def test_the_synthetic_row_is_made_from_the_seed_that_the_page_names(rows, shipped, compute, tmp_path):
    real = Samples.load(rows / "train")
    model = generators.build(shipped.generators["smote"], compute, "smote")
    model.fit(real, 0)
    model.save(tmp_path / "model")
    (tmp_path / "search.json").write_text("{}")
    (tmp_path / "plan.json").write_text('{"wanted": true}')
    files = (tmp_path / "plan.json", rows / "train", rows / "unlabelled", tmp_path / "model", tmp_path / "search.json")
    generate.main(shipped, "smote", *files, tmp_path / "synthetic")
    made = Samples.load(tmp_path / "synthetic")
    told = row_of(made.table, next(w for _, _, w in ROW.findall(PAGE) if "data/synthetic/smote/table.parquet" in w))
    assert set(told) == {"id", "group", "split", "origin"}
    seed = derive(shipped.seed, "row", "smote", "9", 0)
    place = list(made.table["id"]).index(told["id"])
    assert f"`seed` `{seed}`" in PAGE and made.table["seed"][place] == seed
    assert list(made.table["label"]).index("9") == place, "it is the first nine"
    assert np.array_equal(model.sample(np.array([9]), np.array([seed]))[0], made.images[place])
    later = re.findall(
        r"`data/selected/smote/table.parquet`, row (\d+)|`start\[(\d+)\]` on|slice (\d+) of `images.npy` \|", PAGE
    )
    assert [int("".join(found)) for found in later] == [place] * 3
