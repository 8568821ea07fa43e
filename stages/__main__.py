"""The way into every stage: `python -m stages <stage> <arguments>`; it checks, locks, publishes and names the exit code.

Exit codes: 0 done, 1 the gate is shut, 2 bad input or params, 3 environment (disk, memory, device), 4 training diverged
(twice, and not that of a generator or of one arm: see fit_generator.py and retrain.py), 130 and 143 signals.
A stage writes to a side folder, renamed to its final name at the end, so that what exists is complete. What a killed one
has in hand lies in another, and is removed once it is done: see _unfinished.py.
"""

import fcntl
import importlib
import inspect
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline import params as parameters
from pipeline import ranks
from pipeline.errors import Diverged, out_of_memory
from pipeline.processes import die_with_parent
from stages import Output, _ranks, _unfinished

ENVIRONMENT = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PYTHONHASHSEED": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TORCH_DISABLE_NATIVE_JIT": "1",  # some products on a GPU would ask for a C compiler
    "GOMP_SPINCOUNT": "0",  # waiting threads that spin make a shared machine ten times slower
    "MPLBACKEND": "agg",
}
SIDE = Path(".work")
GIVEN = ("params", "unfinished")  # arguments that are not on the command line
log = logging.getLogger("stages")


def names() -> list[str]:
    return sorted(f.stem for f in Path(__file__).parent.glob("[!_]*.py"))


def bind(function: Callable, given: list[str]) -> tuple[dict[str, Any], dict[str, Path]]:
    """The arguments of a stage by name, and those of them that are outputs. Raises ValueError if their number is wrong."""
    signature = inspect.signature(function)
    wanted = [p for p in signature.parameters.values() if p.name not in GIVEN]
    if len(given) != len(wanted):
        raise ValueError(
            f"this stage takes {len(wanted)} arguments ({', '.join(p.name for p in wanted)}), got {len(given)}"
        )
    values = {p.name: (text if p.annotation is str else Path(text)) for p, text in zip(wanted, given, strict=True)}
    return values, {p.name: values[p.name] for p in wanted if p.annotation is Output}


def execute(stage: str, given: list[str]) -> int:
    """Run a stage, with others of its ranks where there are any; the exit code."""
    params = parameters.load()
    for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[key] = str(params.compute.threads)
    module = importlib.import_module(f"stages.{stage}")
    values, outputs = bind(module.main, given)
    with inputs_there(values, outputs):
        together = hasattr(module, "ranked") and module.ranked(params, values)
    at = ranks.place(os.environ)
    if together:
        _ranks.check(params.compute, at)
        if at.world == 1 and (count := _ranks.wanted(params.compute)) > 1:
            return _ranks.start([stage, *given], count)
        if at.world > 1:
            ranks.begin(at, _ranks.cuda(params.compute))
    elif at.rank:
        return 0  # the first rank does it alone
    play(stage, module.main, params, values, outputs)
    ranks.end()
    return 0


def play(
    stage: str, function: Callable, params: parameters.Params, values: dict[str, Any], outputs: dict[str, Path]
) -> None:
    """Call a stage's main and publish what it wrote; of several ranks, the first alone writes."""
    drafts = {name: SIDE / "drafts" / "__".join(path.parts) for name, path in outputs.items()}
    asked = inspect.signature(function).parameters
    home = SIDE / "unfinished" / "+".join(draft.name for draft in drafts.values()) if "unfinished" in asked else None
    with ExitStack() as locks:
        for draft in drafts.values() if ranks.first() else ():
            locks.enter_context(lock(draft))
        begun, before = time.monotonic(), _unfinished.stamps(stage, params)
        more: dict[str, Any] = {"params": params} if "params" in asked else {}
        if home:
            more["unfinished"] = _unfinished.folder(home, stage, params, values, outputs, clear=ranks.first())
            begun -= _unfinished.begin(more["unfinished"]) if ranks.first() else 0
        with inputs_there(values, outputs):
            function(**values | drafts | more)
        if not ranks.first():
            return
        if outputs:
            _unfinished.refuse_edits(stage, params, values.get("name"), before)
        for name, path in outputs.items():
            publish(drafts[name], path)
        if home:
            _unfinished.forget(more["unfinished"])
        seconds = time.monotonic() - begun
    idle = "plan" in values and not json.loads(values["plan"].read_text())["wanted"]
    if outputs and not idle:  # what it took when it was wanted stays noted
        key = "-".join([stage, *(v for v in values.values() if isinstance(v, str))])
        note_time(key, seconds, ran_on(params.compute))
        log.info("done in %.1f s", seconds)


@contextmanager
def inputs_there(values: dict[str, Any], outputs: dict[str, Path]) -> Iterator[None]:
    """Says of a file that is not there, if it is an input of the stage, that another stage makes it."""
    try:
        yield
    except FileNotFoundError as error:
        inputs = [v for name, v in values.items() if isinstance(v, Path) and name not in outputs]
        absent = [p for p in inputs if error.filename and not p.exists() and Path(error.filename).is_relative_to(p)]
        if not absent:
            raise
        raise ValueError(f"{absent[0]} is missing; dvc repro makes it, or the stage was given another path") from error


class Plain(logging.Formatter):
    """Control characters, which names of files may hold, do not reach the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


@contextmanager
def lock(draft: Path) -> Iterator[None]:
    """Holds the right to write one output; a second writer is told so instead of waiting for ever."""
    draft.parent.mkdir(parents=True, exist_ok=True)
    with draft.with_name(draft.name + ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            path = draft.name.replace("__", "/")
            raise OSError(f"another process is writing {path}; wait for it to end, then run again") from None
        try:
            remove(draft)
            yield
        finally:
            remove(draft)


def publish(draft: Path, final: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.is_dir():  # a file is replaced at once, so that what carries on from run to run is never gone
        remove(final)
    os.replace(draft, final)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def note_time(key: str, seconds: float, device: str) -> None:
    """Wall time and device for the report; kept out of the stages' outputs, which must be equal from run to run."""
    folder = SIDE / "times"
    noted = {"stage": key, "seconds": round(seconds, 2), "device": device, "ended": time.time()}
    draft = folder / f"{key}.draft"
    with suppress(OSError):  # the stage is done, and what it cost is not worth its failure
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(noted))
        os.replace(draft, folder / f"{key}.json")


def ran_on(compute: parameters.Compute) -> str:
    """The kind of device that the networks of this stage ran on; empty if it asked for none, for nothing is imported here."""
    devices = sys.modules.get("pipeline.devices")
    return devices.device(compute).type if devices else ""


def end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(argv: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does where a locale has not every letter
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)  # Lightning makes of a KeyboardInterrupt an exit with 1
    die_with_parent()
    if not argv or argv[0] not in names():
        print(f"usage: python -m stages <stage> <arguments>, with a stage among: {', '.join(names())}", file=sys.stderr)
        return 2
    label = " ".join(argv[:1] + [a for a in argv[1:2] if "/" not in a])
    rank = _ranks.number(os.environ)
    if rank:
        label += f", rank {rank}"
        logging.getLogger().setLevel(logging.ERROR)
        # nothing of it is to be cleared up, and it may be waiting for others
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger().handlers[0].setFormatter(Plain(f"%(asctime)s {label}: %(message)s", "%H:%M:%S"))
    try:
        return execute(argv[0], argv[1:])
    except Exception as error:
        if not (found := kind(error)):
            raise
        return fail(*found, error, label)
    except SystemExit as error:
        if error.code == 1:  # a stage's own answer, which it has explained
            return 1
        log.error("ended by a signal (exit %s); nothing was published", error.code)
        return error.code if isinstance(error.code, int) else 1


def kind(error: Exception) -> tuple[int, str] | None:
    """The exit code for an error, and in words what it is; None for one that is a fault of this project."""
    if isinstance(error, ValueError):
        return 2, "cannot go on"
    if isinstance(error, Diverged):
        return 4, "training diverged"
    if out_of_memory(error):
        return 3, "out of memory; lower compute.processes, a batch size, or data.image_size"
    if ranks.is_lost(error):
        return 3, "another rank is gone, and what it said tells why"
    if type(error).__name__ in ("AcceleratorError", "DeferredCudaCallError"):  # torch's; not imported for that
        return 3, "the GPU failed; if it is full, set compute.processes: 1 and LANES=1; it must not be exclusive"
    if isinstance(error, OSError | MemoryError) or cannot_write(error):
        return 3, "the machine does not allow it"
    return None


def cannot_write(error: Exception) -> bool:
    """Whether weights could not be written, which safetensors says by an error of its own; not imported for that."""
    return type(error).__name__ == "SafetensorError" and "I/O error" in str(error)


def unforeseen(error: BaseException) -> str:
    """A word on an error that a library raised, for which this project has no words of its own; empty for others."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or error.__cause__ is not None:  # or what it came of is told, as by a worker
        return ""
    place = Path(frames[-1].filename)
    ours = place.is_relative_to(Path(__file__).parents[1]) and "site-packages" not in place.parts
    said = f" ({type(error).__name__} of {place.parent.name}; if the input is sound, please report this fault)"
    return "" if ours else said


def fail(code: int, what: str, error: BaseException, label: str) -> int:
    """Say what is wrong in words; the traceback goes to a file, for whoever wants to report a fault of ours, and beside it
    what else the error has `files` of. Stages that fail side by side have a file each, by their label."""
    said = f"error-{re.sub(r'[^A-Za-z0-9_.]+', '-', label)}.txt"
    texts = {said: "".join(traceback.format_exception(error)), **getattr(error, "files", {})}
    details = f"details in {' and '.join(str(SIDE / name) for name in texts)}"
    try:
        SIDE.mkdir(exist_ok=True)
        for name, text in texts.items():
            (SIDE / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as full:  # of a full disk or a folder that may not be written, which may be what is to be said
        details += f", but for this: {full.strerror}"
    log.error(
        "%s: %s%s\n(exit %d; nothing was published, earlier stages keep their results; %s)",
        what,
        str(error) or type(error).__name__,
        unforeseen(error) if code == 2 else "",
        code,
        details,
    )
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
