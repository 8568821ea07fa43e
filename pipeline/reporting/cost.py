"""What arms and stages cost: wall seconds, and how much of them a GPU was at work."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.params import NOTHING, POOL, Params
from pipeline.reporting.tables import ByName, Told

GPUS = ("cuda", "mps")


def costs(times: Sequence[Told], arms: ByName, params: Params) -> dict[str, float]:
    """Wall seconds of each arm: its training, and all that made its rows, though other arms may share it.

    Without arms of which a stage did not run here, but came out of the cache: what that took is not known.
    """
    seconds = {t["stage"]: t["seconds"] for t in times}
    stages = {arm: {f"retrain-{arm}"} | before(record["arm"], params) for arm, record in arms.items()}
    return {arm: sum(seconds[s] for s in sorted(own)) for arm, own in stages.items() if own <= seconds.keys()}


def before(arm: Told, params: Params) -> set[str]:
    """The stages that made an arm's rows: fits of the models that its generators draw from, their rows, pool and search."""
    names = drawn_from(arm, params)
    found = {f"fit_generator-{params.generators[name].model}" for name in names}
    found |= {f"{step}-{name}" for step in ("generate", "pseudo_label") for name in names}
    return found | ({"label_pool"} if arm["also"] == POOL else set()) | ({"search"} if searched(arm, params) else set())


def drawn_from(arm: Told, params: Params) -> list[str]:
    """The generators whose rows an arm learnt from."""
    blocks = params.generators
    return [g for g in (arm["rows"], arm["also"]) if g in blocks and blocks[g].family != NOTHING]


def searched(arm: Told, params: Params) -> bool:
    return arm["tuned"] and arm["rows"] in params.searched


def on_gpu(times: Sequence[Told]) -> list[dict[str, Any]]:
    """The same stages with the seconds for which their networks had a GPU: all of a stage's, or none."""
    return [{**t, "seconds": t["seconds"] if t["device"] in GPUS else 0.0} for t in times]


def sentence(times: Sequence[Told], arms: ByName, params: Params, arm: str, control: str) -> str:
    """What the arm to judge and the best control cost; empty if the time of one is not known."""
    cost, gpu = costs(times, arms, params), costs(on_gpu(times), arms, params)
    if arm not in cost or control not in cost:
        return ""
    where = f"{hours(gpu[arm])} and {hours(gpu[control])} GPU-hours"
    if not gpu[arm] + gpu[control]:
        where = "without a GPU, so 0 GPU-hours"
    both = (f"{cost[name]:.0f} s for {name}{whole(arms[name]['arm'], params)}" for name in (arm, control))
    return f"Cost: {', '.join(both)} (wall time of each stage's last run here; {where})."


def whole(arm: Told, params: Params) -> str:
    """What an arm's seconds hold beside its training, in words."""
    made = drawn_from(arm, params)
    parts = ["its generators" if len(made) > 1 else "its generator"] * bool(made)
    parts += ["the whole search"] * searched(arm, params)
    return f" with {' and '.join(parts)}" if parts else ""


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.3f}" if seconds else "0"


def cost_table(times: Sequence[Told], arms: ByName, params: Params) -> pd.DataFrame:
    """Wall seconds and GPU-hours by arm, with its generators, and of all stages added up."""
    gpu = on_gpu(times)
    used = costs(gpu, arms, params)
    lines = [(a, s, used[a]) for a, s in costs(times, arms, params).items()]
    lines.append(("all stages", *(sum(t["seconds"] for t in some) for some in (times, gpu))))
    return pd.DataFrame([{"arm": a, "seconds": f"{s:.1f}", "GPU-hours": hours(g)} for a, s, g in lines])


def times_table(times: Sequence[Told]) -> pd.DataFrame:
    """Wall seconds of each stage and where its networks ran, longest first, and their sum."""
    rows = sorted(times, key=lambda t: -t["seconds"])
    rows += [{"stage": "all stages", "seconds": sum(t["seconds"] for t in times), "device": ""}] if times else []
    lines = [{"stage": t["stage"], "seconds": f"{t['seconds']:.1f}", "networks on": t["device"]} for t in rows]
    return pd.DataFrame(lines, columns=["stage", "seconds", "networks on"])
