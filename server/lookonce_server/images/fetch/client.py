"""Fetch images and videos from allowed hosts, without opening the operator's network."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from lookonce_server.errors import InvalidImageError, OverloadedError
from lookonce_server.images.fetch.addresses import Address, may_connect
from lookonce_server.images.fetch.remote import FetchPolicy, NotAllowedError, Target
from lookonce_server.images.fetch.resolver import Resolve, SystemResolver
from lookonce_server.images.sources import Media, abbreviate, accepted
from lookonce_server.metrics import Metrics

_log = logging.getLogger(__name__)

MAX_REDIRECTS = 3
_MAX_ADDRESSES = 4  # of a host, that are tried
_CONNECT_SECONDS = 3.0  # for each of them
_UNTYPED = ("application/octet-stream", "binary/octet-stream")
_TYPES = {"image": ("image/", *_UNTYPED), "video": ("video/", "image/gif", "image/webp", *_UNTYPED)}
_ACCEPT = {"image": "image/*", "video": "video/*, image/*"}
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"accept-encoding": "identity", "user-agent": "lookonce", "connection": "close"}


class _FetchError(Exception):
    """An image was not fetched.

    Args:
        reason: for the log.
        detail: the part of it that the client is sent.
    """

    def __init__(self, reason: str, *, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


class Fetcher:
    """Fetch images.

    Each request, redirects included, goes to a host that the policy allows. Its name is resolved once, each of its
    addresses is checked, and the connection is made to one of these very addresses: a name that leads elsewhere a
    moment later changes nothing. No cookies, credentials, proxies, or connections that are kept.

    Args:
        policy: the URLs that are allowed.
        metrics: counts fetches.
        resolve: resolves host names; by default the system's resolver.
        tls: the certificates trusted; by default the usual authorities, or those of SSL_CERT_FILE.
    """

    def __init__(
        self,
        policy: FetchPolicy,
        *,
        metrics: Metrics | None = None,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._metrics = metrics or Metrics()
        self._resolve = resolve or SystemResolver(policy.at_once)
        self._tls = tls or httpx2.create_ssl_context()
        self._slots = asyncio.Semaphore(policy.at_once)

    async def fetch(self, url: str, media: Media, param: str) -> bytes:
        """Fetch the bytes of an image or a video.

        Args:
            url: as the client sent it.
            media: what is accepted.
            param: the request's field that it came in.

        Raises:
            InvalidImageError: the URL is not allowed (code `image_url_not_allowed`, for a video too), or the fetch
                failed (`image_fetch_failed`); errors of the network are for the log only.
            OverloadedError: too many images are being fetched.
        """
        outcome = "failed"
        try:
            target = self._policy.target(url)
            data = await self._fetch(target, media)
            outcome = "fetched"
        except NotAllowedError as error:
            outcome = "not_allowed"
            raise InvalidImageError(
                self._not_allowed(url, media, error), param=param, code="image_url_not_allowed"
            ) from None
        except _FetchError as error:
            _log.warning("the %s of %s was not fetched: %s", media.noun, target.authority, error)
            message = f"The {media.noun} could not be fetched from {target.authority!r}{error.detail}."
            raise InvalidImageError(message, param=param, code="image_fetch_failed") from None
        except OverloadedError:
            outcome = "overloaded"
            raise
        finally:
            self._metrics.image_fetches.labels(outcome).inc()
        return data

    async def _fetch(self, target: Target, media: Media) -> bytes:
        async with self._slot():
            try:
                async with asyncio.timeout(self._policy.timeout):
                    return await self._follow(target, media)
            except TimeoutError:
                raise _FetchError(f"it took longer than {self._policy.timeout:g} seconds") from None
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
                raise _FetchError(f"{type(error).__name__}: {error}") from None

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._policy.timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise OverloadedError("Too many images are being fetched; try again later.") from None
        try:
            yield
        finally:
            self._slots.release()

    async def _follow(self, target: Target, media: Media) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            reply = await self._request(target, media)
            if isinstance(reply, bytes):
                return reply
            try:
                target = self._policy.redirect(target, reply)
            except NotAllowedError as error:
                raise _FetchError(f"its redirect is not allowed: {error}") from None
        raise _FetchError(f"more than {MAX_REDIRECTS} redirects")

    async def _request(self, target: Target, media: Media) -> bytes | str:
        """Return the content, or the location of a redirect."""
        addresses = await self._addresses(target)
        for address in addresses[:-1]:
            try:
                return await self._request_at(target, address, media)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._request_at(target, addresses[-1], media)

    async def _addresses(self, target: Target) -> list[Address]:
        """Resolve the host; one address that is not allowed refuses them all."""
        addresses = [target.address] if target.address else await self._resolve(target.host)
        refused = [str(address) for address in addresses if not may_connect(address, self._policy.networks)]
        if refused:
            raise _FetchError(f"{target.host} is at {', '.join(refused)}, which is not allowed")
        if not addresses:
            raise _FetchError(f"{target.host} has no address")
        return addresses[:_MAX_ADDRESSES]

    async def _request_at(self, target: Target, address: Address, media: Media) -> bytes | str:
        request = httpx2.Request(
            "GET",
            target.url(address),
            headers={"host": target.authority, "accept": _ACCEPT[media.noun], **_HEADERS},
            # The certificate is checked against the host's name.
            extensions={"sni_hostname": target.host, "timeout": {"connect": _CONNECT_SECONDS}},
        )
        # A transport alone adds nothing to HTTP, and one per request shares no connection.
        async with httpx2.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            response = await transport.handle_async_request(request)
            try:
                return await self._read(response, media)
            finally:
                await response.aclose()

    async def _read(self, response: httpx2.Response, media: Media) -> bytes | str:
        headers = response.headers
        if response.status_code in _REDIRECTS and "location" in headers:
            return headers["location"]
        if response.status_code != 200:
            raise _FetchError(f"status {response.status_code}", detail=f": it answered {response.status_code}")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise _FetchError("its content is compressed", detail=": its content is compressed")
        if not headers.get("content-type", "").lower().startswith(_TYPES[media.noun]):
            reason = f"it is no {media.noun} by its content-type"
            raise _FetchError(reason, detail=f": {reason}")
        return await self._body(response, media.max_bytes)

    async def _body(self, response: httpx2.Response, limit: int) -> bytes:
        too_large = _FetchError("it is too large", detail=f": it is larger than the limit of {limit} bytes")
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise too_large
        data = bytearray()
        async for piece in response.aiter_raw():
            data += piece
            if len(data) > limit:
                raise too_large
        if not data:
            raise _FetchError("it is empty", detail=": it is empty")
        return bytes(data)

    def _not_allowed(self, url: str, media: Media, error: NotAllowedError) -> str:
        schemes = "https: and http: URLs" if self._policy.plain_http else "https: URLs"
        return (
            f"{abbreviate(url)} cannot be fetched: {error}. Accepted: {accepted(media.noun)}, and {schemes} of the"
            " hosts that this server's operator allows."
        )
