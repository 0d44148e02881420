"""`lookonce serve`, and `lookonce new-key`."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import NoReturn

from pydantic import ValidationError

from lookonce_cache import InvalidContextError, StoreConfigError, check_tenant
from lookonce_server import access, logs
from lookonce_server.api.app import running_app, served_name
from lookonce_server.connection import RefusalLog
from lookonce_server.errors import AccessConfigError, ModelRefusedError, ProfileError
from lookonce_server.serving import Server
from lookonce_server.settings import Settings, SettingsFileError, load_settings

_HINT = """
lookonce serves {model!r} at {url}. Try, in another terminal:

  lookonce ask picture.png "How many objects are there?" "What color is the star?" --server {url}
  curl {url}/metrics

or point any OpenAI client at it:

  client = openai.OpenAI(base_url="{url}/v1", api_key="{api_key}")
"""

_NEW_KEY = """
The key, for the client; it is kept nowhere else:

  {key}

Its line in the file of --api-keys, below [tenants]; a tenant's further keys go into the same list:

  "{tenant}" = ["sha256:{hash}"]

or, without a file, its entry in the environment of the server; further ones follow after a comma:

  LOOKONCE_API_KEY_HASHES={tenant}=sha256:{hash}
"""


def serve(arguments: list[str]) -> int:
    """Run the server until it is interrupted.

    Args:
        arguments: the command line after `lookonce serve`.

    Returns:
        The exit code: 0, or 1 when it could not start, with one line that says why.
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
        code = asyncio.run(_run(settings))
    except KeyboardInterrupt:
        code = 0
    except (ModelRefusedError, StoreConfigError, AccessConfigError, ProfileError) as error:
        return _fail(str(error))
    if settings.engine == "transformers":
        _end(code)
    return code


def new_key(arguments: list[str]) -> int:
    """Print a fresh API key, and what of it belongs in the file of `--api-keys`.

    Args:
        arguments: the command line after `lookonce new-key`.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="lookonce new-key", description=new_key.__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("tenant", help="whose key it is: letters, digits, '.', '_' or '-'")
    tenant = parser.parse_args(arguments).tenant
    try:
        check_tenant(tenant)
    except InvalidContextError as error:
        parser.error(str(error))
    key = access.new_key()
    print(_NEW_KEY.format(key=key, tenant=tenant, hash=access.key_hash(key)))  # noqa: T201 - for people
    return 0


async def _run(settings: Settings) -> int:
    model, api_key = served_name(settings), "<key>" if settings.has_keys else "any"

    def greet(url: str) -> None:
        print(_HINT.format(model=model, url=url, api_key=api_key), flush=True)  # noqa: T201 - for people

    async with running_app(settings) as app:
        parts = app.state.parts
        server = Server(app, settings, refusals=RefusalLog(parts.metrics), phase=parts.phase, greet=greet)
        # uvicorn raises the signal again when it has shut down; by default that ends us before our parts are closed.
        signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            await server.serve()
        except SystemExit:  # the port cannot be had; the log says why
            return 1
    return 0


def _end(code: int) -> NoReturn:
    """End the process, whose parts are all closed. Python itself would first take torch apart, which takes seconds."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _explained(error: object) -> str:
    assert isinstance(error, dict)
    what = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # settings that do not go together: the message names them
        return str(what)
    name = "--" + "-".join(str(p).replace("_", "-") for p in error["loc"])
    return access.masked(f"{name}: {error['msg']} (given: {error['input']!r})")


def _fail(message: str) -> int:
    sys.stderr.write(f"lookonce serve: {message}\n")
    return 1
