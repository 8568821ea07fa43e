"""Room 3, generator families. The folder is the registry: family `cvae` is the file cvae.py."""

import importlib

from pydantic import ValidationError

from pipeline.generators.base import Generator
from pipeline.params import Compute
from pipeline.params import Generator as Block
from pipeline.params.fields import explain


def build(block: Block, compute: Compute, name: str) -> Generator:
    """An unfitted generator for the block `generators.<name>`. Raises ValueError for options its family does not know."""
    module = importlib.import_module(f"{__name__}.{block.family}")
    try:
        return module.Model(module.Options.model_validate(block.options), compute)
    except ValidationError as error:
        raise ValueError(
            explain(error, block.options, f"params.yaml, generators.{name} (family {block.family})")
        ) from None
