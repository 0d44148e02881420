"""Run captured prefills, from the server's side."""

import asyncio
from contextlib import aclosing
from typing import Any, NamedTuple

from torch import Tensor

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.vllm.client import BACKGROUND, VllmClient, sampling_params
from lookonce_server.engines.vllm.connector.files import SharedFiles, take_result
from lookonce_server.engines.vllm.connector.heads import join_heads
from lookonce_server.engines.vllm.connector.messages import Capture, Compression, Job, Load
from lookonce_server.errors import EngineError

_AT_ONCE = 2  # each holds the queries that score, and all keys and values where vLLM's cache cannot be read from


class CaptureResult(NamedTuple):
    """The result of a captured prefill."""

    tensors: dict[
        str, Tensor
    ]  # "keys" and "values" of all heads, and what the compression adds; see `KVRecorder.result`
    prompt_ids: list[int]  # with the image's tokens
    computed_tokens: int  # of them, those that were run through the model for this


class CaptureClient:
    """Run captured prefills, behind everything that somebody waits for.

    Args:
        client: of vLLM.
        files: where the results are left.
        ranks: tensor-parallel ranks.
        heads: key/value heads of the whole model.
        reads_cache: whether the workers can read from vLLM's cache; see `CacheReader`.
    """

    def __init__(self, client: VllmClient, files: SharedFiles, *, ranks: int, heads: int, reads_cache: bool) -> None:
        self._client = client
        self._files = files
        self._ranks = ranks
        self._heads = heads
        self._reads_cache = reads_cache
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def capture(
        self,
        prompt: dict[str, Any],
        *,
        load: Load | None = None,
        num_description_tokens: int = 0,
        compression: Compression | None = None,
    ) -> CaptureResult:
        """Prefill a prompt, and capture its keys and values.

        Args:
            prompt: for vLLM.
            load: the context that it starts with; its tokens are not captured.
            num_description_tokens, compression: see `Capture`.

        Raises:
            EngineError: something was not captured.
        """
        try:
            path = self._files.new_path()
        except OSError as error:
            raise EngineError(f"The describe pass could not be captured: {error}") from error
        job = Job(load, Capture(str(path), num_description_tokens, compression))
        # What vLLM's prefix cache holds is not computed, and so not seen. Contexts never are. A describe pass needs no
        # more than the rows that score, and those are hidden from the prefix cache: see `ConnectorScheduler`.
        skip = load is None and not (self._reads_cache and compression is not None)
        params = sampling_params(Sampling(max_tokens=1), job, skip_reading_prefix_cache=skip)
        ids: list[int] = []
        computed = 0
        async with self._slots:
            try:
                async with aclosing(self._client.run(prompt, params, priority=BACKGROUND)) as outputs:
                    async for output in outputs:
                        ids = list(output.prompt_token_ids or ids)
                        computed = len(ids) - (output.num_cached_tokens or 0)
            finally:
                shards = await asyncio.to_thread(take_result, path, self._ranks)
        if isinstance(shards, str):
            self._files.drop_idle()  # the folder may be full
            raise EngineError(f"The describe pass could not be captured: {shards}.")
        tensors = {name: join_heads([shard[name] for shard in shards], self._heads) for name in ("keys", "values")}
        own = len(ids) - (load.tokens if load else 0)
        if compression is None and tensors["keys"].shape[2] != own:
            raise EngineError(f"Only {tensors['keys'].shape[2]} of {own} tokens were captured.")
        return CaptureResult(shards[0] | tensors, ids, computed)
