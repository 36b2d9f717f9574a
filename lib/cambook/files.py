"""Files that are there as a whole or not at all, whatever happens while they are written."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives another path to write to; what is there at the end replaces `path` in one step.

    After an exception, an interruption or a power cut `path` is what it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two workers may write the same shard when one was thought dead.
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
