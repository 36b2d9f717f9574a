"""Is what lies in the data folder still what the registry says?"""

from dataclasses import dataclass
from pathlib import Path

from .fetch import is_right
from .registry import Entry
from .transfer import part_file
from .unpack import differences, is_unpacked, receipt_file


@dataclass(frozen=True)
class Finding:
    """What was found of one entry."""

    state: str    # "OK", "SKIP" (not here, or it cannot be told) or "FAIL"
    text: str


def state(entry: Entry, data: Path) -> str:
    """What seems to be there, at a glance: names and sizes only."""
    file = data / entry.file
    if entry.holds and is_unpacked(entry, data):
        return "here"
    if file.is_file():
        if not entry.may_have(file.stat().st_size):
            return "damaged"
        return "not unpacked" if entry.holds else "here"
    return "in part" if part_file(entry, data).is_file() else "-"


def verify(entry: Entry, data: Path) -> Finding:
    """Read all of an entry: compare the checksum of its file, and each unpacked file with the archive."""
    file = data / entry.file
    unpacked = bool(entry.holds) and is_unpacked(entry, data)
    if not file.is_file():
        if unpacked:
            return Finding("SKIP", f"{file} is gone, so nothing in {entry.holds} can be compared with it")
        return Finding("SKIP", "not here")
    if not is_right(entry, data):
        return Finding("FAIL", f"{file} has not the registry's checksum: get {entry.name} fetches it again")
    if not entry.holds:
        return Finding("OK", str(file))
    if not unpacked:
        return Finding("FAIL", f"{file} is right, but not unpacked to its end: get {entry.name} does that")
    count, wrong = differences(entry, data)
    if wrong:
        return Finding("FAIL", f"of {count:,} files, {wrong:,} are missing or differ from {file}: "
                               f"delete {receipt_file(entry, data)}, then get {entry.name} unpacks it again")
    return Finding("OK", f"{file}, and its {count:,} files")
