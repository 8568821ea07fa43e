"""How hard the fuzz tests try, and what no input may lead to: a hang, a file elsewhere, a program, a pickle, memory without end.

`make fuzz` tries FUZZ times as many inputs as `make test`, and other ones each time.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from pipeline.data.sources.base import Unreadable

TIMES = int(os.environ.get("FUZZ", "1"))
SECONDS, MEBIBYTES = 120, 300  # for one input
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
SECRET = "secret"  # name of a folder in which nothing may be opened
_home: list[Path] = []  # the folder of the input that is tried now


class Crossed(BaseException):
    """No Exception, so that what is being tested cannot catch it."""


def inputs(count: int) -> settings:
    """So many inputs; in `make test` the same ones each time."""
    return settings(max_examples=count * TIMES, derandomize=TIMES == 1, database=None, deadline=None, print_blob=True,
                    suppress_health_check=list(HealthCheck))  # fmt: skip


@contextmanager
def watched(home: Path) -> Iterator[None]:
    """Within, nothing may be written but below `home`, nor read what is named secret, nor any of the above happen."""
    least, before = held(), signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _home.append(home)
    try:
        yield
    finally:
        _home.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if held() > least + MEBIBYTES:
        raise Crossed(f"the process has grown by {held() - least} MiB")


def held() -> int:
    """The most memory that this process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "linux" else 1 << 20)


def refused(call: Callable[[], Any], *names: str) -> Any:
    """What the call gives, or None where it refuses its input as it may: by a code, or in words that have one of the names."""
    try:
        return call()
    except Unreadable as error:
        assert error.code.replace("_", "").isalnum() and error.remedy, error
    except (ValueError, OSError) as error:
        assert any(name in str(error) for name in names), error
    return None


def _late(*_: object) -> None:
    raise Crossed(f"this takes more than {SECONDS} seconds")


def _hook(event: str, given: tuple) -> None:
    if not _home or not (event == "open" or event in CHANGES or event in NEVER):
        return
    if event in NEVER:
        raise Crossed(f"{event} {given}")
    for name in given[: 1 if event == "open" else 2]:
        path = os.path.realpath(name) if isinstance(name, str | bytes | os.PathLike) else b""
        inside = Path(os.fsdecode(path)).is_relative_to(_home[0])
        if SECRET in Path(os.fsdecode(path)).parts:
            raise Crossed(f"{event} {given}")
        # the last number of a change is -1 unless the path begins at an open folder; that of a truncation is a length
        changed = given[2] & WRITES if event == "open" else event == "os.truncate" or given[-1] == -1
        if path and changed and not inside and "__pycache__" not in os.fsdecode(path):
            raise Crossed(f"{event} {given}")


sys.addaudithook(_hook)
