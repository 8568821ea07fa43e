"""Files of weights, in safetensors: they hold numbers and no code, and a damaged one is told by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

Array = TypeVar("Array")


def read(file: Path, load: Callable[[Path], dict[str, Array]]) -> dict[str, Array]:
    """The arrays in the file by name, as `load_file` of safetensors.torch or safetensors.numpy gives them.

    Raises ValueError if it is damaged or no safetensors at all.
    """
    try:
        return load(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}); delete it and run `dvc repro`") from None
