"""Spreading shards over the workers of Dask: those of this machine, or those of a scheduler that is there."""

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager

import torch

from .shards import Job, Shard, StoreError, compute

# Beside the network each worker holds torch, pictures and masks: measured 0.6 GB, and room for activations.
BASE_BYTES, COPIES = 1.5e9, 4
SECONDS_TO_CONNECT = 10


class Stopped(Exception):
    """The run stopped before its end for a reason that is not the user's: the sentence says what to do."""


@contextmanager
def connect(
    scheduler: str | None = None, *, workers: int | None = None, device: str = "cpu", network_bytes: int = 0
) -> Iterator:
    """A Dask client, and with it, where no scheduler is named, a cluster on this machine that ends with it.

    scheduler: address, as tcp://host:8786. workers: how many processes on this machine; None is one a GPU, or
    on CPUs as many as there are cores and as memory holds the network. Each may use its share of the memory;
    one that needs more is ended, and its shard begun again.
    Raises ImportError without the extra "evaluate", ValueError where no scheduler answers.
    """
    memory = _memory()
    from distributed import Client, LocalCluster

    # A page of calls for a lost scheduler, about which Stopped says a sentence.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    if scheduler:
        try:
            client = Client(scheduler, timeout=SECONDS_TO_CONNECT)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"No scheduler answers at {scheduler}: start one with `dask scheduler`."
            ) from error
        with client:
            yield client
        return
    count = workers or default_workers(device, network_bytes)
    with (
        LocalCluster(
            n_workers=count, threads_per_worker=1, memory_limit=memory // count,
            dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        yield client


def default_workers(device: str, network_bytes: int) -> int:
    """One worker a GPU; on CPUs one a core, as far as the memory holds their networks."""
    memory = _memory()
    if device == "cuda":
        return torch.cuda.device_count()
    return int(max(1, min(cores(), memory // (BASE_BYTES + COPIES * network_bytes))))


def _memory() -> int:
    """Bytes that this process may use, in a container too. ImportError without the extra "evaluate"."""
    try:
        from distributed.system import MEMORY_LIMIT
    except ImportError:
        sentence = 'Runs over a data set need Dask: install cambook with its extra "evaluate".'
        raise ImportError(sentence) from None
    return MEMORY_LIMIT


def cores() -> int:
    """Those that this process may use, which in a container are fewer than the machine has."""
    from dask.system import CPU_COUNT

    return CPU_COUNT


def spread(client, job: Job, shards: Sequence[Shard], finished: Callable[[Shard, dict], None]) -> None:
    """Compute the shards on the client's workers; `finished` is called for each as it is done.

    Dask gives the shards of a worker that died to the others. Raises Stopped where the scheduler is gone,
    where shards end one worker after the other, and where they cannot be written.
    """
    from distributed import KilledWorker, as_completed
    from distributed.comm import CommClosedError

    # A key that no other run has, which may still be busy with the same shard.
    call = secrets.token_hex(4)
    todo = {client.submit(compute, job, shard, key=f"{shard.file}-{call}"): shard for shard in shards}
    try:
        for future in as_completed(todo):
            finished(todo[future], future.result())
            future.release()
    except StoreError as error:
        raise Stopped(f"{error}: make room, or mend the folder") from error
    except KilledWorker as error:
        raise Stopped(
            f"{error.task} ended {error.allowed_failures + 1} workers, probably for want of memory: take "
            "fewer --workers"
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise Stopped("The scheduler is gone: start it") from error
