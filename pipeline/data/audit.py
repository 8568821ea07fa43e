"""Decode everything, quarantine what cannot be read, and say what a dataset is: counts, leaks, scarce classes."""

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from pipeline.data.sources import Source, Unreadable, is_grey, square
from pipeline.params import Auto, Data, Scarce

QUARANTINE = ["file", "code", "remedy"]


def decode_all(
    source: Source, data: Data, track: Callable[[Iterable], Iterable] = iter
) -> tuple[np.ndarray, np.ndarray, list[str], pd.DataFrame]:
    """Images uint8 (N, S, S, C), the source's row of each, a hash of each row's own pixels, and the quarantine list.

    Two passes: the first fixes size and channels, the second decodes, so that memory holds only the small squares.
    Raises ValueError above `data.max_quarantined` or when a class loses all its rows.
    """
    sizes, grey, bad, good = [], True, [], []
    for i in track(range(len(source.labels))):
        try:
            image = source.pixels(i)
        except Unreadable as error:
            bad.append((source.paths[i], error.code, error.remedy))
            continue
        good.append(i)
        sizes.append(min(image.size))
        grey = grey and (data.channels != "auto" or is_grey(image))
    quarantine = pd.DataFrame(bad, columns=QUARANTINE)
    _check_losses(source, good, quarantine, data.max_quarantined)
    size = choose_size(data.image_size, sizes)
    channels = (1 if grey else 3) if data.channels == "auto" else data.channels
    images, hashes = np.empty((len(good), size, size, channels), np.uint8), []
    for k, i in enumerate(track(good)):
        image = source.pixels(i)
        images[k] = square(image, size, channels, data.fit)
        hashes.append(
            hashlib.blake2b(image.tobytes() + str((image.size, image.mode)).encode(), digest_size=8).hexdigest()
        )
    return images, np.array(good, dtype=np.int64), hashes, quarantine


def choose_size(asked: int | Auto, short_sides: list[int]) -> int:
    """The size asked for; `auto`: the median short side, at most 32, rounded down to a multiple of 4 (at least 8)."""
    return asked if asked != "auto" else max(8, int(min(32, np.median(short_sides))) // 4 * 4)


def _check_losses(source: Source, good: list[int], quarantine: pd.DataFrame, most: float) -> None:
    first = "".join(f"\n  {r.file}: {r.code}, {r.remedy}" for r in quarantine.head(20).itertuples())
    if len(quarantine) > most * len(source.labels):
        raise ValueError(
            f"{len(quarantine)} of {len(source.labels)} images cannot be used, more than "
            f"data.max_quarantined = {most:g} allows. Mend or remove them, or raise it. The first:{first}"
        )
    lost = set(source.classes) - {source.labels[i] for i in good}
    if lost:
        raise ValueError(f"no readable image is left in {sorted(lost)}. The first unreadable ones:{first}")


def find_scarce(counts: dict[str, int], rule: Scarce) -> tuple[str, ...]:
    """The classes rows are generated for: those listed, or those below `rule.below` of the largest or median count."""
    if rule.classes != "auto":
        unknown = sorted(set(rule.classes) - set(counts))
        if unknown:
            raise ValueError(f"data.scarce.classes: {unknown} are no classes of this dataset; it has {list(counts)}")
        return tuple(c for c in counts if c in rule.classes)
    reference = max(counts.values()) if rule.of == "largest" else float(np.median(list(counts.values())))
    return tuple(c for c, n in counts.items() if n < rule.below * reference)


def summary(table: pd.DataFrame, classes: tuple[str, ...], scarce: tuple[str, ...]) -> dict:
    """Counts per split and class, imbalance, and rows whose very pixels stand in more than one split."""
    counts = {
        s: {c: int(n) for c, n in zip(classes, _counts(table[table["split"] == s], classes), strict=True)}
        for s in ("train", "val", "test")
    }
    spread = table.groupby("group")["split"].nunique()
    crossing = table[table["group"].isin(spread.index[spread > 1])]
    train = counts["train"].values()
    return {
        "counts": counts,
        "scarce": list(scarce),
        "imbalance_ratio": max(train) / min(train),
        "rows_shared_between_splits": len(crossing),
        "warnings": _warnings(counts, len(crossing)),
    }


def _counts(rows: pd.DataFrame, classes: tuple[str, ...]) -> list[int]:
    return rows["label"].value_counts().reindex(list(classes), fill_value=0).tolist()


def _warnings(counts: dict[str, dict[str, int]], crossing: int) -> list[str]:
    found = [
        f"class {c} has {n} rows in {s}: its figures there mean little"
        for s in ("val", "test")
        for c, n in counts[s].items()
        if n < 5
    ]
    if crossing:
        found.append(
            f"{crossing} rows have pixels identical to a row of another split: the test is not independent of them"
        )
    return found
