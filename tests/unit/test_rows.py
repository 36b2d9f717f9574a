"""Rows that share their work say what the method itself says."""

import warnings

import pytest
import torch

from cambook import methods, models, rows
from cambook.explanation import minmax
from cambook.methods.fusion import STRENGTHS
from cambook.methods.increment_cam import two_phases
from cambook.world import networks


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return models.load(networks.build("tiny_vgg").eval())


def test_fused_by_each_rule_from_the_same_paths(net, monkeypatch):
    """As `gig_cam_f` with that rule; its paths are walked once for a network, pictures, classes, steps, scales."""
    images = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(3))
    asked = []
    monkeypatch.setattr(rows, "_seen", {})
    monkeypatch.setattr(rows, "gig_cam_f", lambda *args, **kw: asked.append(1) or methods.gig_cam_f(*args, **kw))
    for rule, strength in [*((rule, None) for rule in STRENGTHS), ("res", 0.25)]:
        e = rows.gig_cam_f_by(net, images, [1, 2], fusion=rule, strength=strength, steps=2)
        want = methods.gig_cam_f(net, images, [1, 2], fusion=rule, strength=strength, steps=2)
        assert torch.equal(e.map, want.map) and torch.equal(e.raw, want.raw) and torch.equal(e.flat, want.flat)
        assert e.config == want.config and e.forwards == want.forwards and not e.trace
    assert len(asked) == 1
    for pictures, classes, steps, scales in (
        (images.flip(0), [1, 2], 2, (1, 1.5, 2)),
        (images, [2, 1], 2, (1, 1.5, 2)),
        (images, [1, 2], 3, (1, 1.5, 2)),
        (images, [1, 2], 2, (1, 1)),
    ):
        e = rows.gig_cam_f_by(net, pictures, classes, fusion="res", steps=steps, scales=scales)
        assert torch.equal(e.map, methods.gig_cam_f(net, pictures, classes, steps=steps, scales=scales).map)
    assert len(asked) == 5


@pytest.mark.parametrize("side", [None, 0.5, 1])
def test_phases_merged_in_each_way_from_the_same_answers(net, side, monkeypatch):
    """As `increment_cam` with that choice, asked once for a network, pictures, classes and a size."""
    images, asked = torch.randn(2, 3, 64, 72, generator=torch.Generator().manual_seed(3)), []
    monkeypatch.setattr(rows, "_phases", {})
    monkeypatch.setattr(rows, "two_phases", lambda *args, **kw: asked.append(1) or two_phases(*args, **kw))
    size = {None: "activation", 0.5: 32, 1: "input"}[side]
    for choice in ({"merge": "weights"}, {"merge": "self_scored"}, {"lam": 0}, {"regularise": "shrink"}):
        e = rows.increment_cam_by(net, images, [1, 2], side=side, **choice)    # silent where 4×4 is refused
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = methods.increment_cam(net, images, [1, 2], phase2_size=size, **choice)
        assert torch.equal(e.map, want.map) and torch.equal(e.raw, want.raw) and e.forwards == want.forwards
        kept = dict(want.config)
        del kept["chunk"], kept["precision"]    # whoever asks for a row does not choose these
        assert e.config == kept and not e.trace
    assert len(asked) == 1
    one, other = (rows.increment_cam_by(net, images, classes, side=side) for classes in ([1, 2], [2, 1]))
    assert len(asked) == 2 and not torch.equal(one.map, other.map)


def test_variants_of_poly_cam_from_the_same_answers(net, monkeypatch):
    """As `poly_cam` with that choice; PCAM± asks once for a network, pictures and classes."""
    images, asked = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(3)), []
    monkeypatch.setattr(rows, "_kept_and_removed", {})
    monkeypatch.setattr(rows, "poly_cam", lambda *args, **kw: asked.append(1) or methods.poly_cam(*args, **kw))
    for choice in ({"variant": "plus"}, {"variant": "minus"}, {}, {"variant": "minus", "lnorm": False}):
        e = rows.poly_cam_by(net, images, [1, 2], **choice)
        want = methods.poly_cam(net, images, [1, 2], **choice)
        torch.testing.assert_close(e.map, want.map, atol=1e-4, rtol=0)
        assert torch.equal(e.flat, want.flat) and e.raw.shape == want.raw.shape
        assert e.config == want.config and e.forwards == want.forwards and not e.trace
    assert len(asked) == 1
    rows.poly_cam_by(net, images, [2, 1])
    assert len(asked) == 2


def test_few_channels_are_as_good_as_the_others_never_asked(net):
    """The quarter of largest variance: their scores alone in the softmax, and their passes alone counted."""
    images = torch.randn(2, 3, 64, 72, generator=torch.Generator().manual_seed(3))
    every = rows.increment_cam_by(net, images, [1, 2], side=1, lam=0)
    e = rows.increment_cam_by(net, images, [1, 2], side=1, lam=0, channels=0.25)
    both = two_phases(net, images, [1, 2], phase2_size="input", progress=False)
    dropped = 0
    for b in range(2):
        A, z, live = both.seen.activations[b], both.masked.values[b], ~both.masked.skipped[b]
        few = sorted(torch.nonzero(live)[:, 0].tolist(), key=lambda k: -float(A[k].var()))
        few, dropped = few[: -(-len(few) // 4)], dropped + len(few) - -(-len(few) // 4)
        beta = z[few].softmax(0)
        torch.testing.assert_close(e.raw[b], minmax((beta[:, None, None] * A[few]).sum(0).relu()[None])[0])
    assert e.forwards == every.forwards - dropped and dropped > 10
    assert not torch.equal(e.map, every.map)
