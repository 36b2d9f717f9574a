"""What can be fetched: the entries of registry.toml."""

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path

REGISTRY = Path(__file__).with_name("registry.toml")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing to fetch; registry.toml says what each field means."""

    name: str
    what: str
    file: str
    size: int
    verified: bool
    checksum_from: str
    licence: str
    sources: list[str]
    sha256: str = ""
    md5: str = ""
    rough_size: bool = False
    instructions: str = ""
    unpack_into: str = ""
    holds: str = ""
    unpacked_at_most: int = 0

    @property
    def checksum(self) -> str:
        """As pooch writes it: the algorithm, a colon, the digits."""
        return f"sha256:{self.sha256}" if self.sha256 else f"md5:{self.md5}"

    @property
    def most_bytes(self) -> int:
        """No source may send more than this."""
        return 2 * self.size if self.rough_size else self.size

    def may_have(self, size: int) -> bool:
        """Can a file of so many bytes be the right one?"""
        return self.rough_size or size == self.size


def read(path: Path = REGISTRY) -> dict[str, Entry]:
    """All entries by their names, in the order of the file."""
    with path.open("rb") as file:
        return {name: Entry(name=name, **fields) for name, fields in tomllib.load(file).items()}


def choose(entries: dict[str, Entry], names: list[str]) -> list[Entry]:
    """The entries of these names. ValueError for a name that is not in the registry."""
    for name in names:
        if name not in entries:
            near = ", ".join(difflib.get_close_matches(name, entries, n=3, cutoff=0.4) or entries)
            raise ValueError(f"There is nothing called {name!r} to fetch; near names are: {near}.")
    return [entries[name] for name in dict.fromkeys(names)]


def bytes_text(count: int) -> str:
    """12 kB, 553 MB, 6.7 GB: in powers of ten, as disks and browsers count."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:.0f} {unit}"
    return f"{count / 1e3:.0f} kB"
