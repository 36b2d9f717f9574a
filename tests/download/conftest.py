"""A server on this machine that does what servers on the internet do, and entries that point at it."""

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_download.registry import Entry


class Server:
    """Answers each path as `answers` says, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.answers, self.asked, self.free = {}, [], threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.path, self.headers.get("Range")))
                answer = outer.answers.get(self.path)
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)

            def log_message(self, *_):
                pass

        self.web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.web.daemon_threads = True
        self.web.handle_error = lambda *_: None    # who closes the line in the middle is the test
        self.address = f"http://127.0.0.1:{self.web.server_port}"
        threading.Thread(target=self.web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self.free.set()
        self.web.shutdown()
        self.web.server_close()

    # What a path can answer with. `most`: bytes after which the line is cut.

    def whole(self, body: bytes, most: int | None = None, length: bool = True):
        def answer(request):
            request.send_response(200)
            if length:
                request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body[:most])
        return answer

    def resumable(self, body: bytes, most: int | None = None, shift: int = 0):
        def answer(request):
            asked = request.headers.get("Range")
            if not asked:
                return self.whole(body, most)(request)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) + shift
            if start >= len(body):
                return request.send_error(416)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            request.send_header("Content-Length", str(len(body) - start))
            request.end_headers()
            request.wfile.write(body[start:][:most])
        return answer

    def status(self, code: int):
        return lambda request: request.send_error(code)

    def redirect(self, place: str):
        def answer(request):
            request.send_response(302)
            request.send_header("Location", place)
            request.send_header("Content-Length", "0")
            request.end_headers()
        return answer

    def hang(self, body: bytes = b"", most: int = 0):
        """Silent before the first byte, or after some."""
        def answer(request):
            if most:
                self.whole(body, most)(request)
                request.wfile.flush()
            self.free.wait(20)
        return answer

    def endless(self, request):
        """Far more than any file here has; not truly endless, for the disk of who breaks the guard."""
        request.send_response(200)
        request.end_headers()
        for _ in range(200):
            request.wfile.write(b"x" * 65536)


@pytest.fixture
def server():
    one = Server()
    yield one
    one.stop()


@pytest.fixture
def body() -> bytes:
    """A file that is larger than a chunk."""
    return bytes(range(256)) * 6000    # 1.5 MB


@pytest.fixture
def data(tmp_path):
    """The data folder; not there yet."""
    return tmp_path / "data"


@pytest.fixture
def entry(server):
    """Makes an entry for a file with some content; by default its sources are /a and /b of the server."""

    def make(content: bytes, **change) -> Entry:
        fields = {
            "name": "thing",
            "what": "a thing",
            "file": "weights/thing.pth",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "verified": True,
            "checksum_from": "the test",
            "licence": "none",
            "sources": [f"{server.address}/a", f"{server.address}/b"],
        }
        return Entry(**fields | change)

    return make


@pytest.fixture
def archive(entry, server):
    """Makes a tar and an entry for it from (name or TarInfo, content) pairs; the server gives it under /a."""

    def make(*members, mode="w", **change) -> Entry:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode) as tar:
            for member, content in members:
                info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        server.answers["/a"] = server.whole(stream.getvalue())
        fields = {"file": "archives/set.tar", "unpack_into": ".", "holds": "set", "unpacked_at_most": 10**7}
        return entry(stream.getvalue(), **fields | change)

    return make
