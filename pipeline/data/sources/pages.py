"""How large the pages of a Parquet file say that they are: its footer may say less, and Arrow believes the pages."""

from pathlib import Path
from typing import Any, BinaryIO

BOOLEANS, INTEGERS = (1, 2), (4, 5, 6)
BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 3, 7, 8, 9, 10, 12
UNPACKED, PACKED = 2, 3  # the fields of a page's header that say how long it is
DEEPEST = 8  # structures in one another; the headers of pages have three


def unpacked(path: Path, about: Any) -> tuple[int, int]:
    """Bytes of all pages together and of the largest, by their own headers; `about` is the file's metadata.

    Raises ValueError where no page is.
    """
    total = most = 0
    with path.open("rb") as file:
        for group in range(about.num_row_groups):
            for number in range(about.num_columns):
                column = about.row_group(group).column(number)
                first = column.dictionary_page_offset if column.has_dictionary_page else None
                starts = [o for o in (first, column.data_page_offset) if o]
                if not starts:
                    raise ValueError(f"no page of its column {number} is said to be anywhere")
                start = min(starts)
                file.seek(start)
                while file.tell() < start + column.total_compressed_size:
                    header = _structure(file, DEEPEST)
                    if not (header.get(UNPACKED, -1) >= 0 and header.get(PACKED, -1) >= 0):
                        raise ValueError("a page without a length")
                    total, most = total + header[UNPACKED], max(most, header[UNPACKED])
                    file.seek(header[PACKED], 1)
    return total, most


def _structure(file: BinaryIO, deepest: int) -> dict[int, int]:
    """The whole numbers among the fields of a structure in Thrift's compact protocol; all else is passed over."""
    found, field = {}, 0
    while head := _byte(file):
        step, kind = head >> 4, head & 15
        field = field + step if step else _number(file)
        if kind in INTEGERS:
            found[field] = _number(file)
        elif kind not in BOOLEANS:
            _pass(file, kind, deepest)
    return found


def _pass(file: BinaryIO, kind: int, deepest: int) -> None:
    if not deepest:
        raise ValueError("structures in one another without end")
    if kind in INTEGERS:
        _plain(file)
    elif kind in (*BOOLEANS, BYTE):  # as elements of a list; as fields they have no byte
        _byte(file)
    elif kind == DOUBLE:
        for _ in range(8):
            _byte(file)
    elif kind == BINARY:
        file.seek(_plain(file), 1)
    elif kind in (LIST, SET):
        head = _byte(file)
        for _ in range(_plain(file) if head >> 4 == 15 else head >> 4):
            _pass(file, head & 15, deepest - 1)
    elif kind == STRUCT:
        _structure(file, deepest - 1)
    else:
        raise ValueError(f"a field of kind {kind}")


def _byte(file: BinaryIO) -> int:
    byte = file.read(1)
    if not byte:
        raise ValueError("it ends in the midst of a page")
    return byte[0]


def _plain(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = _byte(file)
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value
        if shift > 56:
            raise ValueError("a number without end")


def _number(file: BinaryIO) -> int:
    """A signed number: even ones are positive."""
    value = _plain(file)
    return (value >> 1) ^ -(value & 1)
