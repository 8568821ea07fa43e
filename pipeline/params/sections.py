"""The sections of params.yaml, one block each: what keys they have and what values these may take."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.params.fields import (
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
    Strength,
    distinct,
)  # fmt: skip


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
    max_pixels: Annotated[int, Field(gt=0, le=178_956_970)]  # above that Pillow decodes nothing
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
    depth: Annotated[int, Field(ge=1, le=64)]
    fold: Auto | Literal[1, 2]
    batch: Auto | Count
    steps: Auto | Count
    lr: Annotated[float, Field(gt=0, le=10)]
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class Encoder(Block):
    steps: Auto | Count
    rows: Annotated[int, Field(ge=2, le=100_000)]
    temperature: Positive


class Teachers(Block):
    folds: Annotated[int, Field(ge=2, le=20)]
    recipe: Name


class Pool(Block):
    precision: Annotated[float, Field(gt=0, le=1)]
    least: Share
    seeds: Annotated[int, Field(ge=1, le=100)]


class Generator(BaseModel):
    """One named generator: its family names the file, the rest are that family's own options, checked there.

    `model` names the generator whose fitted model it draws from: mostly itself.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    family: Name
    model: Name

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


Dose = Literal["double", "full", "median", "sqrt", "quarter"]


class Cap(Block):
    rows: Annotated[tuple[Count, Count], Pair, Rising]
    ratio: Annotated[tuple[Positive, Positive], Pair]


class Generation(Block):
    dose: Dose
    cap: Cap
    oversupply: Annotated[float, Field(ge=1, le=100)]


class Selection(Block):
    unlike: Positive
    alike: Share
    third_class: Share
    neighbours: Annotated[int, Field(ge=0)]
    copy_false_alarms: Share
    max_copy_share: Share
    too_few: Share


class Space(Block):
    recipe: list[Name]
    weight: list[Annotated[float, Field(gt=0, le=10)]]
    share: list[Annotated[float, Field(gt=0, le=1)]]
    strength: list[Strength]
    dose: list[Dose]


class Search(Block):
    trainings: Annotated[int, Field(ge=0, le=100_000)]
    seeds: Annotated[int, Field(ge=1, le=100)]
    space: Space


class Retraining(Block):
    seeds: Annotated[int, Field(ge=1, le=1000)]


class Recipe(Block):
    balance: Balance
    share: Share
    weight: Annotated[float, Field(ge=0, le=10)]
    loss: Literal["cross_entropy", "class_weighted", "balanced_softmax"]
    tau: Annotated[float, Field(ge=0, le=4)]
    mix: Literal["none", "mixup", "cutmix", "smote"]
    alpha: Annotated[float, Field(gt=0, le=100)]
    views: Literal["standard", "strong"]


POOL = "pool"  # what an arm's `also` may name: rows of the unlabelled pool that the teachers labelled


class Arm(Block):
    role: Literal["control", "candidate", "negative", "oracle", "skip"]
    rows: Name
    also: Name
    use: Literal["all", "kept", "shuffled"]
    dose: Dose
    recipe: Name
    tuned: bool
    quick: bool

    @property
    def generators(self) -> list[str]:
        """The generators whose rows it learns from, `heldback` among them for rows set aside."""
        return [self.rows] if self.also in ("nothing", POOL) else [self.rows, self.also]


class Fidelity(Block):
    neighbours: Count
    min_rows: Annotated[int, Field(ge=2)]


Word = Literal["HELPS", "NEUTRAL", "HURTS", "CANNOT_TELL"]  # what a verdict can be


class Gate(Block):
    fail_on: Annotated[list[Word], AfterValidator(distinct)]
    guardrails: bool
    copies: bool


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
    devices: Auto | Annotated[int, Field(ge=1, le=1024)]
    num_nodes: Annotated[int, Field(ge=1, le=1024)]
