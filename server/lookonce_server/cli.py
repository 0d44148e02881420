"""`lookonce serve`, and `lookonce new-key`. What is heavy to import is imported once signals are seen to."""

import argparse

from lookonce_cache import InvalidContextError, check_tenant
from lookonce_server.auth import tenants as access
from lookonce_server.signals import Signals

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
        The exit code: 0, or 1 when it could not start or its engine ended, with one line that says why.
    """
    with Signals() as signals:
        from lookonce_server.process import run

        return run(arguments, signals)


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
