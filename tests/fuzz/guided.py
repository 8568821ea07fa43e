"""Bytes that are led by the code they reach: what reads pictures, archives, tables and params, under Atheris (libFuzzer).

Run: make fuzz-guided, or python -m tests.fuzz.guided <target> [options of libFuzzer, as -max_total_time=60]
Targets: pictures, archive, table, params. What the other fuzz tests forbid is forbidden here too; an input that leads to it
is written to .work/fuzz/<target>, and its name told: given as an option, it is tried again alone.
"""

import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

Target = Callable[[bytes], None]
WORK = Path(
    ".work/fuzz"
)  # of each target: inputs that reached new code, from which the next call goes on, and those that failed


def pictures(home: Path) -> tuple[Target, Iterable[bytes]]:
    """The first byte chooses among the endings of names, the rest is the file."""
    from pipeline.data.sources.decode import decode
    from pipeline.params import load
    from tests.fuzz import forms, test_fuzz_pictures
    from tests.fuzz.watch import refused, watched

    data = load().data.model_copy(update={"max_pixels": test_fuzz_pictures.MOST, "frames": "first"})
    files = forms.pictures()
    endings = sorted({Path(name).suffix for name in files})

    def one(content: bytes) -> None:
        name = f"x{endings[content[0] % len(endings)]}" if content else "x.png"
        with watched(home):
            picture = refused(lambda: decode(content[1:], name, data))
        if picture is not None:
            test_fuzz_pictures.check(picture, data)

    return one, [bytes([endings.index(Path(name).suffix)]) + content for name, content in files.items()]


def archive(home: Path) -> tuple[Target, Iterable[bytes]]:
    from pipeline.params import load
    from tests.fuzz import forms, test_fuzz_sources

    params = load()

    def one(content: bytes) -> None:
        test_fuzz_sources.taken(test_fuzz_sources.npz(home / "npz", content), home, params)

    return one, [forms.archive(forms.arrays(), packed) for packed in (False, True)]


def table(home: Path) -> tuple[Target, Iterable[bytes]]:
    """The first byte tells a pool's table from that of a set, the rest is the file."""
    from pipeline.params import load
    from tests.fuzz import forms, test_fuzz_tables

    params = load()
    for i, name in enumerate(test_fuzz_tables.GOOD):
        (home / name).write_bytes(forms.saved(forms.pixels(9, 9, seed=i), "PNG"))

    def one(content: bytes) -> None:
        (home / "set.csv").write_bytes(content[1:])
        test_fuzz_tables.taken(home / "set.csv", home, params, unlabelled=bool(content and content[0] & 1))

    lines = [",".join((name, "ab"[i % 2], f"p{i}", "train", "1")) for i, name in enumerate(test_fuzz_tables.GOOD)]
    whole = "\n".join([",".join(test_fuzz_tables.CELLS), *lines]).encode()
    return one, [b"\0" + whole, b"\1" + whole, b"\0" + whole.decode().replace(",", ";").encode("utf-16")]


def params(home: Path) -> tuple[Target, Iterable[bytes]]:
    from pipeline import generators
    from pipeline.params import borrowing, load
    from tests.fuzz import test_fuzz_params

    shipped = load()
    for name in shipped.generators:  # so that what they import is there before anything is watched
        generators.build(borrowing(shipped.generators, name), shipped.compute, name)

    def one(content: bytes) -> None:
        (home / "params.yaml").write_bytes(content)
        test_fuzz_params.check(home / "params.yaml", home)

    return one, [test_fuzz_params.TEXT.encode()]


TARGETS = {f.__name__: f for f in (pictures, archive, table, params)}


def main(name: str, options: list[str]) -> None:
    import atheris

    folder = (WORK / name).resolve()
    home, found = folder / "home", folder / "found"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    found.mkdir(exist_ok=True)
    with atheris.instrument_imports(include=["pipeline", "PIL"]):
        from pipeline import processes

        processes.parallel = lambda f, jobs, *_: [f(*job, report=lambda *_: None) for job in jobs]
        one, seeds = TARGETS[name](home)
    for i, content in enumerate(seeds):
        (found / f"seed{i}").write_bytes(content)
    atheris.Setup([sys.argv[0], f"-artifact_prefix={folder}/", "-max_len=65536", *options, str(found)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
