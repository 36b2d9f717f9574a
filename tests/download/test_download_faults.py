"""What can go wrong between a server and a file. Nothing half-written may ever be taken for good."""

import errno
import hashlib
import io
import logging
import os
import signal
import subprocess
import sys
import textwrap

import filelock
import pooch
import pytest

from data_download import DataError, fetch, transfer
from data_download.fetch import is_right

PATIENCE = 0.3    # seconds without an answer


def get(entry, data, **how):
    fetch.get(entry, data, timeout=PATIENCE, **how)


def fails(entry, data, *says, **how):
    """It fails with one sentence that says this, and nothing is at the file's place."""
    with pytest.raises(DataError) as caught:
        get(entry, data, **how)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and all(word in text for word in says), text
    assert not (data / entry.file).exists()
    return text


def left(data):
    """All files of a data folder but the lock."""
    files = (path for path in data.rglob("*") if path.is_file() and path.name != ".lock")
    return sorted(path.relative_to(data).as_posix() for path in files)


def damaged(body):
    return body[:-1] + bytes([body[-1] ^ 1])


def test_good(server, entry, body, data, capsys):
    server.answers["/a"] = server.whole(body)
    thing = entry(body)
    get(thing, data)
    assert (data / thing.file).read_bytes() == body and left(data) == [thing.file]
    assert capsys.readouterr().out == f"thing: fetching 1.5 MB\nthing: fetched, {data / thing.file}\n"
    assert not pooch.get_logger().isEnabledFor(logging.INFO)
    get(thing, data)
    assert server.asked == [("/a", None)], "the second call asked again"
    assert "is here" in capsys.readouterr().out


def test_a_bar_on_a_terminal(server, entry, body, data, tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    server.answers["/a"] = server.whole(body)
    get(entry(body), data)
    get(entry(body, name="again"), tmp_path / "other", given=str(data))
    assert "thing: " in terminal.getvalue() and "again: " in terminal.getvalue()


def test_the_file_can_be_read_by_all_whom_the_user_lets(server, entry, body, data):
    """A temporary file is for its owner alone; a shared folder's files are not."""
    server.answers["/a"] = server.whole(body)
    get(entry(body), data)
    (data / "plain").touch()
    assert (data / "weights/thing.pth").stat().st_mode == (data / "plain").stat().st_mode


@pytest.mark.parametrize(
    "code, says", [(404, "answers 404 Not Found"), (500, "answers 500"), (403, "answers 403")]
)
def test_status(server, entry, body, data, code, says):
    server.answers["/a"] = server.answers["/b"] = server.status(code)
    fails(entry(body), data, f"{server.address}/a {says}", f"{server.address}/b {says}")
    assert left(data) == []
    server.answers["/b"] = server.whole(body)
    get(entry(body), data)
    assert is_right(entry(body), data)


def test_nobody_there(entry, body, data):
    nobody = ["http://127.0.0.1:9/x", "http://no.such.host.invalid/"]
    fails(entry(body, sources=nobody), data, *(f"{address} cannot be reached" for address in nobody))


def test_redirect(server, entry, body, data):
    server.answers["/a"], server.answers["/far"] = server.redirect("/far"), server.whole(body)
    get(entry(body), data)
    assert is_right(entry(body), data) and [path for path, _ in server.asked] == ["/a", "/far"]


def test_redirects_that_lead_nowhere(server, entry, body, data, tmp_path):
    (tmp_path / "secret").write_bytes(body)
    server.answers["/a"] = server.redirect("/a")
    server.answers["/b"] = server.redirect((tmp_path / "secret").as_uri())
    fails(entry(body), data, "/a redirects in a circle", "/b leads nowhere (InvalidSchema)")


def test_silent_from_the_start(server, entry, body, data):
    server.answers["/a"] = server.hang()
    server.answers["/b"] = server.whole(body)
    get(entry(body), data)
    assert is_right(entry(body), data)
    (data / entry(body).file).unlink()
    server.answers["/b"] = server.hang()
    fails(entry(body), data, f"/a does not answer within {PATIENCE} seconds")


def test_silent_on_the_way(server, entry, body, data):
    server.answers["/a"] = server.hang(body, most=1000)
    fails(entry(body, sources=[f"{server.address}/a"]), data, f"/a fell silent for {PATIENCE} seconds")


@pytest.mark.parametrize("length", [True, False])
def test_cut_short(server, entry, body, data, length):
    """With a length announced the line breaks; without one it just ends."""
    server.answers["/a"] = server.answers["/b"] = server.whole(body, most=1_200_000, length=length)
    fails(entry(body), data, "/a broke off on the way", "/b broke off on the way", "are kept")
    assert left(data) == ["weights/thing.pth.part"]
    server.answers["/b"] = server.resumable(body)
    get(entry(body), data)
    assert is_right(entry(body), data) and left(data) == ["weights/thing.pth"]


def test_a_line_that_breaks_again_and_again_gets_there(server, entry, body, data):
    server.answers["/a"] = server.resumable(body, most=10 * transfer.CHUNK)
    get(entry(body, sources=[f"{server.address}/a"]), data)
    assert is_right(entry(body), data)
    assert [asked for _, asked in server.asked] == [None, "bytes=655360-", "bytes=1310720-"]


def test_the_next_source_goes_on_where_the_first_broke_off(server, entry, body, data):
    server.answers["/a"] = server.whole(body, most=10 * transfer.CHUNK)
    server.answers["/b"] = server.resumable(body)
    get(entry(body), data)
    assert is_right(entry(body), data) and server.asked == [("/a", None), ("/b", "bytes=655360-")]


def test_a_server_that_cannot_go_on_in_the_middle_starts_again(server, entry, body, data):
    part(entry(body), data, body[:1000])
    server.answers["/a"] = server.whole(body)
    get(entry(body), data)
    assert is_right(entry(body), data) and server.asked == [("/a", "bytes=1000-")]


def part(entry, data, content):
    file = transfer.part_file(entry, data)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@pytest.mark.parametrize("wrong", [b"z" * 1000, b"z" * 5_000_000])
def test_what_an_earlier_call_left_is_wrong(server, entry, body, data, wrong):
    part(entry(body), data, wrong)
    server.answers["/a"] = server.resumable(body)
    get(entry(body, sources=[f"{server.address}/a"]), data)
    assert (data / "weights/thing.pth").read_bytes() == body


def test_what_an_earlier_call_left_is_complete(entry, body, data):
    part(entry(body), data, body)
    get(entry(body, sources=["http://127.0.0.1:9/x"]), data)
    assert is_right(entry(body), data)


def test_another_part_than_asked_for(server, entry, body, data):
    part(entry(body), data, body[:1000])
    server.answers["/a"] = server.resumable(body, shift=7)
    fails(entry(body), data, "/a answers with another part of the file", "/b answers 404")
    assert transfer.part_file(entry(body), data).read_bytes() == body[:1000]


def test_a_part_that_the_server_does_not_have(server, entry, body, data):
    part(entry(body), data, body[:1000])
    server.answers["/a"], server.answers["/b"] = server.resumable(body[:500]), server.resumable(body)
    get(entry(body), data)
    assert is_right(entry(body), data) and server.asked == [("/a", "bytes=1000-"), ("/b", None)]


def test_one_wrong_bit(server, entry, body, data):
    server.answers["/a"] = server.whole(damaged(body))
    fails(entry(body), data, "/a delivers a file whose checksum is not the registry's")
    assert left(data) == []
    fails(entry(body, verified=False), data, "not the registry's, which was only copied and may be wrong itself")
    server.answers["/b"] = server.whole(body)
    get(entry(body), data)
    assert (data / "weights/thing.pth").read_bytes() == body


def test_a_damaged_file_is_replaced_only_by_a_good_one(server, entry, body, data):
    thing = entry(body)
    file = data / thing.file
    file.parent.mkdir(parents=True)
    file.write_bytes(damaged(body))
    server.answers["/a"] = server.whole(damaged(body))
    with pytest.raises(DataError):
        get(thing, data)
    assert not is_right(thing, data)
    server.answers["/a"] = server.whole(body)
    get(thing, data)
    assert is_right(thing, data)


def test_a_login_page_in_place_of_the_file(server, entry, body, data):
    """What the wifi of a hotel gives for any address: 200, and a page."""
    server.answers["/a"] = server.whole(b"<html>Please sign in</html>")
    text = fails(entry(body), data, "/a offers 27 bytes instead of 1,536,000")
    assert "checksum" not in text


def test_an_endless_answer(server, entry, body, data):
    server.answers["/a"] = server.endless
    fails(entry(body), data, "/a sends more than the 1,536,000 bytes")
    assert left(data) == []


def test_rough_size(server, entry, body, data):
    """Where nobody publishes the exact size, a file may be up to twice as large."""
    server.answers["/a"] = server.whole(body)
    get(entry(body, size=len(body) - 100, rough_size=True), data)
    assert is_right(entry(body), data)
    server.answers["/a"] = server.endless
    rough = entry(body, size=1000, rough_size=True)
    fails(rough, data / "other", "sends more than the 2,000 bytes")


def test_md5(server, entry, body, data):
    server.answers["/a"] = server.whole(damaged(body))
    server.answers["/b"] = server.whole(body)
    thing = entry(body, sha256="", md5=hashlib.md5(body).hexdigest())
    get(thing, data)
    assert (data / thing.file).read_bytes() == body


def test_too_little_room(server, entry, body, data, monkeypatch):
    server.answers["/a"] = server.whole(body)
    room = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: room)
    fails(entry(body), data, "thing needs 1.5 MB", "1.0 MB are free")
    assert server.asked == []
    part(entry(body), data, body[:1_000_000])    # what came already needs no room
    get(entry(body), data)
    assert is_right(entry(body), data)


def test_a_full_disk(server, entry, body, data, monkeypatch):
    server.answers["/a"] = server.answers["/b"] = server.whole(body)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(transfer._Bounded, "write", full)
        get(entry(body), data)
    assert not (data / "weights/thing.pth").exists() and len(server.asked) == 1
    get(entry(body), data)
    assert is_right(entry(body), data)


def test_stopped_by_the_user(server, entry, body, data, monkeypatch):
    server.answers["/a"] = server.resumable(body)
    write = transfer._Bounded.write

    def stop(self, chunk):
        write(self, chunk)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(transfer._Bounded, "write", stop)
        get(entry(body), data)
    assert left(data) == ["weights/thing.pth.part"]
    get(entry(body), data)
    assert is_right(entry(body), data) and server.asked[-1] == ("/a", "bytes=65536-")


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed(root, server, entry, body, data):
    """Killed while the server is silent in the middle: no cleaning up, and the lock opens all the same."""
    server.answers["/a"] = server.hang(body, most=1_200_000)
    script = textwrap.dedent(f"""
        from pathlib import Path
        from data_download import fetch
        from data_download.registry import Entry
        fetch.get({entry(body)!r}, Path({str(data)!r}), timeout=60)
    """)
    call = subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.DEVNULL)
    try:
        waiting = transfer.part_file(entry(body), data)
        for _ in range(1000):
            if waiting.is_file() and waiting.stat().st_size:
                break
            server.free.wait(0.02)
        with pytest.raises(DataError, match="Another call is filling"):
            get(entry(body), data)
    finally:
        call.send_signal(signal.SIGKILL)
        call.wait()
    assert not (data / "weights/thing.pth").exists()
    kept = waiting.stat().st_size    # how far it came by then is the machine's affair
    server.answers["/a"] = server.resumable(body)
    get(entry(body), data)
    assert kept and is_right(entry(body), data) and server.asked[-1] == ("/a", f"bytes={kept}-")


def test_two_calls_at_once(entry, body, data):
    data.mkdir()
    with filelock.FileLock(data / ".lock"):
        fails(entry(body), data, "Another call is filling")


class TestFrom:
    """A class without wifi: from a folder, or from the address that serves it."""

    @pytest.fixture
    def filled(self, tmp_path, body):
        file = tmp_path / "filled" / "weights" / "thing.pth"
        file.parent.mkdir(parents=True)
        file.write_bytes(body)
        return tmp_path / "filled"

    def test_data_folder(self, filled, server, entry, body, data):
        get(entry(body), data, given=str(filled), offline=True)
        assert is_right(entry(body), data) and server.asked == []

    def test_folder_with_the_file(self, filled, server, entry, body, data):
        get(entry(body), data, given=str(filled / "weights"))
        assert is_right(entry(body), data) and server.asked == []

    def test_address_of_a_data_folder_or_of_a_folder_with_the_file(self, server, entry, body, data):
        server.answers["/class/weights/thing.pth"] = server.whole(body)
        get(entry(body), data, given=f"{server.address}/class/")
        get(entry(body), data / "other", given=f"{server.address}/class/weights")
        asked = [path for path, _ in server.asked]
        there = "/class/weights/thing.pth"
        assert asked == [there, "/class/weights/weights/thing.pth", there]

    def test_damaged(self, filled, entry, body, data):
        (filled / "weights/thing.pth").write_bytes(damaged(body))
        fails(entry(body), data, "thing.pth delivers a file whose checksum is not", given=str(filled))
        (filled / "weights/thing.pth").write_bytes(body[:-1])
        fails(entry(body), data, "thing.pth has 1,535,999 bytes instead of 1,536,000", given=str(filled))
        assert left(data) == []

    def test_without_the_file(self, tmp_path, server, entry, body, data):
        fails(entry(body), data, "has no weights/thing.pth, nor thing.pth", given=str(tmp_path))
        assert server.asked == [], "asked the internet, though a folder was given"


def test_offline(server, entry, body, data):
    server.answers["/a"] = server.whole(body)
    fails(entry(body), data, "thing is not in", "--offline", offline=True)
    assert server.asked == []
    get(entry(body), data)
    get(entry(body), data, offline=True)


def test_what_the_reader_has_to_fetch(entry, body, data):
    fails(entry(body, sources=[], instructions="sign in at X"), data, "sign in at X", "--from FOLDER")


def test_a_checksum_that_was_only_copied_says_so_when_first_used(server, entry, body, data, capsys):
    server.answers["/a"] = server.whole(body)
    thing = entry(body, verified=False, checksum_from="a page of theirs")
    get(thing, data)
    assert "it is from a page of theirs" in capsys.readouterr().out
    get(thing, data)
    assert "theirs" not in capsys.readouterr().out
    get(entry(body), data / "other")
    assert "it is from" not in capsys.readouterr().out
