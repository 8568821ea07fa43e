"""The state of a training: in memory, to go back to if it diverges, and in a file, to go on from if its process is killed."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load, save

from pipeline import ranks

if TYPE_CHECKING:
    import lightning.pytorch as pl

State = dict[str, Any]  # tensors and plain values, in dicts, lists and tuples
POINTS, STRIDE = 100, 10  # at so many points of a training its state is taken, and at most before each tenth step
DIGEST = hashlib.blake2b().digest_size


def seconds(said: str) -> float:
    """At least so many between two writings, which changes no result. Raises ValueError for what is no number from 0 on."""
    if not re.fullmatch(r"\d+(\.\d*)?", said):
        raise ValueError(f"CHECKPOINT_SECONDS is {said!r} in the environment; expected a number of seconds, 0 or more")
    return float(said)


SECONDS = seconds(os.environ.get("CHECKPOINT_SECONDS", "25"))


class Part(Protocol):
    """What else belongs to the state of a training, beside its module and optimisers."""

    def state(self) -> State:
        """Without a tensor that training goes on to change."""

    def restore(self, state: State) -> None: ...


class Checkpoints:
    """Takes the state before some steps of a training, and puts one back before the first step of what goes on from it.

    `good` is the last state whose weights are all finite. It is taken at steps that do not depend on time, and what is
    written is one of these, so that a training that was killed goes back to the same one as a training that was not.
    """

    def __init__(self, file: Path | None, about: State, steps: int, parts: Mapping[str, Part]) -> None:
        self.file, self.about, self.parts = file, about, parts  # the file is read by all ranks and written by the first
        self.steps, self.every, self.begun, self.pause = steps, max(STRIDE, steps // POINTS), monotonic(), SECONDS
        self.written = self.begun
        self.good: State | None = None
        self.start = self.found()
        self.step: int = self.start["step"] if self.start else 0  # the next one to take
        self.slowed: bool = self.start["slowed"] if self.start else False
        self.micro_batches: int = self.start["micro_batches"] if self.start else 1

    def found(self) -> State | None:
        """The state in the file, if it is of this very training."""
        state = None if self.file is None else read(self.file)
        if state is not None and state["about"] != self.about:
            state = None
        step = 0 if state is None else state["step"]
        if step != (first := ranks.told(step)):
            raise OSError(
                f"rank 0 goes on from step {first}, this one from {step}: all ranks need the same working folder"
            )
        return state

    def go_back(self) -> bool:
        """Begin at the last good state, at half the learning rate; False where that has been tried or there is none."""
        if self.good is None or self.slowed:
            return False
        self.start, self.step, self.slowed = self.good, self.good["step"], True
        return True

    def cut(self, rows: int) -> bool:
        """Begin at the last good state, with twice as many micro-batches; False where each is one of so many rows."""
        if self.good is None or self.micro_batches >= rows:
            return False
        self.start, self.step, self.micro_batches = self.good, self.good["step"], min(2 * self.micro_batches, rows)
        return True

    def before(self, module: "pl.LightningModule", step: int) -> None:
        """To be called before each step."""
        if self.start is not None:
            restore(module, self.start, self.parts)
            if self.slowed and not self.start["slowed"]:
                halve(module.trainer.optimizers)
            self.start = None
        if step % self.every == 0 and finite(module):
            self.good = self.taken(module, step) | during(module.trainer)
            if self.file is not None and ranks.first() and monotonic() - self.written >= self.pause:
                begun = monotonic()
                write(self.file, self.good)
                self.written = monotonic()
                # at most a hundredth of the time goes into it, unless it was asked for at every chance
                self.pause = max(SECONDS, 100 * (self.written - begun)) if SECONDS else 0.0

    def finish(self, module: "pl.LightningModule") -> None:
        """All steps have been taken: keep what came of them, unless it is had again as soon as it is read."""
        self.step = self.steps
        if self.file is not None and ranks.first() and monotonic() - self.begun >= SECONDS / 10:
            write(self.file, self.taken(module, self.steps))

    def taken(self, module: "pl.LightningModule", step: int) -> State:
        """All that is left of a training once it is over."""
        own: State = {"module": module.state_dict(), "curve": module.curve}
        own |= {"slowed": self.slowed, "micro_batches": self.micro_batches}
        parts = {name: part.state() for name, part in self.parts.items()}
        return {"about": self.about, "step": step, "parts": parts} | copied(own)


@torch.no_grad()
def finite(module: torch.nn.Module) -> bool:
    return bool(torch.isfinite(torch.nn.utils.get_total_norm(module.parameters())))


def during(trainer: "pl.Trainer") -> State:
    """What a training needs besides to go on: optimisers, schedules, and torch's random numbers; nothing draws from others."""
    where = trainer.strategy.root_device
    return {
        "optimisers": copied([optimiser.state_dict() for optimiser in trainer.optimizers]),
        "schedules": copied([config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]),
        "random": torch.get_rng_state(),
        "device": on_device(where),
    }


def on_device(where: torch.device) -> torch.Tensor | None:
    """The state of the device's own random numbers, where it has any."""
    if where.type == "cuda":
        return torch.cuda.get_rng_state(where)
    return torch.mps.get_rng_state() if where.type == "mps" else None


def resume(module: "pl.LightningModule", state: State, parts: Mapping[str, Part]) -> None:
    """Puts back what `Checkpoints.taken` holds."""
    module.load_state_dict(state["module"])
    module.curve = copied(state["curve"])
    for name, part in parts.items():
        part.restore(state["parts"][name])


def restore(module: "pl.LightningModule", state: State, parts: Mapping[str, Part]) -> None:
    resume(module, state, parts)
    trainer = module.trainer
    for optimiser, known in zip(trainer.optimizers, state["optimisers"], strict=True):
        optimiser.load_state_dict(copied(known))
    for config, known in zip(trainer.lr_scheduler_configs, state["schedules"], strict=True):
        config.scheduler.load_state_dict(copied(known))
    torch.set_rng_state(state["random"])
    where = trainer.strategy.root_device
    if where.type == "cuda":
        torch.cuda.set_rng_state(state["device"], where)
    elif where.type == "mps":
        torch.mps.set_rng_state(state["device"])


def halve(optimisers: Sequence[torch.optim.Optimizer]) -> None:
    """The learning rate now and that of all steps to come, which schedules read from the same place."""
    for group in (group for optimiser in optimisers for group in optimiser.param_groups):
        group.update({key: group[key] / 2 for key in ("lr", "initial_lr", "max_lr", "min_lr") if key in group})


def copied(value: Any) -> Any:
    """The same tensors and plain values, apart from those that training changes; on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    return type(value)(map(copied, value)) if isinstance(value, (list, tuple)) else value


def write(file: Path, state: State) -> None:
    """Replaces the file as a whole, whatever happens meanwhile, and keeps the former one beside it, in case this is damaged."""
    tensors: list[torch.Tensor] = []
    text = json.dumps(_to_json(state, tensors)).encode()
    parts = {str(i): tensor for i, tensor in enumerate(tensors)}
    content = save(parts | {"json": torch.frombuffer(bytearray(text), dtype=torch.uint8)})
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.draft")
    try:
        draft.write_bytes(hashlib.blake2b(content).digest() + content)
        if file.exists():
            os.replace(file, former(file))
        os.replace(draft, file)
    except OSError:
        draft.unlink(missing_ok=True)  # a full disk needs the room
        raise


def former(file: Path) -> Path:
    return file.with_name(f"{file.name}.former")


def read(file: Path) -> State | None:
    """What was written last, or before that if this is not whole; None if there is neither."""
    for each in (file, former(file)):
        try:
            content = each.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            continue
        if hashlib.blake2b(content[DIGEST:]).digest() == content[:DIGEST]:
            parts = load(content[DIGEST:])
            return _from_json(json.loads(parts.pop("json").numpy().tobytes()), parts)
    return None


def _to_json(value: Any, tensors: list[torch.Tensor]) -> Any:
    """For JSON, which has text alone for keys and no tuples; a tensor becomes its place in the list."""
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, dict):
        return {"dict": [[key, _to_json(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_to_json(inner, tensors) for inner in value]}
    assert value is None or isinstance(value, (str, bool, int, float)), type(value)
    return value


def _from_json(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _from_json(inner, tensors) for key, inner in content}
    return {"list": list, "tuple": tuple}[kind](_from_json(inner, tensors) for inner in content)
