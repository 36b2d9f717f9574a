"""check, fingerprint, check_exercise: nbval compares the lines they print character by character."""

import numpy as np
import pytest
import torch

from cambook import exercises
from cambook.check import check, check_exercise, fingerprint


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0], dtype=torch.float64)),
        (torch.tensor([1.0, 2.0], dtype=torch.bfloat16), np.array([1, 2])),
        (torch.tensor([1.0, 2.0], requires_grad=True), [1.0, 2.0]),
        ([torch.tensor(1.0), 2.0], (1, 2)),
        (2.0, torch.tensor(2.0)),
        (True, torch.tensor(True)),
        ([True, False], torch.tensor([True, False])),
        (["a", "b"], ("a", "b")),
        (3, 3),
        (float("inf"), float("inf")),
    ],
)
def test_equal_values_of_every_kind_pass(got, expected, capsys):
    check("eq. 1.1: same", got, expected)
    assert capsys.readouterr().out.startswith("PASS eq. 1.1: same   ")


def test_the_line_is_the_same_whatever_the_gap(capsys):
    check("eq. 6.3: louder is not more important", torch.zeros(4, 4), torch.full((4, 4), 3e-7))
    check("eq. 6.3: louder is not more important", torch.zeros(4, 4), torch.zeros(4, 4))
    check("two", 2.0, 2.0, atol=0.05)
    check("count", 2, 2)
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert first == second == "PASS eq. 6.3: louder is not more important   (4, 4)  within 1e-06"
    assert third == "PASS two   one value  within 0.05"
    assert fourth == "PASS count   one value  equal"


@pytest.mark.parametrize(
    ("got", "expected", "says"),
    [
        (
            torch.tensor([[1.0, 2.0]]),
            [[1.0, 2.5]],
            r"largest gap 0.5 at \(0, 1\), 2 against 2.5 \(allowed 1e-06\)",
        ),
        (1.0, 1.1, "largest gap 0.1, 1 against 1.1"),
        (torch.zeros(2), torch.zeros(2, 1), r"shapes differ, \(2,\) and \(2, 1\)"),
        (torch.zeros(2), 0.0, "shapes differ"),
        ([1.0, float("nan")], [1.0, float("nan")], r"NaN at \(1\)"),
        (float("inf"), 1.0, "largest gap inf"),
        (float("inf"), -float("inf"), "largest gap inf"),
        (True, 1.0, "got bools where numbers"),
        (1, "1", "got numbers where strings"),
        ([True, False], [True, True], r"1 of 2 differ at \(1\)"),
        (["a"], ["b"], "1 of 1 differ"),
        (3, 4, "1 of 1 differ"),
        ([], [], "nothing was compared"),
    ],
)
def test_unequal_values_raise_and_show_both(got, expected, says, capsys):
    with pytest.raises(AssertionError, match=says) as caught:
        check("eq. 1.2: differ", got, expected)
    text = str(caught.value)
    assert text.startswith("FAIL eq. 1.2: differ: ")
    assert "\n     got " in text and "\nexpected " in text
    assert capsys.readouterr().out == ""


def test_double_precision_is_not_rounded_to_single():
    with pytest.raises(AssertionError, match="largest gap 1e-12"):
        check("double", torch.tensor(1 + 1e-12, dtype=torch.float64), 1.0, atol=1e-13)


def test_whole_numbers_are_exact_whatever_the_tolerance():
    with pytest.raises(AssertionError):
        check("forwards", 512, 513, atol=10)


def test_a_tolerance_that_accepts_nothing_or_everything_is_refused():
    for atol in (-1, float("nan")):
        with pytest.raises(ValueError, match="atol is the largest difference allowed"):
            check("x", 1.0, 1.0, atol=atol)
    with pytest.raises(TypeError, match="check compares numbers, bools and strings"):
        check("x", None, None)


def test_fingerprint_of_a_known_map(capsys):
    map = torch.zeros(8, 12)
    map[3, 7] = 1.0  # row 3 of 8 is cell row 1; column 7 of 12 is cell column 2
    fingerprint(map)
    assert capsys.readouterr().out.splitlines() == [
        "8×12  min 0.00  max 1.00  peak in cell (1, 2) of",
        "   0.00  0.00  0.00  0.00",
        "   0.00  0.00  0.17  0.00",
        "   0.00  0.00  0.00  0.00",
        "   0.00  0.00  0.00  0.00",
    ]


def test_fingerprint_scales_what_two_digits_cannot_show(capsys):
    fingerprint(np.array([[3e-5, -6e-5], [0, -1e-9]]))
    first, *rows = capsys.readouterr().out.splitlines()
    assert first == "2×2  min -1.00  max 0.50  times 6e-05  peak in cell (0, 0) of"
    assert rows[0] == "   0.50  0.50 -1.00 -1.00" and rows[-1] == "   0.00  0.00  0.00  0.00"


def test_fingerprint_survives_the_last_digits_of_another_machine(capsys):
    map = torch.rand(33, 47, generator=torch.Generator().manual_seed(0))
    fingerprint(map)
    fingerprint(map.double() * (1 + 1e-8))
    out = capsys.readouterr().out.splitlines()
    assert out[:5] == out[5:]


def test_fingerprint_of_nothing(capsys):
    fingerprint(torch.zeros(4, 4))
    assert "min 0.00  max 0.00  peak" in capsys.readouterr().out
    for map in (torch.zeros(1, 4, 4), torch.full((4, 4), float("nan"))):
        with pytest.raises(ValueError, match="one finite map"):
            fingerprint(map)


def _doubles(function):
    for value in (1, 2, 3):
        assert function(value) == 2 * value, f"for {value} the answer is {2 * value}."


@pytest.fixture
def doubling(monkeypatch):
    monkeypatch.setattr(exercises, "tests", lambda: {"9.1": _doubles})


@pytest.mark.parametrize(
    ("function", "verdict"),
    [
        (lambda x: 2 * x, "PASS exercise 9.1   3 cases"),
        (lambda x: 2, "exercise 9.1: not right yet, case 2: for 2 the answer is 4."),
        (lambda x: ..., "exercise 9.1: not yet written (the function returns nothing)"),
        (lambda x: None, "exercise 9.1: not yet written (the function returns nothing)"),
        (lambda: 1, "exercise 9.1: not right yet, case 1: your function stopped with TypeError: "),
    ],
)
def test_the_verdict_on_an_exercise(doubling, function, verdict, capsys):
    check_exercise("9.1", function)
    assert capsys.readouterr().out.startswith(verdict)


def test_an_exercise_may_say_that_it_is_not_implemented(doubling, capsys):
    def unwritten(x):
        raise NotImplementedError

    check_exercise("9.1", unwritten)
    assert "not yet written" in capsys.readouterr().out


def test_torchs_own_not_implemented_is_a_wrong_answer(doubling, capsys):
    def mean_of_bools(x):
        raise NotImplementedError("mean(): input dtype should be floating point")

    check_exercise("9.1", mean_of_bools)
    assert "not right yet, case 1: your function stopped with NotImpl" in capsys.readouterr().out


def test_unknown_exercises_list_the_known_ones(doubling):
    with pytest.raises(ValueError, match="no exercise 1.99; there are 9.1"):
        check_exercise("1.99", abs)


def test_the_registry_gathers_every_file_and_refuses_doubles(tmp_path, monkeypatch):
    (tmp_path / "nb97.py").write_text("TESTS = {'97.1': print}")
    monkeypatch.setattr(exercises, "__path__", [*exercises.__path__, str(tmp_path)])
    assert exercises.tests()["97.1"] is print
    (tmp_path / "nb98.py").write_text("TESTS = {'97.1': print}")
    with pytest.raises(ValueError, match="exercise 97.1 has two tests; the second is in nb98.py"):
        exercises.tests()
