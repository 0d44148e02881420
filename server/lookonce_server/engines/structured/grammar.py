"""Decode answers under the grammar of a JSON Schema, llguidance's."""

import asyncio
import json
import sys
from collections import OrderedDict
from functools import cached_property
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from lookonce_cache import digest
from lookonce_server.engines.structured import trial
from lookonce_server.engines.structured.trial import CPU_SECONDS, MEMORY_BYTES, grammar_of, problem_of
from lookonce_server.errors import EngineError, InvalidRequestError

MAX_BYTES = 64 * 1024  # of a schema's text
MAX_DEPTH = 50  # of objects and lists within each other; vLLM takes 64
MAX_TEXT = 8192  # characters of any name or text in a schema: what is forced is looked at again with each token
OUTGREW = "its grammar grew too complex while the answer was decoded"
_OVER = f"it takes more than {CPU_SECONDS} s or {MEMORY_BYTES >> 20} MiB to compile"
_REMEMBERED = 256  # schemas
_TRIALS = 2  # at once
_TRIAL_SECONDS = 60.0  # of the clock, on a machine that is busy


class Grammars:
    """Make the grammars of a model's vocabulary.

    Args:
        tokenizer: the model's.
        vocabulary: tokens that the model has logits for.
    """

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._hf_tokenizer = tokenizer
        self._vocabulary = max(vocabulary, len(tokenizer))
        self._verdicts: OrderedDict[str, str | None] = OrderedDict()  # by the schema's digest: what is wrong with it
        self._trials = asyncio.Semaphore(_TRIALS)

    async def check(self, schema: str) -> None:
        """Return if answers can be held to a schema.

        Raises:
            InvalidRequestError: they cannot: it is wrong, not supported or too complex, or grammars cannot be made for
                this tokenizer.
            EngineError: it could not be found out.
        """
        problem = _problem_of_text(schema) or await self._verdict(schema)
        if problem:
            raise schema_error(problem)

    def grammar(self, schema: str) -> "Grammar":
        """Return the grammar of one answer.

        It takes milliseconds, if `check` has let the schema pass.

        Raises:
            InvalidRequestError: see `check`.
        """
        tokenizer = self._tokenizer
        matcher = LLMatcher(tokenizer, grammar_of(schema), log_level=0)
        if problem := problem_of(matcher):
            raise schema_error(problem)
        return Grammar(matcher, tokenizer.eos_token)

    async def _verdict(self, schema: str) -> str | None:
        key = digest(schema.encode())
        if key not in self._verdicts:
            async with self._trials:
                verdict = await _try_compile(schema)
            if verdict is None:
                await asyncio.to_thread(self.grammar, schema)
            self._verdicts[key] = verdict
        self._verdicts.move_to_end(key)
        if len(self._verdicts) > _REMEMBERED:
            self._verdicts.popitem(last=False)
        return self._verdicts[key]

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        """Return llguidance's tokenizer, made at the first schema: it takes seconds."""
        try:
            return from_tokenizer(self._hf_tokenizer, self._vocabulary)
        except Exception as error:
            raise InvalidRequestError(
                f"Structured output is not possible with this model's tokenizer: {error}.", param="response_format"
            ) from error


class Grammar:
    """The state of one answer in its grammar.

    Args:
        matcher: at the answer's begin.
        end: the token that ends it, the only one allowed once nothing else may follow.
    """

    def __init__(self, matcher: LLMatcher, end: int) -> None:
        self._matcher = matcher
        self.end = end

    def mask(self, logits: Tensor) -> Tensor:
        """Return logits `[vocabulary]`, minus infinity for forbidden tokens.

        Raises:
            InvalidRequestError: the grammar has grown too complex on the way here.
        """
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        if problem := problem_of(self._matcher):
            raise schema_error(problem)
        forbidden = torch.ones(len(logits), dtype=torch.bool)  # where the model has more logits than there are tokens
        forbidden[: len(allowed)] = allowed[: len(logits)] == 0
        return logits.masked_fill(forbidden.to(logits.device), float("-inf"))

    def push(self, token: int) -> None:
        """Take the next token.

        Raises:
            InvalidRequestError: it must not come here: an engine that masks, and gives up on a grammar that has grown
                too complex, ends the answer before it is whole.
        """
        fits = self._matcher.is_accepting() if token == self.end else self._matcher.consume_token(token)
        if not fits:
            raise schema_error(problem_of(self._matcher) or OUTGREW)


async def _try_compile(schema: str) -> str | None:
    """Return the problem of a schema, None if it has none; see `trial`."""
    pipe = asyncio.subprocess.PIPE
    process = None
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", trial.__name__, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
        )
        output, _ = await asyncio.wait_for(process.communicate(schema.encode()), _TRIAL_SECONDS)
    except OSError as error:  # the one of a time that has run out is one of them
        raise EngineError(f"A JSON Schema could not be tried out: {type(error).__name__} {error}".strip()) from error
    finally:
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode() or (_OVER if process.returncode else None)


def _problem_of_text(schema: str) -> str | None:
    """Return the problem of a schema's text, None if it has none."""
    try:
        size = len(schema.encode())
        if size > MAX_BYTES:
            return f"it has {size} bytes; at most {MAX_BYTES} are accepted"
        parsed = json.loads(schema)
    except (ValueError, RecursionError):
        return "it is not valid JSON"
    if not isinstance(parsed, dict):
        return "it must be an object"
    if "x-guidance" in parsed:  # llguidance's own options, which could ask for what is no JSON
        return "'x-guidance' is not supported"
    return _problem_of_shape(parsed)


def _problem_of_shape(schema: dict[str, Any]) -> str | None:
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        inside = [part for node in level for part in ([*node, *node.values()] if isinstance(node, dict) else node)]
        if any(isinstance(part, str) and len(part) > MAX_TEXT for part in inside):
            return f"a name or text in it has more than {MAX_TEXT} characters"
        level = [part for part in inside if isinstance(part, dict | list)]
    return f"objects and lists are within each other more than {MAX_DEPTH} deep" if level else None


def schema_error(problem: str) -> InvalidRequestError:
    """Return the error of a schema."""
    return InvalidRequestError(f"The JSON Schema is not accepted: {problem.rstrip('.')}.", param="response_format")
