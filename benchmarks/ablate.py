"""What each trick is worth: an arm as shipped against the same with one thing changed, on validation rows alone.

Run: python -m benchmarks.ablate <dataset> [<dataset> ...] [--set key=value ...] [--groups use,fit] [--splits 2]
A dataset is what data.source may be. Both sides of a comparison have the same training seeds, the same rows where the change
leaves them, and their own where it does not. Every split of the rows (data.split 0, 1, ...) is prepared in a folder under
--out, where each training is kept: a second call goes on where the first was stopped, and tells everything that is there.
Test rows are thrown away unread. Prints a table as markdown, and writes it with its figures as CSV beside those folders.
"""

import argparse
import copy
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import ValidationError
from ruamel.yaml import YAML

from benchmarks.paired import Said, cell, compare
from pipeline.params import Params
from pipeline.params.fields import explain

if TYPE_CHECKING:
    from benchmarks.laboratory import Laboratory

ROOT = Path(__file__).parents[1]


class Change(NamedTuple):
    """One thing that is done otherwise: values by key of params, and the arms on both sides."""

    group: str
    text: str
    keys: Mapping[str, Any] = {}
    arm: str = "diffusion"
    against: str = "diffusion"


def use(text: str, **values: Any) -> Change:
    """Another recipe for the synthetic rows."""
    return Change("use", text, {f"recipes.synthetic.{k}": v for k, v in values.items()})


def option(group: str, name: str, text: str, **values: Any) -> Change:
    """Other options of a generator, seen in the arm of its name."""
    return Change(group, text, {f"generators.{name}.{k}": v for k, v in values.items()}, name, name)


def control(arm: str, text: str, keys: Mapping[str, Any]) -> Change:
    """Something else in an arm without generated rows."""
    return Change("control", f"{arm}: {text}", keys, arm, arm)


RULES = (
    ("no unlike", {"selection.unlike": 1e6}),
    ("no alike", {"selection.alike": 0.0}),
    ("no third_class", {"selection.third_class": 1.0}),
    ("no look for copies, in the choice of weights neither", {"selection.copy_false_alarms": 0.0}),
    (
        "no rule at all",
        {
            "selection.unlike": 1e6,
            "selection.alike": 0.0,
            "selection.third_class": 1.0,
            "selection.copy_false_alarms": 0.0,
        },
    ),
)
CHANGES = (
    use("weight 1.0, not 0.3", weight=1.0),
    use("share 0.65 and weight 1.0, not 0.5 and 0.3", share=0.65, weight=1.0),
    use("share 0.3, not 0.5", share=0.3),
    Change("use", "dose sqrt, not full", {"arms.diffusion.dose": "sqrt"}),
    Change("use", "dose quarter, not full", {"arms.diffusion.dose": "quarter"}),
    Change("use", "labels mixed up", {"arms.diffusion.use": "shuffled"}),
    *(
        Change("selection", f"{name}: {text}", keys, name, name)
        for name in ("diffusion", "cvae", "cgan")
        for text, keys in RULES
    ),
    Change("drawing", "other rows of the same model", {"arms.diffusion.rows": "redrawn"}),
    option("translate", "translate", "from rows of the class alone (across 0), not half", across=0.0),
    option("translate", "translate", "strength 0.2 to 0.5, not 0.4 to 0.7", strength=[0.2, 0.5]),
    option("translate", "translate", "strength 0.6 to 0.9, not 0.4 to 0.7", strength=[0.6, 0.9]),
    Change("fit", "fitted again with another seed", {"arms.diffusion.rows": "again"}),
    option("fit", "diffusion", "last weights, not a judge's choice", snapshots=1),
    option("fit", "diffusion", "averages of a fifth of the steps too, not of a twentieth alone", ema=[0.05, 0.2]),
    option("fit", "diffusion", "classes as they come (balance 1), not 0.5", balance=1.0),
    option("fit", "diffusion", "classes alike (balance 0), not 0.5", balance=0.0),
    option("fit", "diffusion", "no augmentation, not 0.15", augment=0.0),
    option("fit", "diffusion", "noise as published, [-1.2, 1.2], not [-0.4, 1.2]", noise=[-1.2, 1.2]),
    *(Change("arm", f"{name}, not diffusion", arm=name) for name in ("oversample", "duplicate", "classic", "real")),
    *(Change("arm", f"{name}, not diffusion", arm=name) for name in ("gmm", "translate", "cgan", "mixture", "cvae")),
    option("gmm", "gmm", "one Gaussian a class, not up to 5", mixtures=1),
    option("gmm", "gmm", "covariances hardly pulled to the pooled one (shrink 0.5), not 5", shrink=0.5),
    option("gmm", "gmm", "components of 0.95 of the variance, not 0.999", variance=0.95),
    option("cvae", "cvae", "latent Gaussians as narrow as fitted (widen 0), not 10", widen=0.0),
    option("cvae", "cvae", "latent Gaussians not pulled to that of all rows (shrink 0), not 4", shrink=0.0),
    option("cvae", "cvae", "the whole weight of KL from the start (kl_warmup 0), not from 0.3", kl_warmup=0.0),
    option("cvae", "cvae", "weights averaged too (ema 0.1), not as they are", ema=[0.1]),
    option("cgan", "cgan", "no term for diversity, not 1", diversity=0.0),
    option("cgan", "cgan", "the class counts from the start, no ramp", ramp=[0.0, 0.0001]),
    option("cgan", "cgan", "no augmentation, not all three", augment=[]),
    option("cgan", "cgan", "classes as they come (balance 1), not 0.5", balance=1.0),
    option("cgan", "cgan", "weights as they are (ema 0), not averaged", ema=[0.0]),
    option("autoregressive", "autoregressive", "codes as they are (jitter 0), not 0.1", jitter=0.0),
    option("autoregressive", "autoregressive", "no augmentation, not 0.3", augment=0.0),
    control("smote", "weight 0.3, not 1", {"arms.smote.recipe": "synthetic"}),
    control("smote", "2 neighbours, not 5", {"generators.smote.neighbours": 2}),
    control("smote", "10 neighbours, not 5", {"generators.smote.neighbours": 10}),
    control("classic", "weight 0.3, not 1", {"arms.classic.recipe": "synthetic"}),
    control("classic", "strength 1, not 1.5", {"generators.classic.strength": 1.0}),
    control("classic", "strength 2, not 1.5", {"generators.classic.strength": 2.0}),
    control("duplicate", "weight 1, not 0.3", {"arms.duplicate.recipe": "balanced"}),
    control("mixup", "alpha 0.4, not 0.2", {"recipes.mixup.alpha": 0.4}),
    control("mixup", "alpha 1, not 0.2", {"recipes.mixup.alpha": 1.0}),
    control("cutmix", "alpha 0.3, not 1", {"recipes.cutmix.alpha": 0.3}),
    control("logit_adjusted", "tau 0.5, not 1", {"recipes.logit_adjusted.tau": 0.5}),
    control("logit_adjusted", "tau 1.5, not 1", {"recipes.logit_adjusted.tau": 1.5}),
    *(
        control(arm, "mixup too", {f"recipes.{arm}.mix": "mixup", f"recipes.{arm}.alpha": 0.2})
        for arm in ("logit_adjusted", "balanced_softmax", "class_weighted")
    ),
)
GROUPS = tuple(dict.fromkeys(c.group for c in CHANGES))


def changed(shipped: Mapping[str, Any], keys: Mapping[str, Any]) -> Params:
    """The params with other values. Raises ValueError for a key that there is not, or a value that it cannot have."""
    raw = copy.deepcopy(dict(shipped))
    for key, value in keys.items():
        *path, last = key.split(".")
        block = raw
        for name in path:
            block = block.get(name) if isinstance(block, dict) else None
        if not isinstance(block, dict) or last not in block:
            raise ValueError(f"params.yaml has no {key}")
        block[last] = value
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ValueError(explain(error, raw, "params.yaml, changed")) from None


def base(source: str, split: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """params.yaml for this source: every arm, no search, and diffusion twice more, for what is chance alone."""
    fixed = {"profile": "full", "search.trainings": 0, "data.source": source, "data.split": split}
    raw = changed(YAML(typ="safe").load(ROOT / "params.yaml"), {**fixed, **given}).model_dump(mode="json")
    raw["arms"]["autoregressive"]["role"] = "candidate"
    raw["generators"]["again"] = {**raw["generators"]["diffusion"], "model": "again"}
    raw["generators"]["redrawn"] = {"family": "diffusion", "model": "diffusion"}
    return raw


class Result(NamedTuple):
    """A change with what was found on each split: changed and shipped classifiers, and how far their rows lie."""

    change: Change
    pairs: list[tuple[Said, Said]]
    distances: list[tuple[float, float]]


def table(results: Sequence[Result]) -> tuple[list[str], pd.DataFrame]:
    """Lines of markdown by group, and the same as figures."""
    titles = ("change", "balanced accuracy, points", "log-likelihood", "distance of rows", "the change")
    lines, figures = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)], []
    for result in sorted(results, key=lambda r: GROUPS.index(r.change.group)):
        (group, text, *_), found = result.change, compare(result.pairs)
        if not figures or figures[-1]["group"] != group:
            lines.append(f"| **{group}** | | | | |")
        other, shipped = np.mean(result.distances, axis=0)
        cells = (
            text,
            cell(*found.accuracy, 100, 1),
            cell(*found.likelihood, 1, 3),
            moved(other, shipped),
            found.verdict,
        )
        lines.append(f"| {' | '.join(cells)} |")
        figures.append({"group": group, "change": text, "splits": len(result.pairs)})
        for name, (value, low, high) in found._asdict().items():
            figures[-1] |= {name: value, f"{name}_low": low, f"{name}_high": high}
        figures[-1] |= {"distance": other, "distance_shipped": shipped, "verdict": found.verdict}
    return lines, pd.DataFrame(figures)


def moved(other: float, shipped: float) -> str:
    """A distance and what it is as shipped; empty if the same rows, or none, are learnt from."""
    return "" if np.isnan(other + shipped) or other == shipped else f"{other:.3f}, shipped {shipped:.3f}"


def measure(labs: Sequence["Laboratory"], shipped: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> list[Result]:
    """Every change of these groups, told as they come: a group on all splits before the next group."""
    from benchmarks.laboratory import NotMade

    jobs = [(c, i) for g in groups for i in range(len(labs)) for c in CHANGES if c.group == g]
    asked = [changed(shipped[i], c.keys) for c, i in jobs]  # a key that is wrong is told before anything runs
    begun, results = time.monotonic(), {}
    for done, ((change, split), other) in enumerate(zip(jobs, asked, strict=True), 1):
        sides = (other, change.arm), (changed(shipped[split], {}), change.against)
        try:
            files = [labs[split].trained(*side) for side in sides]
        except NotMade:
            continue
        except (ValueError, ArithmeticError) as error:
            print(f"left out: split {split}, {change.group}, {change.text}: {error}", file=sys.stderr, flush=True)
            continue
        result = results.setdefault((change.group, change.text), Result(change, [], []))
        result.pairs.append(tuple(map(Said.load, files)))
        result.distances.append(tuple(labs[split].distance(*side) for side in sides))
        minutes, points = (time.monotonic() - begun) / 60, cell(*compare(result.pairs[-1:]).accuracy, 100, 1)
        told = f"split {split}, {change.group}: {change.text}: {points} points"
        print(f"{minutes:6.1f} min, {done} of {len(jobs)}, {told}", flush=True)
    return list(results.values())


def heading(
    source: str, labs: Sequence["Laboratory"], results: Sequence[Result], given: Mapping[str, Any]
) -> list[str]:
    """What was measured on what, above the table."""
    lines = [f"### {Path(source).stem}", ""]
    for split, lab in enumerate(labs):
        each = "; ".join(f"{name} {n}, {held} ({groups})" for name, n, held, groups in lab.rows())
        lines.append(f"- split {split}, rows of train and of validation (groups of these): {each}")
    seeds = len(results[0].pairs[0][0].probabilities)
    keys = ", ".join(f"`{k}: {v}`" for k, v in given.items()) or "nothing"
    lines.append(f"- {seeds} seeds; on both sides instead of what is shipped: {keys}")
    for arm in dict.fromkeys(r.change.against for r in results):
        pairs = max((r.pairs for r in results if r.change.against == arm), key=len)
        score = np.mean([b.statistics()[0](np.ones((1, len(b.y)))).mean() for _, b in pairs])
        lines.append(f"- {arm} as shipped: balanced accuracy {100 * score:.1f} %")
    return lines


def one(source: str, out: Path, given: argparse.Namespace) -> None:
    """A dataset from beginning to end: its table printed, and written with the figures."""
    from benchmarks.laboratory import Laboratory

    shipped = [base(source, split, given.set) for split in range(given.splits)]
    labs = [Laboratory(out / f"split{i}", changed(raw, {}), given.made) for i, raw in enumerate(shipped)]
    if len({lab.held() for lab in labs}) < len(labs):
        raise ValueError(f"{source} brings a validation split of its own, so there is only one: use --splits 1")
    results = measure(labs, shipped, given.groups)
    if not results:
        raise ValueError(f"{source}: nothing could be trained; see above")
    lines, figures = table(results)
    text = "\n".join([*heading(source, labs, results, given.set), "", *lines])
    (out / "table.md").write_text(text + "\n")
    figures.to_csv(out / "figures.csv", index=False)
    print(f"\n{text}\n")


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablate", description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", help="what data.source may be, as an absolute path")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of params, on both sides"
    )
    parser.add_argument("--groups", default=",".join(GROUPS), help=f"which of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--splits", type=int, default=2, help="values of data.split, from 0; default: 2")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "ablations", help="where what was made is kept")
    parser.add_argument("--made", action="store_true", help="only tell what was trained before")
    given = parser.parse_args(words)
    given.groups = given.groups.split(",")
    if lost := [g for g in given.groups if g not in GROUPS]:
        parser.error(f"--groups: there is no {', '.join(lost)}; there are: {', '.join(GROUPS)}")
    if lost := [word for word in given.set if "=" not in word]:
        parser.error(f"--set: {lost[0]} is not KEY=VALUE")
    yaml = YAML(typ="safe")
    given.set = {key: yaml.load(value) for key, _, value in (word.partition("=") for word in given.set)}
    return given


def main(words: Sequence[str]) -> int:
    given = arguments(words)
    try:
        for source in given.datasets:
            one(source, given.out / Path(source).stem, given)
    except (ValueError, OSError) as error:
        print(f"cannot go on: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    for name, value in {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "NO_ALBUMENTATIONS_UPDATE": "1"}.items():
        os.environ.setdefault(name, value)
    sys.exit(main(sys.argv[1:]))
