"""Read API keys from the file of `--api-keys` and from `api_key_hashes`."""

import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookonce_cache import check_tenant
from lookonce_server.auth.rate_limit import TenantLimits
from lookonce_server.auth.tenants import mask_keys
from lookonce_server.errors import AccessConfigError

_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_HASHES = "a list of 'sha256:' with 64 hex digits each, as `lookonce new-key` prints them"


class Keys(NamedTuple):
    """The tenants of the settings."""

    tenants: dict[str, str]  # by the SHA-256 of a key, hex
    limits: dict[str, TenantLimits]  # by tenant, of those that have their own


def read_keys(path: Path | None, hashes: str | None, default: TenantLimits) -> Keys:
    """Read the keys of a file and of a setting.

    Args:
        path: TOML file with a table `tenants`: by tenant a list of "sha256:...", or a table of it and of its limits.
        hashes: "tenant=sha256:..." entries, separated by commas or blanks.
        default: limits of a tenant for which the file has none.

    Raises:
        AccessConfigError: one cannot be read, or has another form; no message contains a key or a hash.
    """
    keys = Keys({}, {})
    if path is not None:
        try:
            _read_file(path, keys, default)
        except (OSError, ValueError) as error:
            raise AccessConfigError(mask_keys(f"--api-keys {path}: {error}")) from None
    if hashes is not None:
        try:
            _read_entries(hashes, keys)
        except ValueError as error:
            raise AccessConfigError(mask_keys(f"--api-key-hashes: {error}")) from None
    return keys


class _Tenant(BaseModel):
    """A tenant's table."""

    model_config = ConfigDict(extra="forbid", strict=True)

    keys: Any
    max_concurrent: int | None = Field(None, ge=1)
    requests_per_minute: int | None = Field(None, ge=1)


def _read_file(path: Path, keys: Keys, default: TenantLimits) -> None:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    tenants = content.get("tenants")
    if content.keys() != {"tenants"} or not isinstance(tenants, dict) or not tenants:
        raise ValueError("expected one table, [tenants], with a list of hashes a tenant")
    for tenant, entry in tenants.items():
        check_tenant(tenant)
        hashes = entry
        if isinstance(entry, dict):
            table = _parse_table(tenant, entry)
            hashes = table.keys
            keys.limits[tenant] = TenantLimits(
                table.max_concurrent or default.max_concurrent, table.requests_per_minute or default.requests_per_minute
            )
        if not isinstance(hashes, list) or not hashes:
            raise ValueError(f"tenant {tenant}: expected {_HASHES}")
        for value in hashes:
            _add(keys, tenant, value, _HASHES)


def _parse_table(tenant: str, entry: dict[str, Any]) -> _Tenant:
    try:
        return _Tenant.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        problem = f"{first['msg']} (given: {first['input']!r}); accepted: keys, max_concurrent, requests_per_minute"
        raise ValueError(f"tenant {tenant}: {name}: {problem}") from None


def _read_entries(text: str, keys: Keys) -> None:
    entries = text.replace(",", " ").split()
    if not entries:
        raise ValueError("expected entries as tenant=sha256:<64 hex digits>, separated by commas")
    for entry in entries:
        tenant, _, value = entry.partition("=")
        check_tenant(tenant)
        _add(keys, tenant, value, "tenant=sha256:<64 hex digits>, as `lookonce new-key` prints it")


def _add(keys: Keys, tenant: str, value: object, expected: str) -> None:
    match = _HASH.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"tenant {tenant}: expected {expected}")
    if keys.tenants.setdefault(match[1], tenant) != tenant:
        raise ValueError(f"tenants {keys.tenants[match[1]]} and {tenant} have a key in common")
