"""Asking a method again, for the metrics that compare its maps of a changed image or of a changed network."""

from torch import Tensor, nn

from ..explanation import Explanation


def check_method(method) -> None:
    """Raise TypeError for what is no method, such as the model."""
    if isinstance(method, nn.Module) or not callable(method):
        raise TypeError(
            "The first argument is the method, called as method(model, images, targets) like those of "
            f"cambook.methods, not a {type(method).__name__}; the model comes second."
        )


def explain(method, model: nn.Module, images: Tensor, targets) -> Explanation:
    """method(model, images, targets); TypeError where that gives something else than an Explanation."""
    explanation = method(model, images, targets)
    if not isinstance(explanation, Explanation):
        raise TypeError(
            "The method must return an Explanation, as those of cambook.methods do, not a "
            f"{type(explanation).__name__}."
        )
    return explanation


def same_targets(targets, first: Explanation, copies: int = 1) -> list:
    """What the first explanation explained, for `copies` of its batch one after another.

    A changed image or network has a top-1 class of its own, and its map would differ for that reason alone.
    """
    entries = first.targets.tolist()
    if -1 in entries:    # callables, which only the caller has
        entries = [targets] * len(entries) if callable(targets) else list(targets)
    return entries * copies
