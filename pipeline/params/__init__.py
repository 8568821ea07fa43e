"""params.yaml as frozen typed blocks: unknown keys are refused and all errors are shown at once."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.params.fields import Block, Name, explain, read
from pipeline.params.sections import (
    POOL,
    Arm,
    Augment,
    Classifier,
    Compute,
    Data,
    Encoder,
    Evaluation,
    Fidelity,
    Gate,
    Generation,
    Generator,
    Pool,
    Recipe,
    Report,
    Retraining,
    Search,
    Selection,
    Sources,
    Teachers,
)

EMBEDDED = "sets/digits.yaml"  # stands for scikit-learn's digits, which need no file
NOTHING = "nothing"  # the family that makes no rows
GUIDING = ("strength",)  # keys of the search that are options of a generator
NO_POOL = "sets/none.yaml"  # stands for no unlabelled pool
HELDBACK = "heldback"  # what an arm's rows may name besides a generator


class Params(Block):
    seed: Annotated[int, Field(ge=0)]
    profile: Literal["auto", "full", "quick"]
    data: Data
    sources: Sources
    augment: Augment
    classifier: Classifier
    teachers: Teachers
    encoder: Encoder
    pool: Pool
    generators: Annotated[dict[Name, Generator], Field(min_length=1)]
    generation: Generation
    selection: Selection
    search: Search
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

    @field_validator("generators")
    @classmethod
    def models_exist(cls, generators: dict[str, Generator]) -> dict[str, Generator]:
        for name, block in generators.items():
            lender = generators.get(block.model)
            if lender is None or (block.model != name and lender.model != block.model):
                own = [n for n, g in generators.items() if g.model == n]
                raise ValueError(f"{name}.model is {block.model!r}; expected {name} or one of: {', '.join(own)}")
        return generators

    @model_validator(mode="after")
    def names_exist(self) -> "Params":
        if self.teachers.recipe not in self.recipes:
            raise ValueError(f"teachers.recipe is {self.teachers.recipe!r}; recipes has: {', '.join(self.recipes)}")
        taken = {HELDBACK: "that data.heldback sets aside", POOL: "of data.unlabelled", "real": "of the training set"}
        for name, rows in taken.items():
            if name in self.generators:
                raise ValueError(f"generators.{name}: this name stands for the rows {rows}")
        if unknown := [name for name in self.search.space.recipe if name not in self.recipes]:
            raise ValueError(f"search.space.recipe names {unknown}; recipes has: {', '.join(self.recipes)}")
        waiting = [name for name, arm in self.arms.items() if HELDBACK in (arm.rows, arm.also)]
        if waiting and not self.data.heldback:
            raise ValueError(f"arms.{waiting[0]} learns from rows set aside, but data.heldback is 0: set a share")
        if judged := [name for name in waiting if self.arms[name].role in ("control", "candidate")]:
            raise ValueError(
                f"arms.{judged[0]} learns from more real rows than others have, so it can be no {self.arms[judged[0]].role}; "
                "expected role: oracle, which is shown beside the others"
            )
        made = [*self.generators, HELDBACK]
        for key, section in {"rows": "generators", "also": "generators", "recipe": "recipes"}.items():
            known = {"rows": made, "also": [*made, POOL], "recipe": list(self.recipes)}[key]
            named = {name: getattr(arm, key) for name, arm in self.arms.items()}
            lost = [f"arms.{name}.{key} is {said!r}" for name, said in named.items() if said not in known]
            if lost:
                hint = (
                    f"; rows of the pool come with `also: {POOL}`" if POOL in set(named.values()) - set(known) else ""
                )
                raise ValueError(
                    f"{'; '.join(lost)}: no such block under {section}. There are: {', '.join(known)}{hint}"
                )
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
    def is_quick(self) -> bool:
        return self.profile == "quick" or (self.profile == "auto" and stands_for(self.data.source, EMBEDDED))

    @property
    def has_pool(self) -> bool:
        return not stands_for(self.data.unlabelled, NO_POOL)

    @property
    def compared(self) -> dict[str, Arm]:
        """The arms that are trained, in their order: without a pool, none that learns from it."""
        arms = {n: arm for n, arm in self.arms.items() if arm.role != "skip" and (arm.quick or not self.is_quick)}
        return {n: arm for n, arm in arms.items() if arm.also != POOL or self.has_pool}

    @property
    def left_out(self) -> list[str]:
        """The arms that are not trained, but for those of a pool that there is not: nothing is missed without them."""
        return [n for n, arm in self.arms.items() if n not in self.compared and (self.has_pool or arm.also != POOL)]

    @property
    def searched(self) -> list[str]:
        """The generators whose use is tried on validation, of tuned candidates and controls alike, if there is a budget."""
        asked = {arm.rows for arm in self.compared.values() if arm.tuned and arm.role in ("candidate", "control")}
        makers = [name for name, block in self.made.items() if name in asked and block.family != NOTHING]
        return makers if self.search.trainings and not self.is_quick else []

    @property
    def made(self) -> dict[str, Generator]:
        """The generators that arms learn from, and those whose models these draw from, in their order."""
        asked = {name for arm in self.compared.values() for name in arm.generators} & set(self.generators)
        lent = {self.generators[name].model for name in asked}
        return {name: block for name, block in self.generators.items() if name in asked | lent}


def stands_for(path: str | Path, what: str) -> bool:
    """Whether a path is this one of EMBEDDED and NO_POOL, however it is spelt: copies of the project name it in full."""
    return Path(os.path.normpath(path)).parts[-2:] == Path(what).parts


def pick(blocks: Mapping[str, Any], name: str, section: str) -> Any:
    """The block of this name. Raises ValueError that lists the names there are."""
    if name not in blocks:
        raise ValueError(f"params.yaml has no {section}.{name}; there are: {', '.join(blocks)}")
    return blocks[name]


def borrowing(blocks: Mapping[str, Generator], name: str) -> Generator:
    """The generator of this name, with the options of the generator whose model it draws from beside its own."""
    block = pick(blocks, name, "generators")
    lent = {} if block.model == name else blocks[block.model].options
    return Generator(**(lent | block.model_dump()))


def guided(params: Params, name: str, found: Mapping[str, Any]) -> Params:
    """The params under which this generator is asked for rows: with the options that the search found for it."""
    options = {k: v for k, v in found.items() if k in GUIDING}
    block = pick(params.generators, name, "generators").model_dump() | options
    return params.model_copy(update={"generators": {**params.generators, name: Generator(**block)}})


def families() -> list[str]:
    """The generator families that exist: the public files of pipeline/generators/ but its base."""
    files = (Path(__file__).parents[1] / "generators").glob("[!_]*.py")
    return sorted(f.stem for f in files if f.stem != "base")


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params file. Raises ValueError with one line per mistake, each naming its key."""
    raw = read(path)
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ValueError(explain(error, raw, str(path))) from None
