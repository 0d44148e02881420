"""The policy of fetching: which URLs are allowed."""

import ipaddress
from dataclasses import dataclass

import httpx2

from lookonce_server.images.fetch.addresses import Address, Network
from lookonce_server.images.fetch.hosts import DEFAULT_PORTS, AllowedHost, normalize_host


class NotAllowedError(Exception):
    """A URL is not allowed; the text is the reason, to follow 'cannot be fetched: '."""


@dataclass(frozen=True, slots=True)
class Target:
    """The destination of a request, parsed once from its URL."""

    scheme: str
    host: str  # normalised
    port: int
    path: str  # with the query

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> Address | None:
        """The host, if it is an address and no name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    def url(self, address: Address | None = None) -> httpx2.URL:
        """Build the URL, with an address in place of the host's name if set."""
        host = str(address or self.host)
        return httpx2.URL(scheme=self.scheme, host=host, port=self.port, raw_path=self.path.encode("ascii"))


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """The URLs that are allowed, and the limits of a fetch.

    Attributes:
        hosts: allowed hosts.
        networks: allowed addresses that are not public.
        plain_http: whether http: URLs are fetched too.
        timeout: seconds for a fetch, redirects included.
        at_once: number of fetches at a time; others wait for up to `timeout`.
    """

    hosts: tuple[AllowedHost, ...]
    networks: tuple[Network, ...] = ()
    plain_http: bool = False
    timeout: float = 10.0
    at_once: int = 16

    def target(self, text: str) -> Target:
        """Parse and check a URL.

        Raises:
            NotAllowedError: it is malformed, or not allowed.
        """
        url = _parse(text)
        if url.scheme not in (("https", "http") if self.plain_http else ("https",)):
            raise NotAllowedError("its scheme is not accepted")
        if url.userinfo:
            raise NotAllowedError("it has a user name or password")
        host = normalize_host(url.raw_host.decode("ascii"))
        if host is None:
            raise NotAllowedError("it has no proper host")
        port = DEFAULT_PORTS[url.scheme] if url.port is None else url.port
        if not any(entry.matches(url.scheme, host, port) for entry in self.hosts):
            raise NotAllowedError("its host or port is not one of those that the operator allows")
        return Target(url.scheme, host, port, url.raw_path.decode("ascii"))

    def redirect(self, target: Target, location: str) -> Target:
        """Check a redirect as a URL of a client; it must not leave https:.

        Args:
            target: of the request that was answered.
            location: header of the answer.

        Raises:
            NotAllowedError: as `target` does.
        """
        try:
            joined = str(target.url().join(location))
        except (httpx2.InvalidURL, ValueError):
            raise NotAllowedError("a redirect is malformed") from None
        new = self.target(joined)
        if (target.scheme, new.scheme) == ("https", "http"):
            raise NotAllowedError("a redirect leaves https:")
        return new


def _parse(text: str) -> httpx2.URL:
    if "\\" in text or any(character.isspace() for character in text):
        raise NotAllowedError("it is malformed")
    try:
        return httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        raise NotAllowedError("it is malformed") from None
