"""What the search tries for a generator, and what each value stands for."""

from typing import Any

from pydantic import ValidationError

from pipeline import generators
from pipeline.generators.base import Options
from pipeline.params import GUIDING, Params, borrowing

Found = dict[str, Any]  # settings that differ from what params say
SYNTHETIC = {"share", "weight"}  # keys of a recipe that say how synthetic rows are used


def space(params: Params, name: str) -> dict[str, list]:
    """What is tried for a generator, by key: of its own options those that say how it draws, with values that it knows."""
    model = generators.build(borrowing(params.generators, name), params.compute, name)
    every, now = params.search.space.model_dump(mode="json"), model.options.model_dump(mode="json")
    values = {key: every.pop(key) for key in GUIDING}
    own = {
        key: [v for v in values[key] if v != now[key] and knows(model.options, key, v)]
        for key in GUIDING
        if key in model.drawn
    }
    return every | own


def knows(options: Options, key: str, value: Any) -> bool:
    """Whether an option may have this value: a strength is two numbers for one family, and one for another."""
    try:
        type(options).model_validate(options.model_dump() | {key: value})
    except ValidationError:
        return False
    return True


def spelt_out(params: Params, key: str, value: Any) -> Found:
    """What a value stands for: a recipe for all its keys but those that say how synthetic rows are used."""
    if key != "recipe":
        return {key: value}
    return {key: value, **params.recipes[value].model_dump(mode="json", exclude=SYNTHETIC)}
