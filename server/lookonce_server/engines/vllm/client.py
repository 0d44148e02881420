"""Send requests to vLLM, and translate its errors."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from copy import copy
from typing import Any

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.exceptions import VLLMClientError
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from lookonce_server.engines.admission import Admission
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.structured.grammar import OUTGREW, schema_error
from lookonce_server.engines.vllm.connector.messages import Job
from lookonce_server.engines.vllm.contract import is_too_long, prompt_length
from lookonce_server.errors import (
    ContextLostError,
    EngineEndedError,
    EngineError,
    InvalidImageError,
    InvalidRequestError,
    PromptTooLongError,
    ServerError,
)
from lookonce_server.tracing.spans import trace_headers

_SHUTDOWN_SECONDS = 20.0  # its processes end within a few; then they are killed
BACKGROUND = 1  # vLLM's priority of describe passes; 0, which goes first, is everybody else's


class VllmClient:
    """Run requests on vLLM.

    Args:
        llm: the engine.
        max_queue: passes of each kind, see `Admission`.
    """

    def __init__(self, llm: AsyncLLM, *, max_queue: int) -> None:
        self._llm = llm
        self.admission = Admission(max_queue)
        self._ids = map(str, itertools.count())

    @property
    def config(self) -> VllmConfig:
        """Return vLLM's configuration."""
        return self._llm.vllm_config

    async def ping(self) -> None:
        """Raise EngineEndedError unless vLLM is at work."""
        try:
            await self._llm.check_health()
        except EngineDeadError as error:
            raise EngineEndedError from error

    async def call_workers(self, method: str) -> list[Any]:
        """Call a method of `WorkerExtension` in each worker; list the results.

        The first rank's comes first.
        """
        results: list[Any] = await self._llm.collective_rpc(method)
        return results

    async def close(self) -> None:
        """Stop vLLM."""
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()  # else it reports the end of its engine as a failure
        await asyncio.to_thread(self._llm.shutdown, _SHUTDOWN_SECONDS)
        # Let go of it now: collected, it shuts down once more, which fails when the interpreter is on its way out.
        del self._llm

    async def run(self, prompt: Any, params: SamplingParams, *, priority: int = 0) -> AsyncGenerator[RequestOutput]:
        """Yield a request's outputs, each with its new tokens.

        Closing the iterator aborts the request.

        Raises:
            PromptTooLongError: it does not fit the model.
            InvalidRequestError: vLLM does not take it, or its grammar grew too complex.
            InvalidImageError: the model's processor does not take the image.
            ContextLostError: its context was not where it should have been.
            EngineError: vLLM failed; EngineEndedError: it is gone.
        """
        try:
            async with aclosing(self._outputs(prompt, params, priority)) as outputs:
                async for output in outputs:
                    if _has_failed(output):
                        if output.outputs[0].token_ids:  # a grammar did not take them; a context is lost before any
                            raise schema_error(OUTGREW)
                        raise ContextLostError("The context was lost before it could be used.")
                    yield output
        except VLLMClientError as error:
            if is_too_long(str(error)):
                length = prompt_length(str(error)) or "more"
                raise PromptTooLongError.beyond(
                    self._llm.model_config.max_model_len, f"the prompt has {length} tokens"
                ) from error
            raise InvalidRequestError(f"vLLM does not take this request: {error}", param="messages") from error
        except EngineGenerateError as error:
            raise _failure(error.__cause__) from error
        except EngineDeadError as error:
            raise EngineEndedError from error

    async def _outputs(self, prompt: Any, params: SamplingParams, priority: int) -> AsyncGenerator[RequestOutput]:
        """Yield vLLM's outputs, of a second request if the image was missing.

        It was then in one of vLLM's two caches alone.

        They part when vLLM refuses a request with an image, as one that is too long. It says so by an error, and sends
        the image again with the next request.
        """
        for may_miss in ("multi_modal_data" in prompt, False):
            request = self._llm.generate(
                await self._render(prompt),
                params,
                next(self._ids),
                priority=priority,
                trace_headers=self._trace_headers(),
            )
            async with aclosing(request) as outputs:
                async for output in outputs:
                    if may_miss and _has_failed(output) and not output.outputs[0].token_ids:
                        break
                    yield output
                else:
                    return

    async def _render(self, prompt: Any) -> Any:
        """Return a prompt as vLLM's engine takes it, its images processed."""
        try:
            (rendered,) = await self._llm.renderer.render_cmpl_async([copy(prompt)])
        except VLLMClientError:
            raise
        except Exception as error:
            raise _failure(error) from error
        return rendered

    def _trace_headers(self) -> dict[str, str] | None:
        """Return the headers of the request's trace, if vLLM takes part in it."""
        is_traced = self.config.observability_config.otlp_traces_endpoint is not None
        return trace_headers() if is_traced else None


def _has_failed(output: RequestOutput) -> bool:
    return output.finished and output.outputs[0].finish_reason == "error"


def _failure(cause: BaseException | None) -> ServerError:
    """Return the error of a request that vLLM failed at."""
    if isinstance(cause, ValueError):  # what the model's own processor raises on pictures
        return InvalidImageError(f"This model does not take the image: {cause.__cause__ or cause}.")
    return EngineError(f"vLLM failed at the request: {cause}")


def sampling_params(
    sampling: Sampling, job: Job | None = None, *, end_ids: frozenset[int] = frozenset(), **more: Any
) -> SamplingParams:
    """Translate the parameters of decoding for vLLM.

    Everything that vLLM takes and that would have it compute a context's placeholders, such as prompt_logprobs, is left
    at "no": it is nothing that a caller can give.

    Args:
        sampling: how to decode; texts, stop texts among them, are looked at by the server.
        job: what the connector does for the request.
        end_ids: the tokens that end an answer, these and no others, as in every engine.
        more: for describe passes.
    """
    schema = sampling.json_schema
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        logprobs=sampling.logprobs,
        ignore_eos=True,
        stop_token_ids=sorted(end_ids),
        detokenize=False,
        structured_outputs=StructuredOutputsParams(json=schema) if schema is not None else None,
        output_kind=RequestOutputKind.DELTA,
        extra_args={"kv_transfer_params": job.as_params()} if job else None,
        **more,
    )
