"""What a reader is warned of. Run: python -m pytest tests/reporting/test_cautions.py"""

from types import SimpleNamespace

import pytest

from pipeline.reporting import cautions


@pytest.mark.parametrize(("role", "use", "far", "told"), [
    ("candidate", "all", 6, True),
    ("candidate", "all", 5, False),
    ("candidate", "kept", 6, False),
    ("control", "all", 6, False),
])  # fmt: skip
def test_a_candidate_that_learns_from_all_rows_though_most_are_unlike_real_ones_is_warned_of(
    shipped, role, use, far, told
):
    arm = shipped.arms["private"].model_copy(update={"role": role, "use": use})
    params = shipped.model_copy(update={"profile": "full", "arms": {"mine": arm}})
    classes = {c: {"generated": 5, "dropped": {"unlike": n}} for c, n in (("a", far - 3), ("b", 3))}
    said = cautions.unlike(SimpleNamespace(params=params, selections={"private": {"classes": classes}}))
    words = f"private: {far} of 10 rows are unlike every real row (selection.unlike), and arm mine learnt from all (use: all)"
    assert said == ([words] if told else [])
    assert cautions.unlike(SimpleNamespace(params=params, selections={})) == []
