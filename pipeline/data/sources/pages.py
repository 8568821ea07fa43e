"""How large the pages of a Parquet file say that they are: its footer may say less, and Arrow believes the pages.

The footer is read here too: of a damaged one, Arrow's own objects end the whole process when they are asked for a column.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

BOOLEANS, INTEGERS = (1, 2), (4, 5, 6)
BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 3, 7, 8, 9, 10, 12
UNPACKED, PACKED = 2, 3  # the fields of a page's header that say how long it is
GROUPS, COLUMNS, ABOUT = 4, 1, 3  # those of the footer, of a row group in it, and of a column there, that lead to
TAKEN, DATA, DICTIONARY = 7, 9, 11  # how many bytes its pages take, and where the first of each kind lies
DEEPEST = 16  # structures in one another; footers have about ten


def unpacked(path: Path, columns: int) -> tuple[int, int]:
    """Bytes of all pages together and of the largest, by their own headers, in a file of so many columns.

    Raises ValueError where no page is, and for a footer that makes no sense.
    """
    total = most = 0
    with path.open("rb") as file:
        for start, taken in list(_chunks(file, path.stat().st_size, columns)):
            file.seek(start)
            while file.tell() < start + taken:
                header = _structure(file, DEEPEST)
                size = _whole(header, UNPACKED, "the length of a page")
                total, most = total + size, max(most, size)
                file.seek(_whole(header, PACKED, "the length of a page"), 1)
    return total, most


def _chunks(file: BinaryIO, size: int, columns: int) -> Iterator[tuple[int, int]]:
    """Where the pages of each column of each row group begin, and how many bytes they take, as the footer says."""
    file.seek(max(0, size - 8))
    length = int.from_bytes(file.read(4), "little")
    if length > size - 8:
        raise ValueError(f"a footer of {length} bytes in a file of {size}")
    file.seek(size - 8 - length)
    for group in _list(_structure(file, DEEPEST), GROUPS, "row groups"):
        parts = _list(group, COLUMNS, "columns")
        if len(parts) != columns:
            raise ValueError(f"a row group of {len(parts)} columns, where {columns} are named")
        for part in parts:
            about = part.get(ABOUT) if isinstance(part, dict) else None
            if not isinstance(about, dict):
                raise ValueError("a column of which nothing is said")
            starts = [o for o in (about.get(DICTIONARY), about.get(DATA)) if isinstance(o, int) and o > 0]
            if not starts:
                raise ValueError("no page of a column is said to be anywhere")
            yield min(starts), _whole(about, TAKEN, "the length of a column")


def _list(found: Any, field: int, what: str) -> list[Any]:
    value = found.get(field) if isinstance(found, dict) else None
    if not isinstance(value, list):
        raise ValueError(f"no {what} in its footer")
    return value


def _whole(found: dict[int, Any], field: int, what: str) -> int:
    value = found.get(field)
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{what} is missing or no whole number")
    return value


def _structure(file: BinaryIO, deepest: int) -> dict[int, Any]:
    """A structure in Thrift's compact protocol by the numbers of its fields; texts and fractions are passed over."""
    found: dict[int, Any] = {}
    field = 0
    while head := _byte(file):
        step, kind = head >> 4, head & 15
        field = field + step if step else _number(file)
        found[field] = None if kind in BOOLEANS else _value(file, kind, deepest)
    return found


def _value(file: BinaryIO, kind: int, deepest: int) -> Any:
    if not deepest:
        raise ValueError("structures in one another without end")
    if kind in INTEGERS:
        return _number(file)
    if kind == STRUCT:
        return _structure(file, deepest - 1)
    if kind in (LIST, SET):
        head = _byte(file)
        return [_value(file, head & 15, deepest - 1) for _ in range(_plain(file) if head >> 4 == 15 else head >> 4)]
    if kind in (*BOOLEANS, BYTE):  # as elements of a list; as fields they have no byte
        _byte(file)
    elif kind == DOUBLE:
        for _ in range(8):
            _byte(file)
    elif kind == BINARY:
        file.seek(_plain(file), 1)
    else:
        raise ValueError(f"a field of kind {kind}")
    return None


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
