"""`lookonce serve`, `lookonce check` and `lookonce new-key`.

What imports torch is imported once the settings are known: help and a wrong value are answered in a blink.
"""

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from lookonce_cache import InvalidContextError, check_tenant
from lookonce_server import logs
from lookonce_server.auth import tenants as access
from lookonce_server.errors import ProfileError, ServerError, StartError
from lookonce_server.signals import Signals

if TYPE_CHECKING:
    from lookonce_server.settings import Settings

_NEW_KEY = """
The key, for the client; it is kept nowhere else:

  {key}

Its line in the file of --api-keys, below [tenants]; a tenant's further keys go into the same list:

  "{tenant}" = ["sha256:{hash}"]

or, without a file, its entry in the environment of the server; further ones follow after a comma:

  LOOKONCE_API_KEY_HASHES={tenant}=sha256:{hash}
"""
_log = logging.getLogger(__name__)


def serve(arguments: list[str]) -> int:
    """Run the server until it is interrupted.

    Args:
        arguments: the command line after `lookonce serve`.

    Returns:
        The exit code: 0, or 1 when it could not start or its engine ended, with one line that says why.
    """
    is_json = False
    with Signals() as signals:
        try:
            settings = _settings(arguments)
            is_json = settings.log_format == "json"
            logs.configure(settings.log_level, settings.log_format)
            _log.info("Starting lookonce: model %s, engine %s.", settings.model, settings.engine)
            from lookonce_server.process import run

            return run(settings, signals)
        except StartError as error:
            _log.debug("the start failed", exc_info=error)
            if is_json:
                _log.critical("%s", error)
            else:
                sys.stderr.write(f"lookonce serve: {error}\n")
            return 1


def check(arguments: list[str]) -> int:
    """Tell whether a checkpoint can be served, and what its contexts weigh, without its weights.

    Args:
        arguments: the command line after `lookonce check`.

    Returns:
        The exit code: 0, or 1 when it cannot be served, with one line that says why.
    """
    options = _check_parser().parse_args(arguments)
    from lookonce_server.check import check_checkpoint
    from lookonce_server.settings import Settings

    prompt = Settings().describe_prompt
    try:
        report = check_checkpoint(options.model, describe_prompt=prompt, trust_remote_code=options.trust_remote_code)
    except ServerError as error:
        sys.stderr.write(f"lookonce check: {error}\n")
        return 1
    print("\n".join(report.lines()))  # noqa: T201 - for people
    return 0


def new_key(arguments: list[str]) -> int:
    """Print a new API key, and its line for the file of `--api-keys`.

    Args:
        arguments: the command line after `lookonce new-key`.

    Returns:
        The exit code.
    """
    parser = _new_key_parser()
    tenant = parser.parse_args(arguments).tenant
    try:
        check_tenant(tenant)
    except InvalidContextError as error:
        parser.error(str(error))
    key = access.new_key()
    print(_NEW_KEY.format(key=key, tenant=tenant, hash=access.key_hash(key)))  # noqa: T201 - for people
    return 0


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of these commands, for shells' completion."""
    from lookonce_server.settings.flags import serve_parser

    return {"serve": serve_parser().parser, "check": _check_parser(), "new-key": _new_key_parser()}


def _check_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lookonce check", description=check.__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("model", metavar="MODEL", help="checkpoint folder or hub name")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code of the checkpoint's own")
    return parser


def _new_key_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lookonce new-key", description=new_key.__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument(
        "tenant", metavar="TENANT", help="the tenant that gets the key: letters, digits, '.', '_' or '-'"
    )
    return parser


def _settings(arguments: list[str]) -> "Settings":
    """Load the settings.

    Raises:
        StartError: a value is wrong, or a file cannot be read; it names each.
    """
    from pydantic import ValidationError

    from lookonce_server.settings import SettingsFileError, load_settings

    try:
        return load_settings(arguments)
    except ValidationError as error:
        raise StartError("; ".join(_explained(detail) for detail in error.errors())) from error
    except (SettingsFileError, ProfileError) as error:
        raise StartError(str(error)) from error


def _explained(error: object) -> str:
    """Return one of pydantic's errors in a line, with its flag and no API key."""
    assert isinstance(error, dict)
    if not error["loc"]:  # settings that do not go together: the message names them
        return str(error["msg"].removeprefix("Value error, "))
    flag = "--" + "-".join(str(part).replace("_", "-") for part in error["loc"])
    return access.mask_keys(f"{flag}: {error['msg']} (given: {error['input']!r})")
