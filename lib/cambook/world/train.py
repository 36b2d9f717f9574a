"""Training of the embedded networks: two CPU cores, less than 25 minutes each, resumable.

    python -m cambook.world train tiny_vgg         # data, training, weights; continues where it was stopped
"""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from . import networks
from .figures import CLASSES
from .scene import scene, two_class_scene

TRAINING_SEEDS = 1_000_000           # the first seed of the training scenes; the book's own scenes have small numbers
SCENES, TWO_CLASS = 20_000, 0.3      # scenes in the training set, and the share of them that shows two classes
BATCH = 64

# Cycles of (peak learning rate, ((epochs, side of the pictures in pixels), …)): small pictures teach shapes cheaply,
# full size finishes. The rate rises and falls once a cycle. tiny_vgg needs batch normalisation to get going, but that
# takes a third of the time: before the last cycle it is folded away, and the plain network is trained to the end.
PLAN = {
    "tiny_vgg": ((2e-3, ((9, 64), (4, 96))), (5e-4, ((1, 128),))),
    "tiny_resnet": ((2e-3, ((5, 64), (2, 96), (2, 128))),),
}


def example(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Training scene `index`: picture uint8 (128, 128, 3) and target distribution (10,), halves for two classes."""
    seed = TRAINING_SEEDS + index
    if index < SCENES * TWO_CLASS:
        drawn = two_class_scene(seed, siblings=True if index % 2 else None)
    else:
        drawn = scene(seed)
    target = np.zeros(len(CLASSES), np.float32)
    target[list(drawn.labels)] = 1 / len(drawn.labels)
    return drawn.image, target


def training_set(folder: Path) -> tuple[Tensor, Tensor]:
    """Pictures uint8 (N, 3, 128, 128) and targets (N, 10), drawn once and kept in `folder`."""
    kept = folder / f"training_{SCENES}.npz"
    if not kept.exists():
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            drawn = list(tqdm(pool.map(example, range(SCENES), chunksize=100), total=SCENES, desc="scenes"))
        part = kept.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, images=np.stack([image for image, _ in drawn]), targets=np.stack([t for _, t in drawn]))
        part.replace(kept)
    data = np.load(kept)
    return torch.from_numpy(data["images"]).permute(0, 3, 1, 2), torch.from_numpy(data["targets"])


def augment(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A batch as the network sees it: mirrored, colour channels exchanged (colours mean nothing), resized, normalised."""
    if torch.rand((), generator=generator) < .5:
        images = images.flip(-1)
    images = images[:, torch.randperm(3, generator=generator)].float() / 255
    images = images * (.8 + .4 * torch.rand((), generator=generator))
    if size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (networks.MEAN, networks.STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def train(name: str, folder: Path, seed: int = 0) -> Path:
    """Train `name`; checkpoints, the log and the finished weights go to `folder`. Returns the weights' path.

    A checkpoint is written after every epoch, and a later call goes on from it. The result depends on the seed, and
    in its last digits on the processor and the number of threads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, targets = training_set(folder)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    torch.set_flush_denormal(True)        # arithmetic with denormal numbers is many times slower
    model = networks.TinyVGG(batch_norm=True) if name == "tiny_vgg" else networks.build(name)
    cycles = [(peak, [size for epochs, size in stages for _ in range(epochs)]) for peak, stages in PLAN[name]]
    epochs = [(peak, len(sizes), i, size) for peak, sizes in cycles for i, size in enumerate(sizes)]
    fold_at = len(epochs) - len(cycles[-1][1]) if name == "tiny_vgg" else None
    checkpoint, seconds, first = folder / f"{name}.checkpoint", 0., 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if (state["seed"], state["epochs"]) != (seed, epochs):
            raise ValueError(f"{checkpoint} was written with another seed or plan: delete it, or choose another folder.")
        first, seconds = state["epoch"], state["seconds"]
        if fold_at is not None and first > fold_at:
            model = networks.build(name)
        model.load_state_dict(state["model"])
        generator.set_state(state["generator"])
        torch.set_rng_state(state["dropout"])        # behind the building of a network, which draws its first weights
    model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    if first:
        optimiser.load_state_dict(state["optimiser"])

    steps = len(images) // BATCH
    for epoch, (peak, length, position, size) in list(enumerate(epochs))[first:]:
        if epoch == fold_at:
            model = networks.fold(model).train().to(memory_format=torch.channels_last)
            optimiser = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
        if position == 0 or epoch == first:          # a new cycle, or the place in it where the training was stopped
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=length * steps, pct_start=.15)
            if position:
                schedule.load_state_dict(state["schedule"])
                optimiser.load_state_dict(state["optimiser"])        # again: a new schedule begins by setting the rate
        begin, right, total, seen = time.perf_counter(), 0, 0., 0
        order = torch.randperm(len(images), generator=generator)[: steps * BATCH]
        bar = tqdm(order.split(BATCH), desc=f"{name} {epoch + 1}/{len(epochs)} at {size} px")
        for rows in bar:
            batch, target = augment(images[rows], size, generator), targets[rows]
            output = model(batch)
            loss = F.cross_entropy(output, target)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
            optimiser.step()
            schedule.step()
            right += int((target.gather(1, output.argmax(1, keepdim=True)) > 0).sum())
            total, seen = total + float(loss.detach()) * len(rows), seen + len(rows)
            bar.set_postfix(loss=f"{total / seen:.3f}", accuracy=f"{right / seen:.1%}")
        seconds += time.perf_counter() - begin
        part = checkpoint.with_suffix(".part")
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
                    "generator": generator.get_state(), "dropout": torch.get_rng_state(),
                    "epoch": epoch + 1, "seconds": seconds, "seed": seed, "epochs": epochs}, part)
        part.replace(checkpoint)

    weights = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
    (folder / f"{name}.run.json").write_text(json.dumps({
        "seed": seed, "scenes": len(images), "plan": PLAN[name], "minutes": round(seconds / 60, 1),
        "threads": torch.get_num_threads(), "torch": torch.__version__}, indent=1) + "\n")
    return weights
