"""Rows that share their work say what the method itself says."""

import pytest
import torch

from cambook import methods, models, rows
from cambook.methods.fusion import STRENGTHS
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
