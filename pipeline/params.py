"""params.yaml as frozen typed blocks: unknown keys are refused and all errors are shown at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.fields import (
    Auto,
    Balance,
    Block,
    ClassName,
    Count,
    Name,
    Pair,
    Positive,
    Rising,
    Share,
    distinct,
    explain,
    read,
)

EMBEDDED = "sets/digits.yaml"  # stands for scikit-learn's digits, which need no file


class Scarce(Block):
    classes: Auto | Annotated[list[ClassName], AfterValidator(distinct)]
    below: Share
    of: Literal["largest", "median"]


class Manifest(Block):
    file: str
    path: str
    label: str
    group: str
    split: str
    weight: str


class Deep(Block):
    scale: Literal["auto", "full", "percentiles", "window"]
    percentiles: Annotated[
        tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]], Pair, Rising
    ]
    window: Annotated[tuple[float, float], Pair, Rising]


class Data(Block):
    source: str = Field(min_length=1)
    unlabelled: str = Field(min_length=1)
    downloads: str = Field(min_length=1)
    classes: Auto | Annotated[list[ClassName], Field(min_length=2), AfterValidator(distinct)]
    manifest: Manifest
    image_size: Auto | Annotated[int, Field(ge=4, le=1024)]
    channels: Auto | Literal[1, 3]
    fit: Literal["letterbox", "crop", "stretch"]
    deep: Deep
    background: Annotated[int, Field(ge=0, le=255)]
    frames: Literal["refuse", "first"]
    test_fraction: Annotated[float, Field(gt=0, lt=0.9)]
    val_fraction: Annotated[float, Field(gt=0, lt=0.9)]
    split: Annotated[int, Field(ge=0)]
    scarce: Scarce
    near_duplicates: Literal["group", "warn", "error", "ignore"]
    conflicts: Literal["drop", "error"]
    allow_leaks: bool
    drop_leaks: bool
    heldback: Annotated[float, Field(ge=0, lt=1)]
    max_quarantined: Share
    max_pixels: Annotated[int, Field(gt=0, le=1_000_000_000)]
    min_side: Annotated[int, Field(gt=0, le=1024)]
    max_aspect: Annotated[float, Field(ge=1)]


class Digits(Block):
    commonest: Count
    rarest: Count
    val_rows: Count
    test_rows: Count


class Sources(Block):
    digits: Digits


class Strong(Block):
    transforms: Annotated[int, Field(ge=1, le=10)]
    magnitude: Share


class Augment(Block):
    policy: Literal["auto", "none", "safe", "glyph", "texture"]
    flips: Literal["auto", "none", "horizontal", "vertical", "both"]
    flip_tolerance: Share
    views_per_class: Count
    views_per_row: Annotated[tuple[Count, Count], Pair, Rising]
    strength: Annotated[float, Field(ge=0, le=3)]
    strong: Strong


class Classifier(Block):
    widths: (
        Auto | Annotated[list[Annotated[int, Field(gt=0, le=4096, multiple_of=8)]], Field(min_length=1, max_length=6)]
    )
    batch: Auto | Count
    steps: Auto | Count
    lr: Annotated[float, Field(gt=0, le=10)]
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class Teachers(Block):
    folds: Annotated[int, Field(ge=2, le=20)]
    recipe: Name


class Generator(BaseModel):
    """One named generator: its family names the file, the rest are that family's own options, checked there."""

    model_config = ConfigDict(extra="allow", frozen=True)
    family: Name

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Cap(Block):
    rows: Annotated[tuple[Count, Count], Pair, Rising]
    ratio: Annotated[tuple[Positive, Positive], Pair]


class Generation(Block):
    dose: Literal["full", "median", "sqrt", "quarter"]
    cap: Cap
    oversupply: Annotated[float, Field(ge=1, le=100)]


class Selection(Block):
    band: Annotated[tuple[Annotated[float, Field(ge=0)], Positive], Pair, Rising]
    third_class: Share
    neighbours: Annotated[int, Field(ge=0)]
    copy_floor: Share
    too_few: Share


class Retraining(Block):
    seeds: Annotated[int, Field(ge=1, le=1000)]


class Recipe(Block):
    balance: Balance
    share: Share
    weight: Annotated[float, Field(ge=0, le=10)]
    real_only: Share
    loss: Literal["cross_entropy", "class_weighted", "balanced_softmax"]
    tau: Annotated[float, Field(ge=0, le=4)]
    mix: Literal["none", "mixup", "cutmix", "smote"]
    alpha: Annotated[float, Field(gt=0, le=100)]
    views: Literal["standard", "strong"]


class Arm(Block):
    role: Literal["control", "candidate", "negative", "oracle", "skip"]
    rows: Name
    also: Name
    use: Literal["all", "kept", "shuffled"]
    dose: Literal["full", "median", "sqrt", "quarter"]
    recipe: Name
    quick: bool


class Fidelity(Block):
    neighbours: Count
    min_rows: Annotated[int, Field(ge=2)]


Word = Literal["HELPS", "NEUTRAL", "HURTS", "CANNOT_TELL"]  # what a verdict can be


class Gate(Block):
    fail_on: Annotated[list[Word], AfterValidator(distinct)]
    guardrails: bool


class Evaluation(Block):
    primary_metric: Literal["balanced_accuracy", "macro_f1", "accuracy"]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    bootstrap: Annotated[int, Field(ge=100, le=1_000_000)]
    repeats: Annotated[int, Field(ge=1, le=100)]
    margin: Share
    max_class_loss: Share
    specificity: Annotated[float, Field(gt=0, lt=1)]


class Report(Block):
    show_real_images: bool
    examples: Annotated[int, Field(ge=1, le=64)]


class Compute(Block):
    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "32-true", "bf16-mixed"]
    threads: Annotated[int, Field(ge=1, le=256)]
    processes: Auto | Annotated[int, Field(ge=1, le=1024)]


HELDBACK = "heldback"  # what an arm's rows may name besides a generator


class Params(Block):
    seed: Annotated[int, Field(ge=0)]
    profile: Literal["auto", "full", "quick"]
    data: Data
    sources: Sources
    augment: Augment
    classifier: Classifier
    teachers: Teachers
    generators: Annotated[dict[Name, Generator], Field(min_length=1)]
    generation: Generation
    selection: Selection
    retraining: Retraining
    recipes: Annotated[dict[Name, Recipe], Field(min_length=1)]
    arms: Annotated[dict[Name, Arm], Field(min_length=1)]
    fidelity: Fidelity
    evaluation: Evaluation
    gate: Gate
    report: Report
    compute: Compute

    @field_validator("generators")
    @classmethod
    def families_exist(cls, generators: dict[str, Generator]) -> dict[str, Generator]:
        known = families()
        unknown = [f"{name}.family is {g.family!r}" for name, g in generators.items() if g.family not in known]
        if unknown:
            raise ValueError(
                f"{'; '.join(unknown)}: no such family. The folder pipeline/generators/ has: {', '.join(known)}"
            )
        return generators

    @model_validator(mode="after")
    def names_exist(self) -> "Params":
        if self.teachers.recipe not in self.recipes:
            raise ValueError(f"teachers.recipe is {self.teachers.recipe!r}; recipes has: {', '.join(self.recipes)}")
        if HELDBACK in self.generators:
            raise ValueError(f"generators.{HELDBACK}: this name stands for the rows that data.heldback sets aside")
        waiting = [name for name, arm in self.arms.items() if HELDBACK in (arm.rows, arm.also)]
        if waiting and not self.data.heldback:
            raise ValueError(f"arms.{waiting[0]} learns from rows set aside, but data.heldback is 0: set a share")
        made = {**self.generators, HELDBACK: None}
        for key, section in {"rows": "generators", "also": "generators", "recipe": "recipes"}.items():
            known = made if section == "generators" else self.recipes
            named = {name: getattr(arm, key) for name, arm in self.arms.items()}
            lost = [f"arms.{name}.{key} is {said!r}" for name, said in named.items() if said not in known]
            if lost:
                raise ValueError(f"{'; '.join(lost)}: no such block under {section}. There are: {', '.join(known)}")
        if twice := [name for name, arm in self.arms.items() if arm.also == arm.rows != "nothing"]:
            raise ValueError(f"arms.{twice[0]}: rows and also name the same generator; set also: nothing")
        if not any(arm.role == "control" for arm in self.compared.values()):
            raise ValueError("arms: at least one needs `role: control`; without one there is nothing to compare with")
        if self.evaluation.repeats > 1 and not any(arm.role == "candidate" for arm in self.compared.values()):
            raise ValueError(
                "evaluation.repeats: on other splits there is nothing to judge, for no arm that is trained has "
                "`role: candidate`; give one that role, or set evaluation.repeats: 1"
            )
        return self

    @property
    def compared(self) -> dict[str, Arm]:
        """The arms that are trained, in their order."""
        quick = self.profile == "quick" or (self.profile == "auto" and self.data.source == EMBEDDED)
        return {name: arm for name, arm in self.arms.items() if arm.role != "skip" and (arm.quick or not quick)}


def pick(blocks: Mapping[str, Any], name: str, section: str) -> Any:
    """The block of this name. Raises ValueError that lists the names there are."""
    if name not in blocks:
        raise ValueError(f"params.yaml has no {section}.{name}; there are: {', '.join(blocks)}")
    return blocks[name]


def families() -> list[str]:
    """The generator families that exist: the public files of pipeline/generators/ but its base."""
    files = (Path(__file__).parent / "generators").glob("[!_]*.py")
    return sorted(f.stem for f in files if f.stem != "base")


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params file. Raises ValueError with one line per mistake, each naming its key."""
    raw = read(path)
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ValueError(explain(error, raw, str(path))) from None
