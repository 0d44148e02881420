"""The hand-over folder: made anew when it vanishes, swept when its server was killed, away from cleaners."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from lookonce_server.engines.vllm.connector.files import (
    SharedFiles,
    default_base,
    take_result,
    write_failure,
    write_result,
)
from lookonce_server.errors import ContextLostError, ModelRefusedError

pytestmark = pytest.mark.anyio

MEMORY = Path("/dev/shm")  # noqa: S108 - it is what is tested
TENSORS = {"keys": torch.zeros(2, 3)}
NBYTES = 24


def tensors() -> dict[str, torch.Tensor]:
    return TENSORS


def never() -> dict[str, torch.Tensor]:
    raise AssertionError("it is there")


@pytest.fixture
def files(tmp_path):
    files = SharedFiles(tmp_path / "some" / "place")
    yield files
    files.close()


@pytest.fixture
def keeping(tmp_path):
    """Files of which two are kept."""
    files = SharedFiles(tmp_path, max_idle_bytes=2 * NBYTES)
    yield files
    files.close()


async def use(files, content, make=tensors) -> Path:
    async with files.share(content, make) as path:
        assert path.exists()
    await asyncio.sleep(0)
    return path


async def test_the_last_files_are_kept_for_the_next_users(keeping):
    a, b = await use(keeping, "a"), await use(keeping, "b")
    assert await use(keeping, "a", never) == a
    c = await use(keeping, "c")
    assert sorted(keeping.folder.iterdir()) == sorted([a, c])  # b was used before a
    async with keeping.share("a", never), keeping.share("c", never), keeping.share("b", tensors) as path:
        assert path != b
        await use(keeping, "d")
        assert len(list(keeping.folder.iterdir())) == 4  # what is in use is not counted
    await asyncio.sleep(0)
    assert len(list(keeping.folder.iterdir())) == 2
    keeping.drop_idle()
    await asyncio.sleep(0)
    assert list(keeping.folder.iterdir()) == []


async def test_many_users_at_once_share_one_file_and_leave_it_once(keeping):
    made = []

    def make():
        made.append(1)
        return TENSORS

    paths = await asyncio.gather(*(use(keeping, "a", make) for _ in range(20)))
    assert len(set(paths)) == len(made) == 1
    assert list(keeping.folder.iterdir()) == [paths[0]]


async def test_files_that_are_kept_make_room(keeping):
    await use(keeping, "a")

    def make():
        if any(keeping.folder.iterdir()):
            raise OSError(28, "No space left on device")
        return TENSORS

    await use(keeping, "b", make)
    with pytest.raises(ContextLostError, match="No space left"):
        async with keeping.share("b", never), keeping.share("c", make):
            pass


@pytest.mark.parametrize("gone", [False, True])
async def test_a_file_that_did_not_do_is_not_kept(keeping, gone):
    with pytest.raises(ContextLostError):
        async with keeping.share("a", tensors) as path:
            raise ContextLostError("It was damaged.")
    await asyncio.sleep(0)
    assert not path.exists()
    other = await use(keeping, "a")
    if gone:
        other.unlink()
        assert await use(keeping, "a") != other


async def test_a_maker_that_fails_is_asked_again(keeping):
    def fail():
        raise RuntimeError("no memory")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no memory"):
            await use(keeping, "a", fail)
    await use(keeping, "a")


async def test_a_file_lives_as_long_as_it_is_used(files):
    async with files.share("a", tensors) as first:
        async with files.share("a", tensors) as second:
            assert first == second
        assert first.exists()
    await asyncio.sleep(0)
    assert list(files.folder.iterdir()) == []
    assert files.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_folder_that_vanished_is_made_anew(files, replaced):
    async with files.share("a", tensors) as path:
        gone = path.parent
        shutil.rmtree(gone)
        if replaced:
            gone.touch()
        async with files.share("a", tensors) as other:
            assert other.exists()
            assert other.parent != gone
    assert files.new_path().parent.is_dir()
    await asyncio.sleep(0)
    assert list(files.folder.iterdir()) == []


async def test_without_any_folder_a_context_is_lost_and_afterwards_not(files):
    place = files.folder.parent
    shutil.rmtree(place)
    place.touch()
    with pytest.raises(ContextLostError, match=r"could not be handed to vLLM: .*place"):
        async with files.share("a", tensors):
            pass
    place.unlink()
    async with files.share("a", tensors) as path:
        assert path.exists()


def test_where_no_folder_can_be_made_the_setting_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ModelRefusedError, match=r"--handover-dir .*file: no folder can be made there"):
        SharedFiles(tmp_path / "file")


def test_what_a_rank_leaves_is_taken_once(files):
    path = files.new_path()
    write_result(str(path), 0, TENSORS)
    assert [list(shard) for shard in take_result(path, 1)] == [["keys"]]
    assert take_result(path, 1) == f"no result was written to {files.folder}"
    write_failure(str(path), 0, "it was not seen")
    assert take_result(path, 1) == "it was not seen"
    write_failure(str(path), 0, "")
    assert take_result(path, 1) == f"nothing can be written to {files.folder}"
    path.with_name(f"{path.name}.0").write_bytes(b"half of it")
    assert take_result(path, 1).startswith("its result cannot be read")
    assert list(files.folder.iterdir()) == []


KEEPING = """
import sys, time
from pathlib import Path
from lookonce_server.engines.vllm.connector.files import SharedFiles
print(SharedFiles(Path(sys.argv[1])).folder, flush=True)
time.sleep(600)
"""


def test_what_a_killed_server_has_left_is_swept_and_nothing_else(tmp_path):
    files = SharedFiles(tmp_path)
    foreign = tmp_path / "lookonce-handover-of-mine.txt"
    foreign.write_text("no folder")
    with subprocess.Popen([sys.executable, "-c", KEEPING, str(tmp_path)], stdout=subprocess.PIPE, text=True) as killed:
        folder = Path(killed.stdout.readline().strip())
        (folder / "0").write_bytes(b"left")
        SharedFiles(tmp_path).close()
        assert folder.is_dir()  # its owner lives
        killed.send_signal(signal.SIGKILL)
    SharedFiles(tmp_path).close()
    assert sorted(tmp_path.iterdir()) == sorted([files.folder, foreign])
    files.close()


def test_it_is_in_memory_where_there_is_room_and_else_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    total = shutil.disk_usage(MEMORY).total
    monkeypatch.setattr("lookonce_server.engines.vllm.connector.files._LEAST_BYTES", total)
    assert default_base() == MEMORY
    monkeypatch.setattr("lookonce_server.engines.vllm.connector.files._LEAST_BYTES", total + 1)
    assert default_base() == tmp_path / "lookonce"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert default_base() == Path(tempfile.gettempdir())
