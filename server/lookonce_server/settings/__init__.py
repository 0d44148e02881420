"""The server's settings: flags, environment (`LOOKONCE_...`) and a TOML file. Nothing here imports torch."""

from lookonce_server.settings.load import SettingsFileError, load_settings
from lookonce_server.settings.model import BUNDLED
from lookonce_server.settings.settings import Settings

__all__ = ["BUNDLED", "Settings", "SettingsFileError", "load_settings"]
