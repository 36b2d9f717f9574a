"""Compute the book's tables of evidence and store them in evidence/, with every setting.

    make evidence                                             # all chapters, both embedded networks
    make evidence ARGS="02 08"                                # two chapters
    make evidence ARGS="08 --count 12 --folder build/try"     # a quick look, stored elsewhere
    make evidence ARGS="08 --real ../shared/real"             # the real pictures as well

An interrupted run goes on where it was: what is finished is kept in build/evidence/, one small file for each
method and ten pictures. Seconds are those of this machine, so let nothing else run beside it.
"""

import argparse
import sys
from pathlib import Path

from cambook import evidence


def main(argv: list[str] | None = None) -> int:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("names", nargs="*", help='which chapters, for example "01 02"; all when left out')
    parser.add_argument("--networks", nargs="+", help="which of the networks; all when left out")
    parser.add_argument("--count", type=int, help="pictures; the chapter's own number when left out")
    parser.add_argument("--real", type=Path, help="folder of real pictures and their network")
    parser.add_argument("--folder", type=Path, default=evidence.FOLDER, help="where to store the tables")
    parser.add_argument("--cache", type=Path, default=evidence.ROOT / "build" / "evidence")
    options = parser.parse_args(argv)
    networks = evidence.networks(options.real)
    for name in options.networks or []:
        if name not in networks:
            parser.error(f"there is no table for {name!r}, only for {', '.join(networks)}")
    for chapter in chosen(options.names):
        for network in options.networks or networks:
            print(f"{chapter}, {network}", flush=True)
            table = evidence.compute(
                chapter, network, options.count, real=options.real, cache=options.cache, progress=True
            )
            table.save(evidence.path(chapter, network, options.folder))
            print(table, flush=True)
    return 0


def chosen(names: list[str]) -> list[str]:
    """The chapters with a table: all, or those that a name such as "01" begins."""
    for name in names:
        if not any(chapter.startswith(name) for chapter in evidence.CHAPTERS):
            raise SystemExit(f"No chapter with a table begins with {name!r}: {', '.join(evidence.CHAPTERS)}.")
    return [chapter for chapter in evidence.CHAPTERS if not names or chapter.startswith(tuple(names))]


if __name__ == "__main__":
    sys.exit(main())
