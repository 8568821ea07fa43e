"""The history of one row, and its picture made again. Run: python -m pytest tests/test_row.py"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline import generators
from pipeline.samples import Facts, Samples
from stages import generate, row


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy, shipped):
    """A fitted mixture and its rows, of which one was dropped; `ask(id)` gives what was written of a row."""
    root = tmp_path_factory.mktemp("row")
    rows = toy((14, 9, 4))
    train = Samples(rows.table, rows.images, Facts(rows.classes, rows.classes[1:]))
    train.save(root / "train")
    train.take(np.empty(0, int)).save(root / "pool")
    (root / "search").mkdir()
    (root / "search" / "gmm.json").write_text("{}")
    (root / "plan.json").write_text('{"wanted": true}')
    model = generators.build(shipped.generators["gmm"], shipped.compute, "gmm")
    model.fit(train, 0)
    model.save(root / "models" / "gmm")
    places = [root / name for name in ("plan.json", "train", "pool", "models/gmm", "search/gmm.json", "made")]
    generate.main(shipped, "gmm", *places)
    made = Samples.load(root / "made")
    reason = np.where(np.arange(len(made)) == 3, "unlike", "")
    made.with_columns(keep=reason == "", reason=reason, judged="b", confidence=0.7).save(root / "selected" / "gmm")

    def ask(name: str) -> dict:
        row.main(shipped, name, *(root / n for n in ("train", "pool", "selected", "models", "search", "out")))
        return json.loads((root / "out" / f"{name.removeprefix('b/').removesuffix('.png')}.json").read_text())

    return ask, root, Samples.load(root / "selected" / "gmm"), train


def test_a_synthetic_row_is_made_again_to_the_byte(run):
    ask, root, made, _ = run
    for place, fate in ((0, "kept"), (3, "dropped: unlike every real row")):
        name = made.table["id"][place]
        told = ask(name)
        assert told["made again"] == "from weights, class and seed: the same to the byte"
        assert told["fate"].startswith(fate) and told["family"] == "gmm" and told["seed"] == made.table["seed"][place]
        assert told["options"]["components"] == 128 and "distance" not in told, "what is not known is not told"
        with Image.open(root / "out" / f"{name}.png") as picture:
            assert np.array_equal(np.asarray(picture), made.images[place].squeeze())


def test_a_path_of_a_manifest_does_as_well_as_an_id(run):
    ask, _, made, _ = run
    name = made.table["id"][0]
    assert ask(f"b/{name}.png") == ask(name)


def test_a_real_row_says_where_it_came_from(run):
    ask, _, _, train = run
    told = ask(train.table["id"][5])
    assert told["split"] == "train" and told["label"] == train.table["label"][5] and "made again" not in told


def test_a_real_row_is_found_by_its_path_in_the_source(run, shipped):
    ask, root, _, train = run
    paths = [f"photos/{'b' if i else 'a'}/{max(i, 1)}.png" for i in range(len(train))]
    paths[4] = paths[5]
    before = (root / "train").rename(root / "before")
    train.with_columns(source_path=paths).save(root / "train")
    for place, said in ((0, "photos/a/1.png"), (0, "a/1.png"), (1, "b/1.png"), (7, "7.png")):
        name = train.table["id"][place]
        row.main(shipped, said, *(root / n for n in ("train", "pool", "selected", "models", "search", "out")))
        assert json.loads((root / "out" / f"{name}.json").read_text())["source_path"] == paths[place], said
    for said in ("1.png", "b/5.png"):
        with pytest.raises(ValueError, match=r"has 2 rows of the path .*; name one by its id"):
            ask(said)
    with pytest.raises(ValueError, match="has no row"):
        ask("9.jpg")
    shutil.rmtree(root / "train")
    before.rename(root / "train")


@pytest.mark.parametrize("name", ["nobody", "gmm-1-7", "../../etc/passwd"])
def test_an_unknown_id_is_refused_with_some_that_exist(run, name):
    with pytest.raises(ValueError, match=r"has no row .* such as: .*the id of a training row or of a synthetic one"):
        run[0](name)


def test_before_a_run_there_is_no_row_and_no_word_of_an_export(run):
    ask, root, made, _ = run
    there = (root / "selected" / "gmm").rename(root / "elsewhere")
    with pytest.raises(ValueError, match=r"selected/gmm is missing, where row .* would be; run `make repro`"):
        ask(made.table["id"][0])
    there.rename(root / "selected" / "gmm")


def test_a_gpu_may_be_a_grey_level_off(monkeypatch):
    """At another place in a batch it need not come to the same bits, and a sound row was refused."""
    before = np.full((4, 4, 1), 200, np.uint8)
    near, far = before.copy(), before.copy()
    near[0, 0], far[0, 0] = 199, 180
    same, words = row.said(near, before, True)
    assert same and words.endswith("on a GPU: the same but for at most 1 of 255 grey levels")
    same, words = row.said(before, before, True)
    assert same and words.endswith("the same to the byte")
    for picture, on_gpu in ((near, False), (far, True)):
        same, words = row.said(picture, before, on_gpu)
        assert not same and "6.2% of the numbers of the picture differ" in words


def test_another_picture_than_before_is_said_so(run):
    ask, root, made, _ = run
    images = np.array(made.images)
    images[0, 0, 0] ^= 1
    Samples(made.table, images, made.facts).save(root / "selected" / "gmm")
    name = made.table["id"][0]
    with pytest.raises(ValueError, match="% of the numbers of the picture differ: the weights"):
        ask(name)
    assert "differ" in json.loads((root / "out" / f"{name}.json").read_text())["made again"], (
        "its history is told all the same"
    )
