"""What a run will cost: how many images go through the network, and how long that takes here."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import models
from ..activations import capture
from ..metrics.perturbation import PROTOCOLS
from ..metrics.table import _now
from ..models.running import frozen_eval
from .plan import METHODS, METRICS, Plan

# Images in a timed pass, as masked ones come in batches; and how often it is timed, after one to warm up.
BATCH, TIMES = 8, 2


@dataclass(frozen=True)
class Passes:
    """For one picture: images that go only forwards, and forwards and backwards, in its own size."""

    forwards: float = 0
    backwards: float = 0

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(self.forwards + other.forwards, self.backwards + other.backwards)

    def __mul__(self, times: float) -> "Passes":
        return Passes(self.forwards * times, self.backwards * times)


def channels(net: nn.Module, images: Tensor) -> list[int]:
    """How many channels the layers have that "auto" means, shallow to deep; most methods look at the last."""
    names = models.stage_layers(net, images)
    captured = capture(net, images[:1], names)
    return [captured.activations[name].shape[1] for name in names]


def of_method(name: str, options: dict, layers: Sequence[int]) -> Passes:
    """What one map costs at most: channels that are dead or equal are not asked, others may be named layers.

    name, options: as in a plan. layers: `channels` of the network. Masked passes of smaller pictures count as
    full ones, because a network may refuse the small size.
    """
    look = 3    # the picture, the search for the layers, and the picture that is all zeros
    last, steps = layers[-1], options.get("steps", {"guided_ig": 200}.get(name, 50))
    if name == "score_cam":
        return Passes(look + last)
    if name == "poly_cam":
        return Passes(look + sum(layers) * (2 if options.get("variant", "pm") == "pm" else 1))
    if name == "increment_cam":
        return Passes(look + 3 + last, 1)
    if name in ("union_cam", "fusion_cam"):
        return Passes(look + 3 + last, 1)
    if name in ("integrated_gradients", "guided_ig", "integrated_grad_cam", "gig_cam"):
        return Passes(look, steps + 2)
    if name == "gig_cam_f":
        scales = options.get("scales", (1, 1.5, 2))
        return Passes(look, steps + 2) * sum(scale**2 for scale in scales)
    if name in ("grad_cam", "grad_cam_pp", "layer_cam"):
        return Passes(look, 1)
    return Passes(look)    # CAM and the controls


def of_metric(name: str, options: dict, method: Passes) -> Passes:
    """What measuring one map costs, beside the method, which some metrics ask again."""
    if name in ("insertion", "deletion"):
        return Passes(1 + (options.get("steps") or PROTOCOLS[options.get("protocol", "rise")].steps))
    if name in ("average_drop", "increase", "average_gain", "average_drop_in_deletion"):
        return Passes(2)
    if name == "road":
        return Passes(1 + 2 * len(options.get("fractions", range(9))))    # both orders
    if name == "adcc":
        return method * 2 + Passes(2)
    if name == "max_sensitivity":
        return method * (1 + options.get("samples", 50))
    return Passes()


def of_plan(plan: Plan, layers: Sequence[int], *, boxes: bool) -> dict[str, Passes]:
    """Row → what a picture costs with all metrics."""
    found = {}
    for row, options in plan.methods.items():
        method = of_method(_name("method", METHODS, row, options), options, layers)
        total = method
        for column in plan.columns(boxes=boxes):
            chosen = (plan.metrics or {}).get(column, {})
            total += of_metric(_name("metric", METRICS, column, chosen), chosen, method)
        found[row] = total
    return found


def seconds(net: nn.Module, images: Tensor) -> tuple[float, float]:
    """Of one image forwards, in a batch, and of one forwards and backwards, alone; each timed twice."""
    batch = images[:1].expand(BATCH, -1, -1, -1).contiguous()

    def timed(run) -> float:
        run()
        start = _now(images.device)
        for _ in range(TIMES):
            run()
        return (_now(images.device) - start) / TIMES

    def forwards() -> None:
        with torch.inference_mode():
            net(batch)

    def backwards() -> None:
        net(images[:1].clone().requires_grad_()).max().backward(inputs=list(net.parameters())[:1])

    with frozen_eval(net):
        return timed(forwards) / BATCH, timed(backwards)


def _name(kind: str, known: dict, row: str, options: dict) -> str:
    name = options.get(kind, row)
    return name if name in known else row
