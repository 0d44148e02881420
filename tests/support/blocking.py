"""An asyncio client that can be used as the blocking one is, so that both run the same tests."""

import asyncio
import inspect
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Self

import lookonce

_OURS = (
    lookonce.AsyncClient,
    lookonce.AsyncImageSession,
    lookonce.AsyncImagesSession,
    lookonce.AsyncChat,
    lookonce.AsyncAnswerStream,
    lookonce.AsyncDescriptionStream,
)


class Blocking:
    """Waits for whatever its target has awaited.

    Args:
        target: of the asyncio client.
        runner: of the loop that all of one client runs in.
    """

    def __init__(self, target: Any, runner: asyncio.Runner) -> None:
        self._target = target
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._target, name)
        if not callable(member):
            return self._wrapped(member)
        return lambda *arguments, **options: self._blocking(member(*map(_unwrapped, arguments), **options))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return self._wait(self._target.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Self:
        self._wait(self._target.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait(self._target.__aexit__(kind, error, trace))

    def _blocking(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            value = self._wait(value)
        return self._wrapped(value)

    def _wrapped(self, value: Any) -> Any:
        if isinstance(value, tuple) and any(isinstance(one, _OURS) for one in value):
            return tuple(map(self._wrapped, value))
        return Blocking(value, self._runner) if isinstance(value, _OURS) or inspect.isasyncgen(value) else value

    def _wait(self, awaitable: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self._runner.run(wait())


def _unwrapped(argument: Any) -> Any:
    return argument._target if isinstance(argument, Blocking) else argument
