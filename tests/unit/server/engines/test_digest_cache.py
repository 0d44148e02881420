"""Digests of large files are kept between starts, and none is believed that may be of other bytes."""

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lookonce_server.engines import digest_cache
from lookonce_server.engines.checkpoint import file_digest
from lookonce_server.engines.digest_cache import LEAST_BYTES, DigestCache

KEPT = "0" * 64  # no digest of any file's: shows that one was taken from the cache


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cache" / "digests.json"


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """A file that is large enough, and settled: the clock goes ten seconds ahead of the file system's."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(os.urandom(LEAST_BYTES))
    at = time.time_ns() + 10 * 10**9
    monkeypatch.setattr(digest_cache.time, "time_ns", lambda: at)
    return file


def digest(path: Path, file: Path) -> str:
    cache = DigestCache(path)
    found = cache.digest(file)
    cache.save()
    return found


def plain(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=32).hexdigest()


def mark(path: Path) -> None:
    """Put a digest into each entry that none of the files has."""
    entries = json.loads(path.read_text())
    path.write_text(json.dumps({name: [*entry[:-1], KEPT] for name, entry in entries.items()}))


def test_a_file_is_hashed_once(path, weights):
    assert digest(path, weights) == plain(weights)
    mark(path)
    assert digest(path, weights) == KEPT
    link = weights.with_name("link")
    link.symlink_to(weights)
    assert digest(path, link) == KEPT


def test_a_second_start_reads_no_weights(tmp_path, weights, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    first = file_digest(tmp_path)
    assert file_digest(tmp_path) == first
    mark(tmp_path / "xdg" / "lookonce" / "digests.json")
    assert file_digest(tmp_path) != first


def test_another_content_of_the_same_size_and_date_is_another_digest(path, weights):
    """As `rsync --times` and `touch --reference` leave it: in place, or as a new file of the name."""
    digest(path, weights)
    mark(path)
    before = weights.stat()
    for write in (Path.write_bytes, _replaced):
        write(weights, os.urandom(LEAST_BYTES))
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert digest(path, weights) == plain(weights)


def _replaced(file: Path, content: bytes) -> None:
    file.with_name("new").write_bytes(content)
    file.with_name("new").replace(file)


def test_a_file_that_was_just_written_is_hashed_each_time(path, weights, monkeypatch):
    monkeypatch.setattr(digest_cache.time, "time_ns", lambda: weights.stat().st_mtime_ns + 10**9)
    digest(path, weights)
    assert not path.exists()
    os.utime(weights, ns=(0, 2**62))  # in the far future
    digest(path, weights)
    assert not path.exists()


def test_an_entry_is_not_believed_soon_after_the_file_was_written(path, weights, monkeypatch):
    digest(path, weights)
    mark(path)
    monkeypatch.setattr(digest_cache.time, "time_ns", lambda: weights.stat().st_mtime_ns + 10**9)
    assert digest(path, weights) == plain(weights)


def test_a_small_file_is_always_hashed(path, weights):
    weights.write_bytes(b"x" * (LEAST_BYTES - 1))
    digest(path, weights)
    assert not path.exists()


def test_a_damaged_cache_costs_time_alone(path, weights):
    path.parent.mkdir()
    entry = [*digest_cache.FileState.of(weights), KEPT]
    broken = [[*entry[:-1], "g" * 64], [*entry[:-1], 5], entry[:-1], [*entry, 1], [True, *entry[1:]], None, "text", {}]
    contents = ["", "{", "[]", "null", "\udcff", "[" * 10_000, '{"a": 1}']
    contents += [json.dumps({str(weights): one}) for one in broken]
    for content in contents:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
        assert digest(path, weights) == plain(weights), content
        mark(path)
        assert digest(path, weights) == KEPT  # and it is whole again


def test_a_cache_that_others_may_write_to_is_not_believed(path, weights):
    digest(path, weights)
    assert path.stat().st_mode & 0o777 == 0o600
    mark(path)
    for mode in (0o620, 0o602):
        path.chmod(mode)
        assert DigestCache(path).digest(weights) == plain(weights)


def test_a_folder_that_cannot_be_written_to_costs_time_alone(path, weights):
    path.parent.write_text("not a folder")
    assert digest(path, weights) == plain(weights)
    assert digest(path, weights) == plain(weights)


def test_writers_at_once_leave_a_whole_file(path, weights):
    files = [weights.with_name(f"{i}.safetensors") for i in range(8)]
    for file in files:
        file.write_bytes(weights.read_bytes())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda file: digest(path, file), files))
    assert json.loads(path.read_text())
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # nothing is left of the others
    files[0].unlink()
    assert digest(path, weights) == plain(weights)
    assert str(files[0]) not in json.loads(path.read_text())  # of files that are gone nothing is kept
