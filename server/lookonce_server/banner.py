"""What the server tells whoever started it, once it listens: its addresses, and what is not right."""

import logging
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from lookonce_server.auth.tenants import is_loopback
from lookonce_server.settings import Settings

_BANNER = """
lookonce serves {model!r} at {url}. Try its page in a browser:

  {url}/

or, in another terminal:

  lookonce ask picture.png "How many objects are there?" "What color is the star?" --server {url}
  curl {url}/metrics

or point any OpenAI client at it:

  client = openai.OpenAI(base_url="{url}/v1", api_key="{api_key}")
"""
_STORE_WARNINGS = {
    "unavailable": "the store does not answer. Until it does, each question runs the whole image, and nothing is kept.",
    "read_only": "the store takes no writes. Contexts that it has are used, and new ones are not kept.",
}
StoreState = Literal["ok", "read_only", "unavailable"]
_log = logging.getLogger(__name__)


def announce(settings: Settings, url: str, warnings: Sequence[str]) -> None:
    """Say that the server listens: to people on standard output, or in the log where that is JSON.

    Args:
        settings: of the server.
        url: where it listens, as it is bound.
        warnings: see `warnings_of`.
    """
    url = reachable_url(url)
    if settings.log_format == "json":
        _log.info("lookonce serves %r at %s. Try its page: %s/", settings.api_model, url, url)
        for warning in warnings:
            _log.warning("%s", warning)
        return
    api_key = "<key>" if settings.has_keys else "any"
    text = _BANNER.format(model=settings.api_model, url=url, api_key=api_key)
    print("\n".join([text, *(f"Warning: {warning}\n" for warning in warnings)]), end="", flush=True)  # noqa: T201


def warnings_of(settings: Settings, store_state: StoreState) -> list[str]:
    """List what is not right, in sentences, though the server serves."""
    warnings = [_STORE_WARNINGS[store_state]] if store_state in _STORE_WARNINGS else []
    if not (settings.has_keys or is_loopback(settings.host)):
        warnings.append(
            f"there are no API keys, and --host {settings.host} lets other machines in: anyone who reaches it may ask."
        )
    return warnings


def reachable_url(url: str) -> str:
    """Return a URL that a browser on this machine can open: of "all addresses" it is the loopback one."""
    parts = urlsplit(url)
    address = ip_address(parts.hostname or "")
    if not address.is_unspecified:
        return url
    return f"http://127.0.0.1:{parts.port}" if address.version == 4 else f"http://[::1]:{parts.port}"
