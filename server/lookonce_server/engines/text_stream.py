"""Turn token ids into pieces of text: detokenising, stops, end tokens."""

import time
from typing import Any

from tokenizers.decoders import DecodeStream

from lookonce_server.engines.base import FinishReason, Piece, Sampling, TokenLogprob
from lookonce_server.engines.reasoning import ReasoningFormat, ReasoningSplitter
from lookonce_server.engines.tool_calls import CallParser
from lookonce_server.errors import EngineError


class TextStream:
    """Turn token ids into text, held back until no stop text can come of it.

    Args:
        tokenizer: of the model.
        sampling: has the limits.
        end_ids: of tokens that end an answer.
        reasoning: the model's, to be kept apart from the answer; None: all text is the answer.
        calls: tells calls from text; None: there are none.
    """

    def __init__(
        self,
        tokenizer: Any,
        sampling: Sampling,
        end_ids: frozenset[int],
        reasoning: ReasoningFormat | None = None,
        calls: CallParser | None = None,
    ) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._calls = calls
        self._hides_special = not (calls and calls.shows_special)
        self._decoder = DecodeStream(skip_special_tokens=self._hides_special)
        self._end_ids = end_ids
        self._stop = sampling.stop
        self._left = sampling.max_tokens
        self._held = ""
        self._splitter = ReasoningSplitter(reasoning) if reasoning and sampling.json_schema is None else None
        self._hold = max((len(text) - 1 for text in sampling.stop), default=0)

    def push(self, token: int, logprob: TokenLogprob | None = None, made_at: float | None = None) -> Piece:
        """Return the piece that a token completes; its text may be empty.

        Args:
            token: the next one.
            logprob: comes back in the piece, unless the token is one that ends the answer: OpenAI lists none for those.
            made_at: when it came from the model; None: now.
        """
        piece = self._next(token, logprob)
        if self._splitter is not None:
            reasoning, text = self._splitter.push(piece.text, is_last=piece.finish_reason is not None)
            piece = piece._replace(text=text, reasoning=reasoning)
        if self._calls is not None:
            piece = self._with_calls(piece, token, self._calls)
        return piece._replace(made_at=time.monotonic() if made_at is None else made_at)

    def _with_calls(self, piece: Piece, token: int, parser: CallParser) -> Piece:
        """Take calls out of a piece's text; the answer ends where no other call may follow."""
        split = parser.push(piece.text, (token,), is_last=piece.finish_reason is not None)
        reason = piece.finish_reason
        if parser.is_done or (reason == "stop" and parser.num_calls):
            reason = "tool_calls"
        return piece._replace(text=split.content, calls=split.calls, finish_reason=reason)

    def _next(self, token: int, logprob: TokenLogprob | None) -> Piece:
        self._left -= 1
        if token in self._end_ids:
            return self._piece(self._held, "stop", None)
        self._held += self._decode(token)
        cut = min((at for text in self._stop if (at := self._held.find(text)) >= 0), default=-1)
        if cut >= 0:
            return self._piece(self._held[:cut], "stop", logprob)
        if self._left <= 0:
            return self._piece(self._held, "length", logprob)
        ready = len(self._held) - self._hold
        return self._piece(self._held[:ready] if ready > 0 else "", None, logprob)

    def _decode(self, token: int) -> str:
        try:
            return self._decoder.step(self._backend, token) or ""
        except Exception as error:  # tokenizers has no class of its own for it
            if not str(error).startswith("Invalid prefix"):
                raise
        # Bytes that are no character have changed the text before them, which is told already: go on behind them.
        self._decoder = DecodeStream(skip_special_tokens=self._hides_special)
        return "\ufffd" + (self._decoder.step(self._backend, token) or "")

    def _piece(self, text: str, reason: FinishReason | None, logprob: TokenLogprob | None) -> Piece:
        self._held = self._held[len(text) :]
        return Piece(text, 1, reason, logprob)


def token_text(tokenizer: Any, token: int) -> str:
    """Return the text of one token within a text, special tokens too.

    It is U+FFFD for a part of a character.

    It is what the token adds after itself: many tokenizers drop the space that a text's first token starts with.
    """
    backend = tokenizer.backend_tokenizer
    once, twice = (backend.decode([token] * times, skip_special_tokens=False) for times in (1, 2))
    return str(twice[len(once) :])


def end_ids(generation_config: Any | None, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: the config's or the tokenizer's."""
    ends = generation_config.eos_token_id if generation_config else None
    if ends is None:
        ends = tokenizer.eos_token_id
    ids = ends if isinstance(ends, list) else [ends]
    if not ids or None in ids:
        raise EngineError("The model names no token that ends an answer.")
    return frozenset(int(end) for end in ids)
