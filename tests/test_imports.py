"""Which files a program may run. Run: python -m pytest tests/test_imports.py"""

from pathlib import Path

import pytest

from pipeline.imports import reached

TREE = {
    "lib/__init__.py": "",
    "lib/a.py": "import os\nfrom lib.deep import b\n",
    "lib/deep/__init__.py": "",
    "lib/deep/b.py": "def late():\n    import lib.c\n",
    "lib/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lib import typed\n",
    "lib/typed.py": "",
    "lib/registry/__init__.py": "import importlib\nfrom lib.c import *\n",
    "lib/registry/one.py": "from lib.registry._shared import x\n",
    "lib/registry/two.py": "",
    "lib/registry/_shared.py": "x = 'ü'\n",
    "lib/around.py": "import lib.circle\n",
    "lib/circle.py": "import lib.around\n",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("begin", "found"),
    [
        ("lib/a.py", "a deep/__init__ deep/b c"),  # in functions too; not for types alone; not the standard library
        ("lib/c.py", ""),
        ("lib/registry/one.py", "registry/__init__ registry/_shared c"),
        ("lib/around.py", "circle"),
    ],
)
def test_what_a_file_may_run(tree, begin, found):
    expected = {Path(begin), Path("lib/__init__.py")} | {Path("lib", f"{name}.py") for name in found.split()}
    if begin == "lib/c.py":
        expected -= {Path("lib/__init__.py")}
    assert reached([Path(begin)], {}, tree) == expected


def test_what_is_imported_by_name_counts_where_it_is_said(tree):
    registry, one = Path("lib/registry/__init__.py"), Path("lib/registry/one.py")
    found = reached([registry], {registry: [one]}, tree)
    assert {one, Path("lib/registry/_shared.py"), Path("lib/c.py")} <= found and Path(
        "lib/registry/two.py"
    ) not in found


def test_the_templates_beside_a_file_are_read_by_it(tree):
    (tree / "lib" / "deep" / "page.jinja").write_text("{{ x }}")
    assert Path("lib/deep/page.jinja") in reached([Path("lib/a.py")], {}, tree)
    assert Path("lib/deep/page.jinja") not in reached([Path("lib/c.py")], {}, tree)
