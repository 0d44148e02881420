"""Run every pass as a request to one `AsyncLLM`, batched with the others."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from prometheus_client import REGISTRY, CollectorRegistry
from transformers import GenerationConfig
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

from lookonce_cache import CompressedContext, digest
from lookonce_pruning import rope_of_config
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
from lookonce_server.engines.checkpoint import check_unchanged, fingerprint
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.description import Description, PackedPrompt
from lookonce_server.engines.geometry import image_crop
from lookonce_server.engines.join import Join, join_contexts
from lookonce_server.engines.prefix import DenseContext, TextCache, TextKV, TextSpan
from lookonce_server.engines.pretrained import refuse
from lookonce_server.engines.prompts import DescribeTurn, PromptRenderer
from lookonce_server.engines.structured.grammar import Grammars
from lookonce_server.engines.summary import summarize
from lookonce_server.engines.text_stream import TextStream, end_ids, token_text
from lookonce_server.engines.visuals import Video, Visual, frames_of
from lookonce_server.engines.vllm.capture_client import CaptureClient
from lookonce_server.engines.vllm.checkpoint import VllmCheckpoint, read_checkpoint
from lookonce_server.engines.vllm.client import BACKGROUND, VllmClient, sampling_params
from lookonce_server.engines.vllm.connector.files import SharedFiles
from lookonce_server.engines.vllm.connector.messages import Compression, Job
from lookonce_server.engines.vllm.connector.step_times import StepTimes
from lookonce_server.engines.vllm.context_prompts import ContextPrompts
from lookonce_server.engines.vllm.parent import bind_forks
from lookonce_server.engines.vllm.selfcheck import check_model, compute_text, find_join_problem
from lookonce_server.errors import ContextOutdatedError, EngineError, ModelRefusedError

_log = logging.getLogger(__name__)
_TWO_IMAGES = Conversation((Turn("user", (0, 1)),))

# What vLLM and llguidance read where the user has set nothing.
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # else vLLM reports each start to its makers
    "VLLM_LOGGING_LEVEL": "WARNING",  # a start is a hundred lines at its INFO
    "LLGUIDANCE_LOG_LEVEL": "0",  # a grammar that fails is told to whoever asked
}


class _Continuation(NamedTuple):
    """Contexts' continuation."""

    join: Join
    full_prompt_tokens: int  # with the whole images


class VllmEngine:
    """Implement `Engine` on vLLM; see `load`.

    Args:
        client: of vLLM, its workers attached.
        checkpoint: that vLLM runs.
        files: hand tensors over; closed with the engine.
        allow_control_tokens: see `PromptRenderer`.
    """

    def __init__(
        self,
        client: VllmClient,
        checkpoint: VllmCheckpoint,
        files: SharedFiles,
        *,
        allow_control_tokens: bool = False,
    ) -> None:
        config = client.config
        model = config.model_config
        dtype = model.dtype
        assert isinstance(dtype, torch.dtype)
        processor, self._config = checkpoint.processor, checkpoint.config
        self._prompts = PromptRenderer(processor, self._config, allow_control_tokens=allow_control_tokens)
        self._end_ids = end_ids(_generation_config(checkpoint.folder), processor.tokenizer)
        self._grammars = Grammars(processor.tokenizer, model.get_vocab_size())
        self._has_processor_options = bool(_processor_options(config))
        self.facts = ModelFacts(
            checkpoint=checkpoint.digest,
            fingerprint=_fingerprint(fingerprint(checkpoint.digest, dtype, processor), checkpoint.options, config),
            num_layers=model.get_total_num_hidden_layers(),
            max_tokens=model.max_model_len,
            image_crop=None if self._has_processor_options else image_crop(processor),
            vocabulary=model.get_vocab_size(),
        )
        self.registry: CollectorRegistry | None = REGISTRY  # where vLLM keeps its metrics
        self._dtype = str(dtype).removeprefix("torch.")
        self._rope = rope_of_config(self._config.get_text_config())  # until it is measured, see `check`
        self._texts = TextCache()
        self._text_lock = asyncio.Lock()
        self._client = client
        self._files = files
        self._contexts = ContextPrompts(files)
        ranks = config.parallel_config.tensor_parallel_size
        self._captures = CaptureClient(client, files, ranks=ranks, heads=model.get_total_num_kv_heads())

    @classmethod
    async def load(
        cls,
        name: str,
        *,
        dtype: torch.dtype,
        describe_prompt: str,
        max_queue: int,
        options: Mapping[str, Any],
        max_images: int = 16,
        handover_dir: Path | None = None,
        allow_control_tokens: bool = False,
        trust_remote_code: bool = False,
    ) -> Self:
        """Start vLLM with a checkpoint and check that it can be served.

        Args:
            name: folder or hub name.
            dtype: arithmetic of the model.
            describe_prompt: tried in the self-check.
            max_queue: passes of each kind, see `Admission`.
            options: vLLM's own, see `options.engine_args`.
            max_images: most images of a prompt.
            handover_dir: where tensors are handed to its processes; None chooses.
            allow_control_tokens: see `PromptRenderer`.
            trust_remote_code: whether code of the checkpoint may run.

        Raises:
            ModelRefusedError: it cannot be served, or an option is wrong; the message says why.
        """
        for variable, value in _ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        checkpoint = await asyncio.to_thread(read_checkpoint, name, dtype, options, max_images, trust_remote_code)
        async with AsyncExitStack() as undo:
            files = await asyncio.to_thread(SharedFiles, handover_dir)
            undo.callback(files.close)
            _log.info("Loading the model: %s with vLLM.", str(dtype).removeprefix("torch."))
            with refuse(f"vLLM cannot run {checkpoint.label}"):
                client = VllmClient(await asyncio.to_thread(_start, checkpoint.args), max_queue=max_queue)
            undo.push_async_callback(client.close)
            for problems in await client.call_workers("lookonce_attach"):
                if problems:
                    raise ModelRefusedError(f"This model cannot be served by image re-prompting. {' '.join(problems)}")
            with refuse(f"{checkpoint.label} cannot run the self-check"):
                engine = await asyncio.to_thread(
                    cls, client, checkpoint, files, allow_control_tokens=allow_control_tokens
                )
                _log.info("Checking the model: answers from a context must be those of the whole image.")
                await engine.check(describe_prompt)
            # Now that all has been loaded, and used.
            await asyncio.to_thread(check_unchanged, checkpoint.folder, checkpoint.digest, **checkpoint.files)
            undo.pop_all()
        return engine

    async def check(self, describe_prompt: str) -> None:
        """Raise ModelRefusedError unless answers from contexts are exact."""
        self._rope = await check_model(
            self._captures,
            self._contexts,
            self._prompts,
            self._config,
            dtype=self._dtype,
            describe_prompt=describe_prompt,
        )
        problem = await find_join_problem(
            self._captures, self._prompts, self._rope, dtype=self._dtype, describe_prompt=describe_prompt
        )
        summary = await asyncio.to_thread(
            summarize,
            self._prompts,
            self._config,
            describe_prompt=describe_prompt,
            dtype=getattr(torch, self._dtype),
            counts=not self._has_processor_options,
        )
        self.facts = replace(self.facts, unjoinable=problem, summary=summary)
        self.facts.report_joins()
        await self._prepare_texts(describe_prompt)

    async def _prepare_texts(self, describe_prompt: str) -> None:
        """Compute the text around images, so that the first answer does not wait."""
        turn = await asyncio.to_thread(self._prompts.describe_turn, describe_prompt)
        await self._text_kv(TextSpan(turn.prefix))
        if self.facts.unjoinable is None:
            with suppress(ContextOutdatedError):  # the template prints another date already
                joined = await asyncio.to_thread(self._prompts.join, [turn, turn], _TWO_IMAGES)
                await self._text_kv(TextSpan(joined.seams[0], turn.prefix))

    @property
    def queue_depth(self) -> int:
        """Return the passes that wait or run."""
        return self._client.admission.depth

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
        await self._client.ping()

    async def take_step_times(self) -> list[StepTimes]:
        """Return the times of the steps since the last call, of the first rank's worker."""
        first, *_ = await self._client.call_workers("lookonce_step_times")
        return [StepTimes(*times) for times in first]  # vLLM's messages make tuples lists

    async def close(self) -> None:
        """Stop vLLM."""
        await self._client.close()
        self._files.close()

    async def full(
        self, conversation: Conversation, images: Sequence[Visual], sampling: Sampling, tenant: str
    ) -> Answer:
        """See `Engine.full`."""
        with self._client.admission.admit():
            images = await asyncio.to_thread(self._fit, conversation, images)
            frames = tuple(map(frames_of, images))
            ids = await asyncio.to_thread(self._prompts.full_ids, conversation, frames)
            prompt = await asyncio.to_thread(self._prompt, ids, images, tenant)

            def started(output: RequestOutput) -> Started:
                prompt_ids = output.prompt_token_ids or ()
                tokens, image_tokens = len(prompt_ids), self._prompts.count_image_tokens(prompt_ids)
                computed = tokens - (output.num_cached_tokens or 0)
                # What vLLM's own cache saves is not a context's merit.
                return Started(tokens, computed, computed, frames, image_tokens)

            async with aclosing(self._stream_answer(prompt, sampling, None, started)) as events:
                async for event in events:
                    yield event

    async def answer(
        self, contexts: Sequence[CompressedContext], conversation: Conversation, sampling: Sampling
    ) -> Answer:
        """See `Engine.answer`."""
        self.facts.check_joins(len(contexts))
        with self._client.admission.admit():
            join, full_prompt_tokens = await asyncio.to_thread(self._continue, contexts, conversation)
            self.facts.fit(join.tokens, sampling)
            texts = [await self._text_kv(span) for span in join.spans]
            dense = await asyncio.to_thread(self._combine, join, texts, contexts)
            started = Started(join.tokens, len(join.after), full_prompt_tokens)
            name = " ".join(context.id for context in contexts)
            async with (
                self._contexts.attach(name, dense) as attached,
                aclosing(
                    self._stream_answer(attached.prompt(join.after), sampling, Job(attached.load), lambda _: started)
                ) as events,
            ):
                async for event in events:
                    yield event

    async def describe(
        self, image: Visual, plan: DescribePlan, tenant: str, on_text: OnText = ignore_text
    ) -> Description:
        """See `Engine.describe`.

        The description is generated like any answer. Then one more prefill, of the prompt with the description, is
        captured: in it, every row that scores is a prompt row, which vLLM computes in the same way on every platform.
        """
        with self._client.admission.admit(background=True):
            turn, image = await asyncio.to_thread(self._describe_turn, plan.prompt, image)
            prompt = await asyncio.to_thread(self._prompt, turn.ids, [image], tenant)
            on_text("")
            token_ids, text = await self._generate_description(prompt, Sampling(plan.max_tokens), on_text)
            fed = token_ids[:-1]  # the last token was generated, but never run through the model
            tensors, ids = await self._captures.capture(
                prompt | {"prompt_token_ids": [*prompt["prompt_token_ids"], *fed]},
                num_description_tokens=len(fed),
                compression=Compression(
                    plan.rows,
                    plan.window,
                    plan.selection,
                    plan.retention,
                    self._rope.interleaved,
                    frames_of(image),
                    self._layout(image),
                ),
            )
        return PackedPrompt.of_tensors(tensors).describe(text, turn, ids[: len(ids) - len(fed)])

    async def _stream_answer(
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
        async with aclosing(self._client.run(prompt, params)) as outputs:
            async for output in outputs:
                if text is None:
                    first = started(output)
                    fitting = self.facts.fit(first.prompt_tokens, sampling)  # vLLM ends an answer that has no more room
                    text = TextStream(self._prompts.tokenizer, fitting, ends, self._prompts.reasoning)
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

    async def _generate_description(
        self, prompt: dict[str, Any], sampling: Sampling, on_text: OnText = ignore_text
    ) -> tuple[list[int], str]:
        """Generate a description; return all its tokens, and its text."""
        text = TextStream(self._prompts.tokenizer, sampling, self._end_ids)
        token_ids: list[int] = []
        pieces: list[str] = []
        params = sampling_params(sampling, end_ids=self._end_ids)
        async with aclosing(self._client.run(prompt, params, priority=BACKGROUND)) as outputs:
            async for output in outputs:
                for token, _ in _tokens(output, None):
                    token_ids.append(token)
                    pieces.append(text.push(token).text)
                    on_text(pieces[-1])
        if not token_ids:
            raise EngineError("vLLM described the image with nothing.")
        return token_ids, "".join(pieces)

    def _fit(self, conversation: Conversation, images: Sequence[Visual]) -> Sequence[Visual]:
        """Return the images, with as many frames of videos as fit."""
        if not any(isinstance(image, Video) for image in images):
            return images
        return self._prompts.full(conversation, images, self.facts.max_tokens).images

    def _describe_turn(self, prompt: str, image: Visual) -> tuple[DescribeTurn, Visual]:
        """Return the describe turn and its image, or its video with as many frames as fit."""
        if not isinstance(image, Video):
            return self._prompts.describe_turn(prompt), image
        described = self._prompts.describe(prompt, image, self.facts.max_tokens)
        assert described.turn is not None
        return described.turn, described.images[0]

    def _layout(self, image: Visual) -> tuple[tuple[float, ...], ...] | None:
        """Return the layout of an image's tokens, in numbers; see `Compression`."""
        layout = None if self._has_processor_options else self._prompts.tiles.layout(image)
        return layout.blocks if layout else None

    def _prompt(self, ids: list[int], images: Sequence[Visual], tenant: str) -> dict[str, Any]:
        """Return a prompt whose cached blocks and images serve this tenant alone.

        One tenant could else tell from an answer's speed what another has asked about.
        """
        prompt: dict[str, Any] = {"prompt_token_ids": ids, "cache_salt": self._contexts.salt(f"tenant {tenant}")}
        pictures, videos = self._prompts.media.split(images)
        data: dict[str, list[Any]] = {"image": pictures, "video": videos}
        pixels = {
            "image": [f"{image.mode} {image.size} ".encode() + image.tobytes() for image in pictures],
            "video": [f"{frames.shape} {metadata} ".encode() + frames.tobytes() for frames, metadata in videos],
        }
        if kinds := [kind for kind in data if data[kind]]:
            prompt["multi_modal_data"] = {kind: data[kind] for kind in kinds}
            prompt["multi_modal_uuids"] = {
                kind: [self._contexts.salt(f"{kind} {tenant} {digest(one)}") for one in pixels[kind]] for kind in kinds
            }
        return prompt

    def _continue(self, contexts: Sequence[CompressedContext], conversation: Conversation) -> _Continuation:
        join = join_contexts(self._prompts, contexts, conversation, self.facts.max_tokens)
        return _Continuation(join, self._prompts.full_prompt_tokens(conversation, contexts, join.turn_tokens))

    def _combine(self, join: Join, texts: Sequence[TextKV], contexts: Sequence[CompressedContext]) -> DenseContext:
        own = ((context.keys.dequantize(), context.values.dequantize()) for context in contexts)
        return join.combine(texts, own, self._rope)

    async def _text_kv(self, span: TextSpan) -> TextKV:
        """Return the keys and values of a text, computed at its first question."""
        async with self._text_lock:
            return self._texts.get(span) or self._texts.keep(span, await compute_text(self._captures, span))


def _start(args: AsyncEngineArgs) -> AsyncLLM:
    """Start vLLM; its processes end with this process and this thread."""
    with bind_forks():
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


def _fingerprint(plain: str, options: Mapping[str, str], config: VllmConfig) -> str:
    """Return the fingerprint of every engine, `plain`, unless vLLM computes otherwise.

    Options count by themselves, so that none is forgotten.
    """
    chosen = {  # by options, or by the checkpoint
        "quantization": config.model_config.quantization,
        "kv_cache_dtype": config.cache_config.cache_dtype.replace("auto", ""),
    }
    changed = dict(options) | {name: str(value) for name, value in chosen.items() if value}
    return digest(f"{plain} {sorted(changed.items())}".encode()) if changed else plain


def _processor_options(config: VllmConfig) -> Any:
    """Return the options of the processor that vLLM adds to its configuration."""
    return getattr(config.model_config.multimodal_config, "mm_processor_kwargs", None)


def _generation_config(folder: Path) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:
        return None
