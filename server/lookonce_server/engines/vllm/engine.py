"""Run every pass as a request to one `AsyncLLM`, batched with the others."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from PIL import Image
from prometheus_client import REGISTRY, CollectorRegistry
from transformers import AutoConfig, AutoProcessor, GenerationConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

from lookonce_cache import CompressedContext, digest
from lookonce_pruning import inv_freq_of_config
from lookonce_server.engines.base import (
    Answer,
    DescribePlan,
    ModelFacts,
    OnText,
    Sampling,
    Started,
    TokenLogprob,
    ignore_text,
)
from lookonce_server.engines.checkpoint import check_code, check_unchanged, file_digest, find_checkpoint, fingerprint
from lookonce_server.engines.conversation import Conversation
from lookonce_server.engines.description import Description, PackedPrompt
from lookonce_server.engines.geometry import image_crop
from lookonce_server.engines.prefix import PrefixCache, PrefixKV, check_prefix
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.engines.structured.grammar import Grammars
from lookonce_server.engines.text_stream import TextStream, end_ids, token_text
from lookonce_server.engines.vllm.capture_client import CaptureClient
from lookonce_server.engines.vllm.client import BACKGROUND, VllmClient, sampling_params
from lookonce_server.engines.vllm.connector.files import SharedFiles
from lookonce_server.engines.vllm.connector.messages import Compression, Job
from lookonce_server.engines.vllm.connector.step_times import StepTimes
from lookonce_server.engines.vllm.context_prompts import ContextPrompts
from lookonce_server.engines.vllm.options import computing_options, engine_args, read_weights
from lookonce_server.engines.vllm.parent import binding_forks
from lookonce_server.engines.vllm.selfcheck import check_model, compute_prefix
from lookonce_server.errors import EngineError, ModelRefusedError

_log = logging.getLogger(__name__)


class _Continued(NamedTuple):
    """A context's continuation."""

    ids: list[int]
    full_prompt_tokens: int  # with the whole image
    prefix: tuple[int, ...]  # the tokens before the image


class VllmEngine:
    """Implement `Engine` on vLLM; see `load`.

    Args:
        llm: vLLM's engine, its workers attached.
        folder: of the checkpoint.
        spool: hands tensors over; closed with the engine.
        checkpoint: digest of its files, from before vLLM loaded it.
        options: of vLLM, that may change what it computes; see `options.computing_options`.
        max_queue: passes of each kind, see `Admission`.
        allow_control_tokens: see `PromptRenderer`.
    """

    def __init__(
        self,
        llm: AsyncLLM,
        folder: Path,
        spool: SharedFiles,
        *,
        checkpoint: str,
        options: Mapping[str, str],
        max_queue: int,
        allow_control_tokens: bool = False,
    ) -> None:
        model = llm.model_config
        dtype = model.dtype
        assert isinstance(dtype, torch.dtype)
        trusted = {"trust_remote_code": model.trust_remote_code}  # else whoever starts it at a terminal is asked
        processor = AutoProcessor.from_pretrained(folder, **trusted)  # type: ignore[no-untyped-call]
        self._config = AutoConfig.from_pretrained(folder, **trusted)
        self._prompts = PromptRenderer(processor, self._config, allow_control_tokens=allow_control_tokens)
        self._end_ids = end_ids(_generation_config(folder), processor.tokenizer)
        self._grammars = Grammars(processor.tokenizer, model.get_vocab_size())
        self.facts = ModelFacts(
            checkpoint=checkpoint,
            fingerprint=_fingerprint(fingerprint(checkpoint, dtype, processor), options, llm),
            num_layers=model.get_total_num_hidden_layers(),
            max_tokens=model.max_model_len,
            image_crop=None if _processor_options(llm) else image_crop(processor),
            vocabulary=model.get_vocab_size(),
        )
        self._dtype = str(dtype).removeprefix("torch.")
        self._inv_freq = inv_freq_of_config(self._config.get_text_config())
        self._prefixes = PrefixCache()
        self._prefix_lock = asyncio.Lock()
        self.registry: CollectorRegistry | None = REGISTRY  # where vLLM keeps its metrics
        self._requests = VllmClient(llm, max_queue=max_queue)
        self._spool = spool
        self._contexts = ContextPrompts(self._spool)
        self._capturer = CaptureClient(
            self._requests,
            self._spool,
            ranks=llm.vllm_config.parallel_config.tensor_parallel_size,
            heads=model.get_total_num_kv_heads(),
        )

    @classmethod
    async def load(
        cls,
        name: str,
        *,
        dtype: torch.dtype,
        describe_prompt: str,
        max_queue: int,
        options: Mapping[str, Any],
        handover_dir: Path | None = None,
        allow_control_tokens: bool = False,
    ) -> Self:
        """Start vLLM with a checkpoint and check that it can be served.

        Args:
            name: folder or hub name.
            dtype: arithmetic of the model.
            describe_prompt: tried in the self-check.
            max_queue: passes of each kind, see `Admission`.
            options: vLLM's own, see `options.engine_args`.
            handover_dir: where tensors are handed to its processes; None chooses.
            allow_control_tokens: see `PromptRenderer`.

        Raises:
            ModelRefusedError: it cannot be served, or an option is wrong; the message says why.
        """
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # else vLLM reports each start to its makers
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # a start is a hundred lines at its INFO
        os.environ.setdefault("LLGUIDANCE_LOG_LEVEL", "0")  # a grammar that fails is told to whoever asked
        folder = await asyncio.to_thread(find_checkpoint, name)
        where = {"model": str(folder), "dtype": str(dtype).removeprefix("torch.")}
        args = await asyncio.to_thread(engine_args, options, **where)
        if args.load_format != "dummy" and not any(folder.glob("*.safetensors")):
            raise ModelRefusedError(
                f"vLLM cannot run model {name!r}: {folder} has no *.safetensors, which alone is read."
            )
        if args.trust_remote_code:
            check_code(folder)
        _log.info("Loading the model: %s with vLLM.", where["dtype"])
        files = {"weights": read_weights(folder, args.load_format), "everything": args.trust_remote_code}
        checkpoint = await asyncio.to_thread(file_digest, folder, **files)
        spool = await asyncio.to_thread(SharedFiles, handover_dir)
        try:
            llm = await asyncio.to_thread(_start, args)
        except BaseException as error:
            spool.close()
            if not isinstance(error, (ValueError, RuntimeError, OSError)):
                raise
            raise ModelRefusedError(f"vLLM cannot run model {name!r}: {error}") from error
        try:
            for problems in await llm.collective_rpc("lookonce_attach"):
                if problems:
                    raise ModelRefusedError(f"This model cannot be served by image re-prompting. {' '.join(problems)}")
            engine = cls(
                llm,
                folder,
                spool,
                checkpoint=checkpoint,
                options=computing_options(options, **where),
                max_queue=max_queue,
                allow_control_tokens=allow_control_tokens,
            )
        except BaseException:
            spool.close()
            await asyncio.to_thread(llm.shutdown)
            raise
        try:
            _log.info("Checking the model: answers from a context must be those of the whole image.")
            await engine.check(describe_prompt)
            await asyncio.to_thread(
                check_unchanged, folder, checkpoint, **files
            )  # now that all has been loaded, and used
        except BaseException:
            await engine.close()
            raise
        return engine

    async def check(self, describe_prompt: str) -> None:
        """Raise ModelRefusedError unless answers from contexts are exact."""
        await check_model(
            self._capturer,
            self._contexts,
            self._prompts,
            self._config,
            dtype=self._dtype,
            describe_prompt=describe_prompt,
        )
        turn = await asyncio.to_thread(self._prompts.describe_turn, describe_prompt)
        await self._prefix_kv(turn.prefix)  # so that the first answer does not wait for it

    @property
    def queue_depth(self) -> int:
        """Return the passes that wait or run."""
        return self._requests.admission.depth

    def token_text(self, token: int) -> str:
        """See `Engine.token_text`."""
        return token_text(self._prompts.tokenizer, token)

    def template_digest(self, describe_prompt: str) -> str:
        """See `Engine.template_digest`."""
        return self._prompts.describe_turn(describe_prompt).digest

    async def check_schema(self, schema: str) -> None:
        """See `Engine.check_schema`."""
        await self._grammars.check(schema)

    async def ping(self) -> None:
        """See `Engine.ping`."""
        await self._requests.ping()

    async def take_step_times(self) -> list[StepTimes]:
        """Return what the steps since the last call spent on contexts, in the first rank's worker."""
        first, *_ = await self._requests.call_workers("lookonce_step_times")
        return [StepTimes(*times) for times in first]  # vLLM's messages make tuples lists

    async def close(self) -> None:
        """Stop vLLM."""
        await self._requests.close()
        self._spool.close()

    async def full(
        self, conversation: Conversation, image: Image.Image | None, sampling: Sampling, tenant: str
    ) -> Answer:
        """See `Engine.full`."""
        with self._requests.admission.admit():
            ids = await asyncio.to_thread(self._prompts.full_ids, conversation)
            prompt = await asyncio.to_thread(self._prompt, ids, image, tenant)

            def started(output: RequestOutput) -> Started:
                tokens = len(output.prompt_token_ids or ())
                computed = tokens - (output.num_cached_tokens or 0)
                return Started(tokens, computed, computed)  # what vLLM's own cache saves is not a context's merit

            async with aclosing(self._answered(prompt, sampling, None, started)) as events:
                async for event in events:
                    yield event

    async def answer(self, context: CompressedContext, conversation: Conversation, sampling: Sampling) -> Answer:
        """See `Engine.answer`."""
        with self._requests.admission.admit():
            ids, full_prompt_tokens, prefix = await asyncio.to_thread(self._continued, context, conversation)
            prefix_kv = await self._prefix_kv(prefix)
            dense = await asyncio.to_thread(prefix_kv.with_prefix, context)
            total = context.tokens + len(ids)
            self.facts.fit(total, sampling)
            started = Started(total, len(ids), full_prompt_tokens)
            async with (
                self._contexts.attach(context.id, dense) as attached,
                aclosing(
                    self._answered(attached.prompt(ids), sampling, Job(attached.load), lambda _: started)
                ) as events,
            ):
                async for event in events:
                    yield event

    async def describe(
        self, image: Image.Image, plan: DescribePlan, tenant: str, on_text: OnText = ignore_text
    ) -> Description:
        """See `Engine.describe`.

        The description is generated like any answer. Then one more prefill, of the prompt with the description, is
        captured: in it, every row that scores is a prompt row, which vLLM computes in the same way on every platform.
        """
        with self._requests.admission.admit(background=True):
            turn = await asyncio.to_thread(self._prompts.describe_turn, plan.prompt)
            prompt = await asyncio.to_thread(self._prompt, turn.ids, image, tenant)
            on_text("")
            said, text = await self._said(prompt, Sampling(plan.max_tokens), on_text)
            fed = said[:-1]  # the last token was generated, but never run through the model
            tensors, ids = await self._capturer.capture(
                prompt | {"prompt_token_ids": [*prompt["prompt_token_ids"], *fed]},
                said=len(fed),
                compression=Compression(plan.rows, plan.window, plan.selection, plan.retention),
            )
        return PackedPrompt.of_tensors(tensors).describe(text, turn, ids[: len(ids) - len(fed)])

    async def _answered(
        self,
        prompt: dict[str, Any],
        sampling: Sampling,
        job: Job | None,
        started: Callable[[RequestOutput], Started],
    ) -> Answer:
        """Yield the answer's events, its texts made from tokens as in every engine."""
        text: TextStream | None = None
        schema = sampling.json_schema
        # vLLM keeps to the schema by itself. This tells whether it did: it ends an answer whose grammar fails.
        grammar = None if schema is None else await asyncio.to_thread(self._grammars.grammar, schema)
        ends = self._end_ids | {grammar.end} if grammar else self._end_ids
        params = sampling_params(sampling, job, end_ids=ends)
        async with aclosing(self._requests.run(prompt, params)) as outputs:
            async for output in outputs:
                if text is None:
                    first = started(output)
                    fitting = self.facts.fit(first.prompt_tokens, sampling)  # vLLM ends an answer that has no more room
                    text = TextStream(self._prompts.tokenizer, fitting, ends)
                    yield first
                made_at = time.monotonic()
                for token, logprob in _tokens(output, sampling.logprobs):
                    if grammar:
                        grammar.push(token)
                    piece = text.push(token, logprob, made_at)
                    yield piece._replace(tier=_tier(output)) if piece.finish_reason else piece
                    if piece.finish_reason:
                        return
        raise EngineError("vLLM ended the answer early.")

    async def _said(
        self, prompt: dict[str, Any], sampling: Sampling, on_text: OnText = ignore_text
    ) -> tuple[list[int], str]:
        """Generate a description; return all its tokens, and its text."""
        text = TextStream(self._prompts.tokenizer, sampling, self._end_ids)
        said: list[int] = []
        pieces: list[str] = []
        params = sampling_params(sampling, end_ids=self._end_ids)
        async with aclosing(self._requests.run(prompt, params, priority=BACKGROUND)) as outputs:
            async for output in outputs:
                for token, _ in _tokens(output, None):
                    said.append(token)
                    pieces.append(text.push(token).text)
                    on_text(pieces[-1])
        if not said:
            raise EngineError("vLLM described the image with nothing.")
        return said, "".join(pieces)

    def _prompt(self, ids: list[int], image: Image.Image | None, tenant: str) -> dict[str, Any]:
        """Return a prompt whose cached blocks and image serve this tenant alone.

        One tenant could else tell from an answer's speed what another has asked about.
        """
        prompt: dict[str, Any] = {"prompt_token_ids": ids, "cache_salt": self._contexts.salt(f"tenant {tenant}")}
        if image is not None:
            pixels = digest(f"{image.mode} {image.size} ".encode() + image.tobytes())
            prompt["multi_modal_data"] = {"image": image}
            prompt["multi_modal_uuids"] = {"image": [self._contexts.salt(f"image {tenant} {pixels}")]}
        return prompt

    def _continued(self, context: CompressedContext, conversation: Conversation) -> _Continued:
        turn = self._prompts.describe_turn(context.identity.describe_prompt)
        check_prefix(context, turn.digest)
        ids: list[int] = self._prompts.continuation(context.identity.describe_prompt, conversation, turn)[0].tolist()
        return _Continued(ids, self._prompts.full_prompt_tokens(conversation, context.image_tokens), turn.prefix)

    async def _prefix_kv(self, prefix: tuple[int, ...]) -> PrefixKV:
        """Return a prefix's keys and values, computed at its first question."""
        async with self._prefix_lock:
            kept = self._prefixes.get(prefix)
            return kept or self._prefixes.keep(prefix, await compute_prefix(self._capturer, prefix, self._inv_freq))


def _start(args: AsyncEngineArgs) -> AsyncLLM:
    """Start vLLM; its processes end with this process and this thread."""
    with binding_forks():
        return AsyncLLM.from_engine_args(args)


def _tier(output: RequestOutput) -> str | None:
    """Return "gpu" if vLLM's own cache still had the context's full blocks."""
    params = output.kv_transfer_params
    return params.get("tier") if params else None


def _tokens(output: RequestOutput, logprobs: int | None) -> list[tuple[int, TokenLogprob | None]]:
    """Return the new tokens, with their log-probabilities if asked for."""
    completion = output.outputs[0]
    if logprobs is None or completion.logprobs is None:
        return [(token, None) for token in completion.token_ids]
    pairs = zip(completion.token_ids, completion.logprobs, strict=True)
    return [(token, _logprob(token, ranked, logprobs)) for token, ranked in pairs]


def _logprob(token: int, logprobs: Mapping[int, Any] | None, count: int) -> TokenLogprob | None:
    """Split vLLM's log-probabilities into the chosen token's and the top ones."""
    if logprobs is None:
        return None
    ranked = sorted(logprobs.items(), key=lambda item: item[1].rank)
    top = tuple((id_, entry.logprob) for id_, entry in ranked if entry.rank <= count and entry.logprob > float("-inf"))
    return TokenLogprob(token, logprobs[token].logprob, top)


def _fingerprint(plain: str, options: Mapping[str, str], llm: AsyncLLM) -> str:
    """Return the fingerprint that every engine has, unless vLLM computes otherwise.

    Options count by themselves, so that none is forgotten.
    """
    chosen = {  # by options, or by the checkpoint
        "quantization": llm.model_config.quantization,
        "kv_cache_dtype": llm.vllm_config.cache_config.cache_dtype.replace("auto", ""),
    }
    changed = dict(options) | {name: str(value) for name, value in chosen.items() if value}
    return digest(f"{plain} {sorted(changed.items())}".encode()) if changed else plain


def _processor_options(llm: AsyncLLM) -> Any:
    """Return the options of the processor that vLLM adds to its configuration."""
    return getattr(llm.model_config.multimodal_config, "mm_processor_kwargs", None)


def _generation_config(folder: Path) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:
        return None
