"""Settings of who may ask, and how much each tenant may."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from lookonce_server.auth.rate_limit import TenantLimits

_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")  # as browsers write it


class AuthSettings(BaseModel):
    """Choose the API keys, the web pages that may ask, and the limits of a tenant."""

    api_keys: Annotated[
        Path | None,
        Field(description="TOML file of API keys, their tenants and limits; without keys only this machine may ask"),
    ] = None
    api_key_hashes: Annotated[
        str | None,
        Field(description="more keys, or keys without a file: 'tenant=sha256:...' entries, separated by commas"),
    ] = None
    allow_anyone: Annotated[
        bool, Field(description="serve anyone, without keys and on any host: when a proxy of yours guards it")
    ] = False
    allowed_origins: Annotated[
        str | None,
        Field(description="web pages that may ask, beside the server's own: 'https://a.example', separated by commas"),
    ] = None
    max_concurrent_per_tenant: Annotated[
        int | None, Field(ge=1, description="requests of a tenant under way at once; default: no limit")
    ] = None
    requests_per_minute: Annotated[
        int | None, Field(ge=1, description="requests of a tenant a minute; default: no limit")
    ] = None

    @property
    def has_keys(self) -> bool:
        """Whether API keys are asked for."""
        return self.api_keys is not None or self.api_key_hashes is not None

    @property
    def tenant_limits(self) -> TenantLimits:
        """Limits of tenants that have none of their own."""
        return TenantLimits(self.max_concurrent_per_tenant, self.requests_per_minute)

    @property
    def origins(self) -> tuple[str, ...]:
        """The allowed origins, one by one."""
        return tuple((self.allowed_origins or "").replace(",", " ").split())

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: str | None) -> str | None:
        for origin in (value or "").replace(",", " ").split():
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; one is written 'https://host' or 'http://host:port'")
        return value
