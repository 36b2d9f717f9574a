"""path_step: the operator against Guided IG as published, its Triton kernels against the reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cambook.kernels import path_step
from cambook.kernels.path_step import _count, _operator, floor_bytes, launch, reference

# (fraction, max_dist): the official code's defaults, those of its examples, others, and two straight lines.
SETTINGS = [(0.25, 0.02), (0.5, 1.0), (0.1, 0.3), (0.0, 1.0), (1.0, 1.0), (0.3, 0.0)]


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slope(z):
    """The gradient of a small smooth network with two units, one value for each feature."""
    weights = random(2, *z.shape[1:], seed=7).to(z)
    inside = (weights * z[:, None]).sum((2, 3, 4), keepdim=True) / 3
    return (torch.cos(inside) * weights).sum(1) + 0.3 * torch.sin(3 * z)


def walk(step_of, x, baseline, steps, fraction, max_dist, gradient=slope):
    """All points of a path, and the attribution at its end."""
    z, attribution = baseline, torch.zeros_like(x)
    points = [z]
    for step in range(steps):
        z, attribution = step_of(z, attribution, gradient(z), x, baseline, step, steps, fraction, max_dist)
        points.append(z)
    return torch.stack(points), attribution


def numpys(x, baseline, steps, fraction, max_dist, gradient):
    """One image's attribution, feature by feature as the official code is documented to go."""
    z, attribution = baseline.copy(), np.zeros_like(x)
    whole = np.abs(x - baseline).sum()
    for step in range(steps):
        g = gradient(z)
        order = np.abs(g)
        t = (step + 1) / steps
        low, high = max(t - max_dist, 0), min(t + max_dist, 1)
        z_low, z_high = baseline + (x - baseline) * low, baseline + (x - baseline) * high
        goal = whole * (1 - t)
        old = z.copy()
        while True:
            for i in np.ndindex(z.shape):
                if x[i] != baseline[i] and (z[i] - baseline[i]) / (x[i] - baseline[i]) < low:
                    z[i] = z_low[i]
            missing = np.abs(x - z).sum() - goal
            if missing <= 1e-9 * whole:
                break
            order = np.where(np.abs(z - z_high) < 1e-12, np.inf, order)
            threshold = np.sort(order, axis=None)[int(fraction * (order.size - 1))]
            chosen = (order <= threshold) & (order < np.inf)
            share = missing / np.abs(z_high - z)[chosen].sum()
            if share <= 1:
                z[chosen] += share * (z_high - z)[chosen]
                break
            z[chosen] = z_high[chosen]
        attribution += (z - old) * g
    return z, attribution


def in_numpy(gradient=slope):
    """The gradient for a point that is a (C, H, W) array."""
    return lambda z: gradient(torch.from_numpy(z)[None])[0].numpy()


@pytest.mark.parametrize("fraction, max_dist", SETTINGS)
def test_reference_is_the_algorithm(fraction, max_dist):
    x, baseline = random(3, 3, 4, 5, dtype=torch.float64), random(3, 3, 4, 5, seed=1, dtype=torch.float64)
    points, attribution = walk(reference, x, baseline, 9, fraction, max_dist)
    for b in range(3):
        z, want = numpys(x[b].numpy(), baseline[b].numpy(), 9, fraction, max_dist, in_numpy())
        np.testing.assert_allclose(points[-1, b], z, rtol=0, atol=1e-12)
        np.testing.assert_allclose(attribution[b], want, rtol=0, atol=1e-8 * np.ptp(want))


@pytest.mark.parametrize("fraction, max_dist", [s for s in SETTINGS if s[0] > 0])
def test_reference_is_the_official_code(fraction, max_dist, monkeypatch):
    """The package asks numpy for a quantile in a spelling that numpy 2.4 has dropped."""
    guided_ig = pytest.importorskip("saliency.core.guided_ig")
    quantile = np.quantile
    monkeypatch.setattr(np, "quantile", lambda a, q, interpolation: quantile(a, q, method=interpolation))
    x, baseline = random(2, 3, 6, 5, dtype=torch.float64), torch.zeros(2, 3, 6, 5, dtype=torch.float64)
    _, attribution = walk(reference, x, baseline, 20, fraction, max_dist)
    for b in range(2):
        want = guided_ig.guided_ig_impl(
            x[b].numpy(), baseline[b].numpy(), in_numpy(), steps=20, fraction=fraction, max_dist=max_dist
        )
        np.testing.assert_allclose(attribution[b], want, rtol=0, atol=1e-5 * np.ptp(want))


def hold(x, baseline, gradient, device, poisoned, step, steps, fraction, max_dist):
    """One step by the kernels, from some point of the path, against the float64 reference.

    The budget is the difference of two float32 sums near ‖D‖₁, so it errs by a few 2^-24 of that, and a point
    by as much of its way; 2e-6 of the largest way is far above what these sizes show, and far below a move.
    """
    ends = x.double(), baseline.double()
    z = walk(reference, *ends, steps, fraction, max_dist)[0][step].float()
    attribution = random(*x.shape, seed=3)
    arguments = z, attribution, gradient, x, baseline
    want = reference(
        z.double(), attribution.double(), gradient.double(), *ends, step, steps, fraction, max_dist
    )
    with poisoned():
        got = launch(*(a.to(device) for a in arguments), step, steps, fraction, max_dist)
    scale = (x - baseline).abs().max().item()
    for result, expected, size in zip(got, want, (scale, scale * gradient.abs().max().item()), strict=True):
        assert result.dtype == torch.float32 and result.shape == x.shape
        torch.testing.assert_close(result.cpu().double(), expected, rtol=2e-7, atol=2e-6 * size)


def test_features_are_counted_beyond_float32():
    assert _count(torch.ones(2**24 + 1)) == 2**24 + 1


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 3, 5, 7)])
def test_kernel_is_the_reference(shape, device, poisoned):
    x, baseline = random(*shape), random(*shape, seed=1)
    hold(x, baseline, random(*shape, seed=2), device, poisoned, 2, 5, 0.5, 1.0)


@pytest.mark.parametrize("fraction, max_dist", SETTINGS)
def test_kernel_with_all_settings(fraction, max_dist, device, poisoned, monkeypatch):
    """Also in several pieces, with limits so low that a small image has some."""
    monkeypatch.setitem(launch.__globals__, "PIECE", 16)
    monkeypatch.setitem(launch.__globals__, "SELECT_PIECE", 16)
    x, baseline = random(1, 1, 3, 7), random(1, 1, 3, 7, seed=1)
    hold(x, baseline, random(1, 1, 3, 7, seed=2), device, poisoned, 3, 8, fraction, max_dist)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    fraction=st.floats(0.2, 1),
    max_dist=st.floats(0, 1),
    step=st.integers(0, 3),
)
def test_kernel_for_any_shape(shape, fraction, max_dist, step, device, poisoned):
    x, baseline = random(*shape), random(*shape, seed=1)
    hold(x, baseline, random(*shape, seed=2), device, poisoned, step, 4, fraction, max_dist)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_and_layouts(dtype, device, poisoned):
    """A half precision gradient has ties; a channels-last network gives a channels-last gradient."""
    x, baseline = random(2, 3, 4, 3).transpose(2, 3), random(2, 1, 3, 4, seed=1).expand(-1, 3, -1, -1)
    gradient = random(2, 3, 3, 4, seed=2).round(decimals=1).to(dtype, memory_format=torch.channels_last)
    hold(x, baseline, gradient, device, poisoned, 1, 4, 0.3, 0.6)


def awkward():
    """(z, attribution, gradient, x, baseline) of five images, each with its own trouble."""
    x, baseline, gradient = random(5, 1, 3, 4), random(5, 1, 3, 4, seed=1), random(5, 1, 3, 4, seed=2)
    baseline[0] = x[0]    # no way to go at all
    baseline[1, 0, 1] = x[1, 0, 1]    # no way to go for a row
    gradient[2] = 0    # everything ties
    baseline[3, 0, 0] = x[3, 0, 0] - 0.1    # so little that the others can spend a budget of half
    gradient[3, 0, 0, 1:3] = torch.tensor([torch.inf, -torch.inf])
    gradient[3, 0, 0, 0] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)    # CUDA's NaN
    x[4, 0, 0, 0] = torch.nan    # and no other image's trouble
    return baseline, torch.zeros_like(x), gradient, x, baseline


def check_awkward(z, attribution):
    start, _, gradient, x, baseline = awkward()
    assert torch.equal(z[0], x[0]) and not attribution[0].any()
    assert torch.equal(z[1, 0, 1], x[1, 0, 1]) and not attribution[1, 0, 1].any()
    torch.testing.assert_close(z[2], baseline[2] + (x[2] - baseline[2]) / 2)    # all move by the same share
    broken = ~gradient[3].isfinite()
    assert torch.equal(z[3][broken], baseline[3][broken])    # these come last
    assert not attribution[3][broken].isfinite().any() and attribution[3][~broken].isfinite().all()
    left = (x[:4] - z[:4]).abs().sum((1, 2, 3))
    torch.testing.assert_close(left, (x - baseline)[:4].abs().sum((1, 2, 3)) / 2)
    assert z[:4].isfinite().all()


def test_awkward_images(device, poisoned):
    check_awkward(*reference(*awkward(), 0, 2, 0.25, 1.0))
    with poisoned():
        got = launch(*(a.to(device) for a in awkward()), 0, 2, 0.25, 1.0)
    check_awkward(*(result.cpu() for result in got))


def test_the_last_step_moves_features_without_a_gradient_too(device, poisoned):
    given, (_, _, _, x, _) = awkward(), awkward()
    z, _ = reference(*given, 0, 1, 0.25, 1.0)
    torch.testing.assert_close(z[3], x[3])
    with poisoned():
        z, _ = launch(*(a.to(device) for a in given), 0, 1, 0.25, 1.0)
    torch.testing.assert_close(z[3].cpu(), x[3])


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("fraction, max_dist", SETTINGS)
def test_what_the_path_promises(fraction, max_dist, dtype, atol):
    """From the baseline to x, one way only, the same length each step, and never out of the band."""
    x, baseline = random(2, 3, 5, 7, dtype=dtype), random(2, 3, 5, 7, seed=1, dtype=dtype)
    baseline[:, :, 2] = x[:, :, 2]
    points, _ = walk(reference, x, baseline, 8, fraction, max_dist)
    assert torch.equal(points[0], baseline)
    torch.testing.assert_close(points[-1], x, rtol=0, atol=atol)
    way = x - baseline
    assert (points.diff(dim=0) * way.sign() >= 0).all()
    assert torch.equal(points[:, :, :, 2], x[:, :, 2].expand(9, -1, -1, -1))
    gone = 1 - (x - points).abs().sum((2, 3, 4)) / way.abs().sum((1, 2, 3))
    share = torch.linspace(0, 1, 9, dtype=dtype)
    torch.testing.assert_close(gone, share[:, None].expand(-1, 2), rtol=0, atol=atol)
    off = ((points - baseline) / way).sub(share.view(-1, 1, 1, 1, 1)).nan_to_num(0).abs()
    assert off.max() <= max_dist + 100 * atol    # a share of a short way is the less exact


@pytest.mark.parametrize("fraction, max_dist, want", [(0.0, 1.0, (72, 9)), (0.0, 0.0, (54, 27))])
def test_worked_example(fraction, max_dist, want):
    """f(a, b) = (2a + b)² from 0 to (3, 3): b's gradient is half as large, so it goes first where it may."""

    def gradient(z):
        return 2 * (z * torch.tensor([2.0, 1.0])).sum(3, keepdim=True) * torch.tensor([2.0, 1.0])

    x = torch.full((1, 1, 1, 2), 3.0, dtype=torch.float64)
    _, attribution = walk(reference, x, torch.zeros_like(x), 1000, fraction, max_dist, gradient)
    want = torch.tensor(want, dtype=torch.float64)
    torch.testing.assert_close(attribution.flatten(), want, rtol=0, atol=0.15)    # 1000 steps, left rule


def test_a_batch_is_its_images():
    x, baseline = random(3, 3, 4, 5), random(3, 3, 4, 5, seed=1)
    together = walk(reference, x, baseline, 6, 0.2, 0.4)
    for b in range(3):
        points, attribution = walk(reference, x[b : b + 1], baseline[b : b + 1], 6, 0.2, 0.4)
        torch.testing.assert_close(together[0][:, b : b + 1], points)
        torch.testing.assert_close(together[1][b : b + 1], attribution)


def arguments():
    baseline, x = random(2, 3, 2, 4), random(2, 3, 2, 4, seed=1)
    return baseline, torch.zeros_like(x), slope(baseline), x, baseline


def test_nothing_given_is_changed():
    given = arguments()
    copies = [a.clone() for a in given]
    z, attribution = path_step(*given, step=0, steps=4, fraction=0.3, max_dist=1.0)
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))
    assert not torch.equal(z, given[0]) and attribution.any()


def test_errors():
    z, attribution, gradient, x, baseline = arguments()
    good = {"step": 0, "steps": 4, "fraction": 0.3, "max_dist": 1.0}
    with pytest.raises(ValueError, match=r"gradient must be \(B, C, H, W\) with B = 2"):
        path_step(z, attribution, gradient[:1], x, baseline, **good)
    with pytest.raises(TypeError, match="gradient must be floating point, not torch.int64"):
        path_step(z, attribution, gradient.long(), x, baseline, **good)
    with pytest.raises(TypeError, match="but z is torch.bfloat16: half precision cannot hold"):
        path_step(z.bfloat16(), attribution, gradient, x, baseline, **good)
    with pytest.raises(TypeError, match="but x is torch.float64"):
        path_step(z, attribution, gradient, x.double(), baseline, **good)
    with pytest.raises(ValueError, match="z is on cpu, but x on meta"):
        path_step(z, attribution, gradient, x.to("meta"), baseline, **good)
    for step in (-1, 4):
        with pytest.raises(ValueError, match=rf"step must be 0 … steps - 1, but is {step} of 4"):
            path_step(z, attribution, gradient, x, baseline, **good | {"step": step})
    for bad in ({"fraction": 1.1}, {"fraction": -0.1}, {"max_dist": -1.0}, {"max_dist": float("nan")}):
        with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\] and max_dist not negative"):
            path_step(z, attribution, gradient, x, baseline, **good | bad)
    with pytest.raises(ValueError, match="has no gradient, but z requires one"):
        path_step(z.clone().requires_grad_(), attribution, gradient, x, baseline, **good)


def test_operator_and_compile():
    torch.library.opcheck(_operator, (*arguments(), 0, 4, 0.3, 1.0))

    def caller(z, attribution, gradient, x, baseline, step):
        return path_step(
            z, attribution, gradient * 2, x, baseline, step=step, steps=4, fraction=0.3, max_dist=1.0
        )

    compiled = torch.compile(caller, fullgraph=True, backend="aot_eager")
    for step in range(3):    # a new number must not need a new compilation each time, nor be ignored
        for got, want in zip(compiled(*arguments(), step), caller(*arguments(), step), strict=True):
            assert torch.equal(got, want)


@pytest.mark.gpu
def test_host_waits_for_nothing():
    given = [a.cuda() for a in arguments()]
    launch(*given, 0, 4, 0.3, 1.0)    # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        launch(*given, 1, 4, 0.3, 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_floor():
    z, gradient = torch.empty(2, 3, 4, 5), torch.empty(2, 3, 4, 5, dtype=torch.bfloat16)
    assert floor_bytes(z, gradient) == 120 * (6 * 4 + 2)
