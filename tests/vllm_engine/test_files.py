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


@pytest.fixture
def files(tmp_path):
    files = SharedFiles(tmp_path / "some" / "place")
    yield files
    files.close()


async def test_a_file_lives_as_long_as_it_is_used(files):
    async with files.share("a", TENSORS) as first:
        async with files.share("a", TENSORS) as second:
            assert first == second
        assert first.exists()
    await asyncio.sleep(0)
    assert list(files.folder.iterdir()) == []
    assert files.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_folder_that_vanished_is_made_anew(files, replaced):
    async with files.share("a", TENSORS) as path:
        gone = path.parent
        shutil.rmtree(gone)
        if replaced:
            gone.touch()
        async with files.share("a", TENSORS) as other:
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
        async with files.share("a", TENSORS):
            pass
    place.unlink()
    async with files.share("a", TENSORS) as path:
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
