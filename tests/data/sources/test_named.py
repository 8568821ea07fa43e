"""Named sets are fetched once, carried on, checked. Run: python -m pytest tests/data/sources/test_named.py"""

import gzip
import hashlib
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.data.sources import named
from pipeline.data.sources.base import Source
from pipeline.params import Data

SETS = sorted((Path(__file__).parents[3] / "sets").glob("*.yaml"))
NO_FILES = ("digits.yaml", "none.yaml")
BIG = 20_000_000_000


@dataclass
class Server:
    """What a server holds and how it behaves; it notes the Range of every request, None where there was none."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    chunked: bool = False
    cut: int | None = None  # bytes of a body after which the connection ends
    status: int = 200
    place: str = ""  # where a redirection leads
    asked: list[str | None] = field(default_factory=list)
    port: int = 0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: Server, *args: Any) -> None:
        self.about = server
        super().__init__(*args)

    def do_GET(self) -> None:
        about, wanted = self.about, self.headers.get("Range")
        about.asked.append(wanted)
        body = about.files.get(self.path[1:])
        if body is None or about.status != 200:
            self.send_response(404 if body is None else about.status)
            self.send_header("Location", about.place)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted and about.ranges else 0
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        rest = body[start:]
        if about.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if about.chunked:
            rest = b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest)
        self.wfile.write(rest[: about.cut])
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    about = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, about)) as http:
        about.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield about
        http.shutdown()
        thread.join()


CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def place(tmp_path) -> Path:
    return tmp_path / "downloads" / "toy" / "toy.bin"


def sha(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def file(server) -> Callable[..., named.File]:
    """What a description says of CONTENT, which the server has."""
    server.files["toy.bin"] = CONTENT

    def make(**changes: object) -> named.File:
        about = {"name": "toy.bin", "url": server.url("toy.bin"), "bytes": len(CONTENT), "sum": sha(CONTENT)}
        return named.File.model_validate(about | changes)

    return make


def part(place: Path) -> Path:
    return place.with_name(f"{place.name}.part")


def started(place: Path, content: bytes) -> None:
    """What an earlier call may have left."""
    place.parent.mkdir(parents=True)
    part(place).write_bytes(content)


# The sets that are shipped


@pytest.mark.parametrize("path", [p for p in SETS if p.name not in NO_FILES], ids=lambda p: p.stem)
def test_every_set_describes_its_files(path):
    about = named.describe(path)
    assert about.title and about.licence and about.cite
    assert len({f.name for f in about.files}) == len({f.url for f in about.files}) == len(about.files)
    assert len(about.files) == (1 if about.layout == "npz" else 4)
    assert all(f.name.endswith(".npz" if about.layout == "npz" else ".gz") for f in about.files)
    assert all(f.sum.startswith("sha256:") or f.url.startswith("https:") for f in about.files)


def test_the_two_files_that_name_nothing_to_fetch_hold_nothing():
    assert [p.name for p in SETS if YAML(typ="safe").load(p.read_text(encoding="utf-8")) is None] == sorted(NO_FILES)
    for path in SETS:
        if path.name in NO_FILES:
            with pytest.raises(ValueError, match=f"{path.name} describes no named set"):
                named.describe(path)


# Fetching


def test_a_file_is_fetched_whole_and_only_once(file, place, server):
    for _ in range(3):
        named.fetch(file(), place)
    assert place.read_bytes() == CONTENT and server.asked == [None]
    assert [p.name for p in place.parent.iterdir()] == ["toy.bin"]


def test_its_length_need_not_be_known_and_its_sum_may_be_md5_and_then_the_better_sum_is_told(file, place, caplog):
    caplog.set_level("INFO")
    named.fetch(file(bytes=BIG, sum=f"md5:{hashlib.md5(CONTENT).hexdigest()}"), place)
    assert sha(CONTENT) in caplog.text
    assert place.read_bytes() == CONTENT


def test_nothing_is_fetched_where_the_right_file_lies(file, place, server):
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    named.fetch(file(), place)
    named.fetch(file(url="http://127.0.0.1:1/toy.bin"), place)
    assert server.asked == [] and place.read_bytes() == CONTENT


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [len(CONTENT), BIG])
@pytest.mark.parametrize("cut", [0, 1, 1000, len(CONTENT) // 2, len(CONTENT) - 1])
def test_what_came_before_the_connection_ended_is_kept_and_carried_on(file, place, server, cut, length, chunked):
    server.cut, server.chunked = cut, chunked
    with pytest.raises(OSError, match="cannot be fetched") as error:
        named.fetch(file(bytes=length), place)
    assert str(place) in str(error.value) and not place.exists()
    kept = part(place).read_bytes()
    assert CONTENT.startswith(kept) and (chunked or len(kept) == cut)
    server.cut, server.chunked = None, False
    named.fetch(file(bytes=length), place)
    assert place.read_bytes() == CONTENT and not part(place).exists()
    assert server.asked == [None, f"bytes={len(kept)}-" if kept else None]


def test_many_cuts_lead_to_the_whole_file(file, place, server):
    server.cut = len(CONTENT) // 7 + 1
    for _ in range(6):
        with pytest.raises(OSError, match="cannot be fetched"):
            named.fetch(file(), place)
    named.fetch(file(), place)
    assert place.read_bytes() == CONTENT and len(server.asked) == 7


@pytest.mark.parametrize("length", [len(CONTENT), BIG])
def test_a_server_that_knows_no_ranges_sends_all_of_it_again(file, place, server, length):
    server.ranges = False
    started(place, CONTENT[:5000])
    named.fetch(file(bytes=length), place)
    assert place.read_bytes() == CONTENT and server.asked == ["bytes=5000-"]


@pytest.mark.parametrize("length", [len(CONTENT), BIG])
def test_a_file_that_had_arrived_whole_is_taken_as_it_is(file, place, server, length):
    started(place, CONTENT)
    named.fetch(file(bytes=length), place)
    assert place.read_bytes() == CONTENT and len(server.asked) == (length == BIG)


@pytest.mark.parametrize("length", [len(CONTENT), BIG])
def test_a_beginning_of_another_file_is_set_aside_and_fetched_anew_at_the_next_call(file, place, server, length):
    started(place, b"something else")
    with pytest.raises(ValueError, match=r"it now lies at .*part\.wrong\. Run again"):
        named.fetch(file(bytes=length), place)
    assert not place.exists() and not part(place).exists()
    named.fetch(file(bytes=length), place)
    assert place.read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [b"", b"<html>moved</html>", CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x"])
def test_a_published_file_with_another_sum_is_set_aside(file, place, server, wrong):
    about = file()
    server.files["toy.bin"] = wrong
    with pytest.raises(ValueError, match=r"sha256 [0-9a-f]{64}, expected") as error:
        named.fetch(about, place)
    assert str(part(place)) + ".wrong" in str(error.value) and not place.exists() and not part(place).exists()
    assert wrong.startswith(Path(f"{part(place)}.wrong").read_bytes())
    server.files["toy.bin"] = CONTENT
    named.fetch(about, place)
    assert place.read_bytes() == CONTENT


def test_a_wrong_file_in_its_place_is_set_aside_before_anything_is_fetched(file, place, server):
    place.parent.mkdir(parents=True)
    place.write_bytes(b"another file")
    with pytest.raises(ValueError, match=r"toy\.bin has the sha256 .* Run again to fetch it anew"):
        named.fetch(file(), place)
    assert server.asked == [] and (place.parent / "toy.bin.wrong").read_bytes() == b"another file"
    named.fetch(file(), place)
    assert place.read_bytes() == CONTENT


@pytest.mark.parametrize("chunked", [False, True])
def test_no_more_is_read_than_was_announced(file, place, server, chunked):
    about = file(bytes=1000)
    server.chunked = chunked
    with pytest.raises(ValueError, match="expected"):
        named.fetch(about, place)
    assert Path(f"{part(place)}.wrong").stat().st_size == 1001


def test_without_a_server_the_message_says_which_file_to_put_where(place, file):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/toy.bin"
    with pytest.raises(OSError, match="refused") as error:
        named.fetch(file(url=url), place)
    assert url in str(error.value) and f"put it at {place}" in str(error.value) and not place.exists()


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_server_that_refuses_is_told_with_its_code_and_address(place, file, server, status):
    about = file()
    if status == 404:
        server.files.clear()
    server.status = status
    with pytest.raises(OSError, match=rf"cannot be fetched: its server answers {status} ") as error:
        named.fetch(about, place)
    said = str(error.value)
    assert about.url in said and f"put it at {place}" in said and not place.exists()
    assert ("description in sets/ is out of date" in said) == (status < 500) and "With a network" not in said


def test_a_redirection_is_followed_but_never_to_a_file_of_this_machine(place, file, server, tmp_path):
    (tmp_path / "secret").write_bytes(CONTENT)
    server.status, server.place = 302, f"file://{tmp_path}/secret"
    with pytest.raises(OSError, match="cannot be fetched"):
        named.fetch(file(), place)
    assert not place.exists()


def test_a_server_that_does_not_speak_http_is_an_error_of_the_network(place, file):
    def answer(listener: socket.socket) -> None:
        with listener.accept()[0] as talk:
            talk.recv(1000)
            talk.sendall(b"what?\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        with pytest.raises(OSError, match="cannot be fetched"):
            named.fetch(file(url=f"http://127.0.0.1:{listener.getsockname()[1]}/toy.bin"), place)
        thread.join()


# Reading a set


def archive(folder: Path) -> bytes:
    rng = np.random.default_rng(1)
    np.savez(
        folder / "toy.npz", train_images=rng.integers(0, 256, (4, 6, 6), dtype=np.uint8), train_labels=[0, 1, 0, 1]
    )
    return (folder / "toy.npz").read_bytes()


def described(folder: Path, server: Server, layout: str = "npz", **changes: object) -> Path:
    files = [{"name": n, "url": server.url(n), "bytes": len(c), "sum": sha(c)} for n, c in server.files.items()]
    about = {"title": "Toy set", "licence": "CC BY 4.0", "cite": "A. Nobody", "layout": layout, "files": files}
    (folder / "sets").mkdir(exist_ok=True)
    path = folder / "sets" / "toy.yaml"
    with path.open("w", encoding="utf-8") as out:
        YAML().dump({k: v for k, v in (about | changes).items() if v is not None}, out)
    return path


@pytest.fixture
def read(shipped, tmp_path) -> Callable[[Path], Source]:
    data: Data = shipped.data.model_copy(update={"downloads": str(tmp_path / "downloads")})

    def call(path: Path) -> Source:
        (tmp_path / "scratch").mkdir(exist_ok=True)
        return named.read(path, data, tmp_path / "scratch")

    return call


def test_a_set_is_fetched_and_read_and_its_licence_is_told(tmp_path, server, read, caplog):
    server.files["toy.npz"] = archive(tmp_path)
    path = described(tmp_path, server)
    with caplog.at_level(logging.INFO):
        source = read(path)
    assert source.rows["label"].tolist() == ["0", "1", "0", "1"] and source.load(source.refs[0]).pixels.shape == (
        6,
        6,
        1,
    )
    assert "Toy set" in caplog.text and "licence: CC BY 4.0" in caplog.text and "A. Nobody" in caplog.text
    assert (tmp_path / "downloads" / "toy" / "toy.npz").read_bytes() == server.files["toy.npz"]
    assert read(path).rows.equals(source.rows) and server.asked == [None]


def test_a_set_in_idx_layout_is_fetched_file_by_file(tmp_path, server, read):
    images, labels = np.arange(3 * 16, dtype=np.uint8), np.array([1, 0, 1], np.uint8)
    for prefix in ("train", "t10k"):
        head = bytes((0, 0, 8, 3)) + struct.pack(">3I", 3, 4, 4)
        server.files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(head + images.tobytes())
        head = bytes((0, 0, 8, 1)) + struct.pack(">I", 3)
        server.files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(head + labels.tobytes())
    path = described(tmp_path, server, "idx")
    assert read(path).rows["split"].tolist() == ["train"] * 3 + ["test"] * 3
    assert len(server.asked) == 4
    assert read(path).classes == ("0", "1") and len(server.asked) == 4


def test_what_is_no_archive_is_refused_by_name_though_its_sum_is_right(tmp_path, server, read):
    server.files["toy.npz"] = b"no archive"
    with pytest.raises(ValueError, match=r"^data\.source: toy\.npz cannot be read as an \.npz archive"):
        read(described(tmp_path, server))


FILE = {"name": "x.npz", "url": "https://example.org/x.npz", "sum": sha(b"")}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"title": None}, "title: "),
        ({"licence": None}, "licence: "),
        ({"cite": None}, "cite: "),
        ({"layout": "zip"}, "layout: "),
        ({"files": []}, "files: "),
        ({"files": None}, "files: "),
        ({"script": "rm -rf ."}, "script: unknown key"),
        ({"files": [FILE | {"mirror": "x"}]}, "files.0.mirror: unknown key"),
        ({"files": [FILE, FILE | {"url": "file:///etc/passwd"}]}, "files.1.url: "),
        ({"files": [FILE | {"url": "ftp://example.org/x"}]}, "files.0.url: "),
        ({"files": [FILE | {"name": "../x.npz"}]}, "files.0.name: "),
        ({"files": [FILE | {"name": "/etc/x"}]}, "files.0.name: "),
        ({"files": [FILE | {"name": ".."}]}, "files.0.name: "),
        ({"files": [FILE | {"name": ".hidden"}]}, "files.0.name: "),
        ({"files": [FILE | {"name": ""}]}, "files.0.name: "),
        ({"files": [FILE | {"name": "x" * 101}]}, "files.0.name: "),
        ({"files": [FILE | {"sum": "sha256:abc"}]}, "files.0.sum: "),
        ({"files": [FILE | {"sum": "crc32:00000000"}]}, "files.0.sum: "),
        ({"files": [{k: v for k, v in FILE.items() if k != "sum"}]}, "files.0.sum: "),
        ({"files": [FILE | {"bytes": 0}]}, "files.0.bytes: "),
        ({"files": [FILE | {"bytes": 10**15}]}, "files.0.bytes: "),
    ],
)
def test_a_description_with_a_mistake_is_refused_by_its_key_and_nothing_is_fetched(
    tmp_path, server, read, changes, says
):
    with pytest.raises(ValueError, match=r"^data\.source: toy\.yaml describes no named set") as error:
        read(described(tmp_path, server, **changes))
    assert f"  {says}" in str(error.value) and server.asked == []
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize(
    "text", ["", "- a", "words", "a: [", "a: 1\na: 2", "\0", "a: !!python/object/apply:os.getcwd []", "&a [*a]"]
)
def test_a_file_that_describes_nothing_is_refused(tmp_path, read, text):
    (tmp_path / "toy.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"^data\.source: toy\.yaml (is not valid YAML|describes no named set)"):
        read(tmp_path / "toy.yaml")


def test_bytes_that_are_no_text_are_refused(tmp_path, read):
    (tmp_path / "toy.yaml").write_bytes("title: ü".encode("latin-1"))
    with pytest.raises(ValueError, match=r"^data\.source: toy\.yaml is not valid YAML"):
        read(tmp_path / "toy.yaml")
