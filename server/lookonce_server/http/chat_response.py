"""OpenAI's JSON of a chat completion, whole or in chunks."""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from lookonce_server.engines.base import ModelFacts, Piece
from lookonce_server.http.logprobs import TokenText, logprob_entries
from lookonce_server.http.usage import Accounts


class Completion:
    """A chat completion on its way to the client: a choice for every answer.

    Args:
        model: its name in the API.
        facts: of the model.
        accounts: of the question.
        token_text: the text of a token; None where nobody asked for log-probabilities.
        stream_usage: whether a stream ends with the usage; its other events then say that they have none.
    """

    def __init__(
        self, model: str, facts: ModelFacts, accounts: Accounts, *, token_text: TokenText | None, stream_usage: bool
    ) -> None:
        self._accounts = accounts
        self._token_text = token_text
        self._stream_usage = stream_usage
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._head = {
            "created": int(time.time()),
            "model": model,
            "service_tier": "default",
            "system_fingerprint": f"fp_{facts.fingerprint[:16]}",
        }

    def whole(self, answers: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """All answers, each given by its pieces, in one object."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(p.text for p in pieces), "refusal": None},
                "logprobs": self._logprobs(pieces),
                "finish_reason": pieces[-1].finish_reason,
            }
            for index, pieces in enumerate(answers)
        ]
        return self._object("chat.completion", choices) | {
            "usage": self._usage(),
            "lookonce": self._accounts.extension(),
        }

    def first_chunks(self) -> Iterator[dict[str, Any]]:
        """The events that a stream begins with; the very first one tells of the lookup, as far as it is known."""
        for index in range(self._accounts.answers):
            chunk = self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
            yield chunk if index else chunk | {"lookonce": self._accounts.extension()}

    def chunks(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """The events that a piece of a choice causes in a stream."""
        # A token without text of its own, as the first half of a character, still has a log-probability.
        if piece.text or (self._token_text and piece.logprob):
            yield self._chunk(index, {"content": piece.text}, logprobs=self._logprobs([piece]))
        if piece.finish_reason:
            yield self._chunk(index, {}, finish_reason=piece.finish_reason) | {
                "lookonce": self._accounts.extension(index)
            }

    def last_chunks(self) -> Iterator[dict[str, Any]]:
        """The events that a stream ends with: the usage, where it was asked for."""
        if self._stream_usage:
            yield self._object("chat.completion.chunk", []) | {"usage": self._usage()}

    def _usage(self) -> dict[str, Any]:
        """OpenAI's usage object: the prompt once, however many answers stand on it."""
        prompt, generated = self._accounts.prompt_tokens, self._accounts.generated_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": self._accounts.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        """OpenAI's object of the pieces' tokens; None where nobody asked for it."""
        if self._token_text is None:
            return None
        return {"content": logprob_entries(pieces, self._token_text), "refusal": None}

    def _chunk(
        self,
        index: int,
        delta: dict[str, str | None],
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        usage = {"usage": None} if self._stream_usage else {}
        return self._object("chat.completion.chunk", [choice]) | usage

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, **self._head, "choices": choices}
