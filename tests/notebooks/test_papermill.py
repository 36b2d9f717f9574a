"""Each notebook once more, in a fresh kernel, with the other embedded network and another scene."""

import nbformat
import papermill
import pytest
from book import KERNEL, NOTEBOOKS, code_cells, printed, read, run
from nbformat.v4 import new_code_cell, new_notebook

NETWORKS = ("tiny_vgg", "tiny_resnet")
SCENES = (11, 12, 13)


def passes(nb) -> int:
    return sum(line.startswith("PASS ") for line in printed(nb).splitlines())


class Notebook:
    """The tests of one notebook; pytest collects a subclass for each, below."""

    path = None

    def defaults(self) -> dict:
        return {name: found["default"] for name, found in papermill.inspect_notebook(str(self.path)).items()}

    def run_with(self, tmp_path, network: str, scene: int) -> None:
        stored = read(self.path)
        fresh = run(self.path, tmp_path / self.path.name, {"MODEL": network, "IMAGE": scene})
        assert all(cell.execution_count for cell in code_cells(fresh))
        assert passes(fresh) == passes(stored), (
            "not the same number of checks: a branch was skipped in silence"
        )
        assert printed(fresh) != printed(stored), (
            "another network and scene, and every line the same: are they used?"
        )

    def test_the_other_network_and_another_scene(self, tmp_path):
        other = next(
            network for network in NETWORKS if repr(network) != self.defaults()["MODEL"].replace('"', "'")
        )
        self.run_with(tmp_path, other, SCENES[0])

    @pytest.mark.slow
    @pytest.mark.parametrize("scene", SCENES)
    @pytest.mark.parametrize("network", NETWORKS)
    def test_every_network_and_scene(self, tmp_path, network, scene):
        self.run_with(tmp_path, network, scene)


# One class per notebook: `--dist loadscope` hands out classes, so different notebooks run side by side.
for _path in NOTEBOOKS:
    _name = f"Test_{_path.stem}"
    globals()[_name] = type(_name, (Notebook,), {"path": _path})


def test_there_are_notebooks():
    assert NOTEBOOKS, "no notebook NN_*.ipynb: nothing was run"


def test_an_unknown_parameter_is_an_error_and_a_known_one_arrives(tmp_path):
    nb = new_notebook(cells=[new_code_cell("MODEL = 'a'"), new_code_cell("print('model', MODEL)")])
    nb.cells[0].metadata["tags"] = ["parameters"]
    nb.metadata["kernelspec"] = {"name": KERNEL, "language": "python", "display_name": "Python 3"}
    path = tmp_path / "small.ipynb"
    nbformat.write(nb, path)
    with pytest.raises(ValueError, match="small.ipynb has no parameter MODLE"):
        run(path, tmp_path / "out.ipynb", {"MODLE": "b"})
    assert not (tmp_path / "out.ipynb").exists()
    assert printed(run(path, tmp_path / "out.ipynb", {"MODEL": "b"})) == "model b\n"
