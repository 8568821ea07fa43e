"""What `make fuzz-guided` begins with is read or refused. Run: python -m pytest tests/fuzz/test_guided.py"""

from collections.abc import Iterator

import pytest

from pipeline import processes
from tests.fuzz import guided


@pytest.fixture(autouse=True)
def inline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "parallel", lambda f, jobs, *_: [f(*job, report=lambda *_: None) for job in jobs])
        yield


@pytest.mark.parametrize("name", guided.TARGETS)
def test_each_target_takes_what_it_begins_with_and_no_bytes_and_a_few(name, tmp_path):
    one, contents = guided.TARGETS[name](tmp_path.resolve())
    contents = list(contents)
    assert contents
    for content in (*contents, b"", b"\0", b"\xff" * 40):
        one(content)
