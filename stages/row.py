"""row: the whole history of one row by its id, and of a synthetic one the picture made again from its seed. Run: make row ID=...

It is no part of the graph: nothing depends on it. An id stands in data/selected/<generator>/table.parquet, and is the name
of an exported picture, whose path in export/synthetic/manifest.csv does as well; of a training row its path in the source.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.params import Params, borrowing, guided
from pipeline.samples import Samples
from pipeline.selection.rules import REASONS
from stages.export import read, weights_hash
from stages.generate import draw

log = logging.getLogger("stages")
NEAR = 3  # grey levels


def main(
    params: Params, name: str, train: Path, pool: Path, selected: Path, models: Path, search: Path, out: Path
) -> None:
    generator = Path(name).stem.rsplit("-", 2)[0]
    rows, place = find(name, selected / generator if generator in params.generators else train)
    name = rows.table["id"].iloc[place]
    same, history = True, {k: v for k, v in rows.table.iloc[place].to_dict().items() if v == v and v != ""}
    if generator in params.generators:
        found = read(search / f"{generator}.json")
        model = params.generators[generator].model
        wanted = guided(params, generator, found)
        again = draw(
            wanted, generator, (train, pool), models / model, rows.y[[place]], rows.table["seed"].to_numpy()[[place]]
        )
        history |= origin(wanted, generator, models / model, rows, place)
        same, history["made again"] = said(again[0], rows.images[place], on_gpu(params))
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rows.images[place].squeeze()).save(out / f"{name}.png")
    (out / f"{name}.json").write_text(json.dumps(history, indent=1, default=str))
    for key, value in history.items():
        log.info("%s: %s", key, value)
    log.info("picture and history: %s", out / f"{name}.*")
    if not same:
        raise ValueError(history["made again"])


def find(name: str, folder: Path) -> tuple[Samples, int]:
    """The rows of a folder and the position of the one with this id or path. Raises ValueError if there is none, or several."""
    if not folder.exists():
        raise ValueError(f"{folder} is missing, where row {name!r} would be; run `make repro`, then ask again")
    rows = Samples.load(folder)
    stem = Path(name).stem if name.endswith(".png") else name
    places = np.flatnonzero(rows.table["id"] == stem)
    if not len(places):
        paths = "/" + rows.table["source_path"].astype(str)
        places = np.flatnonzero(
            (paths == f"/{name}") if (paths == f"/{name}").any() else paths.str.endswith(f"/{name}")
        )
    if len(places) > 1:
        several = ", ".join(f"{rows.table['id'].iloc[i]} ({rows.table['source_path'].iloc[i]})" for i in places[:3])
        raise ValueError(f"{folder} has {len(places)} rows of the path {name!r}: {several}; name one by its id")
    if not len(places):
        some = ", ".join(rows.table["id"].head(3)) or "no row at all"
        raise ValueError(
            f"{folder} has no row {name!r}; there are {len(rows)}, such as: {some}. Expected the id of a training row or of "
            "a synthetic one, or its path (rows of validation, test and the pool have no history)"
        )
    return rows, int(places[0])


def origin(params: Params, generator: str, model: Path, rows: Samples, place: int) -> dict[str, Any]:
    """What a synthetic row came from, and what became of it in words."""
    reason = rows.table["reason"].iloc[place]
    return {
        "family": params.generators[generator].family,
        "options": borrowing(params.generators, generator).options,
        "weights, sha256": weights_hash(model) or "none: it is made from the training rows alone",
        "fate": f"dropped: {REASONS[reason]}" if reason else "kept",
    }


def on_gpu(params: Params) -> bool:
    from pipeline import devices

    return devices.device(params.compute).type != "cpu"


def said(again: np.ndarray, before: np.ndarray, on_gpu: bool) -> tuple[bool, str]:
    """Whether the picture is the same, and what to say of it.

    A GPU does not promise the same bits at another place in a batch, nor do two of them: there it may be near.
    """
    off = int(np.abs(again.astype(int) - before).max())
    if on_gpu and 0 < off <= NEAR:
        return True, f"from weights, class and seed, on a GPU: the same but for at most {off} of 255 grey levels"
    if off:
        return False, (
            f"made again from its seed, {np.mean(again != before):.1%} of the numbers of the picture differ: the weights, the "
            "params, the code or the machine are not those it was made with; run `make repro`"
        )
    return True, "from weights, class and seed: the same to the byte"
