"""Every locked package may be used and handed on. Run: python -m pytest tests/test_licences.py

Read from the metadata of what is installed: the licence expression, else the licence text if it is a short one, else the
classifiers. A package under a licence that is not listed here is a decision, to be made and written down below.
"""

import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {  # permissive, or copyleft that ends at the package's own files
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU",
    "MPL-2.0", "PSF-2.0", "Unlicense", "ZPL-2.1", "Zlib",
}  # fmt: skip
ARGUED = {  # name: what it says of itself, and why it may stand here
    "asyncssh": (
        "EPL-2.0 OR GPL-2.0-or-later",
        "taken under the EPL, whose copyleft ends at its own files; comes with dvc, unchanged, for remotes by SSH",
    ),
    "grandalf": (
        "GPLv2 | EPLv1",
        "taken under the EPL, whose copyleft ends at its own files; comes with dvc, unchanged, for `dvc dag`",
    ),
    "pygit2": (
        "GPLv2 with linking exception",
        "the exception allows to link it into programs under any licence; comes with dvc, unchanged",
    ),
}
SPELT = {  # what packages write, by the name that SPDX gives it
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "New BSD": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
}
FORBIDDEN = re.compile(
    r"AGPL|Affero|BUSL|Business Source|Commons Clause|SSPL|Non.?Commercial|CC.BY.NC|Proprietary", re.I
)


def locked() -> list[str]:
    """Names in the lock, once each, and torch, which is installed beside it."""
    lock = (ROOT / "requirements.lock").read_text()
    return [*sorted(set(re.findall(r"(?m)^([a-z0-9.-]+)==", lock))), "torch"]


def installed() -> list[str]:
    def there(name: str) -> bool:
        try:
            return bool(metadata.version(name))
        except metadata.PackageNotFoundError:
            return False

    return [name for name in locked() if there(name)]


def stated(about: metadata.PackageMetadata) -> list[str]:
    """What a package says of its licence, the most exact of its statements: several if it lists several to choose from."""
    if expression := about.get("License-Expression"):
        return [expression]
    text = (about.get("License") or "").strip()
    if text and "\n" not in text and text != "Dual License":
        return [text]
    return [c.split(" :: ")[-1] for c in about.get_all("Classifier") or [] if c.startswith("License :: ")]


def allowed(expression: str) -> bool:
    """Whether an expression can be met by licences of the list: of `OR` one must be there, of `AND` each."""
    if expression in SPELT:
        return SPELT[expression] in ALLOWED
    if " OR " in expression and "(" not in expression:
        return any(allowed(part) for part in expression.split(" OR "))
    parts = re.split(r" AND (?![^(]*\))", expression)
    if len(parts) > 1:
        return all(allowed(part) for part in parts)
    name = expression.strip("() ").partition(" WITH ")[0]
    return allowed(name) if " OR " in name else name in ALLOWED


def test_most_of_what_is_locked_is_here_to_be_looked_at():
    assert len(locked()) > 100 and len(installed()) > 0.95 * len(locked()) and "torch" in installed()


@pytest.mark.parametrize("name", installed())
def test_a_package_may_be_used_and_handed_on(name):
    about = metadata.metadata(name)
    said = stated(about)
    assert said, f"{name} does not state a licence"
    assert not FORBIDDEN.search(" ".join([*said, *(about.get_all("Classifier") or [])]))
    if name in ARGUED:
        assert said == [ARGUED[name][0]], f"{name} has another licence than the one that was argued for"
    else:
        assert any(allowed(one) for one in said), f"{name}: {said}; allow it above, or argue for it, or do without"


def test_what_is_argued_for_is_still_needed():
    assert set(ARGUED) <= set(installed())


@pytest.mark.parametrize(
    ("expression", "may"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("AGPL-3.0-only OR MIT", True),
        ("MIT AND GPL-2.0-only", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("MPL-2.0 AND (GPL-3.0-only OR EUPL-1.2)", False),
        ("Apache-2.0 WITH LLVM-exception AND BSL-1.0", True),
        ("BUSL-1.1", False),
        ("BSL-1.1", False),
        ("LicenseRef-Proprietary", False),
        ("", False),
    ],
)
def test_expressions_are_read_rightly(expression, may):
    assert allowed(expression) is may


@pytest.mark.parametrize(
    "words", ["AGPL-3.0-or-later", "GNU Affero General Public License v3", "CC-BY-NC-4.0", "BUSL-1.1"]
)
def test_words_that_forbid_use_are_seen(words):
    assert FORBIDDEN.search(words)
