"""What happens to a running cluster: each fault, that nothing finished is lost, and that the run goes on.

A scheduler and two workers of Dask run beside the tests. A run is disturbed when its first shard is finished,
and afterwards its results must be those of the run that nothing disturbed.
"""

import json
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from distributed import Client
from PIL import Image

from cambook import artefacts, methods, models
from cambook.__main__ import main
from cambook.evaluate import run as runs
from cambook.evaluate import shards

resource = pytest.importorskip("resource", reason="needs signals and limits of a Unix")
PICTURES, BROKEN = 5, "broken.jpg"
ROWS = ("grad_cam", "layer_cam")
TINY = ["--network", "tiny_resnet", "--resize", "48", "--crop", "48"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of small pictures, one of which ends in the middle."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        pixels = rng.integers(0, 255, (50, 60 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    Image.fromarray(pixels).save(folder / BROKEN)
    content = (folder / BROKEN).read_bytes()
    (folder / BROKEN).write_bytes(content[: len(content) // 2])
    return folder


class Cluster:
    """A scheduler and two workers, each a process of its own."""

    def __init__(self, folder):
        address = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", address, "--port", "0", "--no-dashboard")
        self.workers = self._start("worker", address, "--nworkers", "2", "--nthreads", "1")
        self.client = Client(scheduler_file=str(address))
        self.client.wait_for_workers(2, timeout=120)
        self.address = self.client.scheduler.address

    def _start(self, what, address, *options):
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", address, *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def close(self):
        self.client.close()
        for process in (self.workers, self.scheduler):
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    yield running
    running.close()


@pytest.fixture
def evaluate(pictures, monkeypatch):
    """evaluate(folder, scheduler=…, fault=…) → exit status; the fault strikes after the first shard."""
    monkeypatch.setattr(shards, "SIZE", 1)

    def run(folder, scheduler=None, fault=None):
        class Bar:
            def __init__(self, *_):
                self.left = [fault] if fault else []

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def update(self, count):
                while self.left:
                    self.left.pop()()

        monkeypatch.setattr(runs, "progress_bar", Bar)
        where = ["--scheduler", scheduler] if scheduler else ["--workers", "1"]
        return main([
            "evaluate", *TINY, "--data-set", "folder", "--data", str(pictures), "--device", "cpu",
            "--methods", *ROWS, "--metrics", "average_drop", "--out", str(folder), *where,
        ])  # fmt: skip

    return run


def kept(folder):
    """The shards that are finished, and when they were written; each must be whole."""
    found = {}
    for path in (folder / "shards").glob("*.npz"):
        found[path.name] = path.stat().st_mtime_ns
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None and "shard.json" in archive.namelist()
    return found


def finished(folder):
    """As `kept`, of a folder in which nobody writes any more: nothing else may be there."""
    found = kept(folder)
    assert sorted(found) == sorted(os.listdir(folder / "shards"))
    return found


def check_same(folder, reference):
    """The same files, maps and numbers, but for the seconds and for the rounding of more threads."""
    assert sorted(os.listdir(folder)) == sorted(os.listdir(reference))
    for row in ROWS:
        mine, theirs = (artefacts.load_maps(place, "tiny_resnet", row) for place in (folder, reference))
        assert list(mine) == list(theirs)
        for name in theirs:
            assert np.allclose(mine[name], theirs[name], atol=1e-4)
        mine, theirs = (artefacts.load_metrics(place, "tiny_resnet", row) for place in (folder, reference))
        for name in theirs:
            mine[name]["seconds"] = theirs[name]["seconds"]
            assert mine[name] == pytest.approx(theirs[name], abs=1e-4)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return tmp_path_factory.mktemp("reference")


def test_a_corrupt_picture_is_reported_and_counted(evaluate, cluster, pictures, reference, capsys):
    assert evaluate(reference, cluster.address) == 0
    said = capsys.readouterr()
    assert f"left out {BROKEN} (grad_cam): The picture" in said.err and "dashboard" in said.out
    results = json.loads((reference / "run.json").read_text())["results"]
    assert results["pictures"] == PICTURES and list(results["unreadable"]) == [BROKEN]
    assert f"{PICTURES} pictures of the {PICTURES + 1} in folder" in (reference / "summary.txt").read_text()
    assert len(finished(reference)) == len(ROWS) * (PICTURES + 1)

    maps = artefacts.load_maps(reference, "tiny_resnet", "layer_cam")
    assert sorted(maps) == [f"{number}.png" for number in range(PICTURES)]
    net = models.load("tiny_resnet", preprocessing={"resize": 48, "crop": 48})
    expected = methods.layer_cam(net, net.preprocessing(pictures / "3.png")).map[0]
    assert torch.allclose(torch.from_numpy(maps["3.png"]), expected, atol=1e-5)


def test_a_finished_run_computes_nothing(evaluate, reference):
    """So much so that it asks no scheduler: at this address there is none."""
    before = finished(reference)
    assert evaluate(reference, "tcp://127.0.0.1:1") == 0
    assert finished(reference) == before


def test_a_killed_worker(evaluate, cluster, reference, tmp_path):
    found = {}

    def kill():
        found.update(kept(tmp_path))
        os.kill(next(iter(cluster.client.run(os.getpid).values())), signal.SIGKILL)

    assert evaluate(tmp_path, cluster.address, kill) == 0
    assert found and found.items() <= finished(tmp_path).items()
    check_same(tmp_path, reference)


def test_an_interruption(evaluate, cluster, reference, tmp_path, capsys):
    """Ctrl-C; a process that a shell started in the background would not hear it."""
    older = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert evaluate(tmp_path, cluster.address, lambda: signal.raise_signal(signal.SIGINT)) == 130
    finally:
        signal.signal(signal.SIGINT, older)
    assert "Interrupted; the same command goes on." in capsys.readouterr().err
    before = kept(tmp_path)
    assert before
    assert evaluate(tmp_path, cluster.address) == 0
    assert before.items() <= finished(tmp_path).items()
    check_same(tmp_path, reference)


def test_a_full_disk(evaluate, cluster, reference, tmp_path, capsys):
    """A limit on the size of files ends a worker's writing in the middle, as a full disk does."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    found = {}

    def fill():
        cluster.client.run(resource.setrlimit, resource.RLIMIT_FSIZE, (2000, unlimited[1]))
        found.update(kept(tmp_path))

    try:
        assert evaluate(tmp_path, cluster.address, fill) == 1
    finally:
        cluster.client.run(resource.setrlimit, resource.RLIMIT_FSIZE, unlimited)
    said = capsys.readouterr().err
    assert "could not be written" in said and "shards are finished and kept" in said
    assert found and not (tmp_path / "summary.txt").exists()
    assert evaluate(tmp_path, cluster.address) == 0
    assert found.items() <= finished(tmp_path).items()
    check_same(tmp_path, reference)


def test_a_killed_scheduler(evaluate, cluster, reference, tmp_path, capsys):
    """The last one with this cluster; afterwards a cluster on this machine goes on."""
    def kill():
        cluster.scheduler.kill()
        cluster.scheduler.wait()

    assert evaluate(tmp_path, cluster.address, kill) == 1
    assert "The scheduler is gone" in capsys.readouterr().err
    cluster.workers.terminate()
    cluster.workers.wait(timeout=30)
    before = kept(tmp_path)
    assert before
    assert evaluate(tmp_path) == 0
    assert before.items() <= finished(tmp_path).items()
    check_same(tmp_path, reference)
