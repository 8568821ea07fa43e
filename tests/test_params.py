"""params.yaml is refused with every mistake named at once. Run: python -m pytest tests/test_params.py"""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import generators, params

SHIPPED = Path(params.__file__).parents[2] / "params.yaml"


def changed(folder: Path, changes: dict[str, Any]) -> Path:
    """The shipped file with some dotted keys set, written as JSON, which is YAML too."""
    raw = YAML(typ="safe", pure=True).load(SHIPPED)
    for key, value in changes.items():
        *path, last = key.split(".")
        block = raw
        for part in path:
            block = block[part]
        block[last] = value
    file = folder / "params.yaml"
    file.write_text(json.dumps(raw))
    return file


def refusal(folder: Path, changes: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as error:
        params.load(changed(folder, changes))
    return str(error.value)


def test_shipped_file_loads_and_every_generator_can_be_built(compute):
    shipped = params.load(SHIPPED)
    for name in shipped.generators:
        block = params.borrowing(shipped.generators, name)
        assert generators.build(block, compute, name).options.model_dump().keys() == block.options.keys()


def test_loading_does_not_depend_on_how_the_file_is_written(tmp_path):
    assert params.load(changed(tmp_path, {})) == params.load(SHIPPED)


def test_a_byte_order_mark_is_ignored(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"\xef\xbb\xbf" + SHIPPED.read_bytes())
    assert params.load(tmp_path / "params.yaml") == params.load(SHIPPED)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("sed", 1, "unknown key"),
        ("x", 1, "unknown key"),
        ("classifier.learning_rate", 0.1, "unknown key"),
        ("data.image-size", 8, "unknown key"),
        ("data.image size", 8, "unknown key"),
        ("data.int", 8, "unknown key"),
        ("seed", "zero", "valid integer"),
        ("seed", -1, "greater than or equal to 0"),
        ("data.source", "", "at least 1"),
        ("data.test_fraction", 0, "greater than 0"),
        ("data.fit", "squeeze", "letterbox"),
        ("data.max_pixels", 0, "greater than 0"),
        ("augment.strength", float("nan"), "valid number"),
        ("seed", True, "valid integer"),
        ("retraining.seeds", "7", "valid integer"),
        ("data.allow_leaks", 1, "valid boolean"),
        ("data.classes", ["a", "b", "a"], "each name may stand once"),
        ("data.max_pixels", 10**12, "less than or equal to"),
        (
            "data.max_pixels",
            178_956_971,
            "less than or equal to 178956970",
        ),  # where Pillow refuses, whatever is asked for
        ("classifier.lr", 1e30, "less than or equal to"),
        ("classifier.lr", 0, "greater than 0"),
        ("classifier.dropout", 1, "less than 1"),
        ("teachers.folds", 1, "greater than or equal to 2"),
        ("generation.cap.ratio", [10.0], "required"),
        ("generation.oversupply", 0.5, "greater than or equal to 1"),
        ("retraining.seeds", "six", "valid integer"),
        ("recipes.plain.balance", 1.5, "less than or equal to 1"),
        ("recipes.plain.balance", "rare", "valid number"),
        ("recipes.plain.balance", [1.0, 2.0], "less than or equal to 1"),
        ("recipes.plain.balance", [1.0], "required"),
        ("recipes.plain.balance", [1.0, 0.5, 0.0], "at most 2"),
        ("recipes.plain.balance", True, "valid number"),
        ("recipes.plain.tau", -1, "greater than or equal to 0"),
        ("recipes.plain.alpha", 0, "greater than 0"),
        ("recipes.plain.mix", "blend", "cutmix"),
        ("recipes.plain.loss", "focal", "balanced_softmax"),
        ("recipes.plain.views", "weak", "strong"),
        ("recipes.plain.lr", 0.1, "unknown key"),
        ("arms.real.balance", 1.0, "unknown key"),
        ("arms.real.use", "some", "shuffled"),
        ("augment.strong.magnitude", 1.5, "less than or equal to 1"),
        ("augment.strong.transforms", 0, "greater than or equal to 1"),
        ("profile", "fast", "quick"),
        ("arms.real.quick", "maybe", "valid boolean"),
        ("arms.real.role", "judge", "control"),
        ("evaluation.primary_metric", "f1", "macro_f1"),
        ("evaluation.confidence", 95, "less than 1"),
        ("report.show_real_images", "perhaps", "valid boolean"),
        ("compute.accelerator", "tpu", "cuda"),
        ("compute", None, "valid dictionary"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_is_allowed(tmp_path, key, value, says):
    message = refusal(tmp_path, {key: value})
    assert f"  {key}" in message and says in message, message
    assert "1 mistake:" in message, message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.image_size", 2),
        ("data.image_size", "big"),
        ("data.channels", 2),
        ("data.scarce.classes", 3),
        ("classifier.widths", [0, 32]),
        ("classifier.batch", 0),
        ("classifier.steps", "many"),
    ],
)
def test_a_mistake_where_auto_is_also_allowed_is_one_line_naming_the_key(tmp_path, key, value):
    header, *lines = refusal(tmp_path, {key: value}).splitlines()
    assert len(lines) == 1 and "1 mistake:" in header, (header, lines)
    assert lines[0].startswith((f"  {key}:", f"  {key}.0:")), lines


def test_a_missing_key_is_named(tmp_path):
    file = changed(tmp_path, {})
    raw = json.loads(file.read_text())
    del raw["classifier"]["lr"]
    file.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"classifier\.lr: Field required"):
        params.load(file)


def test_all_mistakes_are_shown_at_once(tmp_path):
    wrong = {"seed": -1, "data.fit": "x", "classifier.lr": "fast", "recipes.plain.share": 2, "extra": 1}
    header, *lines = refusal(tmp_path, wrong).splitlines()
    assert "5 mistakes" in header
    assert sorted(line.split(":")[0].strip() for line in lines) == sorted(wrong)


def test_an_unknown_family_lists_what_exists(tmp_path):
    message = refusal(tmp_path, {"generators.smote.family": "smoke"})
    assert "smote.family is 'smoke'" in message
    assert all(family in message for family in params.families())


def test_a_recipe_to_try_must_exist(tmp_path):
    message = refusal(tmp_path, {"search.space.recipe": ["cutmix", "cutmx"]})
    assert "search.space.recipe names ['cutmx']; recipes has: plain, " in message


def test_rows_from_the_pool_are_refused_with_the_key_that_adds_them(tmp_path):
    message = refusal(tmp_path, {"arms.pool.rows": "pool"})
    assert "arms.pool.rows is 'pool'" in message and "rows of the pool come with `also: pool`" in message


def test_families_are_the_public_files_of_the_folder():
    assert {"nothing", "duplicate"} <= set(params.families())
    assert not {"base", "_blocks", "_rows", "__init__"} & set(params.families())


def test_an_arm_that_names_no_generator_lists_the_blocks(tmp_path):
    message = refusal(tmp_path, {"arms.smote.rows": "smoke", "arms.cvae.rows": "vae"})
    assert "arms.smote.rows is 'smoke'" in message and "arms.cvae.rows is 'vae'" in message
    assert "duplicate" in message


@pytest.mark.parametrize(
    ("key", "value", "says", "listed"),
    [
        ("arms.real.recipe", "plane", "arms.real.recipe is 'plane'", "recipes"),
        ("arms.mixture.also", "gan", "arms.mixture.also is 'gan'", "generators"),
        ("teachers.recipe", "plane", "teachers.recipe is 'plane'", "recipes"),
    ],
)
def test_a_name_that_does_not_exist_is_told_with_its_key_and_the_names_that_do(tmp_path, key, value, says, listed):
    message = refusal(tmp_path, {key: value})
    assert says in message and ", ".join(getattr(params.load(SHIPPED), listed)) in message and "1 mistake:" in message


@pytest.mark.parametrize("key", ["recipe", "also"])
def test_all_arms_that_name_what_does_not_exist_are_told_at_once(tmp_path, key):
    message = refusal(tmp_path, {f"arms.cvae.{key}": "x", f"arms.cgan.{key}": "y"})
    assert f"arms.cvae.{key} is 'x'; arms.cgan.{key} is 'y'" in message


def test_a_balance_is_a_number_or_a_course(tmp_path):
    loaded = params.load(changed(tmp_path, {"recipes.plain.balance": 1, "recipes.balanced.balance": [1, 0]}))
    assert loaded.recipes["plain"].balance == 1.0 and loaded.recipes["balanced"].balance == (1.0, 0.0)


SET = "sets/dermamnist.yaml"


@pytest.mark.parametrize(
    ("profile", "source", "quick"),
    [
        ("full", params.EMBEDDED, False),
        ("quick", params.EMBEDDED, True),
        ("auto", params.EMBEDDED, True),
        ("auto", SET, False),
        ("auto", "digits", False),
        ("quick", SET, True),
    ],
)
def test_the_quick_profile_leaves_out_the_arms_it_names_and_auto_is_quick_for_the_digits_alone(
    tmp_path, profile, source, quick
):
    skip = {f"arms.{name}.quick": False for name in ("real", "diffusion")}
    loaded = params.load(changed(tmp_path, {"profile": profile, "data.source": source, **skip}))
    left = {
        "oversample",
        "duplicate",
        "classic",
        "smote",
        "balanced_softmax",
        "logit_adjusted",
        "mixup",
        "cvae",
        "cgan",
    }
    assert set(loaded.compared) == (
        left if quick else set(loaded.arms) - {"autoregressive", "private", "pool", "pool_diffusion"}
    )
    assert list(loaded.compared) == [name for name in loaded.arms if name in loaded.compared]
    assert all(arm is loaded.arms[name] for name, arm in loaded.compared.items())


@pytest.mark.parametrize("profile", ["full", "quick"])
def test_an_arm_of_role_skip_is_in_no_profile(tmp_path, profile):
    loaded = params.load(changed(tmp_path, {"profile": profile, "arms.cvae.role": "skip", "arms.mixup.role": "skip"}))
    assert not {"cvae", "mixup"} & set(loaded.compared) and {"cgan", "real"} <= set(loaded.compared)


def test_negative_arms_are_compared(tmp_path):
    loaded = params.load(changed(tmp_path, {"profile": "full"}))
    assert {arm.role for arm in loaded.compared.values()} == {"control", "candidate", "negative"}


def test_the_control_that_is_needed_must_be_one_that_is_trained(tmp_path):
    arms = json.loads(changed(tmp_path, {}).read_text())["arms"]
    controls = [name for name, arm in arms.items() if arm["role"] == "control" and arm["also"] != "pool"]
    not_quick = {f"arms.{name}.quick": False for name in controls}
    assert "role: control" in refusal(tmp_path, {"profile": "quick", **not_quick})
    assert "role: control" in refusal(tmp_path, {f"arms.{name}.role": "skip" for name in controls})
    assert set(controls) <= set(params.load(changed(tmp_path, {"profile": "full", **not_quick})).compared)


def test_other_splits_need_an_arm_to_judge(tmp_path):
    """Told before anything runs; not after hours."""
    arms = json.loads(changed(tmp_path, {}).read_text())["arms"]
    none = {f"arms.{name}.role": "skip" for name, arm in arms.items() if arm["role"] == "candidate"}
    assert params.load(changed(tmp_path, none)).evaluation.repeats == 1
    assert "no arm that is trained has `role: candidate`" in refusal(tmp_path, {**none, "evaluation.repeats": 2})
    assert params.load(changed(tmp_path, {"evaluation.repeats": 2})).evaluation.repeats == 2


@pytest.mark.parametrize("key", ["rows", "also"])
@pytest.mark.parametrize("role", ["candidate", "control"])
def test_an_arm_with_more_real_rows_than_others_is_no_candidate_and_no_control(tmp_path, key, role):
    """A set of real rows could be what "generative augmentation" helped with."""
    aside = {"data.heldback": 0.3, f"arms.gmm.{key}": "heldback", "arms.gmm.use": "all", "arms.gmm.tuned": False}
    assert f"it can be no {role}; expected role: oracle" in refusal(tmp_path, {**aside, "arms.gmm.role": role})
    for fit in ("oracle", "negative", "skip"):
        assert params.load(changed(tmp_path, {**aside, "arms.gmm.role": fit})).arms["gmm"].role == fit


def test_a_control_arm_is_needed(tmp_path):
    arms = json.loads(changed(tmp_path, {}).read_text())["arms"]
    assert "role: control" in refusal(tmp_path, {f"arms.{name}.role": "candidate" for name in arms})


@pytest.mark.parametrize("name", ["a b", "x;touch y", "é", "Upper", "a@b", "", "a" * 41, "../up"])
def test_names_that_reach_a_command_line_are_plain(tmp_path, name):
    message = refusal(tmp_path, {"generators": {name: {"family": "nothing", "model": name}}})
    assert "  generators" in message and repr(name) in message


@pytest.mark.parametrize("width", [12, 20, 33])
def test_a_width_that_the_network_cannot_normalise_is_refused(tmp_path, width):
    assert "classifier.widths" in refusal(tmp_path, {"classifier.widths": [32, width]})


@pytest.mark.parametrize(
    "text",
    [
        "seed: [1, 2",
        "seed: 0\nseed: 1",
        "seed: !!python/object/apply:os.getcwd []",
        "seed: !!python/name:os.system",
        "\tseed: 0",
        "seed: 0\n--- \nseed: 1",
        "seed: " + "[" * 2000,
        "? [a, [b]]\n: 0",
        'seed: "\\U99999999"',
    ],
)
def test_what_is_no_plain_yaml_is_refused(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"params\.yaml is not valid YAML"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "value", ["2026-13-45", "2026-01-01T99:00:00Z", "!!int no", "!!float x", "!!bool x", "9" * 5000]
)
def test_a_value_that_is_no_date_and_no_number_is_named_by_its_line(tmp_path, value):
    (tmp_path / "params.yaml").write_text(f"profile: auto\nseed: {value}\n")
    with pytest.raises(ValueError, match=r"params\.yaml is not valid YAML: '.{1,100}: .*\n.*line 2, column 7") as error:
        params.load(tmp_path / "params.yaml")
    assert len(str(error.value)) < 1000


def test_aliases_do_not_grow_without_end(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    for text in ("\n".join(lines), "seed: &a [*a]", "data: &a {b: *a}"):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"params\.yaml is not valid YAML: it holds more than 100,000 values"):
            params.load(tmp_path / "params.yaml")


def test_a_key_without_a_name_is_shown(tmp_path):
    assert "  '': unknown key" in refusal(tmp_path, {"": 1}) and "  data.'': unknown key" in refusal(
        tmp_path, {"data.": 1}
    )


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"seed: \xff\xfe")
    with pytest.raises(ValueError, match="not valid YAML"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("text", ["", "just words", "- a\n- list"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match="expected a mapping"):
        params.load(tmp_path / "params.yaml")


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="does not exist; run from the folder"):
        params.load(tmp_path / "params.yaml")


def test_no_stays_text_and_1e_4_is_a_number(tmp_path):
    text = SHIPPED.read_text()
    text = text.replace("classes: auto", "classes: [no, yes, on, NA, '001']").replace("lr: 0.006", "lr: 1e-4")
    (tmp_path / "params.yaml").write_text(text)
    loaded = params.load(tmp_path / "params.yaml")
    assert loaded.data.scarce.classes == ["no", "yes", "on", "NA", "001"]
    assert loaded.classifier.lr == 0.0001


def test_blocks_cannot_be_changed_once_loaded(shipped):
    with pytest.raises(ValueError, match="frozen"):
        shipped.classifier.lr = 1.0


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"neighbors": 5}, "neighbors: unknown key"),
        ({"neighbours": 0}, "neighbours: Input should be greater"),
        ({}, "neighbours: Field required"),
    ],
)
def test_a_generators_own_options_are_checked_with_block_and_key(compute, options, key):
    with pytest.raises(ValueError) as error:
        generators.build(params.Generator(family="smote", model="my_smote", **options), compute, "my_smote")
    assert "generators.my_smote (family smote)" in str(error.value) and key in str(error.value)


def test_a_generator_that_draws_from_another_ones_model_has_its_options_too():
    shipped = params.load(SHIPPED)
    lender, block = shipped.generators["diffusion"], params.borrowing(shipped.generators, "translate")
    own = shipped.generators["translate"].options
    assert block.options == {**lender.options, **own} and block.family == "translate" and block.model == "diffusion"
    assert params.borrowing(shipped.generators, "cvae") == shipped.generators["cvae"]


@pytest.mark.parametrize("model", ["gan", "translate"])
def test_the_model_to_draw_from_must_be_one_that_is_fitted(tmp_path, model):
    message = refusal(tmp_path, {"generators.cvae.model": model})
    assert f"cvae.model is '{model}'; expected cvae or one of: nothing, duplicate" in message


def test_only_generators_that_arms_ask_for_are_made_and_those_whose_models_they_draw_from(tmp_path):
    quick = params.load(changed(tmp_path, {"profile": "quick"}))
    assert "translate" not in quick.made and "gmm" not in quick.made and {"cvae", "nothing"} <= set(quick.made)
    skipped = {"profile": "full", "arms.autoregressive.role": "skip"}
    assert set(params.load(changed(tmp_path, skipped)).made) == set(quick.generators) - {"autoregressive", "private"}
    asked = {f"arms.{name}.role": "skip" for name, arm in quick.arms.items() if "diffusion" in (arm.rows, arm.also)}
    made = params.load(changed(tmp_path, {"profile": "full", **asked})).made
    assert {"translate", "diffusion"} <= set(made), "translate draws from it"


@pytest.mark.parametrize("name", ["heldback", "pool", "real"])
def test_names_that_stand_for_real_rows_are_no_generators(tmp_path, name):
    """One called `real` took the place of the training rows where fidelity is measured."""
    message = refusal(tmp_path, {f"generators.{name}": {"family": "smote", "model": name, "neighbours": 5}})
    assert f"generators.{name}: this name stands for the rows" in message


def test_a_key_that_is_no_text_is_named(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(": 3\n" + SHIPPED.read_text())
    with pytest.raises(ValueError, match="a key, None, is no text; expected the name of a key"):
        params.load(file)
