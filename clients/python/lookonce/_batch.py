"""Run the questions of a batch, some at a time, until one fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ._types import Answer

MAX_CONCURRENCY = 4


def check_concurrency(max_concurrency: int) -> None:
    """Raise ValueError unless at least one question may be asked at a time."""
    if max_concurrency < 1:
        raise ValueError(f"max_concurrency is {max_concurrency}; 1 or more is expected")


def ask_in_threads(ask: Callable[[str], Answer], questions: Sequence[str], max_concurrency: int) -> list[Answer]:
    """Ask questions in threads; returns the answers in the questions' order."""
    if not questions:
        return []

    from concurrent.futures import ThreadPoolExecutor

    errors: list[BaseException] = []

    def ask_next(question: str) -> list[Answer]:
        if errors:  # a thread takes its next question before anybody can cancel it
            return []
        try:
            return [ask(question)]
        except BaseException as error:
            errors.append(error)
            raise

    pool = ThreadPoolExecutor(min(max_concurrency, len(questions)), thread_name_prefix="lookonce")
    try:
        futures = [pool.submit(ask_next, question) for question in questions]
        return [answer for future in futures for answer in future.result()]
    finally:
        pool.shutdown(cancel_futures=True)


async def ask_in_tasks(
    ask: Callable[[str], Awaitable[Answer]], questions: Sequence[str], max_concurrency: int
) -> list[Answer]:
    """Do the same as `ask_in_threads` in tasks; an error cancels those under way."""
    import asyncio

    slots = asyncio.Semaphore(max_concurrency)
    errors: list[BaseException] = []

    async def ask_next(question: str) -> Answer:
        async with slots:
            if errors:  # a slot is free before the others are cancelled
                raise errors[0]
            try:
                return await ask(question)
            except BaseException as error:
                errors.append(error)
                raise

    tasks = [asyncio.ensure_future(ask_next(question)) for question in questions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
