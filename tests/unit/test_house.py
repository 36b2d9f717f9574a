"""The house: what is declared, what is documented and what is there say the same."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cambook

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What torch brings along on Linux only, and pins itself.
LINUX_ONLY = ("nvidia-", "cuda-", "triton")


def constraints() -> dict[str, Requirement]:
    rows = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {canonicalize_name(r.name): r for r in map(Requirement, filter(None, rows))}


def exact(requirement: Requirement) -> str:
    (only,) = requirement.specifier
    assert only.operator == "==" and "*" not in only.version, f"{requirement} is not an exact version"
    return only.version


def test_version_is_the_installed_one():
    assert version("cambook") == cambook.__version__


def test_importing_cambook_imports_nothing_heavy():
    code = "import sys, cambook; print(sorted({'torch', 'numpy', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_environment_repeats_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, registry = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}" and pip == "pip"
    names = [line for line in registry["pip"] if not line.startswith("-")]
    assert sorted(names) == sorted(PROJECT["dependencies"] + EXTRAS["notebooks"] + EXTRAS["test"])
    assert [line for line in registry["pip"] if line.startswith("-")] == ["-c constraints.txt", "-e ."]


def test_constraints_are_exact_and_fit_the_bounds():
    pinned = constraints()
    assert list(pinned) == sorted(pinned)
    for requirement in map(Requirement, PROJECT["dependencies"] + sum(EXTRAS.values(), [])):
        assert exact(pinned[canonicalize_name(requirement.name)]) in requirement.specifier
    for name, requirement in pinned.items():
        exact(requirement)
        assert not name.startswith(LINUX_ONLY), f"{name} would make constraints.txt a file for Linux only"
        assert requirement.url is None


def test_constraints_name_everything_that_is_installed():
    """A dependency of a dependency without a version here would one day change under the reader."""
    pinned = constraints()
    if exact(pinned["torch"]) != version("torch").split("+")[0]:
        pytest.skip("this environment was not made with constraints.txt")
    seen, todo = set(), [("cambook", extra) for extra in ("", *EXTRAS)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen or name.startswith(LINUX_ONLY):
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, distribution(name).requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)]
    assert {name for name, _ in seen} - {"cambook"} - set(pinned) == set()


def test_readme_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in example.splitlines() if line and not line.startswith("from ")]) <= 6
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["picture"].shape == (128, 128, 3) and names["e"].map.shape == (1, 128, 128)
    assert "image through the network" in capsys.readouterr().out


def test_readme_lists_the_notebooks():
    listed = re.findall(r"^\| \[(\w+)\]\(notebooks/\1\.ipynb\)", README, re.M)
    assert listed == sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    pages = README + (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / ".ci" / "run").read_text()
    named = set(re.findall(r"(?:`|^ +|then |\n  )make ([a-z-]+)", pages, re.M))
    assert {"run", "test", "lab", "doctor", "store"} <= named <= targets


def test_ci_ends_with_make_test():
    script = ROOT / ".ci" / "run"
    assert os.name == "nt" or os.access(script, os.X_OK)
    *_, test, end = script.read_text().strip().splitlines()
    assert test.startswith("make test ") and end.startswith("exit")


def test_workflows_and_issue_forms():
    for path in (ROOT / ".github").rglob("*.yml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict)
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    doctor = next(field for field in form["body"] if field.get("id") == "doctor")
    assert doctor["validations"]["required"] and "make doctor" in doctor["attributes"]["label"]


class TestSetUp:
    """The Makefile's set-up, with a shell script in the place of Python: no network, no minutes."""

    @pytest.fixture
    def house(self, tmp_path):
        if not shutil.which("make"):
            pytest.skip("needs make")
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, tmp_path)
        return tmp_path

    def make(self, house, *arguments):
        # The same search path but without uv, so that the branch for pip is the one that runs.
        path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not Path(p, "uv").exists())
        environment = {"PATH": path, "HOME": str(house)}
        return subprocess.run(
            ["make", *arguments], cwd=house, env=environment, capture_output=True, text=True, timeout=120
        )

    def interpreter(self, house, install: str) -> str:
        """A stand-in: new enough, makes a .venv with a copy of itself, and installs by running `install`."""
        script = house / "fake-python"
        script.write_text(f"""#!/bin/sh
echo "$@" >> {house}/calls
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"pip install"*) {install} ;;
esac
""")
        script.chmod(0o755)
        return f"PYTHON={script}"

    def test_sets_up_once(self, house):
        python = self.interpreter(house, "true")
        first = self.make(house, "setup", python)
        assert first.returncode == 0, first.stderr
        calls = (house / "calls").read_text()
        assert "pip install --no-compile -c constraints.txt -e .[notebooks,test]" in calls
        assert self.make(house, "setup", python).returncode == 0
        assert (house / "calls").read_text() == calls, "the second call set up again"

    def test_sets_up_again_after_a_change_of_versions(self, house):
        python = self.interpreter(house, "true")
        self.make(house, "setup", python)
        calls = (house / "calls").read_text()
        later = (house / ".venv" / "cambook-installed").stat().st_mtime + 5
        os.utime(house / "constraints.txt", (later, later))
        self.make(house, "setup", python)
        assert (house / "calls").read_text() != calls

    def test_an_interrupted_set_up_is_finished_by_the_next_call(self, house):
        broken = self.make(house, "setup", self.interpreter(house, "exit 1"))
        assert broken.returncode != 0 and "did not finish" in broken.stdout
        assert not (house / ".venv" / "cambook-installed").exists()
        shutil.rmtree(house / ".venv")
        assert self.make(house, "setup", self.interpreter(house, "true")).returncode == 0

    def test_an_old_or_missing_python_is_named(self, house):
        old = house / "old-python"
        pretend = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
        old.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 || exec {sys.executable} -c "{pretend}" "$2"\n'
        )
        old.chmod(0o755)
        done = self.make(house, "run", f"PYTHON={old}")
        assert (
            done.returncode != 0 and "Python 3.11 or newer" in done.stdout and "Python 3.9.1" in done.stdout
        )
        assert "make run PYTHON=" in done.stdout
        done = self.make(house, "run", "PYTHON=no-such-python")
        assert done.returncode != 0 and "not there" in done.stdout
        assert not (house / ".venv").exists()
