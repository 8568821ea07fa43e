"""Damaged archives, arrays and tables of pictures. Run: python -m pytest tests/fuzz/test_fuzz_sources.py"""

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import processes
from pipeline.data import intake, sources
from pipeline.params import Params
from stages.prepare import main
from tests.fuzz import forms
from tests.fuzz.watch import inputs, refused, watched

OUTPUTS = ("train", "val", "test", "heldback", "unlabelled", "quarantine.csv", "about")
NAMES = ("data.", "set", "images cannot be used", "idx")  # a key, or what the source is called


@pytest.fixture(scope="module", autouse=True)
def inline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "parallel", lambda f, jobs, *_: [f(*job, report=lambda *_: None) for job in jobs])
        yield


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path.resolve()


def taken(path: Path, home: Path, params: Params, whole: bool = False) -> bool:
    """Reads the source as `prepare` does; whether it was accepted. `whole` runs the stage."""
    data = params.data.model_copy(update={"source": str(path), "max_pixels": 1_000_000, "max_quarantined": 1.0})
    scratch = home / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()

    def read() -> bool:
        if whole:
            main(params.model_copy(update={"data": data}), *(scratch / name for name in OUTPUTS))
            return True
        source = sources.read(data, params.sources.digits, 0, scratch)
        seen = intake.look(source, scratch / "thumbs").table
        assert ((seen["code"] == "") | (seen["remedy"] != "")).all()
        good = np.flatnonzero(seen["code"] == "")
        squares = intake.write(source, good[:20], scratch / "squares.npy", intake.Form(8, 3, "letterbox", None))
        assert squares.shape[1:] == (8, 8, 3)
        return True

    with watched(home):
        return bool(refused(read, *NAMES))


@pytest.mark.parametrize("whole", [False, True])
def test_undamaged_sources_are_taken(whole, home, shipped):
    for write in (npz, idx, packed, folder):
        assert taken(write(home / write.__name__), home, shipped, whole)


def npz(home: Path, content: bytes | None = None) -> Path:
    home.mkdir(exist_ok=True)
    (home / "set.npz").write_bytes(forms.archive(forms.arrays()) if content is None else content)
    return home / "set.npz"


def idx(home: Path, files: dict[str, bytes] | None = None) -> Path:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    for name, content in (forms.idx() if files is None else files).items():
        (home / name).write_bytes(content)
    return home


def packed(home: Path, content: bytes | None = None) -> Path:
    home.mkdir(exist_ok=True)
    (home / "set.parquet").write_bytes(forms.parquet() if content is None else content)
    return home / "set.parquet"


def folder(home: Path, damaged: dict[int, bytes] | None = None) -> Path:
    shutil.rmtree(home, ignore_errors=True)
    for i in range(16):
        (home / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        whole = forms.saved(forms.pixels(10, 10, seed=i), "PNG")
        (home / "ab"[i % 2] / f"{i}.png").write_bytes((damaged or {}).get(i, whole))
    return home


def test_a_damaged_archive_is_read_or_refused_by_name(home, shipped):
    whole, members = forms.archive(forms.arrays()), forms.arrays()
    plain = forms.archive(members, packed=False)

    @inputs(60)
    @given(drawn=st.data())
    def one(drawn: st.DataObject) -> None:
        if drawn.draw(st.booleans()):
            content = drawn.draw(forms.damaged(drawn.draw(st.sampled_from((whole, plain)))))
        else:
            name = drawn.draw(st.sampled_from(sorted(members)))
            other = {name: drawn.draw(forms.damaged(members[name], tuple(members.values())))}
            content = forms.archive({**members, **other}, drawn.draw(st.booleans()))
        taken(npz(home / "npz", content), home, shipped)

    one()


def test_damaged_idx_files_are_read_or_refused_by_name(home, shipped):
    files = forms.idx()

    @inputs(60)
    @given(drawn=st.data())
    def one(drawn: st.DataObject) -> None:
        name = drawn.draw(st.sampled_from(sorted(files)))
        content = drawn.draw(forms.damaged(files[name], tuple(files.values())))
        match drawn.draw(st.sampled_from(("plain", "packed", "packed before"))):
            case "plain":
                changed = {**files, name: content}
            case "packed":
                changed = {**{k: v for k, v in files.items() if k != name}, f"{name}.gz": gzip.compress(content, 1)}
            case _:
                packed = drawn.draw(forms.damaged(gzip.compress(files[name], 1)))
                changed = {**{k: v for k, v in files.items() if k != name}, f"{name}.gz": packed}
        taken(idx(home / "idx", changed), home, shipped)

    one()


def test_a_damaged_parquet_file_is_read_or_refused_by_name(home, shipped):
    files = [forms.parquet(), forms.parquet(compression=None), forms.parquet(row_group_size=3, compression="gzip")]

    @inputs(60)
    @given(drawn=st.data())
    def one(drawn: st.DataObject) -> None:
        content = drawn.draw(st.sampled_from(files))
        if drawn.draw(st.booleans()):  # the footer, which says where everything lies
            footer = 8 + int.from_bytes(content[-8:-4], "little")
            content = content[:-footer] + drawn.draw(forms.damaged(content[-footer:-8])) + content[-8:]
        else:
            content = drawn.draw(forms.damaged(content))
        taken(packed(home / "packed", content), home, shipped)

    one()


def test_the_stage_takes_a_folder_with_damaged_pictures_or_refuses_it(home, shipped):
    files = forms.pictures()

    @inputs(8)
    @given(drawn=st.data())
    def one(drawn: st.DataObject) -> None:
        damaged = {}
        for i in drawn.draw(st.lists(st.integers(0, 15), max_size=6, unique=True)):
            content = files[drawn.draw(st.sampled_from(sorted(files)))]
            damaged[i] = drawn.draw(forms.damaged(content)) if drawn.draw(st.booleans()) else content
        taken(folder(home / "folder", damaged), home, shipped, whole=True)

    one()
