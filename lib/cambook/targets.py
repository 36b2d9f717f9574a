"""What is explained: turning "top-1", class numbers or functions into one score an image."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Target = Callable[[Tensor], Tensor]
Kind = str | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Targets:
    """One target an image, ready to be read off the output of any number of forward passes.

    `indices` (B,) int64: the class explained in each image, -1 where `functions` holds a callable instead.
    """

    indices: Tensor
    functions: tuple[Target | None, ...]

    def __len__(self) -> int:
        return len(self.functions)

    def score(self, output: Tensor, rows: Tensor | None = None, kind: Kind = "logit") -> Tensor:
        """Score (N,) of each row of `output` (N, C) for the target of image `rows[n]`, in at least float32.

        `rows` (N,) int64, default 0 … N-1: which image each row of the output belongs to. `kind`: "logit"
        (the default: the value the network gives, as in Grad-CAM's paper), "probability" (softmax over the
        classes), or a function (N, C) -> (N, C) applied before the target is read. Differentiable.
        """
        if rows is None:
            if len(output) != len(self):
                raise ValueError(f"The output has {len(output)} rows for {len(self)} targets: "
                                 "say with rows= which image each row belongs to.")
            rows = torch.arange(len(self), device=output.device)
        # Half precision ends here: a softmax over 1000 classes or a sum of scores loses too much in it.
        values = output if output.dtype == torch.float64 else output.float()
        values = _transformed(values, kind)
        if all(function is None for function in self.functions):
            return values.gather(1, self.indices[rows, None])[:, 0]
        return torch.stack([self._read(row, image) for row, image in zip(values, rows.tolist(), strict=True)])

    def _read(self, row: Tensor, image: int) -> Tensor:
        function = self.functions[image]
        if function is None:
            return row[self.indices[image]]
        value = function(row)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise TypeError(f"The target of image {image} must turn the output {tuple(row.shape)} of one "
                            f"image into a scalar tensor, but it returned {type(value).__name__}{shape}.")
        return value.reshape(())


def _transformed(values: Tensor, kind: Kind) -> Tensor:
    if kind == "logit":
        return values
    if kind == "probability":
        if values.ndim != 2 or values.shape[1] == 1:
            raise ValueError(f"A softmax needs two classes or more, but the output is {tuple(values.shape)}: "
                             'use kind="logit", or a function such as torch.sigmoid.')
        return values.softmax(1)
    if not callable(kind):
        raise ValueError(f'The kind of score must be "logit", "probability" or a function, not {kind!r}.')
    changed = kind(values)
    if not isinstance(changed, Tensor) or changed.shape != values.shape:
        raise TypeError(f"The function given as kind of score must return a tensor of the shape it gets, "
                        f"{tuple(values.shape)}.")
    return changed


def resolve(targets: None | int | Sequence | Tensor | Target | Targets, output: Tensor) -> Targets:
    """Check the caller's `targets` against the `output` (B, C) of the images, and complete them.

    targets: None (each image's top-1 class), one class number for all images, a list or 1-D tensor (any
    device) with one for each, one callable for all or a list with one for each. A callable gets one image's
    row of the output and returns a scalar; the target objects of the package grad-cam are such callables.
    Numbers and callables may be mixed.

    Raises ValueError for a wrong count, a class that does not exist, or an output that is not (B, C) where
    class numbers are asked for; TypeError for anything else than the above.
    """
    if not isinstance(output, Tensor) or output.ndim < 1:
        raise ValueError(f"The model returns a {type(output).__name__} instead of a tensor (B, classes): "
                         "wrap it in a module that returns the class scores alone.")
    batch = len(output)
    if isinstance(targets, Targets):
        if len(targets) != batch:
            raise ValueError(f"{_count(len(targets), 'target')} for {_count(batch, 'image')}: "
                             "give one for each image.")
        return targets
    if targets is None:
        _check_classes(output)
        return Targets(output.detach().argmax(1), (None,) * batch)

    entries = _entries(targets, batch)
    functions = tuple(entry if callable(entry) else None for entry in entries)
    numbers = [-1 if callable(entry) else _number(entry) for entry in entries]
    if None in functions:
        _check_classes(output)
        classes = output.shape[1]
        for number, function in zip(numbers, functions, strict=True):
            if function is None and not 0 <= number < classes:
                raise ValueError(f"Target {number} is out of range: the model has "
                                 f"{_count(classes, 'class')}, numbered 0 … {classes - 1}.")
    return Targets(torch.tensor(numbers, dtype=torch.int64, device=output.device), functions)


def _entries(targets: object, batch: int) -> list:
    """One entry an image, from whatever the caller wrote."""
    if isinstance(targets, Tensor):
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise TypeError(f"Targets are class numbers, so a tensor of them must be of an integer type, "
                            f"not {targets.dtype}.")
        if targets.ndim > 1:
            raise ValueError("A tensor of targets must have one dimension, but has shape "
                             f"{tuple(targets.shape)}.")
    if isinstance(targets, (Tensor, np.ndarray)):
        targets = targets.tolist()
    if callable(targets) or isinstance(targets, str) or not isinstance(targets, Sequence):
        return [targets] * batch
    entries = list(targets)
    if len(entries) != batch:
        raise ValueError(f"{_count(len(entries), 'target')} for {_count(batch, 'image')}: give one for each "
                         "image, or a single number for all.")
    return entries


def _number(entry: object) -> int:
    try:
        if isinstance(entry, bool):
            raise TypeError
        return operator.index(entry)
    except TypeError:
        raise TypeError(f"A target is a class number or a callable, not {entry!r}.") from None


def _check_classes(output: Tensor) -> None:
    if output.ndim != 2 or output.shape[1] == 0:
        raise ValueError(f"The model's output has shape {tuple(output.shape)}, so classes cannot be read off "
                         "it: class numbers need (B, classes); give a callable target that returns a scalar "
                         "instead.")


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"
