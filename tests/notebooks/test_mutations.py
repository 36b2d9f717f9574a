"""A check that never fails proves nothing: break a formula in a copy of each notebook, and see it fail.

Authors: add entries for your notebook to MUTATIONS. `old` must occur exactly once in the notebook's code.
"""

from dataclasses import dataclass

import pytest
from book import FOLDER, KERNEL, NOTEBOOKS, check_names, code_cells, read
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook


@dataclass(frozen=True)
class Mutation:
    old: str  # the piece of a formula to break, as it stands in one code cell
    new: str  # what replaces it
    caught_by: str  # how the name of the check begins that must fail, for example "eq. 1.3"


MUTATIONS: dict[str, list[Mutation]] = {
    "00_start_here": [
        Mutation("M = (R - R.min()) / (R.max() - R.min())", "M = R / R.sum()", "eq. 0.1"),
    ],
    "01_cam_and_grad_cam": [
        Mutation("alpha = g.mean((2, 3), keepdim=True)", "alpha = g.sum((2, 3), keepdim=True)", "eq. 1.5"),
        Mutation("1 / (2 + total * g)", "1 / (2 + (A * g).sum((2, 3), keepdim=True))", "eq. 1.8 with 1.15"),
    ],
    "02_score_cam": [
        Mutation("return (M - low) / (high - low)", "return M / high", "eq. 2.1"),
    ],
    "03_gig_path": [
        Mutation("if left else (slopes[:-1] + slopes[1:]) / 2", "if left else slopes[1:]", "eq. 3.1:"),
        Mutation("fill(g.abs().argsort(), budget)", "fill(g.argsort(), budget)", "eq. 3.6"),
        Mutation("limit = price.sort().values[int(p * 3)]", "limit = price.max()", "eq. 3.9"),
        Mutation("/ 2, A[1:] - A[:-1]).sum(0)", "/ 2, A[1:] - A[0]).sum(0)", "eq. 3.15: by hand"),
    ],
    "04_multi_scale_fusion": [
        Mutation("return N(up(M.relu(), size))", "return up(N(M.relu()), size)", "eq. 4.3"),
        Mutation("N(one * (lam + R[0]))", "N(lam + one * R[0])", "eq. 4.5"),
        Mutation("{lam: lam / (1 + lam) for", "{lam: lam / (0.5 + lam) for", "eq. 4.7"),
        Mutation("(coarse(s1, (1, 2)) + 1e-6)", "(s1.mean() + 1e-6)", "eq. 4.10"),
    ],
    "05_increment_cam": [
        Mutation("alpha_toy = slope.mean((1, 2))", "alpha_toy = slope.sum((1, 2))", "eq. 5.1: by hand"),
        Mutation("toy_net((X_toy * N(X_toy[k]))", "toy_net((X_toy[k] * N(X_toy))", "eq. 5.3: the scores"),
        Mutation("weighted(a, maps).relu() + weighted(b", "weighted(a, maps) + weighted(b", "eq. 5.9"),
        Mutation("return alpha * (1 + (z", "return alpha.abs() * (1 + (z", "eq. 5.10: where"),
        Mutation("(2 * sigma ** 2)", "sigma ** 2", "eq. 5.12: with"),
        Mutation("(L - L.flatten().quantile(tau))", "(L - tau)", "eq. 5.13: where"),
        Mutation("weights = share + beta if", "weights = share * beta if", "eq. 5.8 and 5.12"),
    ],
    "06_poly_cam": [
        Mutation("return ((Z - lo) / hi.clamp", "return ((Z - lo) / (hi - lo).clamp", "eq. 6.1"),
        Mutation("pm[k] = max(keep[k] + own - remove[k], 0)", "pm[k] = keep[k] + minus[k]", "eq. 6.2, 6.3"),
        Mutation("resize(resize(Z, small), Z.shape).clamp", "resize(Z, small).mean().clamp", "eq. 6.9"),
        Mutation("resize(P[-1], Z.shape) * detail", "resize(P[-1], Z.shape) + detail", "eq. 6.11"),
    ],
    "07_union_cam": [
        Mutation("theta / 100 * (len(ordered) - 1)", "theta / 100 * (len(ordered) - 2)", "eq. 7.2"),
        Mutation("return R / torch.where(total > 0, total, 1)", "return R", "eq. 7.3"),
        Mutation("(L * mask).sum((-2, -1)) / L.sum(", "(L * mask).sum((-2, -1)) / mask.sum(", "eq. 7.16"),
    ],
    "08_measuring_explanations": [
        Mutation("heat[mask].sum() / heat.sum()", "heat[mask].mean() / heat.mean()", "eq. 8.2"),
        Mutation("return (O - Y).clamp(min=0) / (1 - Y)", "return (O - Y).clamp(min=0) / (1 - O)", "eq. 8.5, 8.6"),
        Mutation("scores[i - 1] + scores[i]) / 2", "scores[i - 1] + scores[i - 1]) / 2", "eq. 8.12"),
    ],
    "09_side_by_side": [
        Mutation("r[i] = 1 + above + equal / 2", "r[i] = 1 + above + equal", "eq. 9.4: two share"),
        Mutation("np.mean([values[j] for j in picked])", "np.median([values[j] for j in picked])", "eq. 9.3"),
        Mutation("disagree += sign < 0", "disagree += sign > 0", "eq. 9.5"),
        Mutation("/ heat.sum()) / cue.double().mean()", "/ heat.sum()) * cue.double().mean()", "eq. 9.6: 6 of 8"),
    ],
    "10_kernels": [
        Mutation("above = max(0, (2 * y + 1) * small - large)", "above = max(0, 2 * y * small)", "eq. 10.3"),
        Mutation("upper = (1 - tx) * tl.load", "upper = (1 - ty) * tl.load", "the kernel = the reference"),
        Mutation("(3 * row[i] + row[k]) / 4", "(row[i] + row[k]) / 2", "eq. 10.8"),
    ],
}


def broken(nb, mutation: Mutation):
    """A copy of the notebook with the mutation, cut off after the check that must catch it."""
    if mutation.old == mutation.new or sum(cell.source.count(mutation.old) for cell in code_cells(nb)) != 1:
        raise ValueError(
            f"{mutation.old!r} must occur once in the notebook's code, and be changed: the entry is stale."
        )
    catching = [
        index
        for index, cell in enumerate(nb.cells)
        if cell.cell_type == "code" and any(name.startswith(mutation.caught_by) for name in check_names(cell))
    ]
    if not catching:
        raise ValueError(f"no check is named {mutation.caught_by!r}: the entry is stale.")
    sources = [cell.source for cell in nb.cells[: catching[-1] + 1] if cell.cell_type == "code"]
    return new_notebook(
        cells=[new_code_cell(source.replace(mutation.old, mutation.new)) for source in sources]
    )


def failure(nb) -> str:
    """Run a notebook; how it failed, or an empty string."""
    client = NotebookClient(
        nb, kernel_name=KERNEL, timeout=600, resources={"metadata": {"path": str(FOLDER)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    return ""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook_has_a_mutation(path):
    assert MUTATIONS.get(path.stem), f"add an entry for {path.stem} to MUTATIONS in {__file__}"


def test_no_entry_outlives_its_notebook():
    assert set(MUTATIONS) <= {path.stem for path in NOTEBOOKS}


class Mutated:
    """The mutations of one notebook; pytest collects a subclass for each, below: two workers share them."""

    path = None

    def test_a_broken_formula_is_caught(self, number):
        mutation = MUTATIONS[self.path.stem][number]
        assert failure(broken(read(self.path), mutation)).startswith(
            f"AssertionError: FAIL {mutation.caught_by}"
        )


def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        count = len(MUTATIONS[metafunc.cls.path.stem])
        # Each runs half a notebook: the first of each chapter always, the others in `make test-all`.
        others = [pytest.param(number, marks=pytest.mark.slow) for number in range(1, count)]
        metafunc.parametrize("number", [0, *others])


for _path in NOTEBOOKS:
    if _path.stem in MUTATIONS:
        _name = f"Test_{_path.stem}"
        globals()[_name] = type(_name, (Mutated,), {"path": _path})


# ---- the mechanism itself -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return new_notebook(
        cells=[
            new_code_cell("from cambook.check import check"),
            new_code_cell("total = 2 + 3"),
            new_code_cell('check("eq. 9.1: a sum", total, 5)'),
            new_code_cell("raise RuntimeError('after the check: must not be reached')"),
        ]
    )


def test_a_broken_formula_fails_and_an_equivalent_one_does_not(small):
    assert failure(broken(small, Mutation("2 + 3", "2 * 3", "eq. 9.1"))).startswith(
        "AssertionError: FAIL eq. 9.1: a sum"
    )
    assert failure(broken(small, Mutation("2 + 3", "3 + 2", "eq. 9.1"))) == ""
    assert "2 + 3" in small.cells[1].source, "the notebook itself was changed"


@pytest.mark.parametrize(
    "stale",
    [Mutation("2 + 4", "0", "eq. 9.1"), Mutation("total", "0", "eq. 9.1"), Mutation("2 + 3", "0", "eq. 9.2")],
)
def test_a_stale_entry_is_reported(small, stale):
    with pytest.raises(ValueError, match="stale"):
        broken(small, stale)
