"""What the routes share, made when the app starts."""

from dataclasses import dataclass

from fastapi import Request

from lookonce_cache import Store
from lookonce_server.engines.base import Engine
from lookonce_server.images import ImageLimits
from lookonce_server.metrics import Metrics
from lookonce_server.sessions import Sessions
from lookonce_server.settings import Settings


@dataclass(frozen=True, slots=True)
class AppState:
    """The running server's parts."""

    settings: Settings
    served_name: str
    engine: Engine
    store: Store
    sessions: Sessions
    limits: ImageLimits
    metrics: Metrics
    started_at: float  # unix seconds


def state_of(request: Request) -> AppState:
    """The parts that serve a request."""
    state: AppState = request.app.state.parts
    return state
