"""An embedded engine whose thread has ended: whoever waits is told, and nobody waits for what never comes."""

import asyncio

import pytest
import torch

from lookonce_server.engines.transformers.scheduler import PassScheduler
from lookonce_server.errors import EngineEndedError, EngineError

pytestmark = pytest.mark.anyio


def steps(*events):
    for event in events:
        if isinstance(event, BaseException):
            raise event
        yield event


async def read(work):
    return [event async for event in work]


@pytest.mark.parametrize("fatal", [SystemExit("no Exception"), torch.AcceleratorError("device-side assert")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_all_that_wait_are_told_that_the_engine_has_ended(fatal):
    worker = PassScheduler(max_running=1, max_queue=10)
    asked = [read(worker.run(steps(1, fatal)))]
    asked += [read(worker.run(steps(*range(1000)), background=background)) for background in (False, True)]
    assert {type(found) for found in await asyncio.gather(*asked, return_exceptions=True)} == {EngineEndedError}
    assert not worker.alive
    with pytest.raises(EngineEndedError):
        await read(worker.run(steps(1)))
    worker.close()


async def test_an_error_of_one_pass_is_its_own():
    worker = PassScheduler(max_running=2, max_queue=10)
    asked = [read(worker.run(steps(1, RuntimeError("of this pass")))), read(worker.run(steps(1, 2, 3)))]
    failed, others = await asyncio.gather(*asked, return_exceptions=True)
    assert type(failed) is EngineError
    assert others == [1, 2, 3]
    assert worker.alive
    worker.close()
