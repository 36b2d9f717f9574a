"""From the registry to the data folder: sources in their turn, then, for an archive, unpacked."""

import shutil
from pathlib import Path
from urllib.parse import quote

from . import DataError
from .registry import Entry, bytes_text
from .transfer import Refused, is_address, part_file, transfer
from .unpack import is_unpacked, unpack

TIMEOUT = 30.0    # seconds


def get(entry: Entry, data: Path, given: str = "", offline: bool = False, timeout: float = TIMEOUT) -> None:
    """Make sure that the file of an entry is in the data folder, and an archive unpacked; prints what it did.

    given: a folder or an address that is asked instead of the entry's own sources: a data folder that
    another machine filled, or any folder in which the file lies under its own name. offline: ask nobody;
    only the data folder, and the folder given, are read.

    A file is here when its checksum is right, an archive when it was unpacked to its end. Raises DataError,
    or OSError where this machine is the cause; nothing unfinished has the name of something finished.
    """
    import filelock

    data.mkdir(parents=True, exist_ok=True)
    try:
        # Two calls would write into the same unfinished file. The lock of a killed call opens by itself.
        with filelock.FileLock(data / ".lock", timeout=0):
            _get(entry, data, given, offline, timeout)
    except filelock.Timeout:
        raise DataError(f"Another call is filling {data}: wait until it is done.") from None


def _get(entry: Entry, data: Path, given: str, offline: bool, timeout: float) -> None:
    if entry.holds and is_unpacked(entry, data):
        print(f"{entry.name}: is here, in {data / entry.holds}")
        return
    fetched = not is_right(entry, data)
    if fetched:
        if offline and not given:
            raise DataError(f"{entry.name} is not in {data}: leave --offline out, or take it from a folder "
                            "with --from.")
        sources = _sources(entry, given)
        _check_space(entry, data, _missing(entry, data) + entry.unpacked_at_most)
        if not entry.verified:
            print(f"{entry.name}: the registry's checksum was not compared with the file when it was written "
                  f"down; it is from {entry.checksum_from}")
        print(f"{entry.name}: fetching {bytes_text(entry.size)}")
        _bring(entry, data, sources, timeout)
    else:
        _check_space(entry, data, entry.unpacked_at_most)
    if entry.holds:
        count = unpack(entry, data)
        print(f"{entry.name}: unpacked {count:,} files, in {data / entry.holds}")
    else:
        print(f"{entry.name}: {'fetched' if fetched else 'is here'}, {data / entry.file}")


def is_right(entry: Entry, data: Path) -> bool:
    """Is the file there, with the registry's checksum?"""
    import pooch

    path = data / entry.file
    algorithm, digits = entry.checksum.split(":")
    if not path.is_file() or not entry.may_have(path.stat().st_size):
        return False
    return pooch.file_hash(path, algorithm) == digits


def _sources(entry: Entry, given: str) -> list[str]:
    name = Path(entry.file).name
    if is_address(given):
        return [f"{given.rstrip('/')}/{quote(path)}" for path in (entry.file, name)]
    if given:
        found = [str(path) for path in (Path(given, entry.file), Path(given, name)) if path.is_file()]
        if not found:
            raise DataError(f"{given} has no {entry.file}, nor {name}, for {entry.name}: name a data folder, "
                            "or a folder with this file.")
        return found
    if not entry.sources:
        raise DataError(f"{entry.name} is given to each reader in person: {entry.instructions}; then call "
                        f"get {entry.name} --from FOLDER-WITH-THE-FILE.")
    return entry.sources


def _check_space(entry: Entry, data: Path, need: int) -> None:
    free = shutil.disk_usage(data).free
    if free < need:
        raise DataError(f"{entry.name} needs {bytes_text(need)} in {data}, where {bytes_text(free)} are "
                        "free: make room, or name another folder with --data.")


def _missing(entry: Entry, data: Path) -> int:
    return max(0, entry.most_bytes - _arrived(entry, data))


def _arrived(entry: Entry, data: Path) -> int:
    part = part_file(entry, data)
    return part.stat().st_size if part.is_file() else 0


def _bring(entry: Entry, data: Path, sources: list[str], timeout: float) -> None:
    """Ask the sources in turn, and all of them again as long as that brings the file nearer."""
    restarted = False
    while True:
        reasons, before = [], _arrived(entry, data)
        for source in sources:
            try:
                return transfer(entry, data, source, timeout)
            except Refused as reason:
                reasons.append(f"{source} {reason}")
        after = _arrived(entry, data)
        if after < before and not restarted:
            restarted = True    # what an earlier call had left may have been the cause: once from the start
        elif after <= before:
            break
    if not after:
        part_file(entry, data).unlink(missing_ok=True)
    kept = f" ({bytes_text(after)} are kept, and the next call goes on from there)" if after else ""
    raise DataError(f"{entry.name} could not be fetched, because {', and '.join(reasons)}: try again "
                    f"later{kept}, or take it from another machine with --from.")
