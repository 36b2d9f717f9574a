"""The tests behind the exercises, one file per notebook: nb01.py holds the tests of notebook 01.

Each such file has a dict TESTS: exercise number ("1.2") -> test(function). A test calls the reader's function
on several cases and raises AssertionError with a sentence that names the case and what is wrong with the
answer.
"""

import importlib
import pkgutil
from collections.abc import Callable


def tests() -> dict[str, Callable]:
    """All tests by exercise number, in order. ValueError when two files claim the same number."""
    found: dict[str, Callable] = {}
    for file in sorted(file.name for file in pkgutil.iter_modules(__path__) if file.name.startswith("nb")):
        for number, test in importlib.import_module(f"{__name__}.{file}").TESTS.items():
            if number in found:
                raise ValueError(
                    f"exercise {number} has two tests; the second is in {file}.py: renumber one."
                )
            found[number] = test
    return found
