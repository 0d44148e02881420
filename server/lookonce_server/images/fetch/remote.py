"""What may be fetched, and from where."""

import ipaddress
from dataclasses import dataclass

import httpx2

from lookonce_server.images.fetch.addresses import Address, Network
from lookonce_server.images.fetch.hosts import DEFAULT_PORTS, AllowedHost, normal_host


class NotAllowedError(Exception):
    """A URL that is not fetched; the text says why, in words that may follow 'cannot be fetched: '."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes, and all of it that is used: no URL is parsed twice."""

    scheme: str
    host: str  # normalised
    port: int
    path: str  # with the query

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> Address | None:
        """The host, where it is no name but an address."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    def url(self, address: Address | None = None) -> httpx2.URL:
        """The URL, with an address in place of the host's name where one is given."""
        host = str(address or self.host)
        return httpx2.URL(scheme=self.scheme, host=host, port=self.port, raw_path=self.path.encode("ascii"))


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What may be fetched.

    Attributes:
        hosts: where from.
        networks: addresses that are no public ones, and allowed all the same.
        plain_http: whether http: URLs are fetched too.
        max_bytes: of an image.
        timeout: seconds for all of it, redirects included.
        at_once: how many are fetched at a time; others wait, as long as one may take.
    """

    hosts: tuple[AllowedHost, ...]
    networks: tuple[Network, ...] = ()
    plain_http: bool = False
    max_bytes: int = 20 * 1024 * 1024
    timeout: float = 10.0
    at_once: int = 16

    def target(self, text: str) -> Target:
        """Where a URL leads.

        Raises:
            NotAllowedError: it is malformed, or leads where nothing is fetched from.
        """
        url = _parsed(text)
        if url.scheme not in (("https", "http") if self.plain_http else ("https",)):
            raise NotAllowedError("its scheme is not accepted")
        if url.userinfo:
            raise NotAllowedError("it has a user name or password")
        host = normal_host(url.raw_host.decode("ascii"))
        if host is None:
            raise NotAllowedError("it has no proper host")
        port = DEFAULT_PORTS[url.scheme] if url.port is None else url.port
        if not any(one.matches(url.scheme, host, port) for one in self.hosts):
            raise NotAllowedError("its host or port is not one of those that the operator allows")
        return Target(url.scheme, host, port, url.raw_path.decode("ascii"))

    def redirected(self, target: Target, location: str) -> Target:
        """Where a redirect leads: nowhere that a client's own URL may not, and not from https: to http:.

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


def _parsed(text: str) -> httpx2.URL:
    if "\\" in text or any(character.isspace() for character in text):
        raise NotAllowedError("it is malformed")
    try:
        return httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        raise NotAllowedError("it is malformed") from None
