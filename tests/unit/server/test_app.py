"""The app's parts are closed when it ends, and when a later part of the start fails."""

import pytest

from lookonce_cache import MemoryStore
from lookonce_server import app
from lookonce_server.app import running_app
from lookonce_server.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def closed(engine, monkeypatch) -> list[str]:
    """What is closed, in its order; the engine is the shared one, which stays open for other tests."""
    closed: list[str] = []

    class Store(MemoryStore):
        async def close(self) -> None:
            closed.append("store")

    class Engine:
        def __getattr__(self, name: str):
            return getattr(engine, name)

        async def close(self) -> None:
            closed.append("engine")

    class Contexts(app.Contexts):
        async def close(self) -> None:
            await super().close()
            closed.append("contexts")

    class Images(app.Images):
        def close(self) -> None:
            super().close()
            closed.append("images")

    async def load_engine(settings: Settings) -> Engine:
        return Engine()

    monkeypatch.setattr(app, "open_store", lambda *_, **__: Store())
    monkeypatch.setattr(app, "_load_engine", load_engine)
    monkeypatch.setattr(app, "Contexts", Contexts)
    monkeypatch.setattr(app, "Images", Images)
    return closed


async def test_the_parts_are_closed_in_the_other_order(closed):
    async with running_app(Settings()):
        assert closed == []
    assert closed == ["contexts", "engine", "store", "images"]


async def test_whatever_part_of_a_start_fails_those_before_it_are_closed(closed, monkeypatch):
    """Every part that is built, in the order in which they are."""
    parts = {
        "read_keys": [],
        "open_store": ["images"],
        "_load_engine": ["store", "images"],
        "describe_plan": ["engine", "store", "images"],
        "Contexts": ["engine", "store", "images"],
        "Sessions": ["contexts", "engine", "store", "images"],
        "_app": ["contexts", "engine", "store", "images"],
    }
    for part, expected in parts.items():
        closed.clear()

        def fail(*_: object, part: str = part, **__: object) -> None:
            raise OSError(part)

        with monkeypatch.context() as patch:
            patch.setattr(app, part, fail)
            with pytest.raises(OSError, match=part):
                await running_app(Settings()).__aenter__()
        assert closed == expected, part
