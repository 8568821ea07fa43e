"""A named public set: a .yaml file says where its files are, their sums and their licence. Fetched once, resumed, checked."""

import hashlib
import http.client
import logging
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm import tqdm

from pipeline.data.sources import idx, npz
from pipeline.data.sources.base import Source
from pipeline.params import Data
from pipeline.params.fields import explain, plain

log = logging.getLogger(__name__)
LAYOUTS = {"npz": npz, "idx": idx}


class File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")
    url: str = Field(pattern=r"^https?://")
    bytes: int = Field(20_000_000_000, gt=0, le=20_000_000_000)  # at most so many are read
    sum: str = Field(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")


class Description(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str
    licence: str
    cite: str
    layout: Literal["npz", "idx"]
    files: list[File] = Field(min_length=1)


def accepts(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".yaml", ".yml")


def read(path: Path, data: Data, scratch: Path) -> Source:
    """The set's files lie in `data.downloads`/<name>, or are fetched to it. Raises ValueError or OSError that say what to do."""
    about, folder = describe(path), Path(data.downloads) / path.stem
    for file in about.files:
        fetch(file, folder / file.name)
    log.info("%s; licence: %s; cite: %s", about.title, about.licence, about.cite)
    place = folder if about.layout == "idx" else folder / about.files[0].name
    return LAYOUTS[about.layout].read(place, data, scratch)


def describe(path: Path) -> Description:
    try:
        raw = plain(path.read_text(encoding="utf-8"))
        return Description.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"data.source: {path.name} describes no named set\n{explain(error, raw, path.name)}") from None
    except ValueError as error:
        raise ValueError(f"data.source: {path.name} is not valid YAML: {error}") from None


def fetch(file: File, place: Path) -> None:
    """Fetch unless the right file is there; what an earlier call left half done is carried on. Raises OSError, ValueError."""
    if place.is_file():
        return check(file, place)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(place.name + ".part")
    try:
        _download(file, part)
    except urllib.error.HTTPError as error:
        later = error.code >= 500 or error.code in (408, 429)
        do = "Run again later" if later else "The description in sets/ is out of date: correct the address there"
        raise OSError(
            f"{file.url} cannot be fetched: its server answers {error.code} ({error.reason}). {do}, or fetch the file "
            f"elsewhere and put it at {place}"
        ) from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise OSError(
            f"{file.url} cannot be fetched ({getattr(error, 'reason', error)}). With a network, run again: what has "
            f"arrived is kept. Without one, fetch the file elsewhere and put it at {place}"
        ) from None
    check(file, part)
    part.rename(place)


def _download(file: File, part: Path) -> None:
    """Raises OSError or HTTPException where the connection ends before the file does."""
    have = part.stat().st_size if part.exists() else 0
    if have >= file.bytes:
        return
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # there is nothing behind what we have; the sum tells whether it is the file
            return
        raise
    with answer:
        carry_on = have and answer.status == 206  # a server that knows no ranges sends all of it again
        with (
            part.open("ab" if carry_on else "wb") as out,
            tqdm.wrapattr(out, "write", total=file.bytes, desc=f"fetch {file.name}", disable=None) as bar,
        ):
            left = file.bytes - (have if carry_on else 0) + 1  # one more than announced is enough to fail the check
            while left > 0 and (block := answer.read(min(1 << 16, left))):
                bar.write(block)
                left -= len(block)
        if left > 0 and answer.length:
            raise ConnectionError(f"the connection ended {answer.length:,} bytes early")


def check(file: File, place: Path) -> None:
    """Raises ValueError, and sets the file aside, unless it has the sum that its description gives."""
    kind, _, expected = file.sum.partition(":")
    found = digest(place, kind)
    if found != expected:
        aside = place.with_name(place.name + ".wrong")
        shutil.move(place, aside)
        raise ValueError(
            f"{place.name} has the {kind} {found}, expected {expected}: it is incomplete or not the published file; "
            f"it now lies at {aside}. Run again to fetch it anew"
        )
    if kind == "md5":
        log.info(
            "%s: the set's description has an MD5 sum only; to pin it, write there sha256:%s",
            file.name,
            digest(place, "sha256"),
        )


def digest(place: Path, kind: str) -> str:
    with place.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()
