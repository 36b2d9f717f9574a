"""The methods and the engine: ours and the libraries that a reader would use instead, each at its best."""

import copy
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cache, partial
from io import StringIO
from unittest.mock import patch

import numpy as np
import saliency.core as saliency
import torch
import torchcam.methods as torchcam
import torchvision
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM, LayerCAM, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam.metrics import DeletionInsertionMetric

from cambook import activations, methods, metrics, models, scoring, world
from cambook.kernels import masked_batch
from cambook.methods.poly_cam import robust_normalise

from harness import Contender, Row

SIDE, TINY, CLASS = 224, 128, 7
STEPS, PATHS = 50, 8    # of a path, and how many pictures walk it
BATCHES = {"cpu": (8, 32), "cuda": (32, 128, 512)}    # of the rivals, whose own choices are 32 and 16
NO_HALF = "“Fast” is left out: without instructions for half precision it is “exact”."


@cache
def network(name: str, device: str) -> nn.Module:
    """tiny_vgg, or a network of torchvision with random weights: the work is the same as with others."""
    if name == "tiny_vgg":
        return models.load(name, device=device)
    torch.manual_seed(0)
    return torchvision.models.get_model(name).eval().to(device)


@cache
def pictures(count: int, device: str, side: int = SIDE) -> Tensor:
    """Scenes of the picture world, normalised, (count, 3, side, side); NCHW, as torchvision leaves photos."""
    scenes = torch.stack([torch.from_numpy(world.scene(seed).image) for seed in range(count)])
    scaled = nn.functional.interpolate(scenes.permute(0, 3, 1, 2) / 255, (side, side), mode="bilinear")
    return ((scaled - 0.45) / 0.225).contiguous().to(device)


def channels_last(images: Tensor) -> Tensor:
    """The layout that CPUs' convolutions are quickest in. Nobody is asked for it, but a rival may have it."""
    return images.contiguous(memory_format=torch.channels_last)


def copied(model: nn.Module, build: Callable[[nn.Module], Callable[[], object]]):
    """prepare() of a contender that has a copy of the model to itself."""

    def prepare():
        own = copy.deepcopy(model)
        return build(own), own

    return prepare


def torchcam_call(extractor: type, layer: str, images: Tensor, **options):
    def build(model):
        cam = extractor(model, target_layer=layer, **options)

        def call():
            if extractor is torchcam.ScoreCAM:
                with torch.inference_mode():
                    model(images)
                return cam([CLASS] * len(images))
            return cam([CLASS] * len(images), model(images))

        return call

    return build


def grad_cam_call(extractor: type, layer: str, images: Tensor, batch_size: int | None = None):
    def build(model):
        cam = extractor(model=model, target_layers=[model.get_submodule(layer)])
        if batch_size is not None:
            cam.batch_size = batch_size
        targets = [ClassifierOutputTarget(CLASS)] * len(images)

        def call():
            with redirect_stderr(StringIO()):                           # its progress bars
                return cam(input_tensor=images, targets=targets)

        return call

    return build


def our_call(method: Callable, layer: str, images: Tensor, **options):
    return lambda model: partial(method, model, images, [CLASS] * len(images), layers=layer, **options)


def engine(device: str) -> Row:
    """The engine against the passes that nobody can save: the same masked pictures, made beforehand."""
    model, x = network("resnet18", device), pictures(1, device)
    chunk = scoring.LARGEST_CHUNK[device]
    maps = activations.capture(model, x, ["layer4"]).activations["layer4"]
    alive = maps[0].flatten(1).std(1) > 0
    maps = maps[:, alive][:, : len(maps[0, alive]) // chunk * chunk]

    def bare(model):
        rows = torch.zeros(chunk, dtype=torch.int64, device=x.device)
        batches = [masked_batch(x, part, rows, channels_last=True) for part in maps[0].split(chunk)]

        @torch.inference_mode()
        def call():
            return torch.cat([model(batch) for batch in batches])

        return call

    def ours(model):
        return lambda: scoring.masked_scores(model, x, maps, CLASS, chunk=chunk, progress=False)

    return Row(
        "engine", f"{maps.shape[1]} masked pictures, ResNet-18, {SIDE}², chunks of {chunk}",
        [Contender("cambook engine", copied(model, ours))],
        [Contender("bare forwards", copied(model, bare))], "ours / theirs",
        "≤ 1.08" if device == "cpu" else "≤ 1.15",
    )    # fmt: skip


def score_cam(device: str) -> Row:
    name = "resnet18" if device == "cpu" else "resnet50"
    model, x = network(name, device), pictures(1, device)
    half = scoring.fast_dtype(torch.device(device))
    ours = [
        Contender(f"cambook, {precision}", copied(model, our_call(
            methods.score_cam, "layer4", x, order="normalise_upsample", precision=precision, progress=False)))
        for precision in (("exact", "fast") if half else ("exact",))
    ]    # fmt: skip
    others = [
        Contender(f"torchcam, batches of {size}", copied(
            model, torchcam_call(torchcam.ScoreCAM, "layer4", x, batch_size=size)))
        for size in BATCHES[device]
    ]    # fmt: skip
    others.append(Contender("torchcam, batches of 32 in channels-last", copied(
        model, torchcam_call(torchcam.ScoreCAM, "layer4", channels_last(x), batch_size=32))))
    second = copied(model, grad_cam_call(ScoreCAM, "layer4", x, batch_size=16))
    others.append(Contender("grad-cam, batches of 16", second))
    return Row(
        "score_cam", f"Score-CAM, {name} layer4, {SIDE}², one picture", ours, others, "theirs / ours",
        "≥ 1.5 exact, ≥ 2.8 fast" if device == "cpu" else "≥ 8 fast",
        note="" if half else NO_HALF,
    )    # fmt: skip


def poly_cam(device: str, name: str = "resnet18", side: int = SIDE) -> Row:
    """PCAM± against the passes that nobody can save: as many masked pictures, made beforehand."""
    model, x = network(name, device), pictures(1, device, side)
    layers = models.stage_layers(model, x)
    chunk = scoring.LARGEST_CHUNK[device]
    maps = activations.capture(model, x, layers).activations
    half = scoring.fast_dtype(torch.device(device))

    def bare(model):
        count = 2 * sum(distinct(maps[layer][0]) for layer in layers)
        part = maps[layers[-1]][0, :chunk]
        rows = torch.zeros(len(part), dtype=torch.int64, device=x.device)
        batch = masked_batch(x, part, rows, channels_last=True)

        @torch.inference_mode()
        def call():
            for start in range(0, count, len(batch)):
                model(batch[: count - start])

        return call

    return Row(
        "poly_cam" if name == "resnet18" else f"poly_cam_{name}",
        f"PCAM±, {name}, {len(layers)} layers, {side}², one picture",
        [Contender(f"cambook, {precision}", copied(model, poly_cam_call(x, layers, precision)))
         for precision in (("exact", "fast") if half else ("exact",))],
        [Contender("bare forwards", copied(model, bare))], "ours / theirs",
        "≤ 1.10 exact, fast 1.8 times as fast" if device == "cpu" else "≤ 1.10",
        note="" if half else NO_HALF,
    )    # fmt: skip


def poly_cam_call(x: Tensor, layers: list[str], precision: str = "exact"):
    options = {"layers": layers, "precision": precision, "progress": False}
    return lambda model: partial(methods.poly_cam, model, x, CLASS, **options)


def distinct(maps: Tensor) -> int:
    """How many masks of a layer's channels (K, h, w) there are to ask about: none of the dead, each once."""
    alive = maps[(maps != 0).flatten(1).any(1)]
    return len(robust_normalise(alive).flatten(1).unique(dim=0))


def poly_cam_memory(device: str) -> Row:
    model, x = network("resnet18", device), pictures(1, device)
    call = poly_cam_call(x, models.stage_layers(model, x))
    return Row(
        "poly_cam_memory", f"peak memory of PCAM±, ResNet-18, {SIDE}²",
        [Contender("cambook, exact", copied(model, call))], [], "theirs / ours", "≤ 400 MB",
        measures="megabytes",
    )    # fmt: skip


def memory_of_methods(device: str) -> Row:
    """What each finished method needs beside the network, for one picture; notebook 09 shows it."""
    model, x = models.load(network("resnet18", device), device=device), pictures(1, device)
    options = {"increment_cam": {"phase2_size": SIDE // 2}}

    def call(name):
        return copied(model, lambda model: partial(getattr(methods, name), model, x, CLASS, **options.get(name, {})))

    return Row(
        "memory_of_methods", f"peak memory of each method, ResNet-18, {SIDE}², one picture",
        [Contender(name, call(name)) for name in (
            "grad_cam", "grad_cam_pp", "layer_cam", "score_cam", "integrated_grad_cam", "gig_cam",
            "gig_cam_f", "increment_cam", "poly_cam", "union_cam", "fusion_cam",
        )],
        [], "theirs / ours", "no goal, to know it", measures="megabytes",
    )    # fmt: skip


def union_cam(device: str, name: str = "resnet18", side: int = SIDE) -> Row:
    """UnionCAM against our own Score-CAM, which it holds: all else it does is five passes."""
    model, x = network(name, device), pictures(1, device, side)
    [layer] = models.stage_layers(model, x)[-1:]
    ours, region = (copied(model, our_call(method, layer, x, progress=False))
                    for method in (methods.union_cam, methods.score_cam))
    return Row(
        "union_cam", f"UnionCAM, {name} {layer}, {side}², one picture",
        [Contender("cambook", ours)], [Contender("cambook's Score-CAM", region)], "ours / theirs", "≤ 1.05",
    )    # fmt: skip


def increment_cam(device: str, name: str = "resnet18", side: int = SIDE) -> Row:
    """Phase 2 at half of the side against our own Score-CAM: as many questions, a quarter of the pixels."""
    model, x = network(name, device), pictures(1, device, side)
    [layer] = models.stage_layers(model, x)[-1:]
    ours = copied(model, our_call(methods.increment_cam, layer, x, phase2_size=side // 2, progress=False))
    theirs = copied(model, our_call(methods.score_cam, layer, x, progress=False))
    return Row(
        "increment_cam", f"Increment-CAM, {name} {layer}, {side}², phase 2 at {side // 2}², one picture",
        [Contender("cambook", ours)], [Contender("cambook's Score-CAM", theirs)], "theirs / ours", "≥ 3",
    )    # fmt: skip


def gradient_row(name: str, ours: Callable, theirs: list[Contender], device: str) -> Row:
    model, x = network("resnet18", device), pictures(16, device)
    return Row(
        name, f"{name.replace('_', '-')}, ResNet-18 layer4, {SIDE}², batch of 16",
        [Contender("cambook", copied(model, our_call(ours, "layer4", x)))], theirs,
        "theirs / ours", "≥ 1.0",
    )    # fmt: skip


def grad_cam(device: str) -> Row:
    model, x = network("resnet18", device), pictures(16, device)

    def captum(model):
        cam = LayerGradCam(model, model.layer4)
        return lambda: cam.attribute(x, target=CLASS, relu_attributions=True)

    return gradient_row("grad_cam", methods.grad_cam, [
        Contender("torchcam", copied(model, torchcam_call(torchcam.GradCAM, "layer4", x))),
        Contender("grad-cam", copied(model, grad_cam_call(GradCAM, "layer4", x))),
        Contender("captum", copied(model, captum)),
    ], device)    # fmt: skip


def layer_cam(device: str) -> Row:
    model, x = network("resnet18", device), pictures(16, device)
    return gradient_row("layer_cam", methods.layer_cam, [
        Contender("torchcam", copied(model, torchcam_call(torchcam.LayerCAM, "layer4", x))),
        Contender("grad-cam", copied(model, grad_cam_call(LayerCAM, "layer4", x))),
    ], device)    # fmt: skip


def curves(device: str) -> Row:
    """Insertion and deletion of one picture's Grad-CAM, zeros for both as torchcam has it."""
    model, x = network("resnet18", device), pictures(1, device)
    half = scoring.fast_dtype(torch.device(device))

    def ours(model, precision):
        def call():
            maps = methods.grad_cam(model, x, CLASS, layers="layer4").map
            options = {"protocol": "scorecam", "steps": SIDE, "precision": precision, "progress": False}
            return [play(model, x, maps, CLASS, **options) for play in (metrics.insertion, metrics.deletion)]

        return call

    def theirs(model, size, images=x):
        cam = torchcam.GradCAM(model, target_layer="layer4")
        metric = DeletionInsertionMetric(cam, partial(torch.softmax, dim=-1), steps=SIDE, batch_size=size)
        return lambda: metric.update(images, CLASS)

    return Row(
        "curves", f"Grad-CAM with insertion and deletion, {SIDE} steps, ResNet-18, {SIDE}², one picture",
        [Contender(f"cambook, {precision}", copied(model, partial(ours, precision=precision)))
         for precision in (("exact", "fast") if half else ("exact",))],
        [Contender(f"torchcam, batches of {size}", copied(model, partial(theirs, size=size)))
         for size in BATCHES[device]] + [Contender("torchcam, batches of 32 in channels-last", copied(
             model, partial(theirs, size=32, images=channels_last(x))))],
        "theirs / ours", "≥ 1.3 exact, ≥ 2 fast", note="" if half else NO_HALF,
    )    # fmt: skip


def guided_ig(device: str, name: str = "resnet18", side: int = SIDE) -> Row:
    """The official code takes one picture at a time, as NumPy arrays."""
    model, x = network(name, device), pictures(PATHS, device, side)
    baseline = torch.zeros_like(x)

    def ours(model):
        return lambda: methods.guided_ig(model, x, [CLASS] * len(x), baseline=baseline, steps=STEPS)

    def theirs(model, layout=torch.contiguous_format):
        def gradient(batch, call_model_args=None, expected_keys=None):
            leaf = torch.from_numpy(batch).float().to(device, memory_format=layout).requires_grad_()
            found = torch.autograd.grad(model(leaf)[:, CLASS].sum(), leaf)[0]
            return {saliency.INPUT_OUTPUT_GRADIENTS: found.cpu().numpy()}

        def call():
            with patch("numpy.quantile", old_quantile):
                return [
                    saliency.GuidedIG().GetMask(z, gradient, x_steps=STEPS, x_baseline=np.zeros_like(z))
                    for z in x.cpu().numpy()
                ]

        return call

    return Row(
        "guided_ig" if name == "resnet18" else f"guided_ig_{name}",
        f"Guided IG, {STEPS} steps, {name}, {side}², {PATHS} pictures",
        [Contender("cambook", copied(model, ours))],
        [Contender("saliency", copied(model, theirs)),
         Contender("saliency in channels-last", copied(model, partial(theirs, layout=torch.channels_last)))],
        "theirs / ours", "≥ 4.0",
    )    # fmt: skip


def path_engine(device: str, name: str = "resnet18", side: int = SIDE) -> Row:
    """Guided IG against the passes that nobody can save."""
    model, x = network(name, device), pictures(PATHS, device, side)
    baseline = torch.zeros_like(x)

    def ours(model):
        return lambda: methods.guided_ig(model, x, [CLASS] * len(x), baseline=baseline, steps=STEPS)

    def bare(model, images=x):
        model.requires_grad_(False)

        def call():
            for _ in range(STEPS + 1):
                leaf = images.clone().requires_grad_()
                torch.autograd.grad(model(leaf)[:, CLASS].sum(), leaf)

        return call

    return Row(
        "path_engine" if name == "resnet18" else f"path_engine_{name}",
        f"Guided IG, {STEPS} steps, {name}, {side}², {PATHS} pictures",
        [Contender("cambook", copied(model, ours))],
        [Contender("bare passes forwards and backwards", copied(model, bare)),
         Contender("the same in channels-last", copied(model, partial(bare, images=channels_last(x))))],
        "ours / theirs", "≤ 1.15",
    )    # fmt: skip


def gig_cam(device: str) -> Row:
    """GIG-CAM has the same path as Guided IG, and two tensors more to look at."""
    model, x = network("tiny_vgg", device), pictures(PATHS, device, TINY)
    options = {"baseline": torch.zeros_like(x), "steps": STEPS, "fraction": 0.25, "max_dist": 0.02}

    def ours(method):
        return lambda model: partial(method, model, x, [CLASS] * len(x), **options)

    return Row(
        "gig_cam", f"GIG-CAM, {STEPS} steps, tiny_vgg, {TINY}², {PATHS} pictures",
        [Contender("cambook", copied(model, ours(methods.gig_cam)))],
        [Contender("Guided IG on the same path, ours", copied(model, ours(methods.guided_ig)))],
        "ours / theirs", "≤ 1.3",
    )    # fmt: skip


def old_quantile(a, q, interpolation, quantile=np.quantile):
    """The spelling that saliency uses, which NumPy 2.4 dropped."""
    return quantile(a, q, method=interpolation)


class Wide(nn.Module):
    """2,048 channels of 7×7 and next to no arithmetic: what is left is the memory of asking about them."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, 2048, 1), nn.ReLU())
        self.classifier = nn.Linear(2048, 10)

    def forward(self, images):
        return self.classifier(self.features(images).mean((2, 3)))


def memory(device: str) -> Row:
    torch.manual_seed(0)
    model, x = Wide().eval().to(device), pictures(1, device)
    ours = our_call(methods.score_cam, "features", x, progress=False)
    return Row(
        "memory", f"peak memory of Score-CAM, K = 2048, {SIDE}²",
        [Contender("cambook, exact", copied(model, ours))],
        [Contender("torchcam, batches of 32", copied(
            model, torchcam_call(torchcam.ScoreCAM, "features", x, batch_size=32))),
         Contender("grad-cam, batches of 16", copied(model, grad_cam_call(ScoreCAM, "features", x, 16)))],
        "theirs / ours", "≤ 300 MB, and ≤ 1/8 of grad-cam's", measures="megabytes",
    )    # fmt: skip


ROWS = {
    "engine": engine, "score_cam": score_cam, "poly_cam": poly_cam,
    "union_cam": union_cam,
    "increment_cam": increment_cam,
    "grad_cam": grad_cam, "layer_cam": layer_cam,
    "guided_ig": guided_ig, "guided_ig_tiny_vgg": partial(guided_ig, name="tiny_vgg", side=TINY),
    "path_engine": path_engine,
    "path_engine_tiny_vgg": partial(path_engine, name="tiny_vgg", side=TINY),
    "gig_cam": gig_cam, "curves": curves, "memory": memory,
    "poly_cam_memory": poly_cam_memory, "memory_of_methods": memory_of_methods,
}    # fmt: skip
