"""The log's two forms, its requests' ids, and whose words never get into it."""

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from types import SimpleNamespace

import pytest

from lookonce_server import app, logs
from lookonce_server.errors import EngineError
from lookonce_server.logs import RequestFacts, current_request


@pytest.fixture
def log(monkeypatch):
    """Configures logging as a server does, and returns what is written then."""
    root = logging.getLogger()
    names = ("", *logs._OURS, "uvicorn.error")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = root.handlers[:]
    written = io.StringIO()

    def start(level: str, form: str) -> io.StringIO:
        root.handlers.clear()
        monkeypatch.setattr("sys.stderr", written)
        for hook in ("sys.excepthook", "sys.unraisablehook", "threading.excepthook"):
            monkeypatch.setattr(hook, None)  # and back at the end
        logs.configure(level, form)
        return written

    yield start
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def facts():
    made = RequestFacts("req_1", "POST", route="/v1/x", tenant="acme", status=200, cache="hit", seconds=0.5)
    token = current_request.set(made)
    yield made
    current_request.reset(token)


OURS = logging.getLogger("lookonce_server.somewhere")


def test_json_is_one_object_a_line(log, facts):
    written = log("info", "json")
    OURS.info("a\nb %s", "\N{SNOWMAN}")
    OURS.info("request", extra={"facts": facts})
    plain, request = [json.loads(line) for line in written.getvalue().splitlines()]
    assert plain.pop("time").endswith("Z")
    assert plain == {
        "level": "info",
        "logger": "lookonce_server.somewhere",
        "message": "a\nb \N{SNOWMAN}",
        "request_id": "req_1",
    }
    assert (
        request.items()
        >= {"request_id": "req_1", "tenant": "acme", "seconds": 0.5, "first_token_seconds": None}.items()
    )


def test_text_has_the_facts_that_there_are(log, facts):
    written = log("info", "text")
    OURS.info("hello")
    OURS.info("request", extra={"facts": facts})
    hello, request = written.getvalue().splitlines()
    assert hello.endswith(" INFO lookonce_server.somewhere: hello request_id=req_1")
    assert request.endswith(
        ": request request_id=req_1 method=POST route=/v1/x tenant=acme status=200 cache=hit seconds=0.5"
    )


def test_a_line_of_no_request_has_no_id(log):
    written = log("info", "json")
    OURS.info("hello")
    assert "request_id" not in json.loads(written.getvalue())


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_is_of_our_own_lines_and_libraries_only_warn(log, level):
    written = log(level, "text")
    levels = ("debug", "info", "warning", "error")
    for name in ("lookonce_server.x", "lookonce_cache.x", "httpx2", "PIL.TiffImagePlugin"):
        for one in levels:
            getattr(logging.getLogger(name), one)("%s of %s", one, name)
    said = written.getvalue()
    for name in ("lookonce_server.x", "lookonce_cache.x"):
        assert [one for one in levels if f"{one} of {name}" in said] == list(levels[levels.index(level) :])
    for name in ("httpx2", "PIL.TiffImagePlugin"):
        assert [one for one in levels if f"{one} of {name}" in said] == ["warning", "error"]


@pytest.mark.anyio
async def test_what_monitors_ask_is_told_at_debug_only_unless_it_is_bad(client, bench, log, monkeypatch):
    written = log("info", "json")
    for path in ("/health", "/ready", "/metrics"):
        assert (await client.get(path)).status_code == 200
        assert (await client.head(path)).status_code == 200
    assert written.getvalue() == ""

    async def ping() -> None:
        raise EngineError("It has failed.")

    await client.get("/v1/models")
    monkeypatch.setattr(bench.engine, "ping", ping)
    await client.get("/ready")
    told = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["route"], line["status"]) for line in told if line["message"] == "request"] == [
        ("/v1/models", 200),
        ("/ready", 503),
    ]
    log("debug", "json")
    await client.get("/health")
    last = json.loads(written.getvalue().splitlines()[-1])
    assert (last["route"], last["level"]) == ("/health", "debug")


@pytest.mark.parametrize("form", ["json", "text"])
def test_errors_are_traced_and_quote_nobody(log, form):
    """Also those that others came of, and groups."""
    written = log("info", form)
    quoted = "".join(["bi", "cycle"])  # so that the source lines of the trace do not have it
    try:
        try:
            json.loads(quoted)
        except ValueError as error:
            raise ExceptionGroup(quoted, [KeyError(quoted), UnicodeDecodeError("utf-8", b"", 0, 1, quoted)]) from error
    except ExceptionGroup:
        OURS.exception("it failed")
    try:
        raise OSError("no space left")
    except OSError:
        OURS.exception("it failed")
    said = written.getvalue()
    assert quoted not in said
    for kind in ("json.decoder.JSONDecodeError", "KeyError", "UnicodeDecodeError", "ExceptionGroup", "test_logs.py"):
        assert kind in said
    assert "builtins.OSError: no space left" in said


def test_what_python_would_write_itself_is_json_too(log):
    """A warning, and errors that nothing catches: in the main thread, in another one, and where none can be raised."""
    written = log("info", "json")
    warnings.showwarning("old\nuse", DeprecationWarning, "a.py", 1)
    sys.excepthook(KeyError, KeyError("secret"), None)
    sys.unraisablehook(SimpleNamespace(exc_value=ValueError("secret"), err_msg=None, object=None))
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["logger"] for line in lines] == ["py.warnings", *3 * ["lookonce_server.logs"]]
    assert "DeprecationWarning: old" in lines[0]["message"]
    ends = [line["exception"].rpartition("\n")[2] for line in lines[1:]]
    assert ends == ["builtins.KeyError", "builtins.ValueError", "builtins.ZeroDivisionError"]


def test_a_log_of_text_leaves_pythons_own_words_alone(log):
    log("info", "text")
    assert (sys.excepthook, threading.excepthook) == (None, None)


def test_vllms_log_is_json_too():
    """By the file that vLLM's processes are given; they are processes of their own, as here."""
    code = (
        "import json, logging.config, sys; logging.config.dictConfig(json.load(open(sys.argv[1])));"
        " log = logging.getLogger('vllm.engine'); log.info('too much'); log.warning('a\\nb')"
    )
    command = [sys.executable, "-c", code, str(app._VLLM_JSON_LOG)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = run.stderr.splitlines()
    assert run.stdout == ""
    assert {"level": "warning", "logger": "vllm.engine", "message": "a\nb"}.items() <= json.loads(line).items()
