"""Hand tensors over between the server and vLLM's processes, in files.

safetensors is read by mapping the file, so a worker copies only what it loads. A file lives at least as long as the
requests that need it: a request that vLLM preempts loads its context again. The last ones are kept for the next
requests, up to a bound. A folder that vanishes, or is full, costs the requests that needed it then: the next ones have
a new one.
"""

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from lookonce_server.errors import ContextLostError, ModelRefusedError

_PREFIX = "lookonce-handover-"
_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder made in it is its owner's alone
_LEAST_BYTES = 1024**3  # of a file system in memory; a container's /dev/shm has 64 MiB, which one large model's fills
_log = logging.getLogger(__name__)


class _Folder:
    """A folder of its owner alone, locked while the owner lives: see `sweep`."""

    def __init__(self, base: Path) -> None:
        while True:
            base.mkdir(parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            with contextlib.suppress(FileNotFoundError):  # another server has swept it before it was locked
                self._lock = _locked(self.path)
                return

    def remove(self) -> None:
        """Remove the folder, with whatever is left of it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _SharedFile:
    """A file of tensors, which some requests use, or none.

    Args:
        path: where it is written to, now.
        make: makes what is written: contiguous tensors.
    """

    def __init__(self, path: Path, make: Callable[[], dict[str, Tensor]]) -> None:
        self.path = path
        self.users = 0
        self.nbytes = 0
        self.written = asyncio.ensure_future(asyncio.to_thread(self._write, make))

    @property
    def is_usable(self) -> bool:
        """Tell whether the file is being written, or is there."""
        return not self.written.done() or (self.nbytes > 0 and self.path.exists())

    def remove(self) -> None:
        """Remove the file, once it is written or has failed to be."""
        self.written.add_done_callback(self._unlink)

    def _write(self, make: Callable[[], dict[str, Tensor]]) -> None:
        tensors = make()
        save_file(tensors, self.path)
        self.nbytes = sum(tensor.nbytes for tensor in tensors.values())

    def _unlink(self, written: asyncio.Future[None]) -> None:
        written.exception()
        with contextlib.suppress(OSError):
            self.path.unlink()


class SharedFiles:
    """Keep the files of a hand-over folder, which `close` removes.

    Folders that a killed server has left beside it are swept.

    Args:
        base: where the folder is made; None chooses, see `default_base`.
        max_idle_bytes: of the files that no request uses, the least recently used of which are removed first.

    Raises:
        ModelRefusedError: no folder can be made there.
    """

    def __init__(self, base: Path | None = None, *, max_idle_bytes: int = 0) -> None:
        self._base = base or default_base()
        try:
            self._folder = _Folder(self._base)
        except OSError as error:
            raise ModelRefusedError(
                f"--handover-dir {self._base}: no folder can be made there ({error.strerror}). Give one that vLLM's"
                " processes can write to, in memory where there is room."
            ) from error
        sweep(self._base)
        self._names = map(str, itertools.count())
        self._shared: dict[str, _SharedFile] = {}
        self._idle: OrderedDict[str, _SharedFile] = OrderedDict()  # of the shared ones, those that nobody uses
        self._max_idle_bytes = max_idle_bytes

    @property
    def folder(self) -> Path:
        """Return the folder, made anew if it is gone.

        Raises:
            OSError: it cannot be.
        """
        if not self._folder.path.is_dir():
            _log.warning("the hand-over folder %s is gone; another one is made", self._folder.path)
            self._folder.remove()
            self._folder = _Folder(self._base)
        return self._folder.path

    def new_path(self) -> Path:
        """Return a path that nothing has been written to.

        Raises:
            OSError: there is no folder, and none can be made.
        """
        return self.folder / next(self._names)

    @asynccontextmanager
    async def share(self, content: str, make: Callable[[], dict[str, Tensor]]) -> AsyncIterator[Path]:
        """Share a file of tensors among users of the same content, and write it unless it is there.

        Args:
            content: names what the tensors hold.
            make: makes them, contiguous; called in a thread, unless the file is there.

        Raises:
            ContextLostError: it cannot be written.
        """
        try:
            shared = await self._take(content, make)
        except (OSError, SafetensorError):  # no room, or no folder any more
            self.drop_idle()
            try:
                shared = await self._take(content, make)
            except (OSError, SafetensorError) as error:
                raise ContextLostError(f"The context could not be handed to vLLM: {error}") from error
        try:
            yield shared.path
        except ContextLostError:  # whatever is wrong with the file, the next one may be right
            if self._shared.get(content) is shared:
                del self._shared[content]
            raise
        finally:
            self._release(content, shared)

    def drop_idle(self, max_bytes: int = 0) -> None:
        """Remove files that no request uses, the least recently used ones first.

        Args:
            max_bytes: of those that are left.
        """
        nbytes = sum(shared.nbytes for shared in self._idle.values())
        while nbytes > max_bytes:
            content, shared = self._idle.popitem(last=False)
            del self._shared[content]
            nbytes -= shared.nbytes
            shared.remove()

    async def _take(self, content: str, make: Callable[[], dict[str, Tensor]]) -> _SharedFile:
        """Return a file in use, once it is written.

        Raises:
            OSError, SafetensorError: it cannot be.
        """
        shared = self._shared.get(content)
        self._idle.pop(content, None)
        if shared is None or not shared.is_usable:
            shared = self._shared[content] = _SharedFile(self.new_path(), make)
        shared.users += 1
        try:
            await asyncio.shield(shared.written)
        except BaseException:
            self._release(content, shared)
            raise
        return shared

    def _release(self, content: str, shared: _SharedFile) -> None:
        """Let go of a file; keep it, if nobody uses it and there is room."""
        shared.users -= 1
        if shared.users:
            return
        if self._shared.get(content) is not shared:  # its folder was gone, and there is a new one
            shared.remove()
        elif shared.is_usable:
            self._idle[content] = shared
            self.drop_idle(self._max_idle_bytes)
        else:
            del self._shared[content]
            shared.remove()

    def close(self) -> None:
        """Remove the folder."""
        self._folder.remove()


def default_base() -> Path:
    """Choose a place for hand-over folders: in memory if there is room.

    Else they are on the disk.

    It is none of the places that are cleaned by the age of files, where there is any other.
    """
    in_memory = [_MEMORY, *map(Path, filter(None, [os.environ.get("XDG_RUNTIME_DIR")]))]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    for base in in_memory:
        if os.access(base, os.W_OK | os.X_OK) and shutil.disk_usage(base).total >= _LEAST_BYTES:
            return base
    with contextlib.suppress(OSError):
        (cache / "lookonce").mkdir(parents=True, exist_ok=True)
    if os.access(cache / "lookonce", os.W_OK | os.X_OK):
        return cache / "lookonce"
    return Path(tempfile.gettempdir())


def sweep(base: Path) -> None:
    """Remove the hand-over folders of this user that no process has locked."""
    for folder in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.geteuid() or (lock := _locked(folder)) is None:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            _log.info("removed %s, which a server that was killed had left", folder)


def _locked(folder: Path) -> int | None:
    """Lock a folder; None if another process has the lock, or there is none.

    The descriptor that is returned holds it.

    Cleaners of temporary files such as systemd-tmpfiles leave a locked folder alone.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened


def rank_path(path: str, rank: int) -> Path:
    """Return the path of a tensor-parallel rank's part of a result."""
    return Path(f"{path}.{rank}")


def write_result(path: str, rank: int, tensors: dict[str, Tensor]) -> None:
    """Write a rank's part of a result, whole or not at all."""
    partial = Path(f"{path}.{rank}.partial")
    try:
        save_file(tensors, partial)
        partial.rename(rank_path(path, rank))
    except BaseException:
        partial.unlink(missing_ok=True)  # the room that it takes is wanted
        raise


def write_failure(path: str, rank: int, reason: str) -> None:
    """Write the reason for which a rank has no result."""
    Path(f"{path}.{rank}.failed").write_text(reason, encoding="utf-8")


def take_result(path: Path, ranks: int) -> list[dict[str, Tensor]] | str:
    """Read the parts of a result, and remove them; or return the problem."""
    try:
        failures = [file.read_text(encoding="utf-8") for file in path.parent.glob(f"{path.name}.*.failed")]
        if failures:
            return next(filter(None, failures), f"nothing can be written to {path.parent}")
        return [load(rank_path(str(path), rank).read_bytes()) for rank in range(ranks)]
    except FileNotFoundError:
        return f"no result was written to {path.parent}"
    except (OSError, SafetensorError) as error:
        return f"its result cannot be read: {error}"
    finally:
        for left in path.parent.glob(f"{path.name}.*"):
            with contextlib.suppress(OSError):
                left.unlink()
