"""What the notebooks assert, printed so that a re-run can be compared line by line.

The tolerance sits inside `check` and no measured difference is printed: nbval compares text and knows no
tolerance.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from . import exercises
from .show.paint import array


def check(name: str, got, expected, atol: float = 1e-6) -> None:
    """Assert that two values agree, and print one line that is the same on every machine.

    name: a sentence worth reading; for a numbered equation it starts with "eq. 1.3: ".
    got, expected: tensors, arrays, (nested) lists, numbers, bools or strings, of the same shape. Bools,
    strings and whole numbers must be equal; anything else may differ by atol in each element. NaN agrees with
    nothing. Raises AssertionError with both values, the largest gap and its place; ValueError when atol is
    negative.
    """
    if not atol >= 0:
        raise ValueError(f"atol is the largest difference allowed, 0 or more; got {atol}.")
    got, expected = _value(got), _value(expected)
    problem = _difference(got, expected, atol)
    if problem:
        raise AssertionError(
            f"FAIL {name}: {problem}\n     got {_written(got)}\nexpected {_written(expected)}"
        )
    exact = atol == 0 or (got.dtype.kind in "biuU" and expected.dtype.kind in "biuU")
    shape = str(got.shape) if got.ndim else "one value"
    print(f"PASS {name}   {shape}  {'equal' if exact else f'within {atol:g}'}")


def fingerprint(map) -> None:
    """Print a map as text: size, extremes, the place of the peak, and the means of a 4×4 grid.

    map: (H, W) tensor or array. Two digits, and places as cells of the grid (row, column), so that the text
    survives the last digits of another machine. A map that leaves [-1, 1], or is small, is divided by its
    largest magnitude first, which is printed.
    """
    map = torch.as_tensor(array(map)).double()
    if map.ndim != 2 or not torch.isfinite(map).all():
        raise ValueError(f"fingerprint takes one finite map (H, W); got shape {tuple(map.shape)}.")
    height, width = map.shape
    largest = map.abs().max().item()
    unit = 1.0 if largest == 0 or 0.5 <= largest <= 1 else largest
    map = map / unit
    row, column = divmod(map.argmax().item(), width)
    times = "" if unit == 1 else f"  times {unit:.2g}"
    print(f"{height}×{width}  min {_digits(map.min())}  max {_digits(map.max())}{times}  "
          f"peak in cell ({4 * row // height}, {4 * column // width}) of")  # fmt: skip
    for cells in F.adaptive_avg_pool2d(map[None, None], 4)[0, 0]:
        print("  " + " ".join(f"{_digits(cell):>5}" for cell in cells))


def check_exercise(number: str, function: Callable) -> None:
    """Try the reader's function on the cases of one exercise and print the verdict.

    number: as in the text, "1.2". function: the reader's. A wrong answer is printed and not raised, and as long
    as the function returns nothing (or `...`, or raises a bare NotImplementedError) the exercise counts as not
    yet written, so that the notebook runs from top to bottom.
    """
    tests = exercises.tests()
    if number not in tests:
        raise ValueError(f"there is no exercise {number}; there are {', '.join(tests)}.")
    cases = 0

    @functools.wraps(function, updated=())    # a test may want to know what the function launches
    def written(*args, **kwargs):
        nonlocal cases
        cases += 1
        try:
            answer = function(*args, **kwargs)
        except NotImplementedError as error:
            if error.args:  # torch's own come with a message, for instance on the mean of bools
                raise
            raise _NotWritten from error
        if answer is None or answer is Ellipsis:
            raise _NotWritten
        return answer

    try:
        tests[number](written)
    except _NotWritten:
        print(f"exercise {number}: not yet written (the function returns nothing)")
    except AssertionError as error:
        print(f"exercise {number}: not right yet, case {cases}: {error}")
    except Exception as error:
        stopped = f"your function stopped with {type(error).__name__}: {error}"
        print(f"exercise {number}: not right yet, case {cases}: {stopped}")
    else:
        print(f"PASS exercise {number}   {cases} cases")


class _NotWritten(Exception):
    pass


def _value(values) -> np.ndarray:
    """Lists may hold tensors, as in check("…", [score_a, score_b], [1.0, 2.0])."""
    if isinstance(values, list | tuple):
        return np.asarray([_value(value) for value in values])
    values = array(values)
    if values.dtype.kind not in "biufU":
        raise TypeError(f"check compares numbers, bools and strings; got {values.dtype}.")
    return values


def _difference(got: np.ndarray, expected: np.ndarray, atol: float) -> str:
    """What is wrong, or an empty string."""
    if got.shape != expected.shape:
        return f"the shapes differ, {got.shape} and {expected.shape}; nothing is broadcast here."
    if got.size == 0:
        return "both are empty, so nothing was compared."
    kinds = [{"b": "bools", "U": "strings"}.get(values.dtype.kind, "numbers") for values in (got, expected)]
    if kinds[0] != kinds[1]:
        return f"got {kinds[0]} where {kinds[1]} are expected."
    if got.dtype.kind in "bU" or got.dtype.kind in "iu" and expected.dtype.kind in "iu":
        wrong = got != expected
        return f"{wrong.sum()} of {wrong.size} differ{_first(wrong)}." if wrong.any() else ""
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    if np.isnan(got).any() or np.isnan(expected).any():
        return f"NaN{_first(np.isnan(got) | np.isnan(expected))}."
    with np.errstate(invalid="ignore"):  # inf - inf, which the first branch of where() catches
        gap = np.where(got == expected, 0, np.abs(got - expected))
    if gap.max() <= atol:
        return ""
    worst = np.unravel_index(gap.argmax(), gap.shape)
    values = f"{got[worst]:.6g} against {expected[worst]:.6g}"
    return f"largest gap {gap.max():.3g}{_at(worst)}, {values} (allowed {atol:g})."


def _first(wrong: np.ndarray) -> str:
    return _at(np.unravel_index(wrong.argmax(), wrong.shape))


def _at(place: tuple) -> str:
    return f" at ({', '.join(str(int(index)) for index in place)})" if place else ""


def _written(values: np.ndarray) -> str:
    return np.array2string(values, precision=6, threshold=64, edgeitems=2, prefix="expected ")


def _digits(value) -> str:
    return f"{round(float(value), 2) + 0.0:.2f}"  # + 0.0 turns -0.00 into 0.00
