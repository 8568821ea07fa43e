"""How large a Parquet file is inside, whatever its footer says. Run: python -m pytest tests/data/sources/test_pages.py"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.sources import manifest, pages, parquet

FORMS = {
    "plain": {"use_dictionary": False},
    "dictionary": {"use_dictionary": True},
    "small pages": {"use_dictionary": False, "data_page_size": 200, "write_batch_size": 10},
    "second version": {"data_page_version": "2.0", "write_page_checksum": True},
    "groups": {"row_group_size": 7},
}


def frame(rows: int = 100) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    words = [f"word {i}" if i % 5 else None for i in rng.integers(0, 50, rows)]
    return pd.DataFrame(
        {
            "label": words,
            "x": rng.normal(size=rows),
            "flag": rng.random(rows) < 0.5,
            "list": [[i, i + 1] for i in range(rows)],
        }
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip"])
def test_pages_say_what_an_honest_footer_says(tmp_path, form, codec):
    frame().to_parquet(tmp_path / "x.parquet", compression=codec, **FORMS[form])
    about = pq.read_metadata(tmp_path / "x.parquet")
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    told = sum(g.column(i).total_uncompressed_size for g in groups for i in range(about.num_columns))
    total, most = pages.unpacked(tmp_path / "x.parquet", about.num_columns)
    assert 0.3 * told < total < told and 0 < most <= total, "the footer counts the pages' headers too"


def lying(path: Path) -> None:
    """Writes another size over each that the footer tells."""
    content, about = path.read_bytes(), pq.read_metadata(path)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    group = about.row_group(0)
    for size in {group.total_byte_size, *(group.column(i).total_uncompressed_size for i in range(about.num_columns))}:
        true = number(size)
        false = bytes(b | 128 for b in number(1000)) + b"\x80" * (len(true) - 3) + b"\0"
        if size > 1_000_000:
            content = content[:footer] + content[footer:].replace(true, false)
    path.write_bytes(content)
    assert pq.read_metadata(path).row_group(0).total_byte_size == 1000


def number(value: int) -> bytes:
    value, out = 2 * value, b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


@pytest.fixture
def small(monkeypatch) -> None:
    for module in (manifest, parquet):
        monkeypatch.setattr(module, "SMALL", 1000)


def test_a_footer_that_lies_of_the_size_is_not_believed(tmp_path, small, monkeypatch):
    path = tmp_path / "x.parquet"
    pd.DataFrame({"path": ["1"], "label": ["x" * 30_000_000]}).to_parquet(
        path, compression="zstd", use_dictionary=False
    )
    lying(path)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read as a table: it claims 30,[\d,]+ bytes from"):
        manifest.load(path)


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.large_string(), pa.binary(10_000)])
def test_a_text_that_all_rows_share_is_not_written_out_for_each(tmp_path, small, kind):
    one = pa.array(["x" * 10_000 if "string" in str(kind) else b"x" * 10_000], kind)
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), one)
    pq.write_table(
        pa.table({"path": [str(i) for i in range(5000)], "label": shared}), tmp_path / "x.parquet", compression="zstd"
    )
    with pytest.raises(ValueError, match=r"(its text is|it claims) 50,[\d,]+ bytes from"):
        manifest.load(tmp_path / "x.parquet")


def test_columns_of_one_name_are_all_counted(tmp_path, small):
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), pa.array(["x" * 10_000]))
    pq.write_table(pa.table([shared, shared], ["a.b", "a.b"]), tmp_path / "x.parquet", compression="zstd")
    with pytest.raises(ValueError, match=r"its text is 100,[\d,]+ bytes from"):
        manifest.load(tmp_path / "x.parquet")


def test_categories_are_read_as_what_they_stand_for(tmp_path):
    columns = {
        "path": pd.Categorical(["a", "b", "a"]),
        "label": pd.Categorical([3, 4, 3]),
        "group": pd.Categorical(["x", None, "y"]),
    }
    pd.DataFrame(columns).to_parquet(tmp_path / "x.parquet")
    found = manifest.load(tmp_path / "x.parquet")
    assert found.to_numpy().tolist() == [["a", "3", "x"], ["b", "4", ""], ["a", "3", "y"]]


def test_rows_that_take_no_room_in_the_file_are_counted(tmp_path, small):
    pd.DataFrame({"path": ["a"] * 1_000_000, "weight": 1}).to_parquet(tmp_path / "x.parquet", compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"it claims 16,[\d,]+ bytes from"):
        manifest.load(tmp_path / "x.parquet")


def test_a_picture_that_all_rows_share_is_unpacked_one_row_at_a_time(tmp_path, shipped, monkeypatch):
    image = pa.StructArray.from_arrays([pa.array([bytes(1_000_000)] * 60)], ["bytes"])
    pq.write_table(pa.table({"image": image, "label": [0] * 60}), tmp_path / "x.parquet", compression="zstd",
                   dictionary_pagesize_limit=1 << 30)  # fmt: skip
    for module in (manifest, parquet):
        monkeypatch.setattr(module, "SMALL", 10_000)  # two million bytes may be unpacked
    assert manifest.open_parquet(tmp_path / "x.parquet")[1] == 1
    with pytest.raises(ValueError, match=r"unpacks to more than"):
        parquet.read(tmp_path / "x.parquet", shipped.data, tmp_path)


@pytest.mark.parametrize("end", range(1, 40, 3))
def test_a_page_that_is_cut_off_or_no_page_is_refused(tmp_path, end):
    frame().to_parquet(tmp_path / "x.parquet")
    about, content = pq.read_metadata(tmp_path / "x.parquet"), (tmp_path / "x.parquet").read_bytes()
    for other in (content[:end], content[:4] + bytes([255] * end) + content[4 + end :], content[:4] + b"\x1c" * 200):
        (tmp_path / "x.parquet").write_bytes(other)
        with pytest.raises(ValueError, match=r"."):
            pages.unpacked(tmp_path / "x.parquet", about.num_columns)


@pytest.mark.parametrize(
    "fields",
    [b"\x19\xf7" + b"\xff" * 8 + b"\x7f", b"\x15" + b"\xff" * 12, b"\x18" + b"\xff" * 8 + b"\x7f", b"\x1b\x01"],
)
def test_lists_and_numbers_without_end_end(tmp_path, fields):
    frame().to_parquet(tmp_path / "x.parquet")
    about, content = pq.read_metadata(tmp_path / "x.parquet"), (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(content[:4] + fields + content[4 + len(fields) :])
    with pytest.raises((ValueError, OSError), match=r"."):
        pages.unpacked(tmp_path / "x.parquet", about.num_columns)


EACH_BYTE = """
import sys
import subprocess
import sys
from pathlib import Path
from pipeline.data.sources import manifest
path = Path(sys.argv[1])
content = path.read_bytes()
begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
refused = 0
for place in range(begin, len(content) - 8):
    for byte in {0, 9, 0x15, 0x19, 0x1C, 0x7F, 0xFF, content[place] ^ 1, content[place] ^ 0x10} - {content[place]}:
        path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
        try:
            manifest.load(path)
        except ValueError:
            refused += 1
print(refused)
"""


def test_no_damaged_footer_ends_the_process(tmp_path):
    """Arrow's objects for the columns of a row group abort where one of them is not whole."""
    table = pa.table({"path": ["a", "b", "c"], "label": ["x", "y", "x"]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2, store_schema=False)
    command = [sys.executable, "-c", EACH_BYTE, tmp_path / "x.parquet"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and int(done.stdout) > 500, done.stderr[-2000:]
