"""Which of the project's files a program may run: read from its import statements, without running any of them."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


def reached(begin: Iterable[Path], by_name: Mapping[Path, Iterable[Path]], root: Path = Path()) -> set[Path]:
    """These files, all that they come to import, also inside of functions, and the templates beside them, which they read.

    Every path is relative to `root`. `by_name` says what a file imports by a name that it makes up only when it runs, which
    no statement shows.
    """
    seen: set[Path] = set()
    todo = list(begin)
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            names = set(imported(ast.parse((root / file).read_text(encoding="utf-8"))))
            todo += [part for name in names for part in files(name, root)] + list(by_name.get(file, ()))
    return seen | {f.relative_to(root) for folder in {f.parent for f in seen} for f in (root / folder).glob("*.jinja")}


def imported(node: ast.AST) -> Iterator[str]:
    """The dotted names of all import statements but those under `if TYPE_CHECKING`, which never run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        if isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imported(child)


def files(name: str, root: Path) -> Iterator[Path]:
    """The files behind a dotted name that lie under root: of every package on the way, and of the module itself."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = Path(*parts[:end])
        yield from (f for f in (path / "__init__.py", path.with_suffix(".py")) if (root / f).is_file())
