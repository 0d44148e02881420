"""Serve the server's calls in vLLM's workers.

vLLM mixes `WorkerExtension` into its worker class.
"""

from typing import Any

from vllm.distributed.kv_transfer import get_kv_transfer_group

from lookonce_server.engines.vllm.connector.connector import ContextConnector
from lookonce_server.engines.vllm.connector.guard import guarded, reason
from lookonce_server.engines.vllm.connector.step_times import StepTimes


def _tell(worker: Any, error: Exception) -> list[str]:
    return [f"{reason(error)}."]


def _deny(worker: Any, error: Exception) -> bool:
    return False


def _tell_no_times(worker: Any, error: Exception) -> list[StepTimes]:
    return []


class WorkerExtension:
    """Methods for `collective_rpc`; arguments and results are of plain types."""

    model_runner: Any  # the worker's

    @guarded(_tell)
    def lookonce_attach(self) -> list[str]:
        """Give the connector the model; or return the problems with it."""
        connector = get_kv_transfer_group()
        assert isinstance(connector, ContextConnector)
        problems = connector.problems()
        if not problems:
            connector.attach(self.model_runner.get_model())
        return problems

    @guarded(_deny)
    def lookonce_reads_cache(self) -> bool:
        """Tell whether captures read from vLLM's cache, once attached."""
        connector = get_kv_transfer_group()
        assert isinstance(connector, ContextConnector)
        return connector.reads_cache

    @guarded(_tell_no_times)
    def lookonce_step_times(self) -> list[StepTimes]:
        """Return the times of the last steps; see `VllmEngine.take_step_times`."""
        connector = get_kv_transfer_group()
        assert isinstance(connector, ContextConnector)
        return connector.take_step_times()
