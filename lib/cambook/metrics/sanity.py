"""Does the map depend on what the network has learned? Its layers are made random, from the head down.

J. Adebayo, J. Gilmer, M. Muelly, I. Goodfellow, M. Hardt, B. Kim, "Sanity Checks for Saliency Maps", NeurIPS
2018, arXiv 1810.03292.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import models
from ..explanation import Explanation, minmax
from ..models.layers import running_order
from ..models.running import check_images
from ..scoring import progress_bar
from ._again import check_method, explain, same_targets
from ._result import NetworkResult, check_maps, is_flat

# A window of the structural similarity, and its two constants, for maps in [0, 1] (Wang et al. 2004).
WINDOW = 7
C1, C2 = 0.01**2, 0.03**2


@dataclass(frozen=True, eq=False)
class RandomisationResult(NetworkResult):
    """values: each image's mean rank correlation over the stages; 1 is a map that ignores what was learned.

    The network as it was is no stage: its correlation of 1 is in no mean. Excluded are images whose map is
    flat from the start, or at every stage.

    stages: what was made random, in this order; at a stage all before it are random too.
    spearman, ssim: (B, S) float64, each stage's map against that of the network as it was; NaN where failed
        or excluded.
    failed: (B, S) bool, flat maps of the random network: it does not explain the class any more, which is no
        similarity of 0 and must be told (after a random head, ReLU leaves nothing of many maps).
    kept: modules whose parameters stayed as they were: no stage holds them, or torch does not know how to
        initialise them (no `reset_parameters`).
    """

    stages: tuple[str, ...]
    spearman: Tensor
    ssim: Tensor
    failed: Tensor
    kept: tuple[str, ...]

    @property
    def mean_spearman(self) -> Tensor:
        """(S,): each stage's mean over the images, without those that failed."""
        return self.spearman.nanmean(0)

    @property
    def mean_ssim(self) -> Tensor:
        """(S,): the same of the structural similarity."""
        return self.ssim.nanmean(0)

    @property
    def failures(self) -> Tensor:
        """(S,) int64: at how many images each stage failed."""
        return self.failed.sum(0)


def cascading_randomisation(
    method: Callable[..., Explanation],
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    layers: Sequence[str | nn.Module] | None = None,
    signed: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> RandomisationResult:
    """How much of the map is left as the network's layers lose what they learned, one after another?

    The layers are initialised anew from the head down, each stage on top of those before, and after each the
    method explains the class of the clean image again. Compared are ReLU(raw) at the layer's own size,
    because upsampling makes maps alike (Adebayo et al., from memory; comparators: official code).

    The end is never 0: a random network still finds edges. What a floor looks like tells `spearman` of the
    map and an edge map, or of the maps of two networks trained apart. Methods that mix activations without
    the class pass unchanged while only the head is random.

    method: called as method(network, images, targets), such as `methods.grad_cam`, with a copy of the model:
        it must use the network that it is given, and name its layers instead of holding modules of the model.
    images: (B, C, H, W), normalised. targets: as the method takes them; None is the clean image's top-1
        class, for the random networks too.
    layers: the stages, by name or module, in this order; a block is initialised with all that is in it. None
        takes every module with parameters of its own, in the reverse of the order in which they run. Batch
        normalisation is one of them and loses its running statistics too (as in Quantus).
    signed: compare raw itself, without ReLU: no stage fails then, and a map that turns into its negative has
        the correlation -1.
    seed: of the initialisation, by each layer's `reset_parameters`; the same numbers on every device. torch's
        own generators are left as they were, and so is the model.
    progress: as in `scoring.masked_scores`. One explanation a stage, and one before.

    Raises ValueError or TypeError, in one sentence, for layers without anything to initialise, and for images
    or a method that do not fit.
    """
    check_method(method)
    check_images(model, images)
    stages = _stages(model, images, layers)
    first = explain(method, model, images, targets)
    classes = same_targets(targets, first)
    reference = _compared(first, signed)
    forwards = first.forwards + (1 if layers is None else 0)
    # Outside of a caller's inference mode, in which a copy could not be differentiated.
    with torch.inference_mode(False):
        network = copy.deepcopy(model)
    parts = {stage: _parts(network.get_submodule(stage), alone=layers is None) for stage in stages}
    state = torch.Generator().manual_seed(seed).get_state()
    spearmans, ssims, failed = [], [], []
    with progress_bar(len(stages) * len(images), progress, "explained images") as bar:
        for modules in parts.values():
            state = _randomise(modules, state)
            again = explain(method, network, images, classes)
            maps = _compared(again, signed)
            spearmans.append(spearman(reference, maps))
            ssims.append(ssim(reference, maps))
            failed.append(is_flat(maps))
            forwards += again.forwards
            bar.update(len(images))

    no_map = is_flat(reference)
    failed = torch.stack(failed, 1) & ~no_map[:, None]
    correlations = torch.stack(spearmans, 1)
    initialised = {module for modules in parts.values() for module in modules}
    return RandomisationResult(
        values=correlations.nanmean(1),
        excluded=no_map | failed.all(1),
        forwards=forwards,
        stages=stages,
        spearman=correlations,
        ssim=torch.stack(ssims, 1),
        failed=failed,
        kept=tuple(
            name
            for name, module in network.named_modules()
            if module not in initialised and any(True for _ in module.parameters(recurse=False))
        ),
    )


def spearman(one: Tensor, two: Tensor) -> Tensor:
    """The rank correlation of each pair of maps: (B,) float64 in [-1, 1], NaN where one of the two is flat.

    one, two: (B, h, w). Cells of equal value, such as the zeros that ReLU leaves, share the mean of their
    ranks. Raises ValueError for maps of different sizes, NaN or infinity.
    """
    one, two = (_ranks(maps) for maps in _pair(one, two))
    one, two = (ranks - ranks.mean(1, keepdim=True) for ranks in (one, two))
    # 0/0 is NaN; rounding must not lift a correlation over 1.
    return ((one * two).sum(1) / (one.square().sum(1) * two.square().sum(1)).sqrt()).clamp(-1, 1)


def ssim(one: Tensor, two: Tensor) -> Tensor:
    """The mean structural similarity of each pair of maps: (B,) float64, at most 1, NaN where one is flat.

    one, two: (B, h, w); each is brought to [0, 1] by its own minimum and maximum. The mean over all windows
    of 7×7 cells inside the map (smaller where the map is), with even weights, variances that divide by the
    number of cells, and the constants 0.01² and 0.03² (Wang et al. 2004; as scikit-image computes it with
    use_sample_covariance=False). Raises ValueError for maps of different sizes, NaN or infinity.
    """
    one, two = _pair(one, two)
    flat = is_flat(one) | is_flat(two)
    one, two = (minmax(maps)[:, None] for maps in (one, two))
    side = min(WINDOW, *one.shape[-2:])
    side -= (side + 1) % 2    # odd, so that a window has a middle

    def mean(maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, side, stride=1)

    mean1, mean2 = mean(one), mean(two)
    variances = mean(one**2) - mean1**2 + mean(two**2) - mean2**2
    covariance = mean(one * two) - mean1 * mean2
    brightness = (2 * mean1 * mean2 + C1) / (mean1**2 + mean2**2 + C1)
    structure = (2 * covariance + C2) / (variances + C2)
    return (brightness * structure).mean((1, 2, 3)).masked_fill(flat, float("nan"))


def _stages(model: nn.Module, images: Tensor, layers: Sequence[str | nn.Module] | None) -> tuple[str, ...]:
    if layers is None:
        # Backwards, so that a module that runs twice is taken where it runs last.
        last_first = dict.fromkeys(reversed(running_order(model, images)))
        stages = tuple(name for name in last_first if _can(model.get_submodule(name)))
        if not stages:
            raise ValueError(
                f"No layer of this {type(model).__name__} has parameters and reset_parameters, which "
                "initialises them: give its layers such a method."
            )
        return stages
    if isinstance(layers, (str, nn.Module)):
        layers = [layers]
    stages = tuple(dict.fromkeys(models.layer(model, which)[0] for which in layers))
    if not stages:
        raise ValueError("There is no stage: name at least one layer, or leave layers out.")
    for name in stages:
        if not _parts(model.get_submodule(name), alone=False):
            raise ValueError(
                f"Layer {name!r} holds no parameters that reset_parameters would initialise: leave it out."
            )
    return stages


def _parts(layer: nn.Module, alone: bool) -> list[nn.Module]:
    """The layer, or all modules in it, as far as they can be initialised."""
    return [module for module in ([layer] if alone else layer.modules()) if _can(module)]


def _can(module: nn.Module) -> bool:
    """Whether it holds parameters or statistics of its own, and initialises them."""
    return callable(getattr(module, "reset_parameters", None)) and bool(_own(module))


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _randomise(modules: list[nn.Module], state: Tensor) -> Tensor:
    """Initialise the modules with the numbers that follow on `state`; which state follows then."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(state)
        for module in modules:
            device = _own(module)[0].device
            # On the CPU, because other devices have generators of their own, with other numbers.
            module.cpu().reset_parameters()
            module.to(device)
        return torch.get_rng_state()


def _compared(explanation: Explanation, signed: bool) -> Tensor:
    raw = check_maps(explanation.raw)
    return raw if signed else raw.relu()


def _pair(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    one, two = check_maps(one), check_maps(two)
    if one.shape != two.shape:
        raise ValueError(
            f"The maps must be of one size, but are {tuple(one.shape)} and {tuple(two.shape)}: compare both "
            "at the smaller one."
        )
    return one, two


def _ranks(maps: Tensor) -> Tensor:
    """Each cell's rank from 1, the mean one where cells are equal: (B, h·w)."""
    values = maps.flatten(1)
    rising = values.sort(1).values
    below = torch.searchsorted(rising, values)
    not_above = torch.searchsorted(rising, values, right=True)
    return (below + 1 + not_above).double() / 2

