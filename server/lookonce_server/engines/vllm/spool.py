"""Tensors on their way between the server and vLLM's processes: files in a folder of the server's own.

safetensors is read by mapping the file, so a worker copies only what it loads. The files live as long as the requests
that need them: a request that vLLM preempts loads its context again.
"""

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from lookonce_server.errors import ContextLostError


class _Lent:
    """A file while requests use it."""

    def __init__(self, path: Path, tensors: dict[str, Tensor]) -> None:
        self.path = path
        self.users = 0
        self.written = asyncio.ensure_future(asyncio.to_thread(save_file, tensors, path))

    def remove(self, written: asyncio.Future[None]) -> None:
        """Remove the file, once it is written, or has failed to be, which whoever waited was told."""
        written.exception()
        self.path.unlink(missing_ok=True)


class Spool:
    """The folder; readable by its owner alone, and removed by `close`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lookonce-"))
        self._names = map(str, itertools.count())
        self._lent: dict[str, _Lent] = {}

    def new_path(self) -> Path:
        """A path that nothing has been written to."""
        return self.folder / next(self._names)

    @asynccontextmanager
    async def lend(self, content: str, tensors: dict[str, Tensor]) -> AsyncIterator[Path]:
        """A file with contiguous tensors, shared by all who use the same content meanwhile.

        Args:
            content: names what the tensors hold.
            tensors: what is written.

        Raises:
            ContextLostError: it cannot be written.
        """
        lent = self._lent.get(content)
        if lent is None:
            lent = self._lent[content] = _Lent(self.new_path(), tensors)
        lent.users += 1
        try:
            try:
                await asyncio.shield(lent.written)
            except (OSError, SafetensorError) as error:  # no room, or no folder any more
                raise ContextLostError(f"The context could not be handed to vLLM: {error}") from error
            yield lent.path
        finally:
            lent.users -= 1
            if not lent.users:
                del self._lent[content]
                lent.written.add_done_callback(lent.remove)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def rank_path(path: str, rank: int) -> Path:
    """Where a tensor-parallel rank writes its part of a result."""
    return Path(f"{path}.{rank}")


def write_result(path: str, rank: int, tensors: dict[str, Tensor]) -> None:
    """Write a rank's part of a result, whole or not at all."""
    partial = Path(f"{path}.{rank}.partial")
    save_file(tensors, partial)
    partial.rename(rank_path(path, rank))


def write_failure(path: str, rank: int, reason: str) -> None:
    """Say why a rank has no result."""
    Path(f"{path}.{rank}.failed").write_text(reason, encoding="utf-8")


def take_result(path: Path, ranks: int) -> list[dict[str, Tensor]] | str:
    """The parts of a result, removed from the spool, or why there is none."""
    try:
        failures = [found.read_text(encoding="utf-8") for found in path.parent.glob(f"{path.name}.*.failed")]
        if failures:
            return failures[0]
        return [load(rank_path(str(path), rank).read_bytes()) for rank in range(ranks)]
    except FileNotFoundError:
        return "the worker wrote no result"
    finally:
        for left in path.parent.glob(f"{path.name}.*"):
            with contextlib.suppress(OSError):
                left.unlink()
