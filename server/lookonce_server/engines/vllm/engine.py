"""Run every pass as a request to one `AsyncLLM`, batched with the others."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from prometheus_client import REGISTRY, CollectorRegistry
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

from lookonce_cache import CompressedContext, digest
from lookonce_pruning import rope_of_config
from lookonce_server.engines.base import (
    ANSWER,
    FULL_PASS,
    Answer,
    DescribePlan,
    ModelFacts,
    OnText,
    PassCounts,
    Sampling,
    Started,
    ignore_text,
    pass_counts,
)
from lookonce_server.engines.checkpoint import check_unchanged, fingerprint
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.description import Description, PackedPrompt
from lookonce_server.engines.geometry import image_crop
from lookonce_server.engines.join import Join, join_contexts
from lookonce_server.engines.prefix import DenseContext, TextCache, TextKV, TextSpan
from lookonce_server.engines.pretrained import refuse
from lookonce_server.engines.prompts import UNKNOWN_FORM, DescribeTurn, PromptRenderer
from lookonce_server.engines.structured.grammar import Grammars
from lookonce_server.engines.summary import summarize
from lookonce_server.engines.text_stream import TextStream, end_ids, token_text
from lookonce_server.engines.tools import Tool
from lookonce_server.engines.visuals import Video, Visual, frames_of
from lookonce_server.engines.vllm.capture_client import CaptureClient
from lookonce_server.engines.vllm.checkpoint import (
    VllmCheckpoint,
    engine_fingerprint,
    generation_config,
    processor_options,
    read_checkpoint,
)
from lookonce_server.engines.vllm.client import BACKGROUND, VllmClient, sampling_params
from lookonce_server.engines.vllm.connector.files import SharedFiles
from lookonce_server.engines.vllm.connector.messages import Compression, Job
from lookonce_server.engines.vllm.connector.step_times import StepTimes
from lookonce_server.engines.vllm.context_prompts import ContextPrompts, name_join
from lookonce_server.engines.vllm.contract import check_contract
from lookonce_server.engines.vllm.outputs import scheduled_at, tier, times, tokens
from lookonce_server.engines.vllm.parent import bind_forks
from lookonce_server.engines.vllm.selfcheck import check_model, compute_text, find_join_problem
from lookonce_server.engines.vllm.tool_parser import call_parser, check_name
from lookonce_server.errors import ContextOutdatedError, EngineError, ModelRefusedError
from lookonce_server.tracing.spans import Phases, phases

_log = logging.getLogger(__name__)
_TWO_IMAGES = Conversation((Turn("user", (0, 1)),))

# What vLLM and llguidance read where the user has set nothing.
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # else vLLM reports each start to its makers
    "VLLM_LOGGING_LEVEL": "WARNING",  # a start is a hundred lines at its INFO
    "LLGUIDANCE_LOG_LEVEL": "0",  # a grammar that fails is told to whoever asked
}


# vLLM has a queue of its own, behind what is done here.
_ANSWER = (ANSWER[0], "queue", *ANSWER[1:])
_FULL_PASS = (FULL_PASS[0], "queue", *FULL_PASS[1:])


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
        reads_cache: whether the workers can read from vLLM's cache.
        allow_control_tokens: see `PromptRenderer`.
        tool_call_parser: name of vLLM's parser of calls; None: by the form that the chat template shows.
    """

    def __init__(
        self,
        client: VllmClient,
        checkpoint: VllmCheckpoint,
        files: SharedFiles,
        *,
        reads_cache: bool,
        allow_control_tokens: bool = False,
        tool_call_parser: str | None = None,
    ) -> None:
        config = client.config
        model = config.model_config
        dtype = model.dtype
        assert isinstance(dtype, torch.dtype)
        processor, self._config = checkpoint.processor, checkpoint.config
        self._prompts = PromptRenderer(processor, self._config, allow_control_tokens=allow_control_tokens)
        self._end_ids = end_ids(generation_config(checkpoint.folder), processor.tokenizer)
        self._grammars = Grammars(processor.tokenizer, model.get_vocab_size())
        self._has_processor_options = bool(processor_options(config))
        self.facts = ModelFacts(
            checkpoint=checkpoint.digest,
            fingerprint=engine_fingerprint(
                fingerprint(checkpoint.digest, dtype, processor), checkpoint.options, config
            ),
            num_layers=model.get_total_num_hidden_layers(),
            max_tokens=model.max_model_len,
            image_crop=None if self._has_processor_options else image_crop(processor),
            vocabulary=model.get_vocab_size(),
            no_tools=None if tool_call_parser and self._prompts.no_tools == UNKNOWN_FORM else self._prompts.no_tools,
        )
        self.registry: CollectorRegistry | None = REGISTRY  # where vLLM keeps its metrics
        self._dtype = str(dtype).removeprefix("torch.")
        self._rope = rope_of_config(self._config.get_text_config())  # until it is measured, see `check`
        self._tool_call_parser = tool_call_parser
        self._texts = TextCache()
        self._text_lock = asyncio.Lock()
        self._client = client
        self._files = files
        self._contexts = ContextPrompts(files)
        ranks = config.parallel_config.tensor_parallel_size
        self._captures = CaptureClient(
            client, files, ranks=ranks, heads=model.get_total_num_kv_heads(), reads_cache=reads_cache
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
        max_images: int = 16,
        handover_dir: Path | None = None,
        handover_bytes: int = 0,
        traces_endpoint: str | None = None,
        allow_control_tokens: bool = False,
        trust_remote_code: bool = False,
        served_name: str | None = None,
        tool_call_parser: str | None = None,
    ) -> Self:
        """Start vLLM with a checkpoint and check that it can be served.

        Args:
            name: folder or hub name.
            dtype: arithmetic of the model.
            describe_prompt: tried in the self-check.
            max_queue: passes of each kind, see `Admission`.
            options: vLLM's own, see `options.engine_args`.
            max_images: most images of a prompt.
            traces_endpoint: where vLLM sends its part of traces, in the environment's or OTLP's own protocol, HTTP.
            handover_dir: where tensors are handed to its processes; None chooses.
            handover_bytes: of contexts that are kept there for the next questions.
            allow_control_tokens: see `PromptRenderer`.
            trust_remote_code: whether code of the checkpoint may run.
            served_name: the model's name in vLLM's metrics; None: its folder.
            tool_call_parser: name of vLLM's parser of calls.

        Raises:
            ModelRefusedError: it cannot be served, or an option is wrong; the message says why.
        """
        for variable, value in _ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        if traces_endpoint is not None:
            options = {"otlp_traces_endpoint": traces_endpoint, **options}
            os.environ.setdefault("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")  # vLLM's own default is gRPC
            if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
                os.environ.setdefault("OTEL_SERVICE_NAME", "lookonce")
        if tool_call_parser is not None:
            check_name(tool_call_parser)
        check_contract()
        checkpoint = await asyncio.to_thread(read_checkpoint, name, dtype, options, max_images, trust_remote_code)
        if served_name is not None:
            checkpoint.args.served_model_name = [served_name]
        async with AsyncExitStack() as undo:
            files = await asyncio.to_thread(SharedFiles, handover_dir, max_idle_bytes=handover_bytes)
            undo.callback(files.close)
            _log.info("Loading the model: %s with vLLM.", str(dtype).removeprefix("torch."))
            with refuse(f"vLLM cannot run {checkpoint.label}"):
                client = VllmClient(await asyncio.to_thread(_start, checkpoint.args), max_queue=max_queue)
            undo.push_async_callback(client.close)
            for problems in await client.call_workers("lookonce_attach"):
                if problems:
                    raise ModelRefusedError(f"This model cannot be served by image re-prompting. {' '.join(problems)}")
            reads_cache = all(await client.call_workers("lookonce_reads_cache"))
            if not reads_cache:
                _log.warning("vLLM's cache cannot be read from: each describe pass computes its prompt twice.")
            with refuse(f"{checkpoint.label} cannot run the self-check"):
                engine = await asyncio.to_thread(
                    cls,
                    client,
                    checkpoint,
                    files,
                    reads_cache=reads_cache,
                    allow_control_tokens=allow_control_tokens,
                    tool_call_parser=tool_call_parser,
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

    @property
    def passes(self) -> PassCounts:
        """See `Engine.passes`."""
        return pass_counts(self._client.admission)

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
        with self._client.admission.admit() as place, phases(*_FULL_PASS) as trace:
            images = await asyncio.to_thread(self._fit, conversation, images)
            frames = tuple(map(frames_of, images))
            ids = await asyncio.to_thread(self._prompts.full_ids, conversation, frames)
            prompt = await asyncio.to_thread(self._prompt, ids, images, tenant)

            def started(output: RequestOutput) -> Started:
                place.run()
                ids = output.prompt_token_ids or []
                run = ids[output.num_cached_tokens or 0 :]
                image_tokens = self._prompts.count_image_tokens(ids)
                run_image_tokens = self._prompts.count_image_tokens(run)
                # What vLLM's own cache saves is not a context's merit.
                return Started(len(ids), len(run), len(run), frames, image_tokens, run_image_tokens, *times(output))

            trace.advance()
            answer = self._stream_answer(prompt, sampling, None, started, trace, conversation.tools)
            async with aclosing(answer) as events:
                async for event in events:
                    yield event

    async def answer(
        self, contexts: Sequence[CompressedContext], conversation: Conversation, sampling: Sampling
    ) -> Answer:
        """See `Engine.answer`."""
        self.facts.check_joins(len(contexts))
        with self._client.admission.admit() as place, phases(*_ANSWER) as trace:
            join, full_prompt_tokens = await asyncio.to_thread(self._continue, contexts, conversation)
            self.facts.fit(join.tokens, sampling)
            texts = [await self._text_kv(span) for span in join.spans]
            name = await asyncio.to_thread(name_join, join, texts, contexts)
            combine = partial(self._combine, join, texts, contexts)

            def started(output: RequestOutput) -> Started:
                place.run()
                return Started(join.tokens, len(join.after), full_prompt_tokens, (), 0, 0, *times(output))

            async with self._contexts.attach(name, join.layout.tokens, combine) as attached:
                trace.advance()
                prompt, job = attached.prompt(join.after), Job(attached.load)
                answer = self._stream_answer(prompt, sampling, job, started, trace, conversation.tools)
                async with aclosing(answer) as events:
                    async for event in events:
                        yield event

    async def describe(
        self, image: Visual, plan: DescribePlan, tenant: str, on_text: OnText = ignore_text
    ) -> Description:
        """See `Engine.describe`.

        The description is generated like any answer. Then one more prefill, of the prompt with the description, is
        captured: in it, every row that scores is a prompt row, which vLLM computes in the same way on every platform.
        What is before those rows it finds in its prefix cache.
        """
        with self._client.admission.admit(background=True) as place:
            turn, image = await asyncio.to_thread(self._describe_turn, plan.prompt, image)
            prompt = await asyncio.to_thread(self._prompt, turn.ids, [image], tenant)
            on_text("")

            def on_piece(piece: str) -> None:
                place.run()
                on_text(piece)

            token_ids, text = await self._generate_description(prompt, Sampling(plan.max_tokens), on_piece)
            # The last token was generated, but never run through the model. Rows of the query do not see any of them.
            fed = token_ids[:-1] if plan.rows != "query" else []
            captured = await self._captures.capture(
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
        prompt_ids = captured.prompt_ids[: len(captured.prompt_ids) - len(fed)]
        description = PackedPrompt.of_tensors(captured.tensors).describe(text, turn, prompt_ids)
        return description._replace(generated_tokens=len(token_ids), recomputed_tokens=captured.computed_tokens)

    async def _stream_answer(
        self,
        prompt: dict[str, Any],
        sampling: Sampling,
        job: Job | None,
        started: Callable[[RequestOutput], Started],
        trace: Phases,
        tools: Sequence[Tool],
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
                    trace.leave("queue", scheduled_at(output))
                    trace.advance()
                    first = started(output)
                    fitting = self.facts.fit(first.prompt_tokens, sampling)  # vLLM ends an answer that has no more room
                    calls = None
                    if choice := sampling.tool_choice:
                        calls = call_parser(self._tool_call_parser, self._prompts, tools, choice)
                    text = TextStream(self._prompts.tokenizer, fitting, ends, self._prompts.reasoning, calls)
                    yield first
                made_at = time.monotonic()
                for token, logprob in tokens(output, sampling.logprobs):
                    if grammar:
                        grammar.push(token)
                    piece = text.push(token, logprob, made_at)
                    if piece.finish_reason:
                        trace.finish()
                        yield piece._replace(tier=tier(output))
                        return
                    yield piece
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
                for token, _ in tokens(output, None):
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
