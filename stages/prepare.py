"""prepare: the source becomes data/real/{train,val,test,heldback,unlabelled}, with a quarantine list and an audit."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import csvs
from pipeline.data import audit, augment, grouping, intake, sources, splits
from pipeline.data.sources import pool
from pipeline.data.sources.base import Problem, Source, listed, refusal
from pipeline.evaluation.outcomes import Outcomes, too_small
from pipeline.params import EMBEDDED, Data, Params, stands_for
from pipeline.samples import Facts, Samples, table
from pipeline.seeds import derive
from stages import Output

NO_VERDICT = "the verdict can only be CANNOT TELL"
log = logging.getLogger("stages")


def main(
    params: Params,
    train: Output,
    val: Output,
    test: Output,
    heldback: Output,
    unlabelled: Output,
    quarantine: Output,
    about: Output,
) -> None:
    data, other = params.data, (params.data.split,) if params.data.split else ()
    train.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=train) as folder:  # which goes with the draft if this stage is killed
        scratch = Path(folder)
        source = sources.read(data, params.sources.digits, derive(params.seed, "digits", *other), scratch)
        check_repeats(source, params)
        seen = intake.look(source, scratch / "source")
        rows, lost = usable(source, seen, data)
        audit.refuse_synthetic(rows)
        extra = pool.read(Path(data.unlabelled), data)
        seen_extra = intake.look(extra, scratch / "pool")
        spare, broken = readable(extra, seen_extra)
        thumbs = seen.thumbs.take(rows["place"].to_numpy()) + seen_extra.thumbs.take(spare["place"].to_numpy())
        near = grouping.find_near(rows, spare, thumbs, data, derive(params.seed, "duplicates"))
        among = near.pairs[(near.pairs < len(rows)).all(axis=1)]
        rows = rows.assign(named=rows["group"], group=grouping.grouped(rows, among, data))
        pairs = grouping.listing(rows, spare, near)
        joined = grouping.join_pool(rows, spare, near.pairs)
        rows, spare = rows.assign(joined=joined[: len(rows)]), spare.assign(group=joined[len(rows) :])
        rows, scarce, leaked = split(rows, source.classes, data, derive(params.seed, "splits", *other))
        form = chosen_form(rows, seen, data)
        samples = written(rows, source, scarce, form, scratch / "squares.npy", params)
        outs = {"train": train, "val": val, "test": test, "heldback": heldback}
        for name, out in outs.items():
            samples.save(out, rows["split"].to_numpy() == name)
        spare, held = grouping.left_over(spare, rows)
        pooled(spare, rows, extra, form, scratch / "pool.npy", samples.facts).save(unlabelled)
        lost += leaked + broken + held
        record = describe(samples, rows, source, data) | {"near_pairs": len(among), "unlabelled": len(spare)}
        record["fingerprints"] = {name: Samples.load(out).fingerprint() for name, out in outs.items()}
        record |= {"window": form.window, "asked": asked(params), "heldback": int((rows["split"] == "heldback").sum())}
        record |= grouping.account(near, pairs, samples, data)
        record["warnings"] += warnings(rows, spare, form, len(among), data) + unable(test)
        record["warnings"] += grouping.unnamed(extra) if source.grouped else grouping.too_alike(near, rows)
    quarantine.write_text(audit.quarantine(lost), encoding="utf-8")
    record |= {"quarantined": len(lost), "quarantine": pd.Series([p.code for p in lost]).value_counts().to_dict()}
    about.mkdir(parents=True)
    csvs.write(pairs, about / "duplicates.csv")
    (about / "audit.json").write_text(json.dumps(record, indent=1))
    say(record, lost, misnamed(rows, spare))


def asked(params: Params) -> str:
    """A hash of the params that say what is prepared, by which others know whether an audit is of theirs."""
    said = [params.data.model_dump(mode="json"), params.sources.model_dump(mode="json"), params.seed]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()


def check_repeats(source: Source, params: Params) -> None:
    """Raises ValueError where another split is asked for, but the source says which rows are the test split."""
    given = not stands_for(params.data.source, EMBEDDED) and (source.rows["split"] == "test").any()
    if given and (params.data.split or params.evaluation.repeats > 1):
        raise ValueError(
            "data.split and evaluation.repeats draw other splits, but the source brings a test split of its own; "
            "set data.split: 0 and evaluation.repeats: 1, or leave the splits out of the source"
        )


def readable(source: Source, seen: intake.Seen) -> tuple[pd.DataFrame, list[Problem]]:
    """The rows whose pictures can be read, with what was seen of them and their `place` in the source, and the others.

    `ranged` says whether the picture itself tells what is black and white in it: 8 bits, or a window.
    """
    place = np.arange(len(source.refs))
    rows = pd.concat([source.rows, seen.table], axis=1).assign(place=place, ranged=~np.isin(place, seen.sampled))
    bad = rows[rows["code"] != ""]
    lost = source.problems + [Problem(*r) for r in bad[["path", "row", "code", "remedy"]].itertuples(index=False)]
    return rows[rows["code"] == ""].reset_index(drop=True), lost


def usable(source: Source, seen: intake.Seen, data: Data) -> tuple[pd.DataFrame, list[Problem]]:
    """The readable rows without those whose labels conflict; raises ValueError if too many are lost."""
    rows, lost = readable(source, seen)
    torn = audit.conflicts(rows["hash"], rows["label"])
    if torn.any():
        problems = audit.conflict_problems(rows[torn])
        if data.conflicts == "error":
            raise refusal(
                f"{len(problems)} rows have the pixels of a row with another label; correct them, or set data.conflicts: drop:",
                (p.said() for p in problems),
                {"quarantine.csv": audit.quarantine(problems)},
            )
        lost, rows = lost + problems, rows[~torn].reset_index(drop=True)
    audit.check_losses(source.rows["label"].tolist(), source.classes, rows["label"], lost, data.max_quarantined)
    return rows, lost


def split(
    rows: pd.DataFrame, classes: Sequence[str], data: Data, seed: int
) -> tuple[pd.DataFrame, tuple[str, ...], list[Problem]]:
    """The rows with a split each, the classes that are scarce before rows are set aside, and the rows that drop_leaks drops."""
    fractions, leaked = {"test": data.test_fraction, "val": data.val_fraction}, []
    found = audit.leaks(rows["split"].to_numpy(), rows["group"].to_numpy(), rows["path"].to_numpy())
    if len(found) and data.drop_leaks:
        gone = audit.leaking_rows(rows["split"].to_numpy(), rows["group"].to_numpy())
        leaked = grouping.lost(rows[gone], "leak", "its group also stands in a later split (data.drop_leaks)")
        lost = sorted(set(rows["label"]) - set(rows["label"][~gone]))
        if lost:
            raise ValueError(f"data.drop_leaks leaves no row of classes {lost}; mend the splits that the source gives")
        if gone_splits := sorted(set(rows["split"]) - set(rows["split"][~gone])):
            raise ValueError(
                f"data.drop_leaks leaves no row of the {' and the '.join(gone_splits)} split, for all of it stands in a later "
                "one too; mend the splits that the source gives, or leave that one out and it is cut from train"
            )
        rows = rows[~gone].reset_index(drop=True)
    elif len(found) and not data.allow_leaks:
        audit.refuse_leaks(found, rows.groupby("group")["named"].agg(list))
    names = splits.assign(rows["label"].tolist(), rows["group"].tolist(), rows["split"].tolist(), fractions, seed)
    counts = rows["label"][names == "train"].value_counts().reindex(list(classes), fill_value=0).to_dict()
    scarce = audit.find_scarce(counts, data.scarce)
    columns = (rows["label"].to_numpy(), rows["group"].to_numpy())
    names = splits.hold_back(*columns, names, scarce, data.heldback, derive(seed, "heldback"))
    return rows.assign(split=names), scarce, leaked


def chosen_form(rows: pd.DataFrame, seen: intake.Seen, data: Data) -> intake.Form:
    """Size, channels, and the range of deep pixels, which only training rows decide."""
    rows = rows[rows["split"] == "train"]
    return intake.Form(
        size=intake.choose_size(data.image_size, rows[["height", "width"]].min(axis=1).tolist()),
        channels=(1 if rows["grey"].all() else 3) if data.channels == "auto" else data.channels,
        fit=data.fit,
        window=intake.common_range(seen.samples[np.isin(seen.sampled, rows["place"])], data.deep.percentiles),
    )


def written(
    rows: pd.DataFrame, source: Source, scarce: tuple[str, ...], form: intake.Form, file: Path, params: Params
) -> Samples:
    """All rows as Samples, squares memory-mapped from `file`, with the scarce classes and the flips that do no harm."""
    fit = rows["split"].to_numpy() == "train"
    images = intake.write(source, rows["place"].to_numpy(), file, form)
    frame = as_table(rows)
    y = pd.Categorical(frame["label"], categories=list(source.classes)).codes.astype(np.int64)
    groups = rows["group"].to_numpy()[fit]
    flips = augment.choose_flips(
        params.augment.flips, images, np.flatnonzero(fit), y[fit], groups, params.augment.flip_tolerance
    )
    return Samples(frame, images, Facts(source.classes, scarce, flips))


def pooled(
    spare: pd.DataFrame, rows: pd.DataFrame, extra: Source, form: intake.Form, file: Path, facts: Facts
) -> Samples:
    """The rows of the pool, whose ids count on from those of equal labelled `rows`, squares memory-mapped from `file`."""
    images = intake.write(extra, spare["place"].to_numpy(), file, form)
    return Samples(as_table(pd.concat([rows, spare])).iloc[len(rows) :], images, facts)


def as_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Content hashes are the ids: the second row with the same pixels gets -2 behind its hash, and so on."""
    again = rows.groupby("hash").cumcount()
    ids = rows["hash"].where(again == 0, rows["hash"] + "-" + (again + 1).astype(str))
    columns = {c: rows[c].tolist() for c in ("group", "label", "split", "weight")}
    return table(id=ids.tolist(), origin=["real"] * len(rows), source_path=rows["path"].tolist(), **columns)


def describe(samples: Samples, rows: pd.DataFrame, source: Source, data: Data) -> dict:
    """The audit, and what was chosen automatically."""
    chosen = {
        "source": Path(data.source).stem if data.source.endswith(".yaml") else Path(data.source).name,
        "image_size": samples.shape[0],
        "channels": samples.shape[2],
        "flips": list(samples.facts.flips),
        "classes": list(samples.classes),
        "skipped": source.skipped,
    }
    cut, facts = {"val", "test"} - set(source.rows["split"]), samples.facts
    return chosen | audit.account(samples.table, rows, facts.classes, facts.scarce, source.grouped, data, cut)


def misnamed(*tables: pd.DataFrame) -> list[str]:
    """Files that were read as what they hold and are named like something else."""
    return [path for rows in tables for path in rows["path"][audit.noted(rows["notes"], "wrong_extension")]]


def warnings(rows: pd.DataFrame, spare: pd.DataFrame, form: intake.Form, near: int, data: Data) -> list[str]:
    """What a person should look at though nothing is wrong for sure; no names, for the report shows them."""
    coloured = int((~rows["grey"]).sum()) if form.channels == 1 else 0
    lone = int((~rows["ranged"]).sum() + (~spare["ranged"]).sum()) if form.window is None else 0
    near = near if data.near_duplicates == "warn" else 0
    made, spare_made = (int(audit.noted(t["notes"], "synthetic").sum()) for t in (rows, spare))
    told = (
        (coloured, "pictures have colours, which one channel leaves out"),
        (
            lone,
            "deep pictures outside train; no training row decides their range, so each is stretched by percentiles of "
            "its own: set data.deep.scale to window or full",
        ),
        (near, "pairs of near duplicates may stand in two splits (data.near_duplicates)"),
        (made, "training pictures are marked as synthetic, and count as real rows in every arm and every figure"),
        (spare_made, "pictures of the unlabelled pool are marked as synthetic"),
        (
            len(misnamed(rows, spare)),
            "files hold another format than their names say; they were read by what they hold",
        ),
        (int((rows["weight"] != 1).sum()), "rows count more or less than others in every loss (data.manifest.weight)"),
    )
    return [f"{count} {text}" for count, text in told if count]


def unable(test: Path) -> list[str]:
    """That this test split can give no verdict, if it is so; else one would learn it after hours."""
    rows = Samples.load(test)
    why = too_small(Outcomes({}, rows.y, rows.table["group"].to_numpy(), rows.classes, scarce=rows.facts.scarce))
    return [f"{NO_VERDICT}: {why}. Add pictures, or raise data.test_fraction if the split is cut here"] if why else []


def say(record: dict, lost: list[Problem], wrong: list[str]) -> None:
    counts = ", ".join(f"{s} {sum(n.values())}" for s, n in record["counts"].items())
    scarce = listed(record["scarce"]) or "no class"
    form = (record["image_size"], record["channels"], listed(record["flips"]) or "none")
    log.info("%s, %d px, %d channel(s); flips: %s; scarce: %s", counts, *form, scarce)
    if record["notes"]:
        log.info("notes of the decoders: %s", ", ".join(f"{n} {c}" for n, c in record["notes"].items()))
    if count := record["exact_duplicates"] + record["near_pairs"]:
        log.info("%d pairs of equal pictures and near duplicates: duplicates.csv names them", count)
    log.info("the test split resolves balanced accuracy to ±%.1f points", 100 * record["test_resolution"])
    if not record["scarce"]:
        log.warning(
            "warning: no class is scarce by data.scarce, so nothing will be generated and the answer can only be CANNOT_TELL; "
            "name those to make rows for in data.scarce.classes, or raise data.scarce.below"
        )
    for warning in record["warnings"]:
        log.warning("warning: %s", warning)
    if record["skipped"]:
        log.warning(
            "not named like images, so left out: %s", ", ".join(f"{n} {end}" for end, n in record["skipped"].items())
        )
    if wrong:
        log.warning("named like another format: %s", listed(wrong, 8))
    if record["leaking_groups"]:
        log.warning("warning: %d groups stand in more than one split (data.allow_leaks)", record["leaking_groups"])
    for problem in lost[:20]:
        log.warning("quarantined %s", problem.said())
    if len(lost) > 20:
        log.warning("... and %d more; see quarantine.csv", len(lost) - 20)
