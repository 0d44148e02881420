"""Run passes as generators, step by step, in the scheduler's thread."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import torch
from prometheus_client import CollectorRegistry
from torch import Tensor
from transformers import DynamicCache

from lookonce_cache import CompressedContext
from lookonce_pruning import AttentionRecorder, PruningError
from lookonce_server.engines.base import (
    ANSWER,
    FULL_PASS,
    Answer,
    DescribePlan,
    ModelFacts,
    OnText,
    PassCounts,
    Piece,
    Sampling,
    Started,
    ignore_text,
    pass_counts,
)
from lookonce_server.engines.conversation import Conversation
from lookonce_server.engines.description import Description, pack_prompt
from lookonce_server.engines.geometry import image_crop
from lookonce_server.engines.join import join_contexts
from lookonce_server.engines.prefix import TextCache, TextKV, TextSpan
from lookonce_server.engines.pretrained import refuse
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.engines.structured.grammar import Grammars
from lookonce_server.engines.summary import summarize
from lookonce_server.engines.text_stream import TextStream, end_ids, token_text
from lookonce_server.engines.tool_calls import parser_of
from lookonce_server.engines.transformers.batch import Extension, RunningSequence, SequenceBatch, layer_problem
from lookonce_server.engines.transformers.loading import LoadedModel, load_model
from lookonce_server.engines.transformers.model import ModelRunner, stacked
from lookonce_server.engines.transformers.sampler import Sampler
from lookonce_server.engines.transformers.scheduler import Batched, PassScheduler
from lookonce_server.engines.transformers.selfcheck import check_model, find_batch_problem, find_join_problem
from lookonce_server.engines.visuals import Visual, frames_of
from lookonce_server.errors import EngineEndedError, EngineError, PromptTooLongError

_log = logging.getLogger(__name__)


class TransformersEngine:
    """Implement `Engine` on transformers; see `load`.

    Args:
        loaded: the model.
        max_running: passes in work at once.
        max_queue: passes of each kind, see `Admission`.
        allow_control_tokens: see `PromptRenderer`.
        batched: whether answers are decoded together, where the model's layers allow it.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_running: int = 8,
        max_queue: int = 256,
        allow_control_tokens: bool = False,
        batched: bool = True,
    ) -> None:
        self._runner = ModelRunner(loaded.model)
        self._texts = TextCache()
        self._prompts = PromptRenderer(loaded.processor, loaded.model.config, allow_control_tokens=allow_control_tokens)
        self._end_ids = end_ids(loaded.model.generation_config, loaded.processor.tokenizer)
        self._grammars = Grammars(loaded.processor.tokenizer, loaded.model.config.get_text_config().vocab_size)
        self.facts = ModelFacts(
            checkpoint=loaded.checkpoint,
            fingerprint=loaded.fingerprint,
            num_layers=self._runner.num_layers,
            max_tokens=self._runner.max_tokens,
            image_crop=image_crop(loaded.processor),
            vocabulary=loaded.model.config.get_text_config().vocab_size,
            no_tools=self._prompts.no_tools,
        )
        self.registry: CollectorRegistry | None = None
        batched = batched and layer_problem(loaded.model.config.get_text_config()) is None
        self._batch = SequenceBatch(self._runner) if batched else None
        self._scheduler = PassScheduler(
            max_running=max_running, max_queue=max_queue, compute=self._batch.extend if self._batch else None
        )

    @classmethod
    async def load(
        cls,
        name: str,
        *,
        dtype: torch.dtype,
        device: str,
        describe_prompt: str,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Self:
        """Load a checkpoint and check that it can be served.

        Args:
            name: folder or hub name.
            dtype: arithmetic of the model.
            device: where it runs.
            describe_prompt: tried in the self-check.
            trust_remote_code: whether code of the checkpoint may run.
            options: the engine's own.

        Raises:
            ModelRefusedError: it cannot; the message says why.
        """
        _log.info("Loading the model: %s on %s.", str(dtype).removeprefix("torch."), device)
        loaded = await asyncio.to_thread(
            load_model, name, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
        _log.info("Checking the model: answers from a context must be those of the whole image.")
        with refuse(f"model {name!r} ({type(loaded.model).__name__}) cannot run the self-check"):
            await asyncio.to_thread(check_model, loaded, describe_prompt)
            alone = await asyncio.to_thread(find_batch_problem, loaded, describe_prompt)
            engine = cls(loaded, **{"batched": alone is None} | options)
            config = loaded.model.config
            summary = await asyncio.to_thread(
                summarize,
                engine._prompts,
                config,
                describe_prompt=describe_prompt,
                dtype=dtype,
                state_bytes=engine._runner.state_bytes,
            )
        problem = await asyncio.to_thread(find_join_problem, loaded, describe_prompt)
        engine.facts = replace(engine.facts, unjoinable=problem, summary=summary)
        engine.facts.report_joins()
        if alone is not None:
            _log.info("Answers are decoded one by one, not in a batch: %s", alone)
        return engine

    @property
    def queue_depth(self) -> int:
        """Return the passes that wait or run."""
        return self._scheduler.admission.depth

    @property
    def passes(self) -> PassCounts:
        """See `Engine.passes`."""
        return pass_counts(self._scheduler.admission)

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
        if not self._scheduler.alive:
            raise EngineEndedError

    async def close(self) -> None:
        """Stop the thread."""
        await asyncio.to_thread(self._scheduler.close)

    def full(self, conversation: Conversation, images: Sequence[Visual], sampling: Sampling, tenant: str) -> Answer:
        """See `Engine.full`; nothing is kept between passes."""
        work = self._full(conversation, images, sampling, time.monotonic())
        return self._scheduler.run(work, steps=FULL_PASS)

    def answer(self, contexts: Sequence[CompressedContext], conversation: Conversation, sampling: Sampling) -> Answer:
        """See `Engine.answer`."""
        work = self._answer(contexts, conversation, sampling, time.monotonic())
        return self._scheduler.run(work, steps=ANSWER)

    async def describe(
        self, image: Visual, plan: DescribePlan, tenant: str, on_text: OnText = ignore_text
    ) -> Description:
        """See `Engine.describe`."""
        events: AsyncGenerator[str | Description] = self._scheduler.run(self._describe(image, plan), background=True)
        async for event in events:
            if isinstance(event, Description):
                return event
            on_text(event)
        raise EngineError("The describe pass ended without a result.")

    def _full(
        self, conversation: Conversation, images: Sequence[Visual], sampling: Sampling, asked_at: float
    ) -> Iterator[Started | Piece | Batched]:
        started_at = time.monotonic()
        prompt = self._prompts.full(conversation, images, self.facts.max_tokens)
        sampling = self.facts.fit(prompt.tokens, sampling)
        yield Started(
            prompt.tokens,
            prompt.tokens,
            prompt.tokens,
            tuple(map(frames_of, prompt.images)),
            image_tokens=len(prompt.image_positions),
            computed_image_tokens=len(prompt.image_positions),
            queue_seconds=started_at - asked_at,
            started_at=started_at,
        )
        state = self._runner.prefill(prompt)
        with self._sequence(state.cache, state.next_position) as sequence:
            yield from self._decode(sequence, state.logits, sampling)

    def _answer(
        self, contexts: Sequence[CompressedContext], conversation: Conversation, sampling: Sampling, asked_at: float
    ) -> Iterator[Started | Piece | Batched]:
        started_at = time.monotonic()
        self.facts.check_joins(len(contexts))
        join = join_contexts(self._prompts, contexts, conversation, self._runner.window)
        sampling = self.facts.fit(join.tokens, sampling)
        full_prompt_tokens = self._prompts.full_prompt_tokens(conversation, contexts, join.turn_tokens)
        device = self._runner.model.device
        own = ((context.keys.dequantize(device), context.values.dequantize(device)) for context in contexts)
        dense = join.combine([self._text_kv(span) for span in join.spans], own, self._runner.rope)
        cache = self._runner.cache_of(dense.keys, dense.values, contexts[0].states)
        queue_seconds = started_at - asked_at
        started = Started(
            join.tokens, len(join.after), full_prompt_tokens, queue_seconds=queue_seconds, started_at=started_at
        )
        with self._sequence(cache, dense.tokens) as sequence:
            logits = yield from self._extend(started, sequence, join.after)
            yield from self._decode(sequence, logits, sampling)

    def _text_kv(self, span: TextSpan) -> TextKV:
        return self._texts.get(span) or self._texts.keep(span, self._runner.text_kv(span))

    @contextmanager
    def _sequence(self, cache: DynamicCache, next_position: int) -> Iterator[RunningSequence]:
        sequence = RunningSequence(cache, next_position)
        try:
            yield sequence
        finally:
            if self._batch is not None:
                self._batch.remove(sequence)

    def _decode(
        self, sequence: RunningSequence, logits: Tensor, sampling: Sampling
    ) -> Iterator[Started | Piece | Batched]:
        sampler = Sampler(sampling)
        grammar = None if sampling.json_schema is None else self._grammars.grammar(sampling.json_schema)
        ends = self._end_ids | {grammar.end} if grammar else self._end_ids
        calls = parser_of(sampling.tool_choice, self._prompts.call_format) if sampling.tool_choice else None
        text = TextStream(self._prompts.tokenizer, sampling, ends, self._prompts.reasoning, calls)
        while True:
            logits = grammar.mask(logits) if grammar else logits
            token = sampler.pick(logits)
            if grammar:
                grammar.push(token)
            piece = text.push(token, sampler.logprob(logits, token))
            if piece.finish_reason:
                yield piece
                return
            logits = yield from self._extend(piece, sequence, [token])

    def _extend(
        self, event: Started | Piece, sequence: RunningSequence, ids: list[int]
    ) -> Generator[Started | Piece | Batched, Any, Tensor]:
        """Yield an event, and return the logits after more tokens of a sequence."""
        if self._batch is not None:
            logits: Tensor = yield Batched(event, Extension(sequence, ids))
            return logits
        yield event
        assert sequence.cache is not None  # no batch has taken it over
        state = self._runner.extend(sequence.cache, sequence.next_position, torch.tensor([ids]))
        sequence.next_position = state.next_position
        return state.logits

    def _describe(self, image: Visual, plan: DescribePlan) -> Iterator[str | Description]:
        """Yield the text's pieces, one a step, and the description at last."""
        yield ""
        prompt = self._prompts.describe(plan.prompt, image, self._runner.window)
        if prompt.tokens > self._runner.window < self.facts.max_tokens:
            raise PromptTooLongError(
                f"The image and the describe prompt have {prompt.tokens} tokens, and the model's sliding attention"
                f" window {self._runner.window}: no context can be made of what some layers do not see whole.",
                param="messages",
            )
        sampling = self.facts.fit(prompt.tokens, Sampling(plan.max_tokens))
        recorder = AttentionRecorder(
            self._runner.model,
            image_positions=prompt.image_positions,
            prompt_length=prompt.tokens,
            window=range(*plan.window),
            grid=prompt.grid,
            layout=prompt.layout,
        )
        # The recorder is entered for each step alone: other passes run between them, and must not be recorded.
        with recorder:
            state = self._runner.prefill(prompt)
        next_position = state.next_position
        states = self._runner.states_of(state.cache)  # a question follows the prompt, and not the description
        text = TextStream(self._prompts.tokenizer, sampling, self._end_ids)
        pieces = []
        while True:
            token = int(state.logits.argmax())
            piece = text.push(token)
            pieces.append(piece.text)
            yield piece.text
            if piece.finish_reason:
                break
            with recorder:
                state = self._runner.extend(state.cache, state.next_position, torch.tensor([[token]]))
        try:
            scores = recorder.scores(plan.rows)
            packed = pack_prompt(
                scores,
                *stacked(state.cache, prompt.tokens),
                selection=plan.selection,
                retention=plan.retention,
                prompt_length=prompt.tokens,
                image_positions=prompt.image_positions,
                rope=self._runner.rope,
                next_position=next_position,
            )
        except PruningError as error:
            raise EngineError(f"The describe pass could not be recorded: {error}") from error
        assert prompt.turn is not None
        description = packed.describe("".join(pieces), prompt.turn, prompt.ids, states)
        yield description._replace(generated_tokens=len(pieces))
