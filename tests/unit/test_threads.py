"""Chunks side by side on a CPU: the same numbers in the same order, and nothing left behind."""

import threading
import time

import pytest
import torch
from torch import nn

from cambook import scoring, targets, threads

LIMIT = 20    # seconds until a test that waits for ever fails


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    def __init__(self, look=lambda images: None):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 4)
        for i, parameter in enumerate(self.parameters()):
            parameter.data.copy_(random(*parameter.shape, seed=i))
        self.look = look

    def forward(self, images):
        self.look(images)
        return self.head(self.body(images).mean((2, 3)))


IMAGES, MAPS = random(2, 3, 12, 16), [random(2, 9, 6, 8), random(2, 7, 3, 4, seed=2)]
MAPS[0][0, 2] = 5    # a dead channel


def masked(model, **options):
    """32 masked pictures, 31 of them asked about, and nothing else."""
    return scoring.masked_scores(model, IMAGES, MAPS, targets.resolve([1, 3], torch.zeros(2, 4)), **options)


@pytest.mark.parametrize("options", [{}, {"kind": "probability"}, {"normalise": False}, {"chunk": 3}], ids=str)
def test_the_numbers_of_one_thread(options, two_threads):
    model = Net().train()
    side_by_side = masked(model, **options)
    assert all(module.training for module in model.modules())
    torch.set_num_threads(1)
    alone = masked(model, **options)
    torch.testing.assert_close(side_by_side.values, alone.values, atol=1e-6, rtol=1e-6)
    assert torch.equal(side_by_side.skipped, alone.skipped) and torch.equal(side_by_side.classes, alone.classes)
    assert side_by_side.forwards == alone.forwards


def test_perturbed_pictures(two_threads):
    ranks = torch.stack([torch.randperm(12 * 16, generator=torch.Generator().manual_seed(i)) for i in (0, 1)])
    counts, rows = torch.arange(0, 190, 10).repeat(2), torch.arange(2).repeat_interleave(19)

    def ask():
        resolved = targets.resolve([1, 3], torch.zeros(2, 4))
        ranked = ranks.view(2, 12, 16).int()
        return scoring.perturbed_scores(
            Net(), IMAGES, torch.zeros_like(IMAGES), ranked, counts, rows, resolved, chunk=3
        ).values

    side_by_side = ask()
    torch.set_num_threads(1)
    torch.testing.assert_close(side_by_side, ask(), atol=1e-6, rtol=1e-6)


def meet(meeting):
    """Waits for another chunk; but for the first, which goes alone and in the calling thread."""
    if threading.current_thread() is not threading.main_thread():
        meeting.wait(LIMIT)


def test_two_chunks_are_in_the_network_at_the_same_time(two_threads):
    """Each waits for another one: alone, it would wait for ever."""
    meeting = threading.Barrier(2)
    masked(Net(lambda images: meet(meeting)), chunk=7)    # five chunks
    assert not meeting.broken


def test_with_one_thread_nothing_is_side_by_side():
    seen = set()    # one is what all tests have, by conftest.py
    masked(Net(lambda images: seen.add(threading.get_ident())), chunk=4)
    assert seen == {threading.get_ident()}


def test_each_thread_has_a_buffer_of_its_own(two_threads):
    seen = {}
    meeting = threading.Barrier(2)

    def look(images):
        meet(meeting)
        if threading.current_thread() is not threading.main_thread():
            seen.setdefault(threading.get_ident(), set()).add(images.data_ptr())

    masked(Net(look), chunk=7)
    assert sorted(map(len, seen.values())) == [1, 1] and len(set.union(*seen.values())) == 2


def test_answers_come_in_the_order_of_the_chunks():
    """Though an early one is the slowest."""

    def answer(own, chunk):
        time.sleep(0.3 if chunk.start == 2 else 0)
        return torch.tensor(list(chunk))

    chunks = [range(0, 2), range(2, 4), range(4, 6), range(6, 7)]
    found = torch.cat(list(threads.side_by_side(answer, chunks, 2, Net())))
    assert found.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_an_answer_may_be_part_of_the_buffer(two_threads):
    class Corner(nn.Module):
        def forward(self, images):
            return images[:, :, 0, 0]

    images, maps = random(1, 3, 8, 8), random(1, 40, 4, 4)
    side_by_side = scoring.masked_scores(Corner(), images, maps, [0], chunk=1).values
    torch.set_num_threads(1)
    assert torch.equal(side_by_side, scoring.masked_scores(Corner(), images, maps, [0], chunk=1).values)


def test_a_thread_works_as_the_caller_does(two_threads):
    """On one thread itself, in inference mode, under the caller's autocast; afterwards all is as before."""
    seen = set()

    def look(images):
        autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
        seen.add((torch.get_num_threads(), torch.is_inference_mode_enabled(), autocast))

    masked(Net(look), chunk=4)
    assert seen == {(1, True, False), (2, True, False)}    # the first chunk has torch's own two threads
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        masked(Net(look), chunk=4)
    assert seen == {(1, True, torch.bfloat16), (2, True, torch.bfloat16)}
    assert torch.get_num_threads() == 2
    asked = []
    other = threading.Thread(target=lambda: asked.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert asked == [2]


def test_fast_keeps_the_head_in_float32_on_every_thread(two_threads, monkeypatch):
    monkeypatch.setattr(scoring, "fast_dtype", lambda device: torch.bfloat16)
    model = Net()
    seen = []
    model.head.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    assert masked(model, chunk=4, precision="fast").dtype == torch.bfloat16
    assert set(seen) == {torch.float32}


class Keeps(Net):
    """Reads in its head what its body has put down: another thread could put something else there between."""

    def forward(self, images):
        self.features = self.body(images).mean((2, 3))
        time.sleep(0.01)
        return self.head(self.features)


class KeepsInABuffer(Keeps):
    def __init__(self):
        super().__init__()
        self.register_buffer("features", None)


@pytest.mark.parametrize("network", [Keeps, KeepsInABuffer])
def test_a_network_that_writes_to_itself_goes_alone(network, two_threads):
    side_by_side = masked(network(), chunk=2)
    torch.set_num_threads(1)
    torch.testing.assert_close(side_by_side.values, masked(network(), chunk=2).values, atol=1e-6, rtol=1e-6)


def test_after_an_error_no_further_chunk_is_begun(two_threads):
    asked = []

    def look(images):
        asked.append(len(images))
        time.sleep(0.02)
        if len(asked) > 1:
            raise ValueError("this network takes no pictures on Sundays")

    model = Net(look).train()
    with pytest.raises(ValueError, match="Sundays"):
        masked(model, chunk=1)
    assert len(asked) <= 6 and model.training and torch.get_num_threads() == 2


def test_out_of_memory_halves_the_chunks(two_threads):
    def look(images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("out of memory on purpose")

    found = masked(Net(look)).values
    torch.testing.assert_close(found, masked(Net()).values, atol=1e-6, rtol=1e-6)


def test_chunks_side_by_side_share_the_memory(monkeypatch):
    images = torch.zeros(1, 3, 224, 224)
    per_image = (3 * 3 + scoring.PLANES_INSIDE) * 224 * 224 * 4
    monkeypatch.setattr(scoring, "_free_bytes", lambda device: per_image * 24 / scoring.MEMORY_SHARE)
    assert [scoring.chunk_size("auto", images, n) for n in (1, 2, 4, 16)] == [16, 8, 4, 1]
