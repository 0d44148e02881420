"""Settings of the HTTP server."""

import re
from ipaddress import ip_network
from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from lookonce_server.settings.comma_list import CommaList

_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class HttpSettings(BaseModel):
    """Choose the address, and what a connection and a request may take."""

    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8000
    root_path: Annotated[
        str, Field(description="path that a proxy serves this server below, as in '/vision'; default: none")
    ] = ""
    forwarded_allow_ips: Annotated[
        CommaList, Field(description="proxies whose x-forwarded-for and -proto are believed: '10.0.0.7,10.1.0.0/16'")
    ] = ()
    max_requests: Annotated[
        int, Field(ge=1, description="requests under way at once, of everybody, before more get a 429")
    ] = 1024
    max_held_bytes: Annotated[
        int, Field(gt=0, description="bytes of request bodies held at once before more get a 429")
    ] = 512 * 1024 * 1024
    max_connections: Annotated[int, Field(ge=1, description="connections open at once, before more get a 503")] = 4096
    backlog: Annotated[int, Field(ge=1, description="connections that may wait to be accepted")] = 2048
    max_header_bytes: Annotated[
        int, Field(ge=4096, description="bytes of a request beside its body, before it gets a 431")
    ] = 64 * 1024
    header_timeout: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="seconds that a request's headers may take to arrive")
    ] = 30.0
    body_timeout: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="seconds that a request's body may take to arrive")
    ] = 60.0
    send_timeout: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="seconds in which a client reads some of what is sent it")
    ] = 60.0
    stream_silence: Annotated[
        float,
        Field(gt=0, allow_inf_nan=False, description="seconds of silence after which a stream says ': waiting'"),
    ] = 10.0
    keep_alive_timeout: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="seconds that a connection may be idle between requests")
    ] = 75.0
    shutdown_seconds: Annotated[
        float,
        Field(ge=0, allow_inf_nan=False, description="seconds that what is under way may take when the server ends"),
    ] = 30.0

    @field_validator("root_path")
    @classmethod
    def _is_path(cls, value: str) -> str:
        if value and not _ROOT_PATH.fullmatch(value):
            raise ValueError("expected a path such as '/vision', without a slash at its end")
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            ip_network(address)
        return value
