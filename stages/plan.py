"""plan: which generators are asked for rows and which arms are trained, a file each, so that others re-run nothing of theirs."""

import json

from pipeline.params import Params
from stages import Output


def main(params: Params, out: Output) -> None:
    parts = {"generators": (params.generators, params.made), "arms": (params.arms, params.compared)}
    for part, (every, wanted) in parts.items():
        (out / part).mkdir(parents=True)
        for name in every:
            (out / part / f"{name}.json").write_text(json.dumps({"wanted": name in wanted}))
