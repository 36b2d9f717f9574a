"""Drop, increase and the two curves against torchcam, and against the papers' rules written out as loops.

torchcam makes its maps itself, so it is handed an extractor that returns ours. Its metrics are means; its
deletion and insertion both begin or end with zeros, as the protocol "scorecam" has it.
"""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torchcam import metrics as torchcam

from cambook import metrics

SOFTMAX = partial(torch.softmax, dim=-1)


@pytest.fixture
def small(case):
    """Images of 48×64 and blocky maps, as an enlarged layer gives them, in which many pixels are equal."""
    case.small = case.images[:, :, :48, :64].clone()
    blocks = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(3))
    case.maps = nn.functional.interpolate((blocks - 0.3).clamp(min=0)[:, None], scale_factor=8)[:, 0]
    case.smooth = nn.functional.interpolate(blocks[:, None], (48, 64), mode="bilinear")[:, 0]
    return case


class Given:
    """A torchcam extractor that returns the maps it was made with."""

    def __init__(self, model, maps):
        self.model, self.maps = model, maps
        self._hooks_off = nullcontext

    def __call__(self, *_, **__):
        return [self.maps]

    def fuse_cams(self, maps):
        return maps[0]


@pytest.mark.parametrize("maps", ["maps", "smooth"])
def test_drop_and_increase_and_torchcam(small, maps):
    maps = getattr(small, maps)
    for logits_fn, score in ((SOFTMAX, "probability"), (torch.sigmoid, torch.sigmoid)):
        peer = torchcam.ClassificationMetric(Given(small.net, maps), logits_fn)
        peer.update(small.small, small.targets)
        theirs = peer.summary()
        drop = metrics.average_drop(small.net, small.small, maps, small.targets, score=score)
        rise = metrics.increase(small.net, small.small, maps, small.targets, score=score)
        assert not drop.excluded.any()
        assert drop.mean == pytest.approx(theirs["avg_drop"], abs=1e-5)    # it adds 1e-7 to the divisor
        assert rise.mean == pytest.approx(theirs["conf_increase"], abs=1e-7)


def test_increase_where_some_classes_gain_and_some_lose(case):
    """Each class of one image: the scores together are 1 before and after, so not all can gain."""
    maps = torch.rand(10, 48, 64, generator=torch.Generator().manual_seed(5))
    images, classes = case.images[:1, :, :48, :64].expand(10, -1, -1, -1), list(range(10))
    peer = torchcam.ClassificationMetric(Given(case.net, maps), SOFTMAX)
    peer.update(images, classes)
    ours = metrics.increase(case.net, images, maps, classes).mean
    assert 0 < ours < 1 and ours == pytest.approx(peer.summary()["conf_increase"], abs=1e-7)


@pytest.mark.parametrize("maps", ["maps", "smooth"])
def test_deletion_and_insertion_and_torchcam(small, maps):
    """Equal steps (16 of 192 pixels), zeros for both, and the first of equal pixels first."""
    maps = getattr(small, maps)
    peer = torchcam.DeletionInsertionMetric(Given(small.net, maps), SOFTMAX, steps=16)
    peer.update(small.small, small.targets)
    theirs = peer.summary()
    for name in ("deletion", "insertion"):
        ours = getattr(metrics, name)(
            small.net, small.small, maps, small.targets, protocol="scorecam", steps=16, progress=False
        )
        assert ours.mean == pytest.approx(theirs[f"{name}_auc"], abs=2e-6)


def rise_blur(image):
    """The kernel of RISE's code: SciPy's filter on a point in a frame of 11×11, which mirrors it."""
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = ndimage.gaussian_filter(point, 5)
    return np.stack([ndimage.convolve(channel, kernel, mode="constant") for channel in image])


def true_blur(size, sigma):
    blurred = partial(ndimage.gaussian_filter, sigma=sigma, radius=size // 2, mode="mirror")
    return lambda image: np.stack([blurred(channel) for channel in image])


# What insertion begins with, what deletion ends with, whether the curve has both ends.
RULES = {
    "rise": (rise_blur, np.zeros_like, True),
    "polycam": (true_blur(11, 5), true_blur(11, 5), False),
    "groupcam": (true_blur(51, 50), np.zeros_like, True),
}


def loop(net, image, map, target, step, start, finish, both_ends):
    """One image, as the official codes go: ask, change a step's pixels, go on with what has become of it."""
    channels, height, width = image.shape
    order = np.flip(np.argsort(map.flatten(), kind="stable"))
    picture, finish = start.copy().reshape(channels, -1), finish.reshape(channels, -1)
    scores = []
    for i in range(height * width // step + 1):
        with torch.no_grad():
            asked = torch.from_numpy(picture.reshape(1, channels, height, width)).float()
            scores.append(torch.softmax(net(asked), 1)[0, target].item())
        changed = order[step * i : step * (i + 1)]
        picture[:, changed] = finish[:, changed]
    scores = np.array(scores if both_ends else scores[1:])
    if not both_ends:
        return scores, scores.mean()
    return scores, (scores.sum() - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1)


@pytest.mark.parametrize("case", ["tiny_vgg", "tiny_resnet"], indirect=True)
@pytest.mark.parametrize("maps", ["maps", "smooth"])
@pytest.mark.parametrize("protocol", RULES)
def test_the_rules_of_the_official_codes(small, protocol, maps, record_property):
    """32 steps of 96 pixels on images of 48×64; equal pixels from the last to the first."""
    maps = getattr(small, maps)
    inserted_into, replaced_by, both_ends = RULES[protocol]
    options = {"protocol": protocol, "steps": 32, "ties": "last", "progress": False}
    brought, removed = (
        metric(small.net, small.small[:2], maps[:2], small.targets[:2], **options)
        for metric in (metrics.insertion, metrics.deletion)
    )
    largest = 0
    for b in range(2):
        image, map = small.small[b].double().numpy(), maps[b].numpy()
        for result, start, finish in (
            (brought, inserted_into(image), image),
            (removed, image, replaced_by(image)),
        ):
            curve, area = loop(small.net, image, map, small.targets[b], 96, start, finish, both_ends)
            largest = max(largest, np.abs(result.curves[b].numpy() - curve).max())
            assert np.ptp(curve) > 1e-3, "a flat curve proves nothing: choose another seed"
            assert result.values[b].item() == pytest.approx(area, abs=1e-5)
    record_property(f"{protocol}, {small.name}: largest difference", f"{largest:.1e}")
    print(f"{protocol}, {small.name}: largest difference {largest:.1e}")
    assert largest <= 2e-5
