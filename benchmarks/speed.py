"""Speed, side by side with peers and against limits: docs/performance.md. Run: python -m benchmarks.speed [measurement ...]

Measurements: training, sampling, loop, limit, growth; none named: all of these, about 30 CPU minutes. By itself: pipeline,
a whole run of a copy of the project. Tables are printed, and figures written to results/bench/<measurement>.json. The first call of
training or sampling downloads the peer (requirements-bench.txt) into .work/bench, where no other program looks for it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import whole
from benchmarks.rounds import ROOT, ROUNDS, Process, Ratio, best, described, foreign, machine, measure

PEERS = {"peer_attention": "diffusers, attention", "peer_plain": "diffusers, attention-free"}
TARGETS = {"peer_attention": 3.0, "peer_plain": 1.8}
SAMPLING, LOOP = 5.0, 0.95  # asked of sampling beside either peer, and of a stage's loop beside one by hand
WHOLE, NOTHING = 1.35, 5.0  # asked of a whole run, in seconds of its loops, and of one with nothing to do, in seconds
Found = tuple[list[str], dict[str, Any]]


def peer() -> Path:
    """The folder of the peer's packages, made at the first call; only a process of its own is told of it."""
    wanted = ROOT / "requirements-bench.txt"
    folder = ROOT / ".work" / "bench" / f"peer-{zlib.crc32(wanted.read_bytes())}"
    if not folder.exists():
        draft = folder.with_suffix(".draft")
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "--upgrade", "--target", str(draft), "-r", str(wanted)], check=True)
        draft.rename(folder)
    return folder


def training(peers: Sequence[str] = tuple(PEERS), rounds: int = ROUNDS, steps: int = 2, small: bool = False) -> Found:
    """Images per CPU second of diffusion training; each peer in its better memory format."""
    from benchmarks import denoisers

    with Process() as ours, Process(peer() if peers else None) as theirs:
        run = {
            f"ours {'bf16' if bf16 else 'fp32'}": partial(
                ours, denoisers.speed, "ours", bf16, not bf16, 4 * steps, small
            )
            for bf16 in (False, True)
        }
        for name in peers:
            for bf16 in (False, True):
                for last in (False, True):
                    title = f"{name} {'bf16' if bf16 else 'fp32'}{' channels last' if last else ''}"
                    run[title] = partial(theirs, denoisers.speed, name, bf16, last, steps, small)
        parameters = {"ours": ours(denoisers.count, "ours", small)}
        parameters |= {name: theirs(denoisers.count, name, small) for name in peers}
        auto = f"ours {ours(denoisers.auto)}"
        found = measure(run, rounds)
    lines = ["| network | parameters | images / CPU second, fp32 | bf16 |", "| --- | --- | --- | --- |"]
    for name, count in parameters.items():
        speeds = [found[best(found, [v for v in found if v.startswith(f"{name} {p}")])] for p in ("fp32", "bf16")]
        cells = " | ".join(f"{statistics.median(s):.0f}" for s in speeds)
        lines.append(f"| {PEERS.get(name, name)} | {count:,} | {cells} |")
    lines += ["", "| ratio | median [min, max] | target |", "| --- | --- | --- |"]
    ratios = {}
    for name in peers:
        for mine, kind in (("ours fp32", "fp32"), (auto, "fp32"), (auto, "")):  # "": whichever is faster
            other = best(found, [v for v in found if v.startswith(f"{name} {kind}")])
            title = f"{mine}{', auto' if mine == auto else ''} / {other.replace(name, PEERS[name] + ',')}"
            ratios[title] = Ratio.of(found[mine], found[other])
            line = f"| {title} | {ratios[title].said()} | {judged(ratios[title].median, TARGETS[name])} |"
            lines += [line] if line not in lines else []
    return lines, {"speeds": found, "parameters": parameters, "ratios": ratios}


def judged(value: float, target: float) -> str:
    return f"{target:g}: {'met' if value >= target else 'missed'}"


def sampling(
    peers: Sequence[str] = tuple(PEERS),
    rounds: int = ROUNDS,
    seconds: float = 90,
    judge: int = 1200,
    small: bool = False,
) -> Found:
    """Images per CPU second, and the distances reached, after equal CPU seconds of training in bf16 where that is `auto`."""
    from benchmarks import denoisers, quality

    names = ["ours", *peers]
    with Process() as ours, Process(peer() if peers else None) as theirs:
        where = dict.fromkeys(names, theirs) | {"ours": ours}
        bf16 = ours(denoisers.auto) == "bf16"
        steps = {name: where[name](quality.fit, name, seconds, bf16, small) for name in names}
        drawn: dict[str, list[Any]] = {name: [] for name in names}

        def chunk(name: str) -> float:
            spent, images, y = where[name](quality.draw, name, 1000 * len(drawn[name]), small)
            drawn[name].append((images, y))
            return len(y) / spent

        found = measure({name: partial(chunk, name) for name in names}, rounds)
        far = {name: ours(quality.of_chunks, drawn[name], judge) for name in names}
        least = ours(quality.floor, far["ours"].rows, judge)
    lines = ["| model | steps trained | images / CPU second | Fréchet distance | pictures of the class asked for |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name in names:
        speed, d = statistics.median(found[name]), far[name]
        lines.append(
            f"| {PEERS.get(name, name)} | {steps[name]} | {speed:.2f} | {d.frechet:.3f} | {100 * d.agreed:.0f} % |"
        )
    lines.append(f"| training rows themselves | | | {least.frechet:.3f} | {100 * least.agreed:.0f} % |")
    ratios = {name: Ratio.of(found["ours"], found[name]) for name in peers}
    lines += ["", "| ratio | median [min, max] | target | distance no larger |", "| --- | --- | --- | --- |"]
    for name, ratio in ratios.items():
        better = "yes" if far["ours"].frechet <= far[name].frechet else "no"
        lines.append(f"| ours / {PEERS[name]} | {ratio.said()} | {judged(ratio.median, SAMPLING)} | {better} |")
    return lines, {"speeds": found, "steps": steps, "far": far, "floor": least, "ratios": ratios}


def loop(rounds: int = ROUNDS, steps: int = 300, precision: str = "auto") -> Found:
    """Steps per CPU second of a stage's whole training beside those of a loop by hand."""
    from benchmarks import loop as loops

    with Process() as one:
        found = measure({v: partial(one, loops.speed, v, steps, precision) for v in loops.VARIANTS}, rounds)
        shipped = one(loops.shipped_steps)
    lines = ["| loop | steps / CPU second | stage's speed / its speed | target |", "| --- | --- | --- | --- |"]
    ratios = {v: Ratio.of(found["stage"], found[v]) for v in loops.VARIANTS}
    for variant, ratio in ratios.items():
        asked = judged(ratio.median, LOOP) if variant == "by hand" else ""
        lines.append(f"| {variant} | {statistics.median(found[variant]):.1f} | {ratio.said(3)} | {asked} |")
    speeds = [statistics.median(found[v]) for v in loops.VARIANTS[1:]]
    check = steps * (1 / speeds[0] - 1 / speeds[1])
    lines.append(
        f"\n{steps} steps. Validation takes {check:.2f} CPU seconds of a training; of one of {shipped} steps, which `auto` "
        f"asks for here, {100 * check / (check + shipped / speeds[1]):.1f} %."
    )
    return lines, {"speeds": found, "ratios": ratios, "validation": check}


def limit(rounds: int = ROUNDS, seconds: float = 1.0, small: bool = False) -> Found:
    """Floating-point operations per CPU second beside those of the best convolution, of the same precision and round."""
    from benchmarks import limit as limits

    kinds = {"fp32": False, "bf16": True}
    with Process() as one:
        run = {f"convolution {k}": partial(one, limits.convolutions, b, seconds) for k, b in kinds.items()}
        for name in limits.WORK:
            for kind in ("fp32",) if name == "diffusion sampling" else kinds:
                pieces = 1 if small or name != "diffusion training" else 5
                run[f"{name} {kind}"] = partial(one, limits.reached, name, kinds[kind], pieces, small)
        found = measure(run, rounds)
    lines = ["| work | GFLOP / CPU second | share of the convolutions' |", "| --- | --- | --- |"]
    shares = {n: Ratio.of(found[n], found[f"convolution {n[-4:]}"]) for n in found}
    for name, share in shares.items():
        lines.append(f"| {name} | {statistics.median(found[name]) / 1e9:.0f} | {share.said()} |")
    return lines, {"speeds": found, "shares": shares}


def growth(sizes: Sequence[int] = (1_000, 3_000, 10_000), calls: Sequence[str] = ()) -> Found:
    """CPU seconds and memory of the library's calls by rows, and the power they grow with."""
    from benchmarks import growth as grown

    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls or grown.CALLS}
    for n in sizes:
        for name, costs in found.items():
            with Process() as fresh:
                costs.append(fresh(grown.cost, name, n))
            print(f"{name}, {n} rows: {costs[-1][0]:.2f} CPU seconds", file=sys.stderr, flush=True)
    heads = " | ".join(f"{n:,} rows" for n in sizes)
    lines = [f"| call | {heads} | exponent | memory at most, MB |", "| --- |" + " --- |" * (len(sizes) + 2)]
    for name, costs in found.items():
        seconds, told = [s for s, _ in costs], ""
        if len(sizes) > 1:
            told = f"{grown.exponent(sizes, seconds):.2f}{', above n log n' if grown.steep(sizes, seconds) else ''}"
        cells = " | ".join(f"{s:.2f} s" for s in seconds)
        lines.append(f"| {name.replace('_', ' ')} | {cells} | {told} | {max(m for _, m in costs):.0f} |")
    return lines, {"sizes": list(sizes), "costs": found}


def pipeline() -> Found:
    """What of a whole run is spent in loops and what around them, and what a run without changes takes."""
    before = machine()
    wrong, cores = foreign(before), before["cores"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "project")
        clock = whole.fresh(folder)
        inside, stages = whole.loops(folder / ".work" / "loops"), whole.account(folder / ".work" / "times")
        idle = whole.nothing_to_do(folder)
    note = " (inconclusive under foreign load)" if wrong else ""
    noop = Ratio.of(idle, [1.0] * len(idle))
    ratio = clock / (sum(inside.values()) / cores)
    lines = ["| a whole run | seconds | |", "| --- | --- | --- |"]
    lines += [f"| {kind}, added up over processes | {seconds:.0f} | |" for kind, seconds in inside.items()]
    lines += [f"| all stages, added up over processes | {stages['added']:.0f} | {stages['stages']:.0f} stages |"]
    lines += [f"| by the clock, with no stage at work | {stages['between']:.0f} | |"]
    told = f"{ratio:.2f} times the loops' seconds spread over {cores} cores; target {WHOLE}: "
    lines += [f"| by the clock | {clock:.0f} | {told}{'met' if ratio <= WHOLE else 'missed'}{note} |"]
    told = f"target {NOTHING:g} s: {'met' if noop.median < NOTHING else 'missed'}{note}"
    lines += [f"| `dvc repro` with nothing to do | {noop.said(1)} | {told} |"]
    files = {stage: whole.training_imports(ROOT, stage) for stage in whole.LIGHT}
    lines += [f"| {stage} may import Lightning by | | {', '.join(by) or 'nothing'} |" for stage, by in files.items()]
    return lines, {"clock": clock, "loops": inside, "stages": stages, "idle": idle, "imports": files}


MEASUREMENTS: dict[str, Callable[..., Found]] = {f.__name__: f for f in (training, sampling, loop, limit, growth)}


def main(given: argparse.Namespace) -> None:
    out = ROOT / "results" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    (ROOT / ".work" / "bench").mkdir(parents=True, exist_ok=True)
    for name in given.measurements or MEASUREMENTS:
        before = machine()
        function = (MEASUREMENTS | {"pipeline": pipeline})[name]
        more = {"sizes": given.sizes, "calls": given.calls} if name == "growth" else {}
        lines, figures = function(**more)
        after = machine()
        text = "\n".join([f"## {name}", "", *lines, "", described(before, after), ""])
        print(text, flush=True)
        (out / f"{name}.json").write_text(json.dumps({"before": before, "after": after, **figures}, indent=1))
        (out / f"{name}.md").write_text(text)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*MEASUREMENTS, "pipeline"]
    parser.add_argument("measurements", nargs="*", metavar="measurement", help=", ".join(names))
    sizes = lambda text: [int(n) for n in text.split(",")]  # noqa: E731
    parser.add_argument("--sizes", type=sizes, default=[1_000, 3_000, 10_000], help="rows of growth: 1000,3000,10000")
    parser.add_argument("--calls", type=lambda text: text.split(","), default=[], help="those of growth; none: all")
    given = parser.parse_args(argv)
    if unknown := sorted(set(given.measurements) - set(names)):
        parser.error(f"there is no {', '.join(unknown)}; there are: {', '.join(names)}")
    return given


if __name__ == "__main__":
    os.chdir(ROOT)
    main(arguments(sys.argv[1:]))
