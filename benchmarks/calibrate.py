"""Is the verdict right? Known effects, simulated and trained, and how often it names them. Run: make calibrate

Simulated: every arm's probabilities come from a model with row difficulty, seeds and their interaction, so the true
difference is known. Trained: real classifiers on resampled digits, with a placebo (copies of training rows presented as
a generator), rows with mixed-up labels, and an oracle that adds real rows which were set aside. The verdict sees what it
sees in a run: arms chosen on validation, one test split, as many paired seeds as retraining.seeds. Results go to
docs/calibration.md. Exit code 1: a target is missed.

Another number of runs: python -m benchmarks.calibrate <simulated runs of each line> <trained runs> <seeds of simulated runs>
"""

import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import beta

from pipeline import params
from pipeline.evaluation.outcomes import Outcomes
from pipeline.evaluation.verdict import choose, decide
from pipeline.params import Arm, Params
from pipeline.processes import cores

ROOT = Path(__file__).parents[1]
EFFECTS = (0.0, 0.3, 0.6)  # in log odds
FEW = 10  # test rows of the rarest class, with which intervals are known to be too narrow, as a run then warns


class Setting(NamedTuple):
    """One simulated world: classes, rows of validation and test, and the spread of each source of noise in log odds."""

    name: str
    classes: int
    val: int
    test: int
    row: float  # difficulty of a row, shared by all arms and seeds
    arm_row: float  # how differently arms find the same row
    seed: float  # a training's luck
    seed_row: float  # a training's luck with a row
    rarest: float = 1.0  # rows of the last class, as a share of those of the first
    group: int = 1  # rows of a group, all of one class and equally hard


SETTINGS = (
    Setting("small test, noisy seeds", 10, 150, 200, 2.0, 0.5, 0.3, 1.0),
    Setting("digits-like", 10, 150, 800, 2.0, 0.5, 0.15, 1.0),
    Setting("two classes, imbalanced test", 2, 300, 600, 2.0, 0.5, 0.15, 1.0, rarest=0.2),
    Setting("large test, steady seeds", 10, 500, 2000, 2.0, 0.5, 0.05, 0.5),
    Setting("seeds decide", 3, 300, 2000, 1.0, 0.1, 0.4, 0.3),
    Setting("ten rows of a class, arms much alike", 2, 310, 310, 2.0, 0.1, 0.05, 0.2, rarest=1 / 30),
    Setting("rows in groups of five", 10, 500, 1500, 2.0, 0.5, 0.15, 0.5, group=5),
)


def arms(controls: Iterable[str], candidates: Iterable[str]) -> dict[str, Arm]:
    """Arms of which the verdict sees no more than the role."""
    rest = {"rows": "nothing", "also": "nothing", "use": "kept", "dose": "full", "recipe": "plain"}
    rest |= {"tuned": False, "quick": True}
    roles = dict.fromkeys(controls, "control") | dict.fromkeys(candidates, "candidate")
    return {a: Arm(role=role, **rest) for a, role in roles.items()}


def simulate(world: Setting, effect: float, seed: int, settings: Params) -> dict:
    """One run in this world, its candidates better by `effect` log odds: the verdict, and the true difference it is of.

    `others` says whether any arm that was neither chosen nor a control has a word that is wrong.
    """
    block, seeds = settings.evaluation, settings.retraining.seeds
    rng = np.random.default_rng([seed, round(1000 * effect), world.test])
    controls = ("real", "oversample", "classic", "smote", "mixup", "balanced_softmax")
    names = arms(controls, ("cvae", "cgan", "diffusion"))
    level = {a: 2.0 + (effect if r.role == "candidate" else 0.0) for a, r in names.items()}
    luck = {a: rng.normal(0, world.seed, seeds) for a in names}
    held, _ = draw(world, world.val, level, luck, rng)
    test, _ = draw(world, world.test, level, luck, rng)
    choices = choose(held, names, dict.fromkeys(names, 100), block, seed)
    found = decide(choices, test, names, dict.fromkeys(names, 100), block, seed)
    expected = {a: truth(world, level[a]) for a in (choices["chosen_arm"], choices["best_control"])}
    true = expected[choices["chosen_arm"]] - expected[choices["best_control"]]
    wrong = {"HELPS", "HURTS"} if effect == 0 else {"HURTS"}
    beside = [told["verdict"] for a, told in found["arms"].items() if "verdict" in told and a != choices["chosen_arm"]]
    ends = {k: found[k] for k in ("difference", "ci_low", "ci_high")}
    return {"verdict": found["verdict"], "true": true, **ends, "others": not wrong.isdisjoint(beside)}


def draw(
    world: Setting, rows: int, level: dict[str, float], luck: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[Outcomes, np.ndarray]:
    """What every arm says of freshly drawn rows: a wrong answer names a random other class."""
    share, group = np.geomspace(1, world.rarest, world.classes), np.arange(rows) // world.group
    y = rng.choice(world.classes, group[-1] + 1, p=share / share.sum())
    y[: world.classes] = np.arange(world.classes)
    y, seeds = y[group], len(next(iter(luck.values())))
    hard, said = rng.normal(0, world.row, group[-1] + 1), {}
    for arm in level:
        own = (hard + rng.normal(0, world.arm_row, len(hard)))[group]
        odds = level[arm] + luck[arm][:, None] + own + rng.normal(0, world.seed_row, (seeds, rows))
        right = 1 / (1 + np.exp(-odds))
        hit = odds > 0
        other = (y + rng.integers(1, world.classes, (seeds, rows))) % world.classes
        guess, sure = np.where(hit, y, other), np.maximum(right, 1 - right)
        spread = (1 - sure[..., None]) / max(world.classes - 1, 1)
        probabilities = np.broadcast_to(spread, (seeds, rows, world.classes)).copy()
        np.put_along_axis(probabilities, guess[..., None], np.maximum(sure, 1 / world.classes + 1e-6)[..., None], 2)
        said[arm] = probabilities
    return Outcomes(said, y, group, [str(c) for c in range(world.classes)]), y


def truth(world: Setting, level: float) -> float:
    """The balanced accuracy that an arm of this level has over all rows and seeds: P(level + noise > 0)."""
    from scipy.stats import norm

    spread = np.sqrt(world.row**2 + world.arm_row**2 + world.seed**2 + world.seed_row**2)
    return float(norm.cdf(level / spread))


def one_simulation(job: tuple[Setting, float, int, int | None]) -> dict:
    world, effect, seed, seeds = job
    return {"setting": world.name, "effect": effect} | simulate(world, effect, seed, load(seeds))


def load(seeds: int | None = None) -> Params:
    """params.yaml, with another number of paired seeds if one is given."""
    settings = params.load(ROOT / "params.yaml")
    more = {} if seeds is None else {"retraining": settings.retraining.model_copy(update={"seeds": seeds})}
    return settings.model_copy(update=more)


CONTROLS = {"real": "plain", "oversample_sqrt": "square_root", "oversample": "balanced"}
CANDIDATES = {"placebo": "synthetic", "shuffled": "synthetic", "oracle": "balanced"}
TOLD = ("verdict", "difference", "ci_low", "ci_high", "p_value", "reason")
SIMULATED = ["setting", "effect", "verdict", "true", "difference", "ci_low", "ci_high", "others"]


def trained(number: int) -> list[dict]:
    """One real run on digits split afresh: three verdicts, one for each candidate against the same controls."""
    from pipeline import devices
    from pipeline.classifier import model, predict
    from pipeline.classifier.train import train as fit
    from pipeline.data.augment import Views
    from pipeline.data.loaders import Batches, Rows
    from pipeline.seeds import derive
    from stages.augment import write_banks

    block = load()
    devices.set_threads(block.compute)
    train, val, test, spare = split_digits(number)
    settings = model.settings(block.classifier, train.shape, 10, len(train)).model_copy(
        update={"steps": 300, "widths": (16, 32)}
    )
    rng = np.random.default_rng([number, 1])
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in {"train": train, "spare": spare}.items():
            write_banks(Path(folder, name), rows, block, ["standard"])
        base, extra = (Views.load(Path(folder, name, "standard")) for name in ("train", "spare"))
        need = np.maximum(train.counts.max() - train.counts, 0)
        copies = np.concatenate([rng.choice(np.flatnonzero(train.y == c), need[c]) for c in range(10)])
        more = np.concatenate([np.flatnonzero(spare.y == c)[: need[c]] for c in range(10)])
        mixed = Views.joined([base, extra])
        added: dict[str, tuple[Views, np.ndarray, np.ndarray] | None] = dict.fromkeys(CONTROLS)
        added["placebo"] = (base, train.y[copies], copies)
        added["shuffled"] = (mixed, rng.permutation(train.y[copies]), copies)
        added["oracle"] = (extra, spare.y[more], more)
        held, said = {}, {}
        for arm, name in (CONTROLS | CANDIDATES).items():
            recipe, outs = block.recipes[name], ([], [])
            made = None
            if added[arm] is not None:
                views, y, place = added[arm]
                made = Rows(y, views, np.full(len(y), recipe.weight), place)
            for seed in (derive(block.seed, "calibrate", number, s) for s in range(block.retraining.seeds)):
                batches = Batches(
                    Rows(train.y, base, np.ones(len(train))), 10, settings.batch, settings.steps, seed,
                    recipe.balance, made, recipe.share,
                )  # fmt: skip
                network, _ = fit(batches, val, settings, recipe, seed, block.compute, lambda *_: None)
                for rows, out in zip((val, test), outs, strict=True):
                    out.append(
                        predict.probabilities(predict.run(network, rows.images, devices.device(block.compute))[0])
                    )
            held[arm], said[arm] = (np.stack(out) for out in outs)
    return [judge(number, candidate, held, said, val, test, block) for candidate in CANDIDATES]


def judge(number: int, candidate: str, held: dict, said: dict, val: Any, test: Any, block: Params) -> dict:
    roles = arms(CONTROLS, [candidate])
    names = list(roles)
    from pipeline.classifier.predict import fit_temperature, probabilities

    logits = {a: [np.log(np.maximum(s[a], 1e-12)) for s in (held, said)] for a in names}
    warmth = {a: [fit_temperature(one, val.y) for one in logits[a][0]] for a in names}
    tempered = {
        a: np.stack([probabilities(*pair) for pair in zip(logits[a][1], warmth[a], strict=True)]) for a in names
    }
    seen = [
        Outcomes({a: s[a] for a in names}, rows.y, rows.table["group"].to_numpy(), rows.classes, scaled)
        for s, rows, scaled in ((held, val, None), (said, test, tempered))
    ]
    rows = dict.fromkeys(names, 100)
    choices = choose(seen[0], roles, rows, block.evaluation, number)
    found = decide(choices, seen[1], roles, rows, block.evaluation, number)
    return {"run": number, "candidate": candidate, "control": choices["best_control"]} | {k: found[k] for k in TOLD}


def split_digits(number: int) -> tuple[Any, ...]:
    """Fresh scarce train (80 to 5 rows a class), validation (100), test (600) and the rows left over, as Samples."""
    from sklearn.datasets import load_digits

    from pipeline.samples import Facts, Samples, table

    source = load_digits()
    images = np.round(source.images * 255 / 16).astype(np.uint8)[..., None]
    rng = np.random.default_rng([number, 0])
    order, place = rng.permutation(10), [rng.permutation(np.flatnonzero(source.target == c)) for c in range(10)]
    counts = np.round(np.geomspace(80, 5, 10)).astype(int)
    parts: list[list[np.ndarray]] = [[], [], [], []]
    for c, n in zip(order, counts, strict=True):
        for part, rows in zip(parts, np.split(place[c], [n, n + 10, n + 70]), strict=True):
            part.append(rows)
    names = tuple("0123456789")
    scarce = tuple(names[c] for c, n in zip(order, counts, strict=True) if n < 40)
    out = []
    for part, split in zip(parts, ("train", "val", "test", "train"), strict=True):
        rows = np.sort(np.concatenate(part))
        ids = [f"digit{i}" for i in rows]
        frame = table(
            id=ids, group=ids, label=[names[c] for c in source.target[rows]], split=[split] * len(rows),
            origin=["real"] * len(rows),
        )  # fmt: skip
        out.append(Samples(frame, images[rows], Facts(names, scarce)))
    return tuple(out)


def share(hits: Sequence[bool]) -> str:
    """A share in percent with its exact 95 % interval (Clopper and Pearson)."""
    k, n = int(np.sum(hits)), len(hits)
    low, high = beta.ppf(0.025, k, n - k + 1) if k else 0.0, beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return f"{100 * k / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


class Target(NamedTuple):
    """A share of runs that has to lie from `low` to `high`, and in which runs it was so."""

    name: str
    low: float
    high: float
    hits: Sequence[bool]

    @property
    def met(self) -> bool:
        """No runs meet nothing."""
        return len(self.hits) > 0 and self.low <= float(np.mean(self.hits)) <= self.high

    def __str__(self) -> str:
        found = f"{share(self.hits)} of {len(self.hits)} runs" if len(self.hits) else "no runs"
        asked = f"{100 * self.low:.0f} to {100 * self.high:.0f} %"
        return f"{'met' if self.met else 'MISSED'}: {self.name}: {found}; asked for: {asked}"


def targets(simulated: pd.DataFrame, real: pd.DataFrame) -> list[Target]:
    """What is asked of the verdict, with what was found."""
    helps = {name: rows["verdict"] == "HELPS" for name, rows in real.groupby("candidate")}
    few = simulated["setting"].isin(
        {world.name for world in SETTINGS if world.test * world.rarest / world.classes < FEW}
    )
    none, apart = simulated[simulated["effect"] == 0], simulated[simulated["true"].abs() > load().evaluation.margin]
    return [
        Target("HELPS without effect, simulated", 0.0, 0.05, none["verdict"] == "HELPS"),
        Target("HURTS without effect, simulated", 0.0, 0.05, none["verdict"] == "HURTS"),
        Target("NEUTRAL beyond the margin, simulated", 0.0, 0.05, apart["verdict"] == "NEUTRAL"),
        Target("a wrong word of any arm not chosen, simulated", 0.0, 0.05, simulated["others"]),
        Target("HELPS for the placebo", 0.0, 0.05, helps.get("placebo", [])),
        Target("HELPS for the oracle", 0.9, 1.0, helps.get("oracle", [])),
        Target("coverage, simulated, without worlds of few rows", 0.92, 0.98, holds(simulated[~few])),
    ]


def holds(simulated: pd.DataFrame) -> pd.Series:
    """Which intervals hold the true difference."""
    return (simulated["ci_low"] <= simulated["true"]) & (simulated["true"] <= simulated["ci_high"])


def simulated_table(simulated: pd.DataFrame) -> list[str]:
    lines = [
        "| world | effect | HELPS | HURTS | NEUTRAL | the interval holds the true difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (name, effect), rows in simulated.groupby(["setting", "effect"], sort=False):
        words = " | ".join(share(rows["verdict"] == w) for w in ("HELPS", "HURTS", "NEUTRAL"))
        mean = f"{100 * rows['true'].mean():+.1f} points"
        lines.append(f"| {name} | {mean if effect else 'none'} | {words} | {share(holds(rows))} |")
    return lines


def trained_table(real: pd.DataFrame) -> list[str]:
    words = ("HELPS", "HURTS", "NEUTRAL", "CANNOT_TELL")
    lines = [f"| candidate | mean difference in points | {' | '.join(words)} |", "| --- |" + " --- |" * 5]
    for name, rows in real.groupby("candidate", sort=False):
        counts = [str(int((rows["verdict"] == w).sum())) for w in words]
        lines.append(f"| {name} | {100 * rows['difference'].mean():+.1f} | " + " | ".join(counts) + " |")
    return lines


def measure(simulations: int, runs: int, seeds: int | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every simulated run, and every candidate of every trained one; `seeds` are those of simulated ones."""
    worlds = [(w, effect, s, seeds) for w in SETTINGS for effect in EFFECTS for s in range(simulations)]
    with ProcessPoolExecutor(cores()) as pool:
        simulated = pd.DataFrame(pool.map(one_simulation, worlds, chunksize=4), columns=SIMULATED)
        rows = [row for rows in pool.map(trained, range(runs)) for row in rows]
    return simulated, pd.DataFrame(rows, columns=["run", "candidate", "control", *TOLD])


def main(simulations: int, runs: int, seeds: int | None, out: Path) -> int:
    """Tables, written and printed, and an exit code: 1 if a target is missed."""
    simulated, real = measure(simulations, runs, seeds)
    asked = targets(simulated, real)
    out.mkdir(parents=True, exist_ok=True)
    simulated.to_csv(out / "simulated.csv", index=False)
    real.to_csv(out / "trained.csv", index=False)
    parts = (simulated_table(simulated), trained_table(real), [f"- {target}" for target in asked])
    text = "\n\n".join("\n".join(lines) for lines in parts)
    (out / "tables.md").write_text(text + "\n")
    print(text)
    return 0 if all(target.met for target in asked) else 1


if __name__ == "__main__":
    for key, value in {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "NO_ALBUMENTATIONS_UPDATE": "1"}.items():
        os.environ.setdefault(key, value)
    given: list[int | None] = [int(a) for a in sys.argv[1:4]]
    sys.exit(main(*(given + [60, 20, None][len(given) :]), ROOT / "results" / "calibration"))
