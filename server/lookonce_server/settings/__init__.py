"""The server's settings: flags, environment and a TOML file; without torch."""

from lookonce_server.settings.load import SettingsFileError, load_settings
from lookonce_server.settings.model import BUNDLED
from lookonce_server.settings.settings import Settings

__all__ = ["BUNDLED", "Settings", "SettingsFileError", "load_settings"]
