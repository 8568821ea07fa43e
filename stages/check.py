"""check: does params.yaml make sense? Run before the graph, so that a misspelt option does not show up an hour later."""

from pathlib import Path

from pipeline import generators
from pipeline.data import sources
from pipeline.params import Params


def main(params: Params) -> None:
    sources.locate(params.data.source, "data.source")
    if not Path(params.data.unlabelled).exists():
        raise ValueError(
            f"data.unlabelled: {params.data.unlabelled!r} does not exist; expected a folder, a table, or sets/none.yaml"
        )
    mistakes = []
    for name, block in params.generators.items():
        try:
            generators.build(block, params.compute, name)
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ValueError("\n".join(mistakes))
