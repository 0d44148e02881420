"""Keep digests of large files between starts: 140 GB take minutes to hash.

A digest holds for one state of a file: its path, inode, size, and the times of its last modification and change. A
file that is as large as before and has its old date back (`rsync --times`, `touch`) still has another time of change,
which only whoever sets the machine's clock can choose. A file that was touched within the last seconds is hashed each
time, as its clock may not tell two writes apart.

Whoever can write into the cache file can give a checkpoint another one's digest, so that it is answered from contexts
of the other: wrong answers, and nothing else. So it lies in the user's own cache folder, beside the hub's downloads,
and counts only while it is the user's, and nobody else may write to it. Small files are never looked up in it.
"""

import contextlib
import hashlib
import json
import logging
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

LEAST_BYTES = 1 << 20  # of a file whose digest is kept
_SETTLED_NS = 2_000_000_000
_MOST_BYTES = 16 << 20  # of the cache file
_log = logging.getLogger(__name__)


class FileState(NamedTuple):
    """A file's state, as the file system tells it."""

    inode: int
    size: int
    modified: int  # ns
    changed: int  # ns

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Read the state of a file, links followed."""
        status = path.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_settled(self, now: int) -> bool:
        """Tell whether the times are so old that another write would change them."""
        return max(self.modified, self.changed) < now - _SETTLED_NS


class DigestCache:
    """Keep digests of files in a cache file of the user's.

    Args:
        path: the cache file; None: `lookonce/digests.json` in the user's cache folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or _default_path()
        self._entries = _read(self._path)
        self._new: dict[str, tuple[FileState, str]] = {}

    def digest(self, path: Path) -> str:
        """Return the BLAKE2b-256 of a file's content, in hex.

        It is safe to call from several threads.

        Raises:
            OSError: the file cannot be read.
        """
        state, now = FileState.of(path), time.time_ns()
        if state.size < LEAST_BYTES:
            return _hash(path)
        name = str(path.resolve())
        kept, digest = self._entries.get(name, (None, ""))
        if kept == state and state.is_settled(now):
            return digest
        digest = _hash(path)
        if state.is_settled(now) and FileState.of(path) == state:
            self._new[name] = state, digest
        return digest

    def save(self) -> None:
        """Write the new entries beside those of other processes, if possible."""
        if not self._new:
            return
        entries = {name: entry for name, entry in _read(self._path).items() if os.path.exists(name)} | self._new
        text = json.dumps({name: [*state, digest] for name, (state, digest) in entries.items()})
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self._path, text)
        except OSError as error:
            _log.info("digests of the checkpoint's files are not kept for the next start: %s", error)


def _default_path() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    with contextlib.suppress(RuntimeError):  # a user without a home: the path is no folder, and nothing is kept
        base = base.expanduser()
    return base / "lookonce" / "digests.json"


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _read(path: Path) -> dict[str, tuple[FileState, str]]:
    """Read the entries of the cache file that are whole, if it is to be trusted."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022 or status.st_size > _MOST_BYTES:
                return {}
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: (FileState(*entry[:-1]), entry[-1]) for name, entry in entries if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == len(FileState._fields) + 1
        and all(type(number) is int for number in entry[:-1])
        and isinstance(entry[-1], str)
        and len(entry[-1]) == 64
        and set(entry[-1]) <= set("0123456789abcdef")
    )


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner alone."""
    descriptor, partial = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
