"""`python -m data_download list | get NAME … | verify`: weights, data sets and photos into one folder."""

import argparse
import os
import sys
from pathlib import Path

from . import DataError
from .registry import Entry, bytes_text, choose, read
from .transfer import is_address


def main(arguments: list[str]) -> int:
    """Run the command; returns 0, 1 where something could not be had or is damaged, 2 for bad input."""
    parser = _parser()
    options = parser.parse_args(arguments)
    entries = read()
    try:
        if options.command == "list":
            return _list(list(entries.values()), options.data)
        if options.command == "verify":
            return _verify(choose(entries, options.names) or list(entries.values()), options.data)
        if options.offline and is_address(options.given):
            parser.error(f"--offline asks no other machine, so it does not go with --from {options.given}")
        return _get(choose(entries, options.names), options)
    except ValueError as problem:
        return _complain(problem, 2)
    except ModuleNotFoundError as problem:
        return _complain(f"{options.command} needs {problem.name}, which is not installed: pip install -c "
                         'constraints.txt -e ".[data]"', 2)
    except KeyboardInterrupt:
        return _complain("Stopped; what came is kept, and the next call goes on from there.", 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_download",
        description="Fetch weights, data sets and photos, with their checksums compared.",
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--data", type=Path, metavar="FOLDER", default=Path(os.environ.get("CAMBOOK_DATA") or "data"),
        help="the data folder (default: the environment variable CAMBOOK_DATA, or ./data)",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("list", parents=[shared], help="what there is, its licence, and what is here already")
    get = commands.add_parser("get", parents=[shared], help="fetch, and unpack what is an archive")
    get.add_argument("names", nargs="+", metavar="NAME", help="what to fetch, as `list` calls it")
    get.add_argument(
        "--from", dest="given", default="", metavar="FOLDER-or-URL",
        help="ask only this data folder (or the address that serves it), which another machine filled",
    )
    get.add_argument("--offline", action="store_true", help="ask nobody: only check and unpack what is here")
    verify = commands.add_parser("verify", parents=[shared], help="read all that is here and compare it")
    verify.add_argument("names", nargs="*", metavar="NAME", help="what to read (default: all)")
    return parser


def _list(entries: list[Entry], data: Path) -> int:
    from .verify import state

    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        mark = " " if entry.verified else "*"
        size = bytes_text(entry.size)
        print(f"{entry.name:<{width}} {size:>7}{mark} {state(entry, data):<12}  {entry.what}")
        print(f"{'':<{width + 24}}{entry.licence}")
    print(f"\nData folder: {data}")
    print("* The checksum was copied from somebody and not computed from the file; `get` says from whom.")
    return 0


def _get(entries: list[Entry], options: argparse.Namespace) -> int:
    from .fetch import get

    status = 0
    for entry in entries:
        try:
            get(entry, options.data, options.given, options.offline)
        except DataError as problem:
            status = _complain(problem, 1)
        except OSError as problem:
            where = problem.filename or options.data
            what = problem.strerror or problem
            status = _complain(f"{entry.name} could not be written or read in {where}: {what}.", 1)
    return status


def _verify(entries: list[Entry], data: Path) -> int:
    from .verify import verify

    status = 0
    for entry in entries:
        try:
            finding = verify(entry, data)
        except DataError as problem:
            status = _complain(problem, 1)
            continue
        print(f"{f'[{finding.state}]':<6} {entry.name}: {finding.text}")
        status |= finding.state == "FAIL"
    return int(status)


def _complain(problem: object, status: int) -> int:
    print(f"data_download: {problem}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
