"""How the exercises compare an answer with the right one, and with the wrong ones that readers reach."""

import torch
from torch import Tensor


def compare(
    case: str,
    got,
    expected: Tensor,
    wrong_turns: dict[str, Tensor],
    *,
    nan: str | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Accept `expected`; otherwise name the wrong turn whose result was given, if it is one of the known.

    wrong_turns: sentence → the result of that wrong turn. nan: what to say of an answer with NaN in it; None
    compares NaN as if it were a number, for answers that may hold some. Raises AssertionError with the case.
    """
    assert isinstance(got, Tensor), f"{case}: return a tensor, not {type(got).__name__}."
    assert got.shape == expected.shape, (
        f"{case}: expected shape {tuple(expected.shape)}, got {tuple(got.shape)}."
    )
    assert nan is None or not got.isnan().any(), f"{case}: {nan}"

    def same(other: Tensor) -> bool:
        return other.shape == got.shape and torch.allclose(
            got.double(), other.double(), rtol=rtol, atol=atol, equal_nan=True
        )

    if same(expected):
        return
    for sentence, wrong in wrong_turns.items():
        assert not same(wrong), f"{case}: {sentence}"
    worst = (got - expected).abs().nan_to_num(torch.inf).argmax()
    raise AssertionError(
        f"{case}: expected {expected.flatten()[worst]:.4g}, got {got.flatten()[worst]:.4g}."
    )
