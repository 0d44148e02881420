"""The server's settings: one class for flags, environment (`LOOKONCE_...`) and a TOML file, the first winning."""

import math
import re
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from lookonce_cache import PRECISIONS
from lookonce_pruning import SELECTIONS, ScoreQueries
from lookonce_server.auth.rate_limit import TenantLimits
from lookonce_server.auth.tenants import is_loopback
from lookonce_server.images.decode.limits import MAX_PIXELS
from lookonce_server.images.fetch.addresses import parse_network
from lookonce_server.images.fetch.hosts import AllowedHost
from lookonce_server.profile import Profile, check_selection
from lookonce_server.sessions.context_options import ContextLimits

BUNDLED = "bundled"
NO_PROFILE = "none"
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")  # as browsers write it
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_VLLM = "--vllm-"


def _split(value: Any) -> Any:
    return [one.strip() for one in value.split(",")] if isinstance(value, str) else value


# Several in one setting: a list in the TOML file, and elsewhere separated by commas.
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
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
        cli_prog_name="lookonce serve",
        protected_namespaces=(),
    )

    model: Annotated[str, Field(description="checkpoint folder, hub name, or 'bundled' for the model that ships")] = (
        BUNDLED
    )
    served_name: Annotated[
        str | None, Field(description="the model's name in the API; default: its last path part")
    ] = None
    engine: Annotated[
        Literal["transformers", "vllm"], Field(description="what runs the model: embedded, or for traffic")
    ] = "transformers"
    vllm: Annotated[
        dict[str, Any],
        Field(description="options of vLLM's engine; as flags: --vllm-tensor-parallel-size 2, for any that it has"),
    ] = {}
    handover_dir: Annotated[
        Path | None,
        Field(
            description="folder in which contexts are handed to vLLM's processes; default: in memory if there is room"
        ),
    ] = None
    device: Annotated[str, Field(description="'cpu', 'cuda', 'cuda:1', or 'auto'; with vLLM it is vLLM's affair")] = (
        "auto"
    )
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="arithmetic of the model; auto: float32 on a CPU, bfloat16 on a GPU"),
    ] = "auto"

    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8000

    store: Annotated[
        str,
        Field(
            description="where contexts are kept: 'memory://?max_bytes=2GiB', 'redis://host:6379/0?hot_bytes=1GiB', ..."
        ),
    ] = "memory://?max_bytes=2GiB"
    ttl: Annotated[float, Field(gt=0, description="seconds a context lives after its last use")] = 7 * 24 * 3600.0
    store_responses: Annotated[
        bool, Field(description="keep /v1/responses' questions and answers in the store, for previous_response_id")
    ] = True
    store_responses_bytes: Annotated[
        int, Field(gt=0, description="with a memory:// store: bytes of responses kept, least recently used go first")
    ] = 64 * 1024 * 1024
    precision: Annotated[
        str, Field(description=f"in which contexts are stored, smallest last: {', '.join(PRECISIONS)}")
    ] = "int8"

    api_keys: Annotated[
        Path | None,
        Field(description="TOML file of API keys, their tenants and limits; without keys only this machine may ask"),
    ] = None
    api_key_hashes: Annotated[
        str | None, Field(description="more keys, or without a file: 'tenant=sha256:...' entries, separated by commas")
    ] = None
    allow_anyone: Annotated[
        bool, Field(description="serve whoever comes, without keys and on any host: when a proxy of yours guards it")
    ] = False
    allowed_origins: Annotated[
        str | None,
        Field(description="whose web pages may ask, beside the server's own: 'https://a.example', separated by commas"),
    ] = None
    max_concurrent_per_tenant: Annotated[
        int | None, Field(ge=1, description="requests of a tenant under way at once; default: as many as it likes")
    ] = None
    requests_per_minute: Annotated[
        int | None, Field(ge=1, description="requests of a tenant a minute; default: as many as it likes")
    ] = None
    max_requests: Annotated[
        int, Field(ge=1, description="requests under way at once, of everybody, before more get a 429")
    ] = 1024
    max_held_bytes: Annotated[
        int, Field(gt=0, description="bytes of request bodies held at once before more get a 429")
    ] = 512 * 1024 * 1024
    body_timeout: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="seconds that a request's body may take to arrive")
    ] = 60.0
    max_header_bytes: Annotated[
        int, Field(ge=4096, description="bytes of a request beside its body, before it gets a 431")
    ] = 64 * 1024
    header_timeout: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="seconds that a request's headers may take to arrive")
    ] = 30.0
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
    max_connections: Annotated[int, Field(ge=1, description="connections open at once, before more get a 503")] = 4096
    backlog: Annotated[int, Field(ge=1, description="connections that may wait to be accepted")] = 2048
    root_path: Annotated[
        str, Field(description="path that a proxy serves this server below, as in '/vision'; default: none")
    ] = ""
    forwarded_allow_ips: Annotated[
        Names, Field(description="proxies whose x-forwarded-for and -proto are believed: '10.0.0.7,10.1.0.0/16'")
    ] = ()
    shutdown_seconds: Annotated[
        float,
        Field(ge=0, allow_inf_nan=False, description="seconds that what is under way may take when the server ends"),
    ] = 30.0

    ready_needs_store: Annotated[
        bool,
        Field(description="whether /ready is 503 while the store does not answer, though images are answered"),
    ] = False

    profile: Annotated[
        str | None,
        Field(
            min_length=1,
            description="file of `lookonce calibrate`, for --retention, --selection, --window and --rows where they are"
            " not given; default: the bundled model's own, for it alone; 'none': no profile",
        ),
    ] = None
    retention: Annotated[
        float, Field(gt=0, le=1, description="share of the image tokens kept, above 0 and at most 1")
    ] = 0.05
    selection: Annotated[
        str,
        Field(
            max_length=200,
            description=f"how they are chosen: {', '.join(sorted(SELECTIONS))}; with options as 'coverage:reach=0.3'",
        ),
    ] = "coverage"
    window: Annotated[
        str,
        Field(description="layers whose attention is recorded: 'middle', 'all', or a half-open range such as '4-8'"),
    ] = "middle"
    rows: Annotated[ScoreQueries, Field(description="whose attention is recorded")] = "generated"
    on_miss: Annotated[
        Literal["full", "compress"],
        Field(description="a new image: answer from all of it and describe behind, or describe first"),
    ] = "full"
    fallback: Annotated[
        bool,
        Field(description="ask the whole image again where a context's answer is not sure; a request may say else"),
    ] = False
    fallback_margin: Annotated[
        float,
        Field(ge=0, description="what is sure: each token leads the next likeliest by this, in log-probability"),
    ] = 3.0
    fallback_tokens: Annotated[
        int, Field(ge=1, le=64, description="first tokens of an answer that are looked at, and held back until then")
    ] = 8
    keep_images: Annotated[
        bool, Field(description="keep images in the store beside their contexts, to ask again where only the id comes")
    ] = False
    keep_images_bytes: Annotated[
        int, Field(gt=0, description="with a memory:// store: bytes of images kept, least recently used go first")
    ] = 256 * 1024 * 1024
    describe_prompt: Annotated[str, Field(min_length=1, description="the describe pass's instruction")] = (
        "Describe the image."
    )
    describe_tokens: Annotated[int, Field(ge=1, le=4096, description="most tokens of a description")] = 128

    min_retention: Annotated[float, Field(ge=0, le=1, description="smallest retention that a request may ask for")] = (
        0.0
    )
    max_retention: Annotated[
        float, Field(ge=0, le=1, description="largest retention a request may ask for; 0: --retention alone")
    ] = 0.25
    max_ttl: Annotated[
        float | None,
        Field(ge=0, description="longest ttl a request may ask for, in seconds; 0: none; default: --ttl"),
    ] = None
    max_describe_prompt: Annotated[
        int,
        Field(
            ge=0,
            le=6000,
            description="longest describe prompt a request may ask for, in characters; 0: --describe-prompt alone",
        ),
    ] = 1000

    max_image_bytes: Annotated[int, Field(gt=0, description="largest image accepted, encoded, in bytes")] = (
        20 * 1024 * 1024
    )
    max_image_pixels: Annotated[int, Field(gt=0, le=MAX_PIXELS, description="largest image accepted, in pixels")] = (
        40_000_000
    )
    max_image_side: Annotated[int, Field(gt=0, description="largest width, and height, in pixels")] = 20_000
    image_decoders: Annotated[int, Field(gt=0, description="images decoded at once, each in a process of its own")] = 2
    image_decode_timeout: Annotated[
        float, Field(gt=0, le=3600, description="seconds that decoding an image may take")
    ] = 30.0
    image_hosts: Annotated[
        Names, Field(description="hosts that images are fetched from: 'example.com,*.cdn.example.com'; default: none")
    ] = ()
    image_http: Annotated[bool, Field(description="fetch images by http: too, not only by https:")] = False
    image_networks: Annotated[
        Names, Field(description="private networks that these hosts may be in, as in '10.1.2.0/24'; default: none")
    ] = ()
    image_fetch_timeout: Annotated[
        float, Field(gt=0, le=3600, description="seconds that fetching an image may take")
    ] = 10.0
    allow_control_tokens: Annotated[
        bool, Field(description="let texts of requests spell the model's control tokens, as '<|im_start|>'")
    ] = False
    max_answer_tokens: Annotated[int, Field(gt=0, description="most tokens of an answer, and the default")] = 1024
    max_running: Annotated[int, Field(gt=0, description="passes in work at once (vLLM: --vllm-max-num-seqs)")] = 8
    max_queue: Annotated[int, Field(gt=0, description="answers, or describe passes, in work before a 429")] = 256
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="how much is logged")] = "info"
    log_format: Annotated[Literal["text", "json"], Field(description="lines for people, or one JSON object a line")] = (
        "text"
    )

    _profile: Profile | None = PrivateAttr(None)

    @property
    def has_keys(self) -> bool:
        """Whether API keys are asked for."""
        return self.api_keys is not None or self.api_key_hashes is not None

    @property
    def tenant_limits(self) -> TenantLimits:
        """Of tenants that have none of their own."""
        return TenantLimits(self.max_concurrent_per_tenant, self.requests_per_minute)

    @property
    def max_body_bytes(self) -> int:
        """The largest request body accepted: the largest image in base64, and room for the rest."""
        return self.max_image_bytes * 4 // 3 + 1024 * 1024

    @property
    def origins(self) -> tuple[str, ...]:
        """The allowed origins, one by one."""
        return tuple((self.allowed_origins or "").replace(",", " ").split())

    @property
    def applied_profile(self) -> Profile | None:
        """The profile whose options stand in place of defaults, where `with_profile` put it."""
        return self._profile

    @property
    def profile_origin(self) -> str:
        """Where a profile comes from, as messages name it."""
        return "the bundled model's profile" if self.profile is None else f"--profile {self.profile}"

    def with_profile(self) -> Self:
        """These settings with the options of their profile, if there is one, for those that were not given.

        Raises:
            ProfileError: it cannot be read, or is no profile.
        """
        path = self._profile_path()
        if path is None:
            return self
        profile = Profile.read(path, self.profile_origin)
        free = {name: value for name, value in profile.options.items() if name not in self.model_fields_set}
        made = self.model_copy(update=free)
        made._profile = profile
        return made

    def _profile_path(self) -> Path | None:
        if self.profile == NO_PROFILE or (self.profile is None and self.model != BUNDLED):
            return None
        if self.profile is not None:
            return Path(self.profile).expanduser()
        from lookonce_scenes import PROFILE

        return PROFILE

    @field_validator("selection")
    @classmethod
    def _known_selection(cls, value: str) -> str:
        return check_selection(value)

    @field_validator("precision")
    @classmethod
    def _known_precision(cls, value: str) -> str:
        if value not in PRECISIONS:
            raise ValueError(f"expected one of {', '.join(PRECISIONS)}")
        return value

    @field_validator("image_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            AllowedHost.parse(one)
        return value

    @field_validator("image_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            parse_network(one)
        return value

    @field_validator("root_path")
    @classmethod
    def _is_path(cls, value: str) -> str:
        if value and not _ROOT_PATH.fullmatch(value):
            raise ValueError("expected a path such as '/vision', without a slash at its end")
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            ip_network(one)
        return value

    @field_validator("vllm")
    @classmethod
    def _for_vllm(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if value and info.data.get("engine") != "vllm":
            raise ValueError("options of vLLM's engine need --engine vllm")
        return value

    @field_validator("device")
    @classmethod
    def _left_to_vllm(cls, value: str, info: ValidationInfo) -> str:
        if value != "auto" and info.data.get("engine") == "vllm":
            raise ValueError("vLLM takes the devices it finds; CUDA_VISIBLE_DEVICES chooses among GPUs")
        return value

    @property
    def context_limits(self) -> ContextLimits:
        """What a request may ask of a context."""
        max_ttl = self.ttl if self.max_ttl is None else self.max_ttl
        return ContextLimits(self.min_retention, self.max_retention, max_ttl, self.max_describe_prompt)

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: str | None) -> str | None:
        for origin in (value or "").replace(",", " ").split():
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; one is written 'https://host' or 'http://host:port'")
        return value

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

    @field_validator("max_retention")
    @classmethod
    def _not_below_the_smallest(cls, value: float, info: ValidationInfo) -> float:
        smallest = info.data.get("min_retention", 0.0)
        if 0 < value < smallest:
            raise ValueError(f"expected at least the min_retention {smallest:g}, or 0")
        return value

    @field_validator("ttl", "max_ttl")
    @classmethod
    def _finite_ttl(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError("expected a finite number of seconds")
        return value


class SettingsFileError(ValueError):
    """The TOML file cannot be read."""


def load_settings(arguments: list[str], config: str | None = None) -> Settings:
    """Settings from flags, then the environment, then the TOML file `config`, then the profile, then the defaults.

    Raises:
        pydantic.ValidationError: a value is wrong; it names the setting, the value and what is accepted.
        SettingsFileError: there is no such file, or it is no TOML.
        ProfileError: the profile cannot be read, or is no profile.
        SystemExit: `--help`, or an unknown flag.
    """

    if config is not None:
        _check_file(config)
    arguments, vllm = split_vllm_flags(arguments)

    class Layered(Settings):
        __doc__ = Settings.__doc__

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            flags: CliSettingsSource[Layered] = CliSettingsSource(settings_cls, cli_parse_args=arguments)
            file = (TomlConfigSettingsSource(settings_cls, config),) if config else ()
            return init_settings, flags, env_settings, *file

    return (Layered(vllm=vllm) if vllm else Layered()).with_profile()


def split_vllm_flags(arguments: list[str]) -> tuple[list[str], dict[str, str | bool]]:
    """The arguments without those that begin with `--vllm-`, and these by vLLM's names, their values as given.

    A flag's value is what follows "=", else the next argument unless that is a flag too, else True.
    """
    rest: list[str] = []
    found: dict[str, str | bool] = {}
    left = iter(enumerate(arguments))
    for i, argument in left:
        if not argument.startswith(_VLLM):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix(_VLLM).partition("=")
        follows = arguments[i + 1 : i + 2]
        if not equals and follows and not follows[0].startswith("--"):
            next(left)
            found[name.replace("-", "_")] = follows[0]
        else:
            found[name.replace("-", "_")] = value if equals else True
    return rest, found


def _check_file(config: str) -> None:
    """pydantic-settings takes a file that is missing for an empty one."""
    try:
        tomllib.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsFileError(f"--config {config}: {error}") from None
