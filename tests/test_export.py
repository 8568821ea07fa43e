"""What is handed on after a run, from a small made-up run. Run: python -m pytest tests/test_export.py"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps
from ruamel.yaml import YAML

from pipeline import params as parameters
from pipeline.classifier import predict
from pipeline.classifier.model import Network, Settings
from pipeline.data import intake
from pipeline.reporting import html, portable, tables
from pipeline.reporting.markdown import plain
from pipeline.samples import Facts, Samples, table, to_network
from stages import export

ROOT = Path(__file__).parents[1]
WORST = ("../a/b\\c:*?.", "$(touch owned) `x` | \"'", "é" * 127 + "e", "NA")  # the last two are the scarce ones
ARMS = {"real": ("nothing", "nothing", "plain"), "cvae": ("cvae", "nothing", "synthetic")}
COLUMNS = [
    "path",
    "label",
    "generator",
    "generator_weights_sha256",
    "seed",
    "confidence",
    "judged",
    "distance",
    "copy_distance",
    "synthetic",
]


def samples(counts: tuple[int, ...], split: str, origin: str = "real", **columns: object) -> Samples:
    y = np.repeat(np.arange(len(WORST)), counts)
    seeds = np.random.default_rng([len(y), *origin.encode()]).integers(0, 2**63 - 1, len(y))
    ids = [f"{origin}-{c}-{s}" for c, s in zip(y, seeds, strict=True)]
    labels = [WORST[c] for c in y]
    judged = {"judged": labels, "confidence": np.linspace(0.1, 0.9, len(y)), "distance": 0.5, "copy_distance": 0.2}
    columns = {"seed": seeds} | judged | columns
    frame = table(id=ids, group=ids, label=labels, split=[split] * len(y), origin=[origin] * len(y), **columns)
    images = np.random.default_rng(len(y)).integers(0, 256, (len(y), 8, 8, 1), dtype=np.uint8)
    return Samples(frame, images, Facts(WORST, WORST[2:]))


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


FOUND = {"cvae": {"share": 0.3, "weight": 0.4}}  # by the search, for tuned arms


def finish(folder: Path, word: str = "HELPS", arms: dict[str, tuple[str, str, str]] = ARMS, **arm: str) -> Path:
    """A finished run: train has 12, 10, 4 and 2 rows; generators made 8 rows of each scarce class, every other one kept."""
    yaml = YAML(typ="safe")
    text = yaml.load(ROOT / "params.yaml")
    text["arms"] = {
        name: text["arms"][name]
        | {"rows": rows, "also": also, "recipe": recipe, "quick": True, **(arm if rows != "nothing" else {})}
        for name, (rows, also, recipe) in arms.items()
    }
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(text, file)
    params = parameters.load(folder / "params.yaml")
    samples((12, 10, 4, 2), "train").save(folder / "data/real/train")
    samples((3, 3, 3, 3), "val").save(folder / "data/real/val")
    for generator in ("nothing", "cvae", "cgan"):
        counts = (0, 0, 0, 0) if generator == "nothing" else (0, 0, 8, 8)
        keep = np.arange(sum(counts)) % 2 == 1
        made = samples(counts, "synthetic", generator, keep=keep, reason=np.where(keep, "", "unlike"))
        made.save(folder / "data/selected" / generator)
        write(folder / "data/selected" / generator / "summary.json", summary(made))
        write(folder / "models/generators" / generator / "generator.json", {})
        write(folder / "results/search" / f"{generator}.json", FOUND.get(generator, {}))
    write(folder / "models/generators/cvae/weights.safetensors", "weights of the cvae")
    for name in arms:
        train_arm(folder, params, name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    judge(folder, word, list(arms))
    return folder


def summary(made: Samples) -> dict:
    dropped = dict.fromkeys(("copy", "third_class", "quota"), 0)
    counts = {"wanted": 8, "generated": 8, "kept": 4, "agreed": 8, "dropped": dropped | {"unlike": 4}}
    return {
        "copy_rule": {"distance": 0.05, "ratio": 0.4},
        "refused": "",
        "warnings": [],
        "classes": {c: counts for c in WORST[2:] if len(made)},
    }


def train_arm(folder: Path, params: parameters.Params, name: str) -> None:
    """Two seeds with weights of their own, and the record that `retrain` writes."""
    settings = Settings(size=8, channels=1, classes=4, widths=(8, 8), depth=1, fold=1, batch=4, steps=1, lr=0.1, weight_decay=0.1,
                        dropout=0.1, label_smoothing=0.1)  # fmt: skip
    for seed in (0, 1):
        torch.manual_seed(seed + 10 * len(name))
        predict.save(Network(settings), settings, folder / "models/arms" / name / f"seed{seed}")
    arm, recipe = export.settle(params, params.arms[name], FOUND.get(params.arms[name].rows, {}))
    made = [Samples.load(folder / "data/selected" / g) for g in arm.generators]
    chosen = export.added_rows(params, arm, recipe, Samples.load(folder / "data/real/train"), made)
    counts = sum(np.bincount(m.y[rows], minlength=4) for m, rows in zip(made, chosen, strict=True))
    record = {
        "settings": settings.model_dump(mode="json"),
        "seeds": [0, 1],
        "policy": {"policy": "glyph", "flips": []},
        "arm": arm.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "synthetic_rows": {c: int(n) for c, n in zip(WORST, counts, strict=True)},
        "pool_rows": 0,
    }
    write(folder / "models/arms" / name / "record.json", record)


def judge(folder: Path, word: str, arms: list[str]) -> None:
    """What `evaluate` and `report` write: the last arm is the chosen one, and its second seed the best on validation."""
    lines = [(a, s, "", "balanced_accuracy", 0.6 + 0.1 * s + 0.01 * i) for i, a in enumerate(arms) for s in (0, 1)]
    lines += [(a, s, c, "recall", np.nan if c == "NA" else 0.5 + 0.1 * s) for a in arms for s in (0, 1) for c in WORST]
    scores = pd.DataFrame(lines, columns=["arm", "seed", "class", "metric", "value"])
    verdict = {
        "verdict": word,
        "reason": "because",
        "best_control": arms[0],
        "chosen_arm": arms[-1],
        "confidence": 0.95,
    }
    verdict |= {"test": {"rows": 40, "fingerprint": "0123abcd"}}
    counts = {"train": dict(zip(WORST, (12, 10, 4, 2), strict=True)), "test": dict.fromkeys(WORST, 10) | {"NA": 0}}
    about = {"source": "made up", "classes": WORST, "counts": counts, "leaking_groups": 0, "scarce": WORST[2:]}
    about["window"] = [12.5, 3071.0]
    choices = {"best_seed": {a: int(i > 0) for i, a in enumerate(arms)}, "validation_rows": 12}
    warned = ["class *NA* has 2 rows"] if word == "HELPS" else []
    write(folder / "results/evaluation/verdict.json", verdict)
    write(folder / "results/evaluation/choices.json", choices)
    write(folder / "reports/verdict.json", verdict | {"sentence": "It is <b>so</b>.", "warnings": warned})
    write(folder / "reports/metrics.json", tables.summarise(scores, 0.95))
    write(folder / "reports/data.json", about)
    scores.to_csv(folder / "reports/scores.csv", index=False)


MADE = next(m for m in (ROOT / "Makefile").read_text().splitlines() if "stages export" in m)
*ARGUMENTS, OUT = MADE.split("stages export")[1].split()  # as make gives them


def hand_on(folder: Path, out: Path) -> Path:
    export.main(parameters.load(folder / "params.yaml"), *(folder / a for a in ARGUMENTS), out)
    return out


def command(folder: Path) -> subprocess.CompletedProcess:
    """`python -m stages export ...` in the folder, as make runs it."""
    call = [sys.executable, "-m", "stages", "export", *ARGUMENTS, OUT]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run(call, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hand_on(run, tmp_path_factory.mktemp("handed on") / "export")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seconds that a real ONNX model takes."""
    monkeypatch.setattr(portable, "to_onnx", lambda *_: b"onnx")
    monkeypatch.setattr(portable, "largest_difference", lambda *_: 0.0)


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_the_folder_holds_the_model_its_cards_and_the_rows(exported: Path) -> None:
    names = set(files(exported))
    model = {"model.safetensors", "model.onnx", "model.json", "MODEL_CARD.md"}
    assert model | {"synthetic/manifest.csv", "synthetic/DATASET_CARD.md"} <= names
    assert sum(name.endswith(".png") for name in names) == 8 and len(names) == 14


def test_the_weights_are_those_of_the_best_seed_and_the_card_says_their_hash(run: Path, exported: Path) -> None:
    card = json.loads((exported / "model.json").read_text())
    weights = (exported / "model.safetensors").read_bytes()
    assert weights == (run / "models/arms/cvae/seed1.safetensors").read_bytes()
    for name in ("model.safetensors", "model.onnx"):
        assert card["files"][name]["sha256"] == hashlib.sha256((exported / name).read_bytes()).hexdigest()
    assert card["arm"]["name"] == "cvae" and card["seed"] == 1 and card["classes"] == list(WORST)
    assert card["input"]["shape"] == ["batch", 1, 8, 8] and card["network"]["widths"] == [8, 8]
    assert card["synthetic_rows"] == {"generators": ["cvae"], "by_class": dict(zip(WORST, (0, 0, 4, 4), strict=True))}
    assert card["test"] == {"rows": 40, "fingerprint": "0123abcd"} and card["software"]["torch"] == torch.__version__
    assert card["own_test_scores"]["balanced_accuracy"] == pytest.approx(0.71)
    mean = card["arm_test_scores"]["balanced_accuracy"]
    assert mean["mean"] == pytest.approx(0.66) and mean["ci_low"] < 0.66 < mean["ci_high"]


def test_onnx_says_what_torch_says_for_any_batch(run: Path, exported: Path) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    model, network = onnx.load(exported / "model.onnx"), predict.load(run / "models/arms/cvae/seed1")
    evaluator, images = ReferenceEvaluator(model), samples((3, 3, 3, 3), "val").images
    for part in (images[:1], images[:5], images):
        said = evaluator.run(None, {"images": to_network(part).numpy()})[0]
        np.testing.assert_allclose(said, network(to_network(part)).detach().numpy(), atol=1e-5)
    assert {p.key: p.value for p in model.metadata_props}["classes"] == json.dumps(WORST)


def test_no_file_names_a_folder_of_this_machine(exported: Path) -> None:
    for name, content in files(exported).items():
        assert str(ROOT).encode() not in content and b"site-packages" not in content, name


def test_a_picture_has_the_pixels_and_the_history_of_its_row(run: Path, exported: Path) -> None:
    rows = Samples.load(run / "data/selected/cvae")
    place = {i: n for n, i in enumerate(rows.table["id"])}
    manifest = pd.read_csv(exported / "synthetic/manifest.csv", keep_default_na=False, dtype=str)
    assert list(manifest.columns) == COLUMNS and (manifest["synthetic"] == "true").all()
    found = {str(f.relative_to(exported / "synthetic")) for f in (exported / "synthetic").rglob("*.png")}
    assert set(manifest["path"]) == found and set(manifest["label"]) == set(WORST[2:])
    for line in manifest.to_dict("records"):
        row = rows.table.iloc[place[Path(line["path"]).stem]]
        with Image.open(exported / "synthetic" / line["path"]) as picture:
            np.testing.assert_array_equal(np.asarray(picture)[..., None], rows.images[place[row["id"]]])
            texts = dict(picture.text)
        shared = ("synthetic", "generator", "generator_weights_sha256", "seed", "confidence")
        expected = {key: line[key] for key in shared} | {"class": row["label"], "pipeline_version": "0.1.0"}
        assert texts == expected and texts["synthetic"] == "true"
        assert texts["seed"] == str(row["seed"]) and float(texts["confidence"]) == row["confidence"]
        assert line["label"] == row["label"] and row["keep"]
    assert set(manifest["generator_weights_sha256"]) == {hashlib.sha256(b"weights of the cvae").hexdigest()}


def test_the_cards_can_be_read_by_people(exported: Path) -> None:
    model, rows = ((exported / f).read_text() for f in ("MODEL_CARD.md", "synthetic/DATASET_CARD.md"))
    for words in ("It is \\<b\\>so\\</b\\>. Because. Use the model of arm cvae.", "8 rows made by cvae", "0123abcd",
                  "nothing measured, for: NA", "| balanced accuracy | 66.0 [", " | 71.0 |"):  # fmt: skip
        assert words in model, words
    copies = "within 0.050 of a training row, or 0.40 times as far"
    for words in ("**These rows helped.**", copies, "Not anonymous", "Never to be used for evaluation",
                  "| cvae | NA | 8 | 8 | 4 |"):  # fmt: skip
        assert words in rows, words


def test_the_cards_tell_the_warnings_of_the_run(exported: Path, tmp_path: Path, quick: None) -> None:
    calm = hand_on(finish(tmp_path, "NEUTRAL"), tmp_path / "export")
    for card in ("MODEL_CARD.md", "synthetic/DATASET_CARD.md"):
        assert "## Warnings of the run\n\n- class \\*NA\\* has 2 rows\n\nMade by" in (exported / card).read_text()
        assert "Warnings of the run" not in (calm / card).read_text()
    assert json.loads((exported / "model.json").read_text())["verdict"]["warnings"] == ["class *NA* has 2 rows"]


@pytest.mark.parametrize("fit", ["letterbox", "crop", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_code_on_the_card_prepares_a_picture_as_the_run_did(tmp_path: Path, fit: str, channels: int) -> None:
    """It once stretched every picture: a tenth of the answers differed."""
    card = {"network": {"size": 12, "channels": channels}}
    card["input"] = {"preparation": {"fit": fit, "background": 0}}
    lines = (Path(html.__file__).with_name("model_card.md.jinja")).read_text()
    code = lines[lines.index("image = ImageOps.exif") : lines.index("pixels = np.asarray")]
    code = html.Environment(trim_blocks=True, lstrip_blocks=True).from_string(code).render(card=card)
    for size in ((31, 20), (9, 40), (12, 12)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "picture.png")
        names = {"Image": Image, "ImageOps": ImageOps, "np": np}
        exec(code.replace("picture.png", str(tmp_path / "picture.png")), names)
        found = np.asarray(names["image"]).reshape(12, 12, channels)
        assert np.array_equal(found, intake.square(pixels, 12, channels, fit))


def test_the_command_gives_the_same_bytes(run: Path, exported: Path) -> None:
    done = command(run)
    assert done.returncode == 0, done.stderr
    assert "ONNX and torch differ by at most" in done.stderr
    assert OUT == "export" and files(run / OUT) == files(exported)
    assert not list(run.rglob("owned"))


@pytest.mark.parametrize("word", ["HELPS", "HURTS", "NEUTRAL", "CANNOT_TELL"])
def test_the_model_is_the_advised_one_and_the_rows_are_there_whatever_the_verdict(
    word: str, tmp_path: Path, quick: None
) -> None:
    out = hand_on(finish(tmp_path, word), tmp_path / "export")
    card, rows = json.loads((out / "model.json").read_text()), (out / "synthetic/DATASET_CARD.md").read_text()
    assert card["arm"]["name"] == ("cvae" if word == "HELPS" else "real") and card["seed"] == int(word == "HELPS")
    assert ("These rows helped" in rows) == (word == "HELPS") and ("did not help" in rows) == (
        word in ("HURTS", "NEUTRAL")
    )
    assert ("is not settled" in rows) == (word == "CANNOT_TELL")
    assert ("alone" in (out / "MODEL_CARD.md").read_text()) == (word != "HELPS")


def labels(out: Path) -> list[str]:
    return (
        pd.read_csv(out / "synthetic/manifest.csv", keep_default_na=False)["label"].value_counts().sort_index().tolist()
    )


def test_only_the_rows_of_the_dose_are_handed_on(tmp_path: Path, quick: None) -> None:
    out = hand_on(finish(tmp_path, dose="quarter"), tmp_path / "export")
    assert labels(out) == [2, 2]  # a quarter of the way from 4 and 2 rows to 12, though 4 of each were kept


def test_rows_that_selection_dropped_are_left_out_even_if_the_arm_learnt_from_them(tmp_path: Path, quick: None) -> None:
    out = hand_on(finish(tmp_path, use="all"), tmp_path / "export")
    assert labels(out) == [4, 4]
    assert "8 more rows that it learnt from had been dropped" in (out / "synthetic/DATASET_CARD.md").read_text()


def test_an_arm_of_two_generators_hands_on_rows_of_both(tmp_path: Path, quick: None) -> None:
    arms = {"real": ARMS["real"], "mixture": ("cvae", "cgan", "synthetic")}
    out = hand_on(finish(tmp_path, arms=arms), tmp_path / "export")
    manifest = pd.read_csv(out / "synthetic/manifest.csv", keep_default_na=False)
    assert manifest["generator"].value_counts().to_dict() == {"cvae": 8, "cgan": 8}
    assert set(manifest.loc[manifest["generator"] == "cgan", "generator_weights_sha256"]) == {""}


def test_rows_drawn_from_the_model_of_another_generator_carry_the_hash_of_its_weights(
    tmp_path: Path, quick: None
) -> None:
    finish(tmp_path, arms={"real": ARMS["real"], "cgan": ("cgan", "nothing", "synthetic")})
    yaml, file = YAML(typ="safe"), tmp_path / "params.yaml"
    text = yaml.load(file)
    text["generators"]["cgan"]["model"] = "cvae"
    with file.open("w") as stream:
        yaml.dump(text, stream)
    out = hand_on(tmp_path, tmp_path / "export")
    own = hashlib.sha256((tmp_path / "models/generators/cvae/weights.safetensors").read_bytes()).hexdigest()
    manifest = pd.read_csv(out / "synthetic/manifest.csv", keep_default_na=False)
    assert set(manifest["generator"]) == {"cgan"} and set(manifest["generator_weights_sha256"]) == {own}
    assert (
        f"cgan (family cgan): {len(manifest)} rows, weights `{own}`" in (out / "synthetic/DATASET_CARD.md").read_text()
    )


def test_the_model_says_which_range_of_deep_pixels_it_was_given(exported: Path) -> None:
    assert json.loads((exported / "model.json").read_text())["input"]["preparation"]["deep_range"] == [12.5, 3071.0]


def test_the_card_tells_an_epsilon_and_what_it_does_not_cover(tmp_path: Path, quick: None) -> None:
    finish(tmp_path)
    said = {"epsilon": 7.9965, "delta": 0.00034, "rows": 28, "secret": True}
    write(tmp_path / "models/generators/cvae/generator.json", {"guarantee": said})
    page = (hand_on(tmp_path, tmp_path / "export") / "synthetic/DATASET_CARD.md").read_text()
    assert "It was fitted with differential privacy, epsilon 8.00 at delta 3.4e-04" in page
    assert (
        "k rows it is about k times that epsilon. Not covered are" in page and "cannot be repeated to the byte." in page
    )


def test_the_card_does_not_deny_copies_that_were_not_looked_for(tmp_path: Path, quick: None) -> None:
    finish(tmp_path)
    file = tmp_path / "params.yaml"
    file.write_text(re.sub(r"copy_false_alarms: [\d.]+", "copy_false_alarms: 0.0", file.read_text()))
    page = (hand_on(tmp_path, tmp_path / "export") / "synthetic/DATASET_CARD.md").read_text()
    assert (
        "Copies were not looked for." in page and "No copy was looked for" in page and "Dropped as copies" not in page
    )


@pytest.mark.parametrize("case", ["no candidate", "no row learnt from"])
def test_without_synthetic_rows_there_is_only_the_model(case: str, tmp_path: Path, quick: None) -> None:
    if case == "no candidate":
        finish(tmp_path, "CANNOT_TELL")
        for file in (tmp_path / "results/evaluation/verdict.json", tmp_path / "reports/verdict.json"):
            write(file, json.loads(file.read_text()) | {"chosen_arm": ""})
    else:
        finish(tmp_path, "CANNOT_TELL", {"real": ARMS["real"], "cvae": ("nothing", "nothing", "synthetic")})
    out = hand_on(tmp_path, tmp_path / "export")
    assert set(files(out)) == {"model.safetensors", "model.onnx", "model.json", "MODEL_CARD.md"}


def test_the_check_sees_another_model(exported: Path, run: Path) -> None:
    other, images = predict.load(run / "models/arms/real/seed0"), samples((3, 3, 3, 3), "val").images
    assert portable.largest_difference((exported / "model.onnx").read_bytes(), other, images) > portable.TOLERANCE


@pytest.mark.parametrize("difference", [1.1e-4, float("nan")])
def test_a_model_that_says_something_else_is_refused(
    difference: float, run: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portable, "largest_difference", lambda *_: difference)
    with pytest.raises(ValueError, match=r"the ONNX model of arm cvae differs .* more than 0\.0001"):
        hand_on(run, tmp_path / "export")


@pytest.mark.parametrize(
    "missing", ["results", "reports", "data/real/train", "models/arms/cvae/seed1.safetensors", "data/selected/cvae"]
)
def test_a_run_that_was_not_finished_is_named(missing: str, tmp_path: Path, quick: None) -> None:
    path = finish(tmp_path) / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=r"is missing: only a finished run can be exported; run `make repro`"):
        hand_on(tmp_path, tmp_path / "export")


def test_without_a_run_the_command_ends_with_2_and_words(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    done = command(tmp_path)
    assert done.returncode == 2 and "verdict.json is missing" in done.stderr and "run `make repro`" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "export").exists()


def change(file: Path, edit: Callable[[dict], None]) -> None:
    content = json.loads(file.read_text())
    edit(content)
    write(file, content)


@pytest.mark.parametrize(
    ("file", "edit", "words"),
    [
        ("reports/verdict.json", lambda v: v.update(verdict="HURTS"), "tells of another run"),
        ("models/arms/cvae/record.json", lambda r: r["arm"].update(dose="sqrt"), "cvae was trained with other params"),
        ("models/arms/cvae/record.json", lambda r: r["recipe"].update(tau=0.5), "cvae was trained with other params"),
        ("models/arms/cvae/record.json", lambda r: r["synthetic_rows"].update(NA=3), "with other synthetic rows"),
    ],
)
def test_parts_of_different_runs_are_not_handed_on_together(
    file: str, edit: Callable[[dict], None], words: str, tmp_path: Path, quick: None
) -> None:
    change(finish(tmp_path) / file, edit)
    with pytest.raises(ValueError, match=words):
        hand_on(tmp_path, tmp_path / "export")


def test_folder_names_are_safe_distinct_and_in_label_order() -> None:
    names = [*WORST, "con", "CON", "a b", "a_b", "", "\n", "...", "x" * 255]
    found = portable.folders(names)
    assert list(found) == names and found["a b"] == "06_a_b" and found["a_b"] == "07_a_b" and found["..."] == "10"
    shown = list(found.values())
    assert shown == sorted(shown) and len({s.lower() for s in shown}) == len(names)
    assert all(len(s) <= 44 and s.isascii() and s.replace("_", "").replace("-", "").isalnum() for s in shown)
    assert portable.folders(["only"]) == {"only": "0_only"}


def test_a_colour_picture_keeps_its_pixels(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    (tmp_path / "x.png").write_bytes(portable.png(image, {"class": "日本 é"}))
    with Image.open(tmp_path / "x.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), image)
        assert picture.text == {"class": "日本 é"}


def test_names_show_as_they_stand() -> None:
    assert plain("a|b `c` <i>\x1b[31m\n") == "a|b \\`c\\` \\<i\\>\\\\x1b\\[31m\\\\n"


def test_a_start_of_export_loads_neither_torch_nor_onnx() -> None:
    code = "import sys, stages.export; sys.exit(bool({'torch', 'onnx', 'onnxscript'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_rows_of_a_pool_stand_on_the_card_and_are_not_handed_on(tmp_path: Path, quick: None) -> None:
    finish(tmp_path, arms={"real": ARMS["real"], "cvae": ("cvae", "pool", "synthetic")})
    file = tmp_path / "models/arms/cvae/record.json"
    write(file, json.loads(file.read_text()) | {"pool_rows": 7})
    out = hand_on(tmp_path, tmp_path / "export")
    assert json.loads((out / "model.json").read_text())["pool_rows"] == 7
    assert "7 real rows without a label, which other models labelled" in (out / "MODEL_CARD.md").read_text()
    assert set(pd.read_csv(out / "synthetic" / "manifest.csv")["generator"]) == {"cvae"}


def test_an_arm_that_was_trained_with_what_the_search_found_is_handed_on_as_such(tmp_path: Path, quick: None) -> None:
    finish(tmp_path)
    record = json.loads((tmp_path / "models/arms/cvae/record.json").read_text())
    assert {k: record["recipe"][k] for k in FOUND["cvae"]} == FOUND["cvae"]
    assert json.loads((hand_on(tmp_path, tmp_path / "export") / "model.json").read_text())["recipe"] == record["recipe"]
    write(tmp_path / "results/search/cvae.json", {})
    with pytest.raises(ValueError, match="arm cvae was trained with other params"):
        hand_on(tmp_path, tmp_path / "again")
