"""Load the settings: flags, environment, TOML file, profile; the first wins."""

import tomllib
from pathlib import Path

from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from lookonce_server.settings.flags import serve_parser
from lookonce_server.settings.settings import Settings

_VLLM = "--vllm-"


class SettingsFileError(ValueError):
    """The TOML file cannot be read."""


def load_settings(arguments: list[str]) -> Settings:
    """Load settings from flags, environment, `--config`'s file and profile.

    Args:
        arguments: the command line after `lookonce serve`.

    Raises:
        pydantic.ValidationError: a value is wrong; it names the setting, the value and what is accepted.
        SettingsFileError: there is no such file, or it is no TOML.
        ProfileError: the profile cannot be read, or is no profile.
        SystemExit: `--help`, or an unknown flag.
    """
    arguments, vllm = split_vllm_flags(arguments)
    parser, flags = serve_parser()
    values = vars(parser.parse_args(arguments))
    config = values.pop("config")
    flags(parsed_args=values)
    if config is not None:
        _check_file(config)

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            file = (TomlConfigSettingsSource(settings_cls, config),) if config else ()
            return init_settings, flags, env_settings, *file

    return (Layered(vllm=vllm) if vllm else Layered()).with_profile()


def split_vllm_flags(arguments: list[str]) -> tuple[list[str], dict[str, str | bool]]:
    """Split off the flags that begin with `--vllm-`, by vLLM's names.

    A flag's value is what follows "=", else the next argument unless that is a flag too, else True.
    """
    rest: list[str] = []
    options: dict[str, str | bool] = {}
    left = iter(enumerate(arguments))
    for i, argument in left:
        if not argument.startswith(_VLLM):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix(_VLLM).partition("=")
        follows = arguments[i + 1 : i + 2]
        if not equals and follows and not follows[0].startswith("--"):
            next(left)
            options[name.replace("-", "_")] = follows[0]
        else:
            options[name.replace("-", "_")] = value if equals else True
    return rest, options


def _check_file(config: str) -> None:
    """Refuse an unreadable file: pydantic-settings takes a missing one for empty."""
    try:
        tomllib.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsFileError(f"--config {config}: {error}") from None
