"""Archives: what is hostile or broken in them leaves nothing behind, and half a data set is never one."""

import os
import tarfile

import pytest

from data_download import DataError, fetch, unpack
from data_download.unpack import is_unpacked
from data_download.verify import state, verify

GOOD = [("set/images/1.jpg", b"one"), ("set/images/2.jpg", b"two"), ("set/list.txt", b"1 2")]


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def tree(folder):
    """All that is in the folder, but the archive, the lock and the receipt."""
    skip = (".lock", "set.tar", "set.tar.unpacked")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if (path.is_file() or path.is_symlink()) and path.name not in skip
    }


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_good(archive, data, capsys, mode):
    thing = archive(*GOOD, mode=mode)
    fetch.get(thing, data)
    assert tree(data) == dict(GOOD) and is_unpacked(thing, data)
    assert f"unpacked 3 files, in {data / 'set'}" in capsys.readouterr().out
    assert verify(thing, data).state == "OK" and state(thing, data) == "here"


def test_a_second_call_asks_nothing_and_unpacks_nothing(server, archive, data):
    thing = archive(*GOOD)
    fetch.get(thing, data)
    (data / thing.file).unlink()    # to save room
    fetch.get(thing, data)
    assert len(server.asked) == 1
    assert verify(thing, data).state == "SKIP"


def test_into_a_folder(archive, data):
    """ImageNet's archive has no folder of its own, others begin with "./"."""
    root = (member("./", tarfile.DIRTYPE), b"")
    thing = archive(root, ("./1.jpg", b"one"), unpack_into="big/val", holds="big/val")
    fetch.get(thing, data)
    assert tree(data) == {"big/val/1.jpg": b"one"}


HOSTILE = {
    "parent": [("../out.txt", b"x")],
    "parent on the way": [("set/../../out.txt", b"x")],
    "absolute": [("/TMP_PATH/out.txt", b"x")],
    "backslash": [("set\\..\\..\\out.txt", b"x")],
    "drive": [("C:out.txt", b"x")],
    "symlink": [(member("set/link", tarfile.SYMTYPE, "images/1.jpg"), b"")],
    "symlink out": [(member("set/link", tarfile.SYMTYPE, "/etc/passwd"), b"")],
    "through a symlink": [(member("set/link", tarfile.SYMTYPE, ".."), b""), ("set/link/../../out.txt", b"x")],
    "hardlink": [(member("set/link", tarfile.LNKTYPE, "set/images/1.jpg"), b"")],
    "hardlink out": [(member("set/link", tarfile.LNKTYPE, "../../outside.txt"), b"")],
    "character device": [(member("set/null", tarfile.CHRTYPE), b"")],
    "block device": [(member("set/disk", tarfile.BLKTYPE), b"")],
    "fifo": [(member("set/pipe", tarfile.FIFOTYPE), b"")],
    "twice": [("set/images/1.jpg", b"other")],
    "file as a folder": [("set/images/1.jpg/in.txt", b"x")],
    "folder as a file": [("set/images", b"x")],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile(archive, data, tmp_path, what):
    (tmp_path / "outside.txt").write_text("mine")
    members = [
        (name.replace("/TMP_PATH", str(tmp_path)) if isinstance(name, str) else name, content)
        for name, content in HOSTILE[what]
    ]
    thing = archive(*GOOD, *members)
    with pytest.raises(DataError, match=r"^The archive of thing holds .*: nothing of it was unpacked\.$"):
        fetch.get(thing, data)
    assert tree(data) == {} and not is_unpacked(thing, data)
    assert sorted(os.listdir(tmp_path)) == ["data", "outside.txt"]
    assert (tmp_path / "outside.txt").read_text() == "mine"
    assert state(thing, data) == "not unpacked" and verify(thing, data).state == "FAIL"


def test_bombs(archive, data):
    """A small archive of a large file, and one of very many empty files."""
    for members in ([("set/zeros", bytes(3_000_000))], [(f"set/{i}", b"") for i in range(2000)]):
        thing = archive(*GOOD, *members, mode="w:gz", unpacked_at_most=1_000_000)
        assert thing.size < 20_000
        with pytest.raises(DataError, match="more than the 1,000,000 bytes that it may"):
            fetch.get(thing, data)
        assert tree(data) == {}


@pytest.mark.parametrize("cut", [0, 700, 2000, 5000])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_broken_though_its_checksum_is_right(archive, entry, server, data, tmp_path, cut, mode):
    random = [os.urandom(3000), os.urandom(3000)]    # which does not get smaller
    fetch.get(archive(("set/1", random[0]), ("set/2", random[1]), mode=mode), tmp_path / "first")
    content = (tmp_path / "first/archives/set.tar").read_bytes()[:cut]
    server.answers["/a"] = server.whole(content)
    fields = {"file": "archives/set.tar", "unpack_into": ".", "holds": "set", "unpacked_at_most": 10**6}
    with pytest.raises(DataError, match="cannot be read to its end|does not hold set"):
        fetch.get(entry(content, **fields), data)
    assert tree(data) == {}


def test_no_archive_at_all(entry, server, data):
    server.answers["/a"] = server.whole(b"this is a text")
    fields = {"file": "archives/set.tar", "unpack_into": ".", "holds": "set", "unpacked_at_most": 10**6}
    with pytest.raises(DataError, match="cannot be read"):
        fetch.get(entry(b"this is a text", **fields), data)


def test_another_archive(archive, data):
    with pytest.raises(DataError, match="does not hold set"):
        fetch.get(archive(("other/1.jpg", b"one")), data)
    assert tree(data) == {}


def test_stopped_in_the_middle(archive, data, monkeypatch):
    thing = archive(*GOOD)
    copy, copied = unpack.shutil.copyfileobj, []

    def stop(source, target, size):
        if len(copied) == 2:
            raise KeyboardInterrupt
        copied.append(copy(source, target, size))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unpack.shutil, "copyfileobj", stop)
        patch.setattr(unpack.shutil, "rmtree", lambda *_, **__: None)    # as if killed: nothing is tidied
        fetch.get(thing, data)
    assert not (data / "set").exists() and not is_unpacked(thing, data)
    (data / ".unpacking" / "stray.txt").write_text("from the stopped call")
    fetch.get(thing, data)
    assert tree(data) == dict(GOOD)


def test_stopped_while_moving_over_an_older_copy(server, archive, data, monkeypatch):
    thing = archive(*GOOD)
    fetch.get(thing, data)
    new = archive(*GOOD, ("set/new.txt", b"new"))
    (data / thing.file).unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unpack.os, "replace", stop_at(unpack.os.replace, "new.txt"))
        fetch.get(new, data)
    assert not is_unpacked(new, data) and not is_unpacked(thing, data)
    fetch.get(new, data)
    assert is_unpacked(new, data) and tree(data) == dict(GOOD) | {"set/new.txt": b"new"}


def stop_at(replace, name):
    def stopping(source, place):
        if str(place).endswith(name):
            raise KeyboardInterrupt
        replace(source, place)
    return stopping


def test_what_was_there_stays(archive, data):
    """VOC2007's two archives fill one folder, and a reader's own files may lie there too."""
    mine = data / "set" / "images" / "mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    fetch.get(archive(*GOOD), data)
    assert tree(data) == dict(GOOD) | {"set/images/mine.jpg": b"mine"}


def test_the_folder_appears_at_once(archive, data, monkeypatch):
    """Where there was none, the whole folder is moved by one call: nobody can see half of it."""
    moved, replace = [], unpack.os.replace
    monkeypatch.setattr(unpack.os, "replace", lambda *pair: (moved.append(pair[1]), replace(*pair)))
    fetch.get(archive(*GOOD), data)
    assert moved[1:] == [data / "set", data / "archives/set.tar.unpacked"]    # the first is the archive


def test_verify_reads_every_file(archive, data):
    thing = archive(*GOOD)
    fetch.get(thing, data)
    (data / "set/images/1.jpg").write_bytes(b"onf")    # the same length
    (data / "set/list.txt").unlink()
    finding = verify(thing, data)
    assert finding.state == "FAIL" and "of 3 files, 2 are missing or differ" in finding.text
    unpack.receipt_file(thing, data).unlink()    # as the sentence says
    fetch.get(thing, data)
    assert verify(thing, data).state == "OK"


def test_a_receipt_without_its_folder_or_of_another_archive_counts_for_nothing(archive, data):
    thing = archive(*GOOD)
    fetch.get(thing, data)
    os.rename(data / "set", data / "elsewhere")
    assert not is_unpacked(thing, data)
    fetch.get(thing, data)
    assert is_unpacked(thing, data)
    assert not is_unpacked(archive(*GOOD, ("set/new.txt", b"new")), data)


def test_room_for_what_comes_out(archive, data, monkeypatch, server):
    room = type("Usage", (), {"free": 5_000_000})
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: room)
    with pytest.raises(DataError, match=r"thing needs 10 MB .* 5\.0 MB are free"):
        fetch.get(archive(*GOOD), data)
    assert server.asked == []
