"""`python -m data_download`: what it prints and returns; never a traceback."""

import subprocess
import sys

import pytest

from data_download import __main__ as command
from data_download import fetch
from data_download.registry import read


@pytest.fixture
def run(monkeypatch, capsys, data, entry, body):
    """The command with a registry of one thing; returns status, output, complaint."""
    monkeypatch.setenv("CAMBOOK_DATA", str(data))
    both = {"thing": entry(body), "far": entry(body, name="far", file="weights/far.pth", sources=[])}
    monkeypatch.setattr(command, "read", lambda: both)

    def call(*arguments):
        try:
            status = command.main(list(arguments))
        except SystemExit as left:
            status = left.code
        return status, *capsys.readouterr()

    return call


def test_get_list_verify(run, server, body, data):
    server.answers["/a"] = server.whole(body)
    status, out, _ = run("list")
    assert status == 0 and out.startswith("thing  1.5 MB  -") and f"Data folder: {data}\n" in out
    assert run("get", "thing")[0] == 0
    assert run("list")[1].startswith("thing  1.5 MB  here")
    assert run("verify") == (0, f"[OK]   thing: {data / 'weights/thing.pth'}\n[SKIP] far: not here\n", "")
    (data / "weights/thing.pth").write_bytes(b"x" + body[1:])
    status, out, _ = run("verify", "thing")
    assert status == 1 and out.startswith("[FAIL] thing: ") and out.endswith("get thing fetches it again\n")
    (data / "weights/thing.pth").write_bytes(b"x")
    assert run("list")[1].startswith("thing  1.5 MB  damaged")


def test_nothing_is_made_by_looking(run, data):
    assert run("verify")[1].count("[SKIP]") == 2 and run("list")[0] == 0
    assert not data.exists()


def test_failure_is_one_sentence_and_the_others_are_fetched(run, server, body, data):
    server.answers["/a"] = server.whole(body)
    status, out, complaint = run("get", "far", "thing", "--data", str(data / "x"))
    assert status == 1 and "fetched" in out and (data / "x/weights/thing.pth").is_file()
    assert complaint.count("\n") == 1 and complaint.startswith("data_download: far is given to each reader")


@pytest.mark.parametrize("arguments, says", [
    (["get", "thong"], "near names are: thing"),
    (["verify", "thong"], "near names are: thing"),
    (["get", "thing", "--offline", "--from", "http://x"], "--offline asks no other machine"),
    (["get"], "required: NAME"),
    ([], "required: COMMAND"),
])
def test_bad_input(run, data, arguments, says):
    status, _, complaint = run(*arguments)
    assert status == 2 and says in complaint and not data.exists()


@pytest.mark.parametrize("problem, status, says", [
    (OSError(28, "No space left on device"), 1, "could not be written or read in"),
    (KeyboardInterrupt(), 130, "the next call goes on from there"),
    (ModuleNotFoundError("No module named 'pooch'", name="pooch"), 2, "pooch, which is not installed: pip"),
])
def test_trouble_here(run, monkeypatch, problem, status, says):
    def trouble(*_):
        raise problem

    monkeypatch.setattr(fetch, "get", trouble)
    got, _, complaint = run("get", "thing")
    assert got == status and says in complaint and complaint.count("\n") == 1


def test_the_data_folder_is_a_file(run, data):
    data.write_text("")
    status, _, complaint = run("get", "thing")
    assert status == 1 and complaint.count("\n") == 1 and "File exists" in complaint


def test_as_a_process(root, tmp_path):
    """With the real registry; neither pooch nor torch is needed to see what there is."""
    code = ("import sys; sys.modules['pooch'] = sys.modules['requests'] = None; sys.argv[1:] = ['list'];"
            "import runpy; runpy.run_module('data_download', run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [name for name in read() if f"\n{name} " not in "\n" + done.stdout] == []
