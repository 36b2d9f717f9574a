"""CAM: where the classifier reads a global average, its weights are the map's weights.

B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, "Learning Deep Features for Discriminative
Localization", CVPR 2016, arXiv 1512.04150.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..explanation import Explanation
from .look import Look, look, weighted_sum


def cam(model: nn.Module, images: Tensor, targets=None, *, layers="auto", trace: bool = False) -> Explanation:
    """CAM: M = Σ_k w_ck A_k, with the row of class c in the classifier that reads the mean of A over space.

    Only for two kinds of head, and the head is verified on these very images before it is trusted:

    - global average pooling, then one linear layer (paper): y = (1/Z) ΣM + b;
    - one 1×1 convolution to a map for each class, then global average pooling, with or without a ReLU between
      (SqueezeNet; our reading: M is that convolution's map without its bias).

    The bias is the same in every cell and says nothing about where; it is left out, as in the paper. The
    paper's map has no ReLU either: it is `raw`; `map` goes through the ReLU like every other method's.
    `scores` are logits.

    images: (B, C, H, W), normalised. targets: as in `grad_cam`, but class numbers only: a callable has no row
    in the classifier. layers: the layer whose maps are averaged; "auto" (the last spatial layer) finds it in
    networks whose last block is a module. trace: keep "weights" (B, K) and "activations" (B, K, h, w). One
    forward pass a batch.

    Raises ValueError for another kind of head, such as VGG's fully connected one: use `grad_cam` there, which
    needs no special head and equals CAM up to the factor 1/Z where CAM exists.
    """
    seen = look("cam", model, images, targets, layers, gradients=False)
    if (seen.targets.indices < 0).any():
        raise ValueError("CAM needs class numbers as targets: a callable has no weights in the classifier.")
    head = _head(model)
    if head is None or not _explains_output(head, seen):
        raise ValueError(
            f"CAM does not apply: {type(model).__name__}'s output is not the global average of layer "
            f"{seen.layer!r} followed by one linear layer. Use methods.grad_cam, which needs no special "
            "head, or name another layer."
        )
    table = head.weight.detach().flatten(1).to(seen.activations)    # (classes, K)
    weights = table[seen.targets.indices]    # (B, K)
    raw = weighted_sum(weights, seen.activations)
    parts = {"weights": weights, "activations": seen.activations}
    return seen.explain(raw, trace=parts if trace else None)


def _head(model: nn.Module) -> nn.Module | None:
    """The last module with weights, if it is linear or a 1×1 convolution."""
    last = None
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            last = module
    if isinstance(last, nn.Linear):
        return last
    if isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1) and last.groups == 1:
        return last
    return None


def _explains_output(head: nn.Module, seen: Look) -> bool:
    """Whether the head, put behind the layer's maps, gives the output that the network gave."""
    activations = seen.activations
    if head.weight.shape[1] != activations.shape[1]:
        return False
    table = head.weight.detach().flatten(1).to(activations)
    bias = table.new_zeros(len(table)) if head.bias is None else head.bias.detach().to(activations)
    if isinstance(head, nn.Linear):
        guesses = [activations.mean((2, 3)) @ table.T + bias]
    else:
        maps = torch.einsum("ck,bkhw->bchw", table, activations) + bias[:, None, None]
        guesses = [maps.mean((2, 3)), F.relu(maps).mean((2, 3))]
    output = seen.output.to(activations)
    if output.shape != guesses[0].shape:
        return False
    # Rounding of a long sum in the network's precision, against what the maps add to the bias.
    precision = 1e-3 if seen.images.dtype in (torch.float32, torch.float64) else 5e-2
    tolerance = precision * (output - bias).abs().amax()
    return any(bool(((guess - output).abs() <= tolerance).all()) for guess in guesses)
