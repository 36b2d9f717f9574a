"""Tests of the exercises of notebook 00."""

import torch


def rescale(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((2, 2), (3, 5), (1, 7)):
        raw = torch.randn(shape, generator=generator)
        raw[0, 0], raw[-1, -1] = -1, 2.
        got = answer(raw.clone())
        assert tuple(got.shape) == shape, f"a map of shape {shape} came back as {tuple(got.shape)}."
        assert got.min() >= 0, "there are negative values left: what speaks against the class must go before the rescaling."
        expected = raw.clamp(min=0) / 2
        assert torch.allclose(got, expected, atol=1e-6), f"for raw values with maximum 2, expected\n{expected}\nbut got\n{got}"
    faint = torch.tensor([[0., 1e-9], [2e-9, 0.]])
    assert torch.allclose(answer(faint.clone()), faint / 2e-9, atol=1e-5), (
        "a faint map must reach 1 as well: a small number added to the denominator dims it.")
    raised = answer(torch.full((2, 2), 3.) + torch.tensor([[0., 1.], [2., 1.]]))
    assert raised.min() == 0, "the smallest value must become 0, also where all values are positive."
    for name, raw in (("of zeros", torch.zeros(3, 4)), ("with negative values only", -torch.rand(3, 4)),
                      ("that is constant", torch.full((2, 2), .5))):
        got = answer(raw)
        assert not got.isnan().any(), f"a map {name} became NaN: 0/0 needs its own answer, zeros."
        assert (got == 0).all(), f"a map {name} has no place that stands out and must come back as zeros."


def box_energy(answer) -> None:
    heat = torch.arange(15.).reshape(3, 5)                 # not square: swapped rows and columns show
    for box in ((0, 0, 5, 3), (1, 0, 3, 2), (3, 1, 5, 3), (4, 2, 5, 3)):
        x0, y0, x1, y1 = box
        expected = float(heat[y0:y1, x0:x1].sum() / heat.sum())
        swapped = float(heat[x0:x1, y0:y1].sum() / heat.sum())
        inclusive = float(heat[y0:y1 + 1, x0:x1 + 1].sum() / heat.sum())
        got = float(answer(heat, box))
        if abs(got - expected) > 1e-6:
            assert abs(got - swapped) > 1e-6, f"box {box}: rows and columns are swapped; a map is indexed [y, x]."
            assert abs(got - inclusive) > 1e-6, f"box {box}: column x1 and row y1 are outside the box."
            raise AssertionError(f"box {box}: expected {expected:.4f}, got {got:.4f}.")


def centre_hits(answer) -> None:
    masks = torch.zeros(4, 5, 7, dtype=torch.bool)
    masks[0, 2, 3] = masks[1, 2, 3] = masks[2, 2, 3] = True
    masks[3, 3, 2] = True                                  # would count if rows and columns were swapped
    for count, batch in ((3 / 4, masks), (1., masks[:3]), (0., masks[3:])):
        got = float(answer(batch))
        assert abs(got - count) < 1e-6, f"{int(count * len(batch))} of {len(batch)} masks cover the centre: expected {count}, got {got:g}."


TESTS = {"0.1": rescale, "0.2": box_energy, "0.3": centre_hits}
