"""An edit re-runs the stages that may run the edited file, and no others. Run: python -m pytest tests/test_plan.py"""

import shutil
from pathlib import Path

import pytest

from stages import plan

ROOT = Path(__file__).parents[1]
FITS = {"fit_generator/diffusion", "fit_generator/translate", "fit_generator/cgan", "fit_generator/cvae"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for folder in ("pipeline", "stages"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def planned(params, root: Path) -> dict[str, str]:
    out = root / "plan"
    shutil.rmtree(out, ignore_errors=True)
    plan.main(params, out)
    return {f.relative_to(out).with_suffix("").as_posix(): f.read_text() for f in out.rglob("*.json")}


@pytest.mark.parametrize(
    ("edited", "again", "not_again"),
    [
        ("pipeline/samples.py", {"prepare", "evaluate", "report", *FITS}, {"repeat"}),
        ("pipeline/data/intake.py", {"prepare"}, {"train_baseline", "evaluate", "report", "retrain/real", *FITS}),
        ("pipeline/data/augment.py", {"augment", "prepare", "pseudo_label/cvae", *FITS}, {"evaluate", "fit_generator/gmm"}),
        ("pipeline/classifier/train.py", {"train_baseline", "retrain/real", "search"}, {"prepare", "report", *FITS}),
        ("pipeline/generators/cgan.py", {"fit_generator/cgan", "generate/cgan", "search"},
         {"fit_generator/cvae", "generate/cvae", "train_baseline", "prepare", "evaluate"}),
        ("pipeline/generators/translate.py", {"generate/translate"}, {"fit_generator/cvae", "generate/diffusion"}),
        ("pipeline/selection/spectra.py", {"pseudo_label/cvae", "measure_fidelity"}, {"prepare", "evaluate", *FITS}),
        ("pipeline/evaluation/verdict.py", {"evaluate"}, {"retrain/real", "search", "pseudo_label/cvae", *FITS}),
        ("pipeline/reporting/figures.py", {"report"}, {"evaluate", "retrain/real", "prepare", *FITS}),
        ("pipeline/reporting/report.html.jinja", {"report"}, {"evaluate", "prepare", *FITS}),
        ("stages/evaluate.py", {"evaluate"}, {"prepare", "retrain/real", *FITS}),
        ("stages/__main__.py", {"prepare", "evaluate", "report", "retrain/real", *FITS}, set()),
    ],
)  # fmt: skip
def test_an_edit_in_each_room_makes_these_stages_stale_and_leaves_those(
    shipped, tree, monkeypatch, edited, again, not_again
):
    monkeypatch.chdir(tree)
    params = shipped.model_copy(update={"profile": "full"})
    before, file = planned(params, tree), tree / edited
    text = file.read_text()
    file.write_text(text + ("\n" if edited.endswith("jinja") else "\n# edited\n"))
    changed = {name for name, code in planned(params, tree).items() if code != before[name]}
    file.write_text(text)
    again = {name for name in again if name != "fit_generator/translate"}  # it borrows a model: nothing is fitted
    assert again <= changed, again - changed
    assert not not_again & changed, not_again & changed


def test_what_python_leaves_beside_the_code_makes_nothing_stale(shipped, tree, monkeypatch):
    monkeypatch.chdir(tree)
    before = planned(shipped, tree)
    (tree / "pipeline" / "__pycache__").mkdir(exist_ok=True)
    (tree / "pipeline" / "__pycache__" / "samples.cpython-312.pyc").write_bytes(b"anything")
    (tree / "pipeline" / "notes.txt").write_text("anything")
    assert planned(shipped, tree) == before
