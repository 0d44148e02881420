"""All settings in one class, and what holds between its groups."""

from pathlib import Path
from typing import Self

from pydantic import PrivateAttr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lookonce_cache import MAX_BLOB_BYTES
from lookonce_server.auth.tenants import is_loopback
from lookonce_server.profile import Profile
from lookonce_server.sessions.context_options import ContextLimits
from lookonce_server.sessions.file_store import MAX_SECONDS, MIN_SECONDS, FileLimits
from lookonce_server.settings.auth import AuthSettings
from lookonce_server.settings.contexts import DescribeSettings, RequestLimitSettings
from lookonce_server.settings.http import HttpSettings
from lookonce_server.settings.images import ImageSettings
from lookonce_server.settings.model import BUNDLED, ModelSettings
from lookonce_server.settings.observability import ObservabilitySettings
from lookonce_server.settings.store import StoreSettings

_NO_PROFILE = "none"


class Settings(
    ObservabilitySettings,
    HttpSettings,
    ImageSettings,
    AuthSettings,
    RequestLimitSettings,
    DescribeSettings,
    StoreSettings,
    ModelSettings,
    BaseSettings,
):
    """Serve a vision-language model: look at an image once, ask about it as often as you like.

    Each option may also be set in the environment, as LOOKONCE_PORT, or in a TOML file named by --config FILE, as port.
    """

    model_config = SettingsConfigDict(
        env_prefix="LOOKONCE_",
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        protected_namespaces=(),
    )

    _profile: Profile | None = PrivateAttr(None)

    @property
    def context_limits(self) -> ContextLimits:
        """What a request may ask of a context."""
        max_ttl = self.ttl if self.max_ttl is None else self.max_ttl
        return ContextLimits(self.min_retention, self.max_retention, max_ttl, self.max_describe_prompt)

    @property
    def file_limits(self) -> FileLimits:
        """What a tenant may keep of files."""
        seconds = int(min(max(self.ttl, MIN_SECONDS), MAX_SECONDS))
        max_bytes = min(self.max_image_bytes, MAX_BLOB_BYTES)
        return FileLimits(self.max_files, self.max_files_bytes, max_bytes, seconds)

    @property
    def applied_profile(self) -> Profile | None:
        """The profile whose options replace defaults, if `with_profile` put one."""
        return self._profile

    @property
    def profile_origin(self) -> str:
        """Where a profile comes from, as messages name it."""
        return "the bundled model's profile" if self.profile is None else f"--profile {self.profile}"

    def with_profile(self) -> Self:
        """Return these settings, with their profile's options in place of defaults.

        Raises:
            ProfileError: it cannot be read, or is no profile.
        """
        path = self._profile_path()
        if path is None:
            return self
        profile = Profile.read(path, self.profile_origin)
        free = {name: value for name, value in profile.options.items() if name not in self.model_fields_set}
        settings = self.model_copy(update=free)
        settings._profile = profile
        return settings

    def _profile_path(self) -> Path | None:
        if self.profile == _NO_PROFILE or (self.profile is None and self.model != BUNDLED):
            return None
        if self.profile is not None:
            return Path(self.profile).expanduser()
        from lookonce_scenes import PROFILE

        return PROFILE

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not (is_loopback(self.host) or self.has_keys or self.allow_anyone):
            raise ValueError(
                f"--host {self.host} lets other machines in, and there are no API keys: give --api-keys or"
                " --api-key-hashes (`lookonce new-key` makes one), listen on --host 127.0.0.1, or say --allow-anyone if"
                " something in front of the server decides who may ask"
            )
        if self.max_held_bytes < self.max_body_bytes:
            raise ValueError(
                f"--max-held-bytes {self.max_held_bytes} is less than the {self.max_body_bytes} bytes that one request"
                " may have by --max-image-bytes"
            )
        return self
