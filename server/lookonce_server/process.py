"""The server's process: from its settings to its exit code."""

import asyncio
import logging
import socket
from contextlib import AsyncExitStack
from functools import partial

from fastapi import FastAPI

from lookonce_cache import StoreConfigError
from lookonce_server.app import running_app
from lookonce_server.banner import announce, warnings_of
from lookonce_server.errors import EngineError, ServerError, StartError
from lookonce_server.http.protocol.connection import RefusalLog
from lookonce_server.http.protocol.listener import bind
from lookonce_server.http.routes.operations import store_state
from lookonce_server.http.state import AppState
from lookonce_server.server import Server
from lookonce_server.settings import Settings
from lookonce_server.signals import Signals, end, end_after

_WATCH_SECONDS = 0.5  # between looks at the engine
_UNDO_SECONDS = 10.0  # that a start which is broken off may take to undo what it has begun; most take none
_CLOSE_SECONDS = 10.0  # that the parts may take to close when the engine has ended
_log = logging.getLogger(__name__)


def run(settings: Settings, signals: Signals) -> int:
    """Run the server until a signal stops it or its engine ends.

    Args:
        settings: of the server.
        signals: stop it.

    Returns:
        The exit code: see `cli.serve`.

    Raises:
        StartError: it cannot be started; one sentence that says why.
    """
    code = asyncio.run(_serve(settings, signals))
    if settings.engine == "transformers":
        end(code)
    return code


async def _serve(settings: Settings, signals: Signals) -> int:
    starting = asyncio.current_task()
    assert starting is not None
    signals.stop_by(partial(_break_off, starting, asyncio.get_running_loop()))
    try:
        async with AsyncExitStack() as parts:
            sockets = bind(settings.host, settings.port)  # before the model is loaded, which takes minutes
            for bound in sockets:
                parts.callback(bound.close)
            app = await _started(settings, parts)
            return await _listen(app, settings, sockets, signals)
    except asyncio.CancelledError:  # by `_break_off`
        end(0)


async def _started(settings: Settings, parts: AsyncExitStack) -> FastAPI:
    """Start the app with its parts.

    Raises:
        StartError: it cannot be served; one sentence that says why.
    """
    try:
        return await parts.enter_async_context(running_app(settings))
    except StartError:
        raise
    except (ServerError, StoreConfigError) as error:
        raise StartError(str(error)) from error
    except Exception as error:  # of the machine or of a library, and no bug that whoever starts it could mend
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise StartError(f"The server cannot be started: {text[:500]} (--log-level debug tells more)") from error


async def _listen(app: FastAPI, settings: Settings, sockets: list[socket.socket], signals: Signals) -> int:
    state: AppState = app.state.parts
    warnings = warnings_of(settings, await store_state(state))
    server = Server(
        app,
        settings,
        refusals=RefusalLog(state.metrics),
        lifecycle=state.lifecycle,
        on_listening=lambda url: announce(settings, url, warnings),
    )
    signals.stop_by(server.stop)
    watching = asyncio.create_task(_watch(state, server))
    try:
        await server.serve(sockets)
    finally:
        watching.cancel()
    return 1 if state.lifecycle.failure else 0


async def _watch(state: AppState, server: Server) -> None:
    """End the server once its engine has ended, so that a supervisor starts another."""
    while True:
        try:
            await state.engine.ping()
        except EngineError as error:
            _log.critical("%s", error)
            state.lifecycle.failure = str(error)
            server.stop()
            end_after(_CLOSE_SECONDS + server.failure_seconds, 1)
            return
        await asyncio.sleep(_WATCH_SECONDS)


def _break_off(starting: asyncio.Task[int], loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the start, at a signal, and wait no longer for its threads."""
    end_after(_UNDO_SECONDS, 0)
    loop.call_soon_threadsafe(starting.cancel)
