"""The parts of the server that the routes share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from lookonce_cache import Store
from lookonce_server.auth.rate_limit import TenantLimits
from lookonce_server.auth.tenants import TenantDirectory
from lookonce_server.engines.base import DescribePlan, Engine
from lookonce_server.errors import ModelNotFoundError
from lookonce_server.http.recent import RecentQuestions
from lookonce_server.http.schemas.field_names import shown
from lookonce_server.images.reading import Images
from lookonce_server.lifecycle import Lifecycle
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.contexts import Contexts
from lookonce_server.sessions.file_store import FileStore
from lookonce_server.sessions.image_uuids import ImageUuids
from lookonce_server.sessions.sessions import Sessions
from lookonce_server.settings import Settings

if TYPE_CHECKING:
    from lookonce_server.tracing.otlp import Telemetry


@dataclass(frozen=True, slots=True)
class AppState:
    """The running server's parts."""

    settings: Settings
    served_name: str
    engine: Engine
    store: Store
    contexts: Contexts
    sessions: Sessions
    plan: DescribePlan  # describe options, unless a request changes them
    access: TenantDirectory
    images: Images
    metrics: Metrics
    started_at: float  # unix seconds
    tenant_limits: Mapping[str, TenantLimits] = field(default_factory=dict)  # of tenants that have their own
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    recent: RecentQuestions = field(default_factory=RecentQuestions)
    telemetry: "Telemetry | None" = None  # sends traces and metrics, where a collector was named
    files: FileStore | None = field(init=False)  # None where none are kept
    uuids: ImageUuids = field(init=False)

    def __post_init__(self) -> None:
        files = FileStore(self.store, self.settings.file_limits) if self.settings.files else None
        object.__setattr__(self, "files", files)
        object.__setattr__(self, "uuids", ImageUuids(self.store.records))


def state_of(request: Request) -> AppState:
    """Return the parts that serve a request."""
    state: AppState = request.app.state.parts
    return state


def check_model(name: str, state: AppState) -> None:
    """Reject another model than the one served, with ModelNotFoundError."""
    if name != state.served_name:
        raise ModelNotFoundError(
            f"The model {shown(name)} is not served here; {state.served_name!r} is.", param="model"
        )


async def tenant_of(request: Request) -> str:
    """Return the tenant of a request, which AuthMiddleware found.

    A coroutine, though it awaits nothing: FastAPI calls a plain function in a thread, and a switch there costs as
    much as all the rest of a request.
    """
    tenant: str = request.state.tenant
    return tenant


Tenant = Annotated[str, Depends(tenant_of)]
