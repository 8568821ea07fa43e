"""What settings are made of: strict frozen blocks, the types of their values, and one line in words for each mistake."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError

MOST = 100_000  # values in a YAML file
Auto = Literal["auto"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=10_000_000)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]  # part of file names and commands


class Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] >= pair[1]:
        raise ValueError(f"the first number must be smaller than the second (got {list(pair)})")
    return pair


Rising = AfterValidator(rising)
Pair = Field(strict=False)  # YAML knows lists only
ClassName = Annotated[str, Field(strict=False, coerce_numbers_to_str=True)]  # may be written as 8 or as "8"


def distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError(f"each name may stand once (got {names})")
    return names


def form(value: Any) -> str:
    """Which of its two forms a value is meant to have, so that a mistake in it is judged as that form alone."""
    return "pair" if isinstance(value, list | tuple) else "number"


Balance = Annotated[
    Annotated[Share, Tag("number")] | Annotated[tuple[Share, Share], Pair, Tag("pair")], Discriminator(form)
]
Strength = Annotated[  # of augmentation, or of noise from and to
    Annotated[float, Field(gt=0, le=3), Tag("number")] | Annotated[tuple[Share, Share], Pair, Rising, Tag("pair")],
    Discriminator(form),
]


def explain(error: ValidationError, raw: Any, where: str) -> str:
    """One line per mistake: the key, what is wrong with it, and what came."""
    found: dict[str, list[str]] = {}
    for e in error.errors(include_url=False):
        key = ".".join(_keys(e["loc"], raw, e["type"] == "missing"))
        came = "" if e["type"] in ("missing", "value_error", "invalid_key") else f" (got {e['input']!r})"
        words = {
            "extra_forbidden": "unknown key; check the spelling, or CHANGELOG.md if an older version had it",
            "invalid_key": f"a key, {e['input']!r}, is no text; expected the name of a key",
        }
        said = words.get(e["type"], e["msg"].removeprefix("Value error, "))
        found.setdefault(key, []).append(said + came)
    for key in [k for k in found if found[k][0].startswith("Input should be 'auto'")]:
        inner = [k for k in found if k.startswith(f"{key}.")]  # what is wrong with the other form of the same key
        if inner or len(found[key]) > 1:
            del found[key][0]
            for other in [*inner, key]:
                found[other] = [f"{said}; `auto` is allowed too" for said in found[other]]
        if not found[key]:
            del found[key]
    lines = [f"  {key}: {said}" if key else f"  {said}" for key, all_said in found.items() for said in all_said]
    return f"{where} has {len(lines)} mistake{'s' * (len(lines) > 1)}:\n" + "\n".join(lines)


def _keys(location: tuple[int | str, ...], raw: Any, missing: bool) -> list[str]:
    """The parts of an error's location that stand in the file; the others name one form of a union."""
    kept = []
    for n, part in enumerate(location):
        inside = part in raw if isinstance(raw, dict) else isinstance(raw, list) and part in range(len(raw))
        if inside or (missing and n == len(location) - 1):
            kept.append(str(part) or "''")
            raw = raw[part] if inside else None
    return kept


class Constructor(SafeConstructor):
    """What Python says of a value that is no date, or no number, with the line that it stands in."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, OverflowError) as error:
            raise ConstructorError(None, None, f"{node.value!r:.100}: {error}", node.start_mark) from None


def read(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises ValueError if there is none."""
    try:
        raw = plain(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run from the folder that holds it") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); run from the folder that holds it") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a mapping of sections, got {type(raw).__name__}")
    return raw


def plain(text: str) -> Any:
    """What a text of YAML says, without objects and of at most MOST values. Raises ValueError that says what is wrong."""
    loader = YAML(typ="safe", pure=True)
    loader.Constructor = Constructor
    try:
        raw = loader.load(text)
    except (YAMLError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(error) from None
    if _too_many(raw):
        raise ValueError(f"it holds more than {MOST:,} values, aliases counted as what they stand for")
    return raw


def _too_many(raw: Any) -> bool:
    """Whether there are more than MOST values; the few lines of a file may name one another again and again."""
    waiting, seen = [raw], 0
    while waiting and seen <= MOST:
        value = waiting.pop()
        seen += 1
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return seen > MOST
