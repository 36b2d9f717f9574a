"""Half precision keeps the ranking of channels on trained networks, MobileNetV2's narrow layers included."""

from pathlib import Path

import pytest
import torch

from cambook import methods, models, scoring

pytestmark = pytest.mark.real

REAL = Path(__file__).parents[3] / "shared" / "real"
NETWORKS = {
    "squeezenet1_1": ("squeezenet1_1_onnxzoo-a4caa091.pth", None, "features.4"),
    "mobilenet_v2": ("mobilenet_v2_tfslim-34f9d2d0.pth", {"mean": 0.5, "std": 0.5, "crop": 225}, "features.6"),
}


def correlation(one, two):
    return torch.corrcoef(torch.stack([one.flatten().double(), two.flatten().double()]))[0, 1].item()


@pytest.mark.parametrize("name", NETWORKS)
def test_fast_keeps_the_ranking(name, monkeypatch):
    """float16, which is what CUDA takes; the CPU computes it slowly, but to the same digits."""
    monkeypatch.setattr(scoring, "fast_dtype", lambda device: torch.float16)
    file, preprocessing, layer = NETWORKS[name]
    net = models.load(name, REAL / "models" / file, preprocessing=preprocessing)
    images = net.preprocessing(sorted((REAL / "imagenet_val").glob("*.JPEG"))[0])
    exact, fast = (
        methods.score_cam(net, images, layers=layer, precision=precision, trace=True, progress=False)
        for precision in scoring.PRECISIONS
    )
    alive = ~exact.trace["skipped"]
    one, two = (e.trace["masked_scores"][alive] for e in (exact, fast))
    spearman = correlation(one.argsort().argsort(), two.argsort().argsort())    # no two scores are equal
    print(f"{name}: rank correlation {spearman:.5f}, maps {correlation(exact.map, fast.map):.5f}")
    assert spearman >= 0.999
    assert correlation(exact.map, fast.map) >= 0.99
