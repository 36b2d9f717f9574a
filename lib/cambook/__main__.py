"""`python -m cambook explain PHOTO …` draws a heat map, `evaluate` runs methods over a data set, and `doctor`
says what is wrong here.

Each subcommand is imported only when it is called: `doctor` has to work where torch does not.
"""

import sys

USAGE = """usage: python -m cambook COMMAND …

commands:
  explain PHOTO   draw a heat map over a photo (python -m cambook explain --help)
  evaluate        methods and metrics over a data set, on all cores (python -m cambook evaluate --help)
  doctor          check this installation, line by line
"""


def main(arguments: list[str]) -> int:
    """Run a subcommand; returns the exit status, 2 for bad input."""
    command, rest = arguments[:1], arguments[1:]
    if command == ["explain"]:
        from . import explain

        return explain.main(rest)
    if command == ["evaluate"]:
        from .evaluate import cli

        return cli.main(rest)
    if command == ["doctor"]:
        from . import doctor

        return doctor.main(rest)
    if command in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    print(USAGE, end="", file=sys.stderr)
    if command:
        print(f"cambook: There is no command {command[0]!r}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
