"""How the methods begin and end: look at the layer or the input, make an Explanation of what was seen."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import models
from .. import targets as targets_
from ..activations import capture, check_images
from ..explanation import Explanation, to_map


# What methods of the input's pixels give for `layers`. Not None, which a caller might give by mistake.
NO_LAYER = object()


@dataclass(frozen=True)
class Look:
    """One layer during one clean pass: everything a method needs to compute its weights.

    images: (B, C, H, W) in the network's precision; activations: (B, K, h, w) and gradients (the same, or
    None), in float32 at least; input_gradients: (B, C, H, W) like them, or None; targets: resolved; scores:
    (B,) float32, of the clean images; forwards: images run so far. A method of the input's pixels has no
    layer and no activations: None.
    """

    images: Tensor
    layer: str | None
    activations: Tensor | None
    gradients: Tensor | None
    input_gradients: Tensor | None
    output: Tensor
    targets: targets_.Targets
    scores: Tensor
    forwards: int
    config: dict

    def explain(
        self, raw: Tensor, more_forwards: int = 0, trace: dict | None = None, **config
    ) -> Explanation:
        """The Explanation of the signed weighted sum raw (B, h, w); the rest adds to what is known."""
        if not raw.isfinite().all():
            where = "the input" if self.layer is None else f"layer {self.layer!r}"
            raise ValueError(
                f"The activations or gradients of {where} are not finite for "
                f"{self.images.dtype}: convert the network to float32 or bfloat16, or look for NaN in its "
                "weights."
            )
        raw = raw.float()
        heat, flat = to_map(raw, self.images.shape[-2:])
        return Explanation(
            map=heat,
            raw=raw,
            layers=[] if self.layer is None else [self.layer],
            targets=self.targets.indices,
            scores=self.scores,
            forwards=self.forwards + more_forwards,
            config=self.config | config | {"relu": True, "upsampling": "bilinear", "normalise": "min-max"},
            flat=flat,
            trace=trace or {},
        )


def look(
    method: str,
    model: nn.Module,
    images: Tensor,
    targets,
    layers,
    *,
    gradients: bool,
    inputs: bool = False,
    kind: targets_.Kind = "logit",
) -> Look:
    """Run the images through the model once and keep what `layers` computes (with gradients, if asked for).

    layers: "auto" (`models.last_layer`, one more image through the network), a name, a module, or a list of
    one; NO_LAYER for none. inputs: also the gradient by the images.
    """
    images = check_images(model, images)
    forwards = len(images)
    chosen = layers
    if isinstance(layers, (list, tuple)):
        if len(layers) != 1:
            raise ValueError(
                f"{method} explains one layer, but {len(layers)} were given: call it once for each."
            )
        chosen = layers[0]
    if isinstance(chosen, str) and chosen == "auto":
        chosen = models.last_layer(model, images)
        forwards += 1
    name = None if chosen is NO_LAYER else models.layer(model, chosen)[0]

    asked = {} if name is None else {"layer": name, "layers": layers if isinstance(layers, str) else name}
    seen = {}

    def score(output: Tensor) -> Tensor:
        seen["targets"] = targets_.resolve(targets, output)
        seen["scores"] = seen["targets"].score(output, kind=kind)
        return seen["scores"]

    captured = capture(
        model, images, [] if name is None else [name], score if gradients else None, inputs=inputs
    )
    if not gradients:
        score(captured.output)

    return Look(
        images=images,
        layer=name,
        activations=at_least_float32(captured.activations.get(name)),
        gradients=at_least_float32(captured.gradients.get(name)),
        input_gradients=at_least_float32(captured.input_gradients),
        output=captured.output,
        targets=seen["targets"],
        scores=seen["scores"].detach().float(),
        forwards=forwards,
        config={
            "method": method,
            **asked,
            "targets": "top-1" if targets is None else "given",
            "score": kind if isinstance(kind, str) else getattr(kind, "__name__", repr(kind)),
        },
    )


def at_least_float32(tensor: Tensor | None) -> Tensor | None:
    """Half precision ends where the network ends: sums of thousands of products lose too much in it."""
    return None if tensor is None else tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Σ_k w_k A_k for weights (B, K) and activations (B, K, h, w): (B, h, w)."""
    # Not einsum: a caller's autocast would run that in half precision.
    return (weights[:, :, None, None] * activations).sum(1)
