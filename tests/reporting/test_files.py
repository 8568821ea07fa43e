"""Files that the report cannot read are named. Run: python -m pytest tests/reporting/test_files.py"""

import json

import pytest

from stages.report import looks, read

CONFLICT = """{
<<<<<<< HEAD
 "00ff": ["a", "b"]
=======
 "00ff": ["a", "c"]
>>>>>>> other
}"""


@pytest.mark.parametrize("text", ["", "{", "\xff"])
def test_a_file_that_is_no_json_is_named_with_what_to_do(tmp_path, text):
    """The message was json's own: Expecting value: line 1 column 1."""
    (tmp_path / "retrain-cvae.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"retrain-cvae\.json: expected JSON, but .+; remove it and run `dvc repro`"):
        read(tmp_path / "retrain-cvae.json")


def test_the_looks_of_both_sides_of_a_merge_are_asked_for(tmp_path):
    file = tmp_path / "test_opened.json"
    assert looks(file) == {}
    file.write_text(CONFLICT)
    with pytest.raises(
        ValueError, match=r"test_opened\.json: expected JSON, but .+ join their lists of each test split"
    ):
        looks(file)
    file.write_text(json.dumps({"00ff": ["a", "b", "c"]}))
    assert looks(file) == {"00ff": ["a", "b", "c"]}


@pytest.mark.parametrize("wrong", [["a"], {"00ff": "a"}, 3])
def test_looks_in_another_form_are_refused(tmp_path, wrong):
    (tmp_path / "test_opened.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match=r"test_opened\.json: expected a list of settings for each test split"):
        looks(tmp_path / "test_opened.json")
