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

from pipeline.evaluation.statistics import Statistic, breadth, by_confusion, differences, resamples
from pipeline.evaluation.utility import likelihood
from pipeline.params import Params
from pipeline.params.fields import explain

if TYPE_CHECKING:
    from benchmarks.laboratory import Laboratory

ROOT = Path(__file__).parents[1]
DRAWS, CONFIDENCE = 2000, 0.95


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


CHANGES = (
    use("weight 1.0, not 0.3", weight=1.0),
    use("share 0.65 and weight 1.0, not 0.5 and 0.3", share=0.65, weight=1.0),
    use("share 0.3, not 0.5", share=0.3),
    use("no last steps without synthetic rows, not 15 %", real_only=0.0),
    use("labels 40 % by the teachers, not hard", soft=0.4),
    Change("use", "dose sqrt, not full", {"arms.diffusion.dose": "sqrt"}),
    Change("use", "dose quarter, not full", {"arms.diffusion.dose": "quarter"}),
    Change("use", "labels mixed up", {"arms.diffusion.use": "shuffled"}),
    Change("selection", "none: every row may be used", {"arms.diffusion.use": "all"}),
    Change("selection", "no band", {"selection.band": [0.0, 1e6]}),
    Change("selection", "no third_class", {"selection.third_class": 1.0}),
    Change("selection", "no copy_floor, in the choice of weights neither", {"selection.copy_floor": 0.0}),
    Change("drawing", "other rows of the same model", {"arms.diffusion.rows": "redrawn"}),
    option("drawing", "diffusion", "guidance 1.5, not 1", guidance=1.5),
    option("drawing", "diffusion", "churn 20, not 0", churn=20.0),
    Change("fit", "fitted again with another seed", {"arms.diffusion.rows": "again"}),
    option("fit", "diffusion", "last weights of one average, not a judge's choice", snapshots=1, ema=[0.05]),
    option("fit", "diffusion", "classes as they come (balance 1), not 0.5", balance=1.0),
    option("fit", "diffusion", "classes alike (balance 0), not 0.5", balance=0.0),
    option("fit", "diffusion", "no augmentation, not 0.15", augment=0.0),
    option("fit", "diffusion", "no dropout, not 0.1", dropout=0.0),
    *(Change("arm", f"{name}, not diffusion", arm=name) for name in ("gmm", "translate", "cvae", "cgan", "mixture")),
    *(Change("arm", f"{name}, not diffusion", arm=name) for name in ("oversample", "classic", "real")),
    option("cgan", "cgan", "no term for diversity, not 1", diversity=0.0),
    option("cgan", "cgan", "the class counts from the start, no ramp", ramp=[0.0, 0.0001]),
    option("cgan", "cgan", "no augmentation, not all three", augment=[]),
    option("cgan", "cgan", "classes as they come (balance 1), not 0.5", balance=1.0),
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
    raw["generators"]["again"] = {**raw["generators"]["diffusion"], "model": "again"}
    raw["generators"]["redrawn"] = {"family": "diffusion", "model": "diffusion"}
    return raw


class Said(NamedTuple):
    """What an arm's classifiers say of the validation rows of one split: (S, N, K), and classes and groups (N,)."""

    probabilities: np.ndarray
    y: np.ndarray
    groups: np.ndarray

    @classmethod
    def load(cls, file: Path) -> "Said":
        """Probabilities at the temperature that suits these rows best, so that more or less caution is no gain."""
        from pipeline.classifier.predict import fit_temperature, probabilities

        with np.load(file, allow_pickle=False) as arrays:
            raw, y, groups = (arrays[k] for k in ("probabilities", "y", "groups"))
        logits = np.log(np.maximum(raw, 1e-12))
        return cls(np.stack([probabilities(one, fit_temperature(one, y)) for one in logits]), y, groups)

    def statistics(self) -> list[Statistic]:
        """Balanced accuracy, and the mean over classes of the mean log-likelihood of a class."""
        classes = self.probabilities.shape[2]
        right = by_confusion(self.probabilities.argmax(axis=2), self.y, classes, "balanced_accuracy")
        logs = np.stack([likelihood(one[None], self.y) for one in self.probabilities], axis=1)  # (N, S), balanced

        def likely(rows: np.ndarray) -> np.ndarray:
            """Weights (R, N) of rows, of which every class has the same sum as without them -> (R, S)."""
            return rows @ logs / len(self.y)

        return [right, likely]


class Found(NamedTuple):
    """A mean difference over splits and seeds with its interval, of balanced accuracy and of log-likelihood."""

    accuracy: tuple[float, float, float]
    likelihood: tuple[float, float, float]

    @property
    def verdict(self) -> str:
        """By the measures whose interval leaves zero out."""
        sure = {np.sign(low) for _, low, high in self if low > 0 or high < 0}
        return {1.0: "helps", -1.0: "hurts"}[sure.pop()] if len(sure) == 1 else "cannot tell"


def compare(pairs: Sequence[tuple[Said, Said]]) -> Found:
    """First against second, one pair for each split, by the bootstrap over seeds and groups that the verdict has too.

    Splits count alike and as if they were independent.
    """
    seen, drawn = [], []
    for split, (one, other) in enumerate(pairs):
        assert np.array_equal(one.y, other.y) and np.array_equal(one.groups, other.groups), "not the same rows"
        both = list(zip(one.statistics(), other.statistics(), strict=True))
        whole = np.ones((1, len(one.y)))
        seen.append([(a(whole) - b(whole)).mean() for a, b in both])
        again = resamples(one.y, one.groups, DRAWS, split)
        drawn.append(differences(both, again, split, breadth(one.y, one.groups, CONFIDENCE)))
    ends = np.quantile(np.mean(drawn, axis=0), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)  # (2, measures)
    means = np.mean(seen, axis=0)
    return Found(*((float(m), float(low), float(high)) for m, low, high in zip(means, *ends, strict=True)))


def table(results: Sequence[tuple[Change, Sequence[tuple[Said, Said]]]]) -> tuple[list[str], pd.DataFrame]:
    """Lines of markdown by group, and the same as figures."""
    lines = ["| change | balanced accuracy, points | log-likelihood | the change |", "| --- | --- | --- | --- |"]
    rows, last = [], ""
    for change, pairs in sorted(results, key=lambda r: GROUPS.index(r[0].group)):
        found = compare(pairs)
        if change.group != last:
            last = change.group
            lines.append(f"| **{last}** | | | |")
        points, nats = (_cell(*v, scale, digits) for v, scale, digits in zip(found, (100, 1), (1, 3), strict=True))
        lines.append(f"| {change.text} | {points} | {nats} | {found.verdict} |")
        figures = {f"{k}{end}": v for k, own in found._asdict().items() for end, v in zip(ENDS, own, strict=True)}
        rows.append({"group": change.group, "change": change.text, "splits": len(pairs), **figures})
        rows[-1]["verdict"] = found.verdict
    return lines, pd.DataFrame(rows)


ENDS = ("", "_low", "_high")


def _cell(value: float, low: float, high: float, scale: float, digits: int) -> str:
    value, low, high = (scale * v for v in (value, low, high))
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


Results = list[tuple[Change, list[tuple[Said, Said]]]]


def measure(labs: Sequence["Laboratory"], shipped: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> Results:
    """Every change of these groups with its pairs, told as they come: a group on all splits before the next group."""
    jobs = [(c, i) for g in groups for i in range(len(labs)) for c in CHANGES if c.group == g]
    asked = [changed(shipped[i], c.keys) for c, i in jobs]  # a key that is wrong is told before anything runs
    begun, pairs = time.monotonic(), {}
    for done, ((change, split), other) in enumerate(zip(jobs, asked, strict=True), 1):
        try:
            own = labs[split].trained(changed(shipped[split], {}), change.against)
            files = labs[split].trained(other, change.arm), own
        except (ValueError, ArithmeticError) as error:
            print(f"left out: split {split}, {change.group}, {change.text}: {error}", file=sys.stderr, flush=True)
            continue
        found = pairs.setdefault((change.group, change.text), (change, []))[1]
        found.append(tuple(map(Said.load, files)))
        minutes, cell = (time.monotonic() - begun) / 60, _cell(*compare(found[-1:]).accuracy, 100, 1)
        told = f"split {split}, {change.group}: {change.text}: {cell} points"
        print(f"{minutes:6.1f} min, {done} of {len(jobs)}, {told}", flush=True)
    return list(pairs.values())


def heading(source: str, labs: Sequence["Laboratory"], results: Results, given: Mapping[str, Any]) -> list[str]:
    """What was measured on what, above the table."""
    from pipeline.params import load

    lines = [f"### {Path(source).stem}", ""]
    for split, lab in enumerate(labs):
        each = "; ".join(f"{name} {n}, {held} of {groups}" for name, n, held, groups in lab.rows())
        lines.append(f"- split {split}: training rows, validation rows of so many groups: {each}")
    seeds = given.get("retraining.seeds", load(ROOT / "params.yaml").retraining.seeds)
    lines.append(
        f"- {seeds} seeds; changed on both sides: {', '.join(f'`{k}: {v}`' for k, v in given.items()) or 'nothing'}"
    )
    for arm in dict.fromkeys(c.against for c, _ in results):
        own = {id(b): b for c, pairs in results if c.against == arm for _, b in pairs[: len(labs)]}
        score = np.mean([b.statistics()[0](np.ones((1, len(b.y)))).mean() for b in own.values()])
        lines.append(f"- {arm} as shipped: balanced accuracy {100 * score:.1f} %")
    return lines


def one(source: str, out: Path, splits: int, given: Mapping[str, Any], groups: Sequence[str]) -> None:
    """A dataset from beginning to end: its table printed, and written with the figures."""
    from benchmarks.laboratory import Laboratory

    shipped = [base(source, split, given) for split in range(splits)]
    labs = [Laboratory(out / f"split{i}", changed(raw, {})) for i, raw in enumerate(shipped)]
    if len({lab.held() for lab in labs}) < len(labs):
        raise ValueError(f"{source} brings a validation split of its own, so there is only one: use --splits 1")
    results = measure(labs, shipped, groups)
    if not results:
        raise ValueError(f"{source}: nothing could be trained; see above")
    lines, figures = table(results)
    text = "\n".join([*heading(source, labs, results, given), "", *lines])
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
            one(source, given.out / Path(source).stem, given.splits, given.set, given.groups)
    except (ValueError, OSError) as error:
        print(f"cannot go on: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    for name, value in {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "NO_ALBUMENTATIONS_UPDATE": "1"}.items():
        os.environ.setdefault(name, value)
    sys.exit(main(sys.argv[1:]))
