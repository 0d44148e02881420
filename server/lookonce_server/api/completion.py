"""OpenAI's JSON of a chat completion, whole or in chunks."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lookonce_server.api.accounts import Accounts
from lookonce_server.engines.base import Piece

TokenText = Callable[[int], str]
_UNLIKELY = -9999.0  # OpenAI's stand-in for minus infinity, which JSON does not have


class Completion:
    """A chat completion on its way to the client: a choice for every answer.

    Args:
        model: its name in the API.
        accounts: of the question.
        token_text: the text of a token; None where nobody asked for log-probabilities.
    """

    def __init__(self, model: str, accounts: Accounts, *, token_text: TokenText | None) -> None:
        self._model = model
        self._accounts = accounts
        self._token_text = token_text
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

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
            chunk = self._chunk(index, {"role": "assistant", "content": ""})
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

    def usage_chunk(self) -> dict[str, Any]:
        """The last event of a stream that was asked for usage."""
        return self._object("chat.completion.chunk", []) | {"usage": self._usage()}

    def _usage(self) -> dict[str, Any]:
        """OpenAI's usage object: the prompt once, however many answers stand on it."""
        prompt, generated = self._accounts.prompt_tokens, self._accounts.generated_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": self._accounts.cached_tokens},
        }

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        """OpenAI's object of the pieces' tokens; None where nobody asked for it."""
        if self._token_text is None:
            return None
        content = []
        for token, logprob, top in (piece.logprob for piece in pieces if piece.logprob):
            likeliest = [_logprob(self._token_text, *one) for one in top]
            content.append(_logprob(self._token_text, token, logprob) | {"top_logprobs": likeliest})
        return {"content": content, "refusal": None}

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice])

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}


def _logprob(token_text: TokenText, token: int, logprob: float) -> dict[str, Any]:
    """A token's entry. Of a part of a character the text does not tell which bytes it is: OpenAI allows null there."""
    text = token_text(token)
    encoded = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": max(logprob, _UNLIKELY), "bytes": encoded}
