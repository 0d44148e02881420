"""The flags of `lookonce serve`: in groups, with placeholders and defaults that a person reads."""

import shutil
import textwrap
from argparse import SUPPRESS, ArgumentParser, RawTextHelpFormatter
from functools import partial
from inspect import cleandoc
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import CliSettingsSource

from lookonce_server.settings.auth import AuthSettings
from lookonce_server.settings.contexts import DescribeSettings, RequestLimitSettings
from lookonce_server.settings.http import HttpSettings
from lookonce_server.settings.images import ImageSettings
from lookonce_server.settings.model import ModelSettings
from lookonce_server.settings.observability import ObservabilitySettings
from lookonce_server.settings.settings import Settings
from lookonce_server.settings.store import StoreSettings

_GROUPS: dict[str, type[BaseModel]] = {
    "model and engine": ModelSettings,
    "address, connections and requests": HttpSettings,
    "who may ask, and how much": AuthSettings,
    "store of contexts": StoreSettings,
    "how images are described and answered": DescribeSettings,
    "what a request may ask of its context": RequestLimitSettings,
    "images and videos": ImageSettings,
    "logs, metrics and traces": ObservabilitySettings,
}
_HIDDEN = {"on_miss"}  # older names, which go on working
# The placeholder of a flag's value: by its whole name, else by the last word of it, else by its type.
_BY_NAME = {
    "allowed_origins": "ORIGINS",
    "api_key_hashes": "ENTRIES",
    "api_keys": "FILE",
    "device": "DEVICE",
    "fallback_margin": "MARGIN",
    "forwarded_allow_ips": "ADDRESSES",
    "handover_dir": "DIR",
    "host": "ADDRESS",
    "image_hosts": "HOSTS",
    "image_networks": "NETWORKS",
    "max_describe_prompt": "N",
    "model": "MODEL",
    "otlp_endpoint": "URL",
    "port": "PORT",
    "precision": "PRECISION",
    "profile": "FILE",
    "root_path": "PATH",
    "served_name": "NAME",
    "store": "URL",
    "tool_call_parser": "NAME",
    "vllm": "JSON",
    "window": "LAYERS",
}
_BY_LAST_WORD = {
    "bytes": "BYTES",
    "pixels": "PIXELS",
    "retention": "SHARE",
    "seconds": "SECONDS",
    "side": "PIXELS",
    "silence": "SECONDS",
    "timeout": "SECONDS",
    "ttl": "SECONDS",
}
_BY_TYPE = {"int": "N", "float": "X", "str": "TEXT", "Path": "PATH"}
_INDENT = 26  # columns before the help texts
_MAX_WIDTH = 120
_MIB = 1024 * 1024


class ServeParser(NamedTuple):
    """The parser of `lookonce serve`, and what takes the settings that it has parsed."""

    parser: ArgumentParser
    source: CliSettingsSource[ArgumentParser]


def serve_parser() -> ServeParser:
    """Make the parser of `lookonce serve`: `--config`, and a flag for each setting, as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH) - 2
    paragraphs = cleandoc(Settings.__doc__ or "").split("\n\n")
    parser = ArgumentParser(
        prog="lookonce serve",
        usage="lookonce serve [--config FILE] [OPTION ...]",
        description="\n\n".join(_wrap(text, width) for text in paragraphs),
        formatter_class=partial(RawTextHelpFormatter, max_help_position=_INDENT, width=width),
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings (default: none)")
    groups: dict[str, Any] = {}  # by setting; argparse's class of a group has no public name
    for title, settings in _GROUPS.items():
        groups.update(dict.fromkeys(settings.model_fields, parser.add_argument_group(title)))

    def add(_: ArgumentParser, *names: str, dest: str, **options: Any) -> None:
        """Add the flag of a setting to its group, as pydantic-settings asks for it."""
        field = Settings.model_fields[dest]
        help_text = _wrap(_help(field), max(width - _INDENT, 20)).replace("%", "%%")
        options["help"] = SUPPRESS if dest in _HIDDEN else help_text
        if "metavar" in options:  # flags that take no value have none
            options["metavar"] = _placeholder(dest, options["metavar"])
        groups[dest].add_argument(*names, dest=dest, **options)

    return ServeParser(parser, CliSettingsSource(Settings, root_parser=parser, add_argument_method=add))


def _wrap(text: str, width: int) -> str:
    """Break a text into lines, and no flag at its hyphens."""
    return textwrap.fill(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)


def _placeholder(name: str, of_type: str) -> str:
    """Return the placeholder of a setting's value; choices stay as they are: {text,json}."""
    if of_type.startswith("{"):
        return of_type
    return _BY_NAME.get(name) or _BY_LAST_WORD.get(name.rpartition("_")[2]) or _BY_TYPE.get(of_type, "VALUE")


def _help(field: FieldInfo) -> str:
    """Return a setting's description, with its default where that does not say it."""
    text = field.description or ""
    says_default = "default:" in text or ": the default" in text
    return text if says_default else f"{text} (default: {_default(field.default)})"


def _default(value: Any) -> str:
    """Format a default: a switch as on or off, large bytes in MiB or GiB beside the number that a flag takes."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int) and value >= _MIB and value % _MIB == 0:
        return f"{value}, which is {value // _MIB} MiB"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value or value == 0 else "none"
