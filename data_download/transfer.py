"""One file from one source, by pooch.

What pooch does: it asks with requests, which follows redirects; it writes beside the file's place, compares
the checksum, and only then moves the file there. What it leaves to the downloader that one may give it is
done here: to go on where an earlier call broke off, to refuse an answer that cannot be the file before it
fills the disk, and to read from a folder.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .registry import Entry

if TYPE_CHECKING:    # pooch and what comes with it are an extra: `list` works without
    import requests
    import tqdm

CHUNK = 1 << 16    # bytes; a line that breaks costs up to so many that had come


class Refused(Exception):
    """This source does not deliver the file; the text goes on after the source's name."""


def transfer(entry: Entry, data: Path, source: str, timeout: float) -> None:
    """Bring the file of an entry to its place in the data folder, whole and with the right checksum.

    source: an address for HTTP, or the path of a file. timeout: seconds without any answer. What had come
    when the connection broke is kept in FILE.part, and the next call goes on from there.

    Raises Refused where this source does not help, and OSError where this machine is the cause.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")    # it would report each file in words of its own
    checksum, address = {entry.file: entry.checksum}, {entry.file: source}
    store = pooch.create(path=data, base_url="", registry=checksum, urls=address)
    part = part_file(entry, data)

    def downloader(url: str, place: str, _: object) -> None:
        if is_address(url):
            _from_web(entry, url, part, timeout)
        else:
            _from_folder(entry, url, part)
        os.replace(part, place)

    try:
        store.fetch(entry.file, downloader=downloader)
    except requests.RequestException as error:
        raise Refused(_reason(error, timeout)) from error
    except ValueError as error:
        doubt = "" if entry.verified else ", which was only copied and may be wrong itself"
        raise Refused(f"delivers a file whose checksum is not the registry's{doubt}") from error


def part_file(entry: Entry, data: Path) -> Path:
    """Where the bytes of an unfinished transfer are."""
    return data / f"{entry.file}.part"


def is_address(source: str) -> bool:
    """Is it for HTTP, and not a path?"""
    return source.startswith(("http://", "https://"))


def _reason(error: "requests.RequestException", timeout: float) -> str:
    from requests import exceptions

    match error:
        case exceptions.HTTPError():
            return f"answers {error.response.status_code} {error.response.reason}".rstrip()
        case exceptions.Timeout():
            return f"does not answer within {timeout:g} seconds"
        case exceptions.SSLError():
            return "has no valid certificate"
        case exceptions.ConnectionError() if "Read timed out" in str(error):
            return f"fell silent for {timeout:g} seconds"
        case exceptions.ConnectionError():
            return "cannot be reached"
        case exceptions.ChunkedEncodingError():
            return "broke off on the way"
        case exceptions.TooManyRedirects():
            return "redirects in a circle"
    return f"leads nowhere ({type(error).__name__})"


def _from_web(entry: Entry, url: str, part: Path, timeout: float) -> None:
    import pooch

    with part.open("ab") as file, _bar(entry.name, entry.size) as bar:
        start = file.tell()
        if start == entry.size and not entry.rough_size:
            return    # an earlier call ended just before the checksum was compared
        pooch.HTTPDownloader(
            progressbar=bar,
            chunk_size=CHUNK,
            timeout=timeout,
            # Of an answer that is compressed on the way, the length would say nothing.
            headers={"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {}),
            hooks={"response": lambda response, **_: _begin(entry, response, file, start)},
        )(url, _Bounded(file, entry), None)
        if not entry.may_have(file.tell()):
            raise Refused("broke off on the way")    # where no length was announced, nothing else tells


def _begin(entry: Entry, response: "requests.Response", file: BinaryIO, start: int) -> None:
    """Look at an answer before its body is read; requests calls this for redirects too."""
    if response.status_code == 206:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise Refused("answers with another part of the file than it was asked for")
    elif response.ok and not response.is_redirect:
        _empty(file)    # here comes the whole file, because this server cannot go on in the middle
        start = 0
    else:
        if response.status_code == 416:
            _empty(file)    # the file has no such part, so what came before was something else
        return
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and not entry.may_have(start + int(length)):
        raise Refused(f"offers {start + int(length):,} bytes instead of {entry.size:,}")


class _Bounded:
    """What pooch writes to: refuses an endless answer, which pooch would read until the disk is full."""

    def __init__(self, file: BinaryIO, entry: Entry) -> None:
        self.file, self.most, self.flush = file, entry.most_bytes, file.flush

    def write(self, chunk: bytes) -> None:
        if self.file.tell() + len(chunk) > self.most:
            _empty(self.file)
            raise Refused(f"sends more than the {self.most:,} bytes that the file may have")
        self.file.write(chunk)


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _from_folder(entry: Entry, path: str, part: Path) -> None:
    from tqdm.utils import CallbackIOWrapper

    size = os.path.getsize(path)
    if not entry.may_have(size):
        raise Refused(f"has {size:,} bytes instead of {entry.size:,}")
    with open(path, "rb") as source, part.open("wb") as file, _bar(entry.name, size) as bar:
        shutil.copyfileobj(CallbackIOWrapper(bar.update, source, "read"), file, 1 << 20)


@contextlib.contextmanager
def _bar(name: str, total: int) -> Iterator["tqdm.tqdm"]:
    """A progress bar, on a terminal only, that is closed whatever happens."""
    from tqdm import tqdm

    bar = tqdm(desc=name, total=total, unit="B", unit_scale=True, disable=None, leave=False)
    try:
        yield bar
    finally:
        bar.close()
