"""Archives into the data folder, and nowhere else.

Not pooch's Untar, which on Python 3.11 follows links and names that lead out of the folder, and which writes
straight into the place where a reader of the data set would take half of it for the whole.
"""

import contextlib
import gzip
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from . import DataError
from .registry import Entry

UNREADABLE = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
HEADER = 512    # bytes that each member takes in an archive; counted, so that many empty files are no way out


def unpack(entry: Entry, data: Path) -> int:
    """Unpack the archive of an entry, whole or not at all; returns the number of files.

    All is written to a folder of its own first and then moved into its place, a whole folder at a time where
    there was none before. What an earlier call left there is overwritten, all else is left alone. The receipt
    comes last: only with it is the entry taken for unpacked.

    Raises DataError for an archive that cannot be read, that holds anything but files and folders or a name
    that leads out of the folder, that holds more than it may, or that lacks what the registry says it holds.
    """
    staging = data / ".unpacking"
    shutil.rmtree(staging, ignore_errors=True)    # what a stopped call left
    try:
        count = _extract(entry, data / entry.file, staging)
        if not (staging / Path(entry.holds).relative_to(entry.unpack_into)).is_dir():
            raise DataError(f"The archive of {entry.name} does not hold {entry.holds}: nothing was unpacked.")
        receipt_file(entry, data).unlink(missing_ok=True)
        _move(staging, data / entry.unpack_into)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    receipt = receipt_file(entry, data)
    part = receipt.with_name(receipt.name + ".part")
    part.write_text(f"{entry.checksum}\n{count} files\n", encoding="utf-8")
    os.replace(part, receipt)
    return count


def receipt_file(entry: Entry, data: Path) -> Path:
    """The small file that says: this archive was unpacked to its end."""
    return data / f"{entry.file}.unpacked"


def is_unpacked(entry: Entry, data: Path) -> bool:
    """Was this very archive unpacked to its end, and is its folder still there?"""
    receipt = receipt_file(entry, data)
    return (
        receipt.is_file()
        and receipt.read_text(encoding="utf-8").startswith(f"{entry.checksum}\n")
        and (data / entry.holds).is_dir()
    )


def differences(entry: Entry, data: Path) -> tuple[int, int]:
    """How many files the archive holds, and how many of them are missing or differ in the data folder."""
    count = wrong = 0
    with _open(entry, data / entry.file) as tar:
        for path, member in _members(entry, tar):
            if member.isreg():
                count += 1
                wrong += not _same(tar, member, data / entry.unpack_into / path)
    return count, wrong


def _extract(entry: Entry, archive: Path, target: Path) -> int:
    count = 0
    with _open(entry, archive) as tar:
        for path, member in _members(entry, tar):
            place = target / path
            try:
                if member.isdir():
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, place.open("xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
            except (FileExistsError, NotADirectoryError):
                raise _unsafe(entry, f"{member.name!r} twice") from None
            count += 1
    return count


@contextlib.contextmanager
def _open(entry: Entry, archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive) as tar:    # which finds out by itself how it is compressed
            yield tar
    except UNREADABLE as error:
        raise DataError(f"The archive of {entry.name}, {archive}, cannot be read to its end: nothing of it "
                        "was unpacked.") from error


def _members(entry: Entry, tar: tarfile.TarFile) -> Iterator[tuple[Path, tarfile.TarInfo]]:
    """The files and folders of an archive with their paths; DataError at the first that is not safe."""
    unpacked = 0
    for member in tar:
        path = PurePosixPath(member.name)
        # A backslash or a colon would be a folder or a drive on Windows.
        if path.is_absolute() or ".." in path.parts or set(member.name) & set("\\:\0"):
            raise _unsafe(entry, f"the name {member.name!r}, which leads out of the folder")
        if not (member.isdir() or member.isreg() and path.parts):
            raise _unsafe(entry, f"{member.name!r}, which is a link or a device")
        unpacked += HEADER + member.size
        if unpacked > entry.unpacked_at_most:
            raise _unsafe(entry, f"more than the {entry.unpacked_at_most:,} bytes that it may")
        yield Path(path), member


def _unsafe(entry: Entry, what: str) -> DataError:
    return DataError(f"The archive of {entry.name} holds {what}: nothing of it was unpacked.")


def _move(source: Path, place: Path) -> None:
    """Move a file or a folder; into a folder that is there already, its parts one by one."""
    if source.is_dir() and place.is_dir():
        for part in source.iterdir():
            _move(part, place / part.name)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, place)


def _same(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bool:
    if not path.is_file() or path.stat().st_size != member.size:
        return False
    with tar.extractfile(member) as source, path.open("rb") as file:
        while chunk := source.read(1 << 20):
            if file.read(len(chunk)) != chunk:
                return False
    return True
