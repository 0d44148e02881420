"""The server's process: from its settings to its exit code."""

import argparse
import asyncio
import logging
import socket
import sys
import threading
from contextlib import AsyncExitStack
from functools import partial

from fastapi import FastAPI
from pydantic import ValidationError

from lookonce_cache import StoreConfigError
from lookonce_server import logs
from lookonce_server.app import running_app, served_name
from lookonce_server.auth import tenants as access
from lookonce_server.errors import EngineError, ProfileError, ServerError, StartError
from lookonce_server.http.protocol.connection import RefusalLog
from lookonce_server.http.protocol.listener import bind
from lookonce_server.http.state import AppState
from lookonce_server.server import Server
from lookonce_server.settings import Settings, SettingsFileError, load_settings
from lookonce_server.signals import Signals, end

_HINT = """
lookonce serves {model!r} at {url}. Try, in another terminal:

  lookonce ask picture.png "How many objects are there?" "What color is the star?" --server {url}
  curl {url}/metrics

or point any OpenAI client at it:

  client = openai.OpenAI(base_url="{url}/v1", api_key="{api_key}")
"""
_WATCH_SECONDS = 0.5  # between looks at the engine
_UNDO_SECONDS = 10.0  # that a start which is broken off may take to undo what it has begun; most take none
_CLOSE_SECONDS = 10.0  # that the parts may take to close when the engine has ended
_log = logging.getLogger(__name__)


def run(arguments: list[str], signals: Signals) -> int:
    """Run the server until a signal stops it, or its engine ends.

    Args:
        arguments: the command line after `lookonce serve`.
        signals: stop it.

    Returns:
        The exit code: see `cli.serve`.
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config")
    known, flags = files.parse_known_args(arguments)
    try:
        settings = load_settings(flags, known.config)
    except ValidationError as error:
        return _fail("; ".join(_explained(e) for e in error.errors()))
    except (SettingsFileError, ProfileError) as error:
        return _fail(str(error))
    logs.configure(settings.log_level, settings.log_format)
    try:
        code = asyncio.run(_serve(settings, signals))
    except (StartError, StoreConfigError) as error:
        _log.debug("the start failed", exc_info=error)
        return _fail(str(error))
    if settings.engine == "transformers":
        end(code)
    return code


async def _serve(settings: Settings, signals: Signals) -> int:
    starting = asyncio.current_task()
    assert starting is not None
    signals.stop_by(partial(_break_off, starting, asyncio.get_running_loop()))
    try:
        async with AsyncExitStack() as parts:
            bound = bind(settings.host, settings.port)  # before the model is loaded, which takes minutes
            for one in bound:
                parts.callback(one.close)
            app = await _started(settings, parts)
            return await _listen(app, settings, bound, signals)
    except asyncio.CancelledError:  # by `_break_off`
        end(0)


async def _started(settings: Settings, parts: AsyncExitStack) -> FastAPI:
    """The app, its parts at work.

    Raises:
        StartError: it cannot be served; one sentence that says why.
        StoreConfigError: the store's URL is wrong.
    """
    try:
        return await parts.enter_async_context(running_app(settings))
    except (StartError, StoreConfigError):
        raise
    except ServerError as error:
        raise StartError(str(error)) from error
    except Exception as error:  # of the machine or of a library, and no bug that whoever starts it could mend
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise StartError(f"The server cannot be started: {what[:500]} (--log-level debug tells more)") from error


async def _listen(app: FastAPI, settings: Settings, bound: list[socket.socket], signals: Signals) -> int:
    state: AppState = app.state.parts
    model, api_key = served_name(settings), "<key>" if settings.has_keys else "any"

    def on_listening(url: str) -> None:
        print(_HINT.format(model=model, url=url, api_key=api_key), flush=True)  # noqa: T201 - for people

    server = Server(app, settings, refusals=RefusalLog(state.metrics), phase=state.phase, on_listening=on_listening)
    signals.stop_by(server.stop)
    watching = asyncio.create_task(_watch(state, server))
    try:
        await server.serve(bound)
    finally:
        watching.cancel()
    return 1 if state.phase.failure else 0


async def _watch(state: AppState, server: Server) -> None:
    """End the server once its engine has ended: whoever runs it can start another one, which this one cannot."""
    while True:
        try:
            await state.engine.ping()
        except EngineError as error:
            _log.critical("%s", error)
            state.phase.failure = str(error)
            server.stop()
            _end_after(_CLOSE_SECONDS + server.failure_seconds, 1)
            return
        await asyncio.sleep(_WATCH_SECONDS)


def _break_off(starting: asyncio.Task[int], loop: asyncio.AbstractEventLoop) -> None:
    """Break the start off; called by a signal. What it waits for in threads it does not wait for any longer."""
    _end_after(_UNDO_SECONDS, 0)
    loop.call_soon_threadsafe(starting.cancel)


def _end_after(seconds: float, code: int) -> None:
    timer = threading.Timer(seconds, end, [code])
    timer.daemon = True
    timer.start()


def _explained(error: object) -> str:
    assert isinstance(error, dict)
    what = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # settings that do not go together: the message names them
        return str(what)
    name = "--" + "-".join(str(p).replace("_", "-") for p in error["loc"])
    return access.mask_keys(f"{name}: {error['msg']} (given: {error['input']!r})")


def _fail(message: str) -> int:
    sys.stderr.write(f"lookonce serve: {message}\n")
    return 1
