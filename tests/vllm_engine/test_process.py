"""The processes of a server that runs vLLM: they end together, however one of them ends, and leave nothing behind."""

import threading
import time
from pathlib import Path

import openai
import psutil

from ..support.pictures import find_question, messages, picture_url
from ..support.server_process import MODEL, VLLM, LookonceServer

SEED = 430
SECONDS = 120.0  # only a failure, or a very busy machine, waits that long


def wait_until(found):
    deadline = time.monotonic() + SECONDS
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def processes(server: LookonceServer) -> list[psutil.Process]:
    """Of the server: vLLM's, and those that decode images; not Python's own, which cleans up behind them."""
    children = psutil.Process(server.pid).children(recursive=True)
    return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def shared_memory(some: list[psutil.Process]) -> set[Path]:
    """Segments that they have mapped."""
    paths = {mapped.path for one in some for mapped in one.memory_maps()}
    return {Path(path) for path in paths if path.startswith("/dev/shm/psm_")}  # noqa: S108 - that is where they are


def handed_over(folder: Path) -> list[Path]:
    return list(folder.glob("lookonce-handover-*"))


def successor(folder: Path, left: Path) -> Path | None:
    """The folder of a server that has swept what another one left, once it has."""
    folders = handed_over(folder)
    return folders[0] if len(folders) == 1 and folders != [left] else None


def ask(server: LookonceServer, **options):
    with server.openai() as client:
        content = messages(find_question(SEED), picture_url(SEED))
        return client.chat.completions.create(model=MODEL, messages=content, max_tokens=24, **options)


def test_a_server_whose_engine_is_killed_tells_its_clients_and_ends(tmp_path):
    """Requests are under way: the engine is stopped before it is asked, so that it cannot be quick.

    No describe pass is, which they would wait for, and no stream begins before the engine ends.
    """
    with LookonceServer("--handover-dir", str(tmp_path), "--stream-silence", "300", *VLLM) as server:
        assert ask(server).choices[0].message.content
        server.wait_for("describes_total", 1, result="done")
        assert server.get("/health").status_code == 200
        (core,) = [one for one in processes(server) if "EngineCore" in " ".join(one.cmdline())]
        core.suspend()
        heard = []

        def wait_for_an_answer(stream: bool) -> None:
            try:
                ask(server, stream=stream)
            except openai.APIError as error:
                heard.append(error)

        waiting = [threading.Thread(target=wait_for_an_answer, args=(stream,)) for stream in (False, True)]
        for thread in waiting:
            thread.start()
        wait_until(lambda: server.metric("queue_depth") >= 2)
        core.kill()
        for thread in waiting:
            thread.join()
        assert [(error.status_code, error.code) for error in heard] == [(503, "engine_ended")] * 2
        assert server.wait() == 1
        assert "The engine has ended, and the server ends with it." in server.log()
        server.kill()
    assert handed_over(tmp_path) == []


def test_whatever_ends_the_server_ends_its_processes_too(tmp_path):
    """Killed at work, killed in the middle of a start, told to stop in the middle of a start."""
    server = LookonceServer("--handover-dir", str(tmp_path), *VLLM)
    with server:
        ask(server)
        started = processes(server)
        shared = shared_memory(started)
        assert shared
        server.kill()
        wait_until(lambda: are_gone(started))
        wait_until(lambda: not any(map(Path.exists, shared)))  # by multiprocessing itself
        (left,) = handed_over(tmp_path)

        server.launch()
        own = wait_until(lambda: successor(tmp_path, left))
        started = wait_until(lambda: processes(server))
        server.kill()
        wait_until(lambda: are_gone(started))

        server.launch()
        wait_until(lambda: successor(tmp_path, own))
        started = wait_until(lambda: processes(server))
        server.begin_to_stop()
        assert server.wait() == 0
        wait_until(lambda: are_gone(started))
        assert "Traceback" not in server.log()
        assert handed_over(tmp_path) == []
        server.kill()
