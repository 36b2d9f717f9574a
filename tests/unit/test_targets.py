"""Targets: what callers may write, what each score is, and one sentence for everything else."""

import numpy as np
import pytest
import torch

from cambook import targets

OUTPUT = torch.tensor([[1., 5., 2.], [7., -3., 0.5]])


@pytest.mark.parametrize("given, indices", [
    (None, [1, 0]), (2, [2, 2]), ([0, 2], [0, 2]), ((0, 2), [0, 2]), (torch.tensor([2, 1]), [2, 1]),
    (torch.tensor([2, 1], dtype=torch.uint8), [2, 1]), (torch.tensor(1), [1, 1]), (np.array([0, 1]), [0, 1]),
    (np.int64(2), [2, 2]), ([torch.tensor(1), np.int32(0)], [1, 0]),
])
def test_class_numbers(given, indices):
    resolved = targets.resolve(given, OUTPUT)
    assert resolved.indices.tolist() == indices and resolved.indices.dtype == torch.int64
    assert resolved.score(OUTPUT).tolist() == [OUTPUT[b, c].item() for b, c in enumerate(indices)]


def test_callables_alone_a_list_and_mixed():
    def gap(row):
        return row[1] - row[0]

    alone, each = targets.resolve(gap, OUTPUT), targets.resolve([gap, torch.sum], OUTPUT)
    mixed = targets.resolve([gap, 2], OUTPUT)
    assert alone.score(OUTPUT).tolist() == [4., -10.]
    assert each.score(OUTPUT).tolist() == [4., 4.5]
    assert mixed.score(OUTPUT).tolist() == [4., 0.5]
    assert alone.indices.tolist() == [-1, -1] and mixed.indices.tolist() == [-1, 2]


def test_grad_cams_target_objects_are_callables():
    model_targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    assert targets.resolve(model_targets.ClassifierOutputTarget(2), OUTPUT).score(OUTPUT).tolist() == [2., .5]
    with pytest.raises(TypeError, match="image 0 .* one image into a scalar"):
        targets.resolve(model_targets.RawScoresOutputTarget(), OUTPUT).score(OUTPUT)
    single = torch.tensor([[2.], [-3.]])        # one logit for two classes: the sign is what tells them apart
    binary = [model_targets.BinaryClassifierOutputTarget(1), model_targets.BinaryClassifierOutputTarget(0)]
    assert targets.resolve(binary, single).score(single).tolist() == [2., 3.]


def test_rows_say_which_image_each_output_belongs_to():
    rows, output = torch.tensor([1, 0, 0]), torch.tensor([[1., 2., 3.], [4., 5., 6.], [7., 8., 9.]])
    assert targets.resolve([2, 0], OUTPUT).score(output, rows).tolist() == [1., 6., 9.]
    assert targets.resolve([torch.max, 0], OUTPUT[:, :1]).score(output, rows).tolist() == [1., 6., 9.]
    with pytest.raises(ValueError, match="3 rows for 2 targets: say with rows="):
        targets.resolve([2, 0], OUTPUT).score(output)


def test_kinds_of_score():
    resolved = targets.resolve([1, 2], OUTPUT)
    assert torch.equal(resolved.score(OUTPUT), torch.tensor([5., .5]))
    probability = torch.tensor([np.exp(5) / np.exp([1, 5, 2]).sum(), np.exp(.5) / np.exp([7, -3, .5]).sum()])
    torch.testing.assert_close(resolved.score(OUTPUT, kind="probability"), probability.float())
    torch.testing.assert_close(resolved.score(OUTPUT, kind=torch.sigmoid), torch.tensor([5., .5]).sigmoid())
    row = targets.resolve(lambda row: row.sum(), OUTPUT).score(OUTPUT, kind="probability")
    torch.testing.assert_close(row, torch.ones(2))      # callables see the transformed row


def test_half_precision_is_scored_in_float32_and_double_stays():
    half = torch.tensor([[0.01 * i for i in range(1000)]], dtype=torch.float16)
    got = targets.resolve(3, half).score(half, kind="probability")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, half.float().softmax(1)[:, 3], rtol=1e-6, atol=0)
    assert targets.resolve(3, half).score(half.double()).dtype == torch.float64


def test_scores_are_differentiable():
    output = OUTPUT.clone().requires_grad_()
    targets.resolve([1, torch.sum], output).score(output).sum().backward()
    assert output.grad.tolist() == [[0., 1., 0.], [1., 1., 1.]]


@pytest.mark.parametrize("given, error, sentence", [
    ([1], ValueError, "1 target for 2 images: give one for each image"),
    ([], ValueError, "0 targets for 2 images"),
    (torch.tensor([1]), ValueError, "1 target for 2 images"),
    ([torch.sum] * 3, ValueError, "3 targets for 2 images"),
    (3, ValueError, "Target 3 is out of range: the model has 3 classes, numbered 0 … 2"),
    ([0, -1], ValueError, "Target -1 is out of range"),
    (torch.tensor([[0, 1]]), ValueError, r"one dimension, but has shape \(1, 2\)"),
    (torch.tensor([0., 1.]), TypeError, "integer type, not torch.float32"),
    (torch.tensor([True, False]), TypeError, "integer type, not torch.bool"),
    (1.0, TypeError, "a class number or a callable, not 1.0"),
    (True, TypeError, "a class number or a callable, not True"),
    ("cat", TypeError, "a class number or a callable, not 'cat'"),
    ([0, None], TypeError, "a class number or a callable, not None"),
    ({0: 1, 1: 2}, TypeError, "a class number or a callable"),
])
def test_one_sentence_for_what_cannot_be_meant(given, error, sentence):
    with pytest.raises(error, match=sentence):
        targets.resolve(given, OUTPUT)


@pytest.mark.parametrize("output, sentence", [
    ({"out": OUTPUT}, "returns a dict instead of a tensor"),
    ((OUTPUT,), "returns a tuple instead of a tensor"),
    (torch.zeros(2), r"shape \(2,\), so classes cannot be read off it"),
    (torch.zeros(2, 3, 4, 4), r"shape \(2, 3, 4, 4\), so classes"),
    (torch.zeros(2, 0), r"shape \(2, 0\), so classes"),
])
@pytest.mark.parametrize("given", [None, 1])
def test_outputs_off_which_no_class_can_be_read(output, sentence, given):
    with pytest.raises(ValueError, match=sentence):
        targets.resolve(given, output)


def test_callables_read_any_tensor_with_a_row_an_image():
    output = torch.arange(24.).reshape(2, 3, 2, 2)
    assert targets.resolve(lambda maps: maps[1, 0, 1], output).score(output).tolist() == [5., 17.]


@pytest.mark.parametrize("function, got", [(torch.relu, r"Tensor of shape \(3,\)"), (lambda _: 1.0, "float")])
def test_a_callable_must_return_a_scalar_tensor(function, got):
    with pytest.raises(TypeError, match=f"target of image 0 .* returned {got}"):
        targets.resolve(function, OUTPUT).score(OUTPUT)


@pytest.mark.parametrize("kind, error, sentence", [
    ("softmax", ValueError, "\"logit\", \"probability\" or a function, not 'softmax'"),
    (lambda output: output.sum(1), TypeError, r"of the shape it gets, \(2, 3\)"),
])
def test_kinds_that_do_not_exist(kind, error, sentence):
    with pytest.raises(error, match=sentence):
        targets.resolve(0, OUTPUT).score(OUTPUT, kind=kind)


def test_one_output_has_no_softmax():
    single = torch.tensor([[2.], [-3.]])
    with pytest.raises(ValueError, match="softmax needs two classes"):
        targets.resolve(0, single).score(single, kind="probability")


def test_resolved_targets_pass_through_if_their_number_fits():
    resolved = targets.resolve([1, 2], OUTPUT)
    assert targets.resolve(resolved, OUTPUT) is resolved
    with pytest.raises(ValueError, match="2 targets for 1 image"):
        targets.resolve(resolved, OUTPUT[:1])
