"""OpenAI's JSON of log-probabilities."""

from collections.abc import Callable, Sequence
from typing import Any

from lookonce_server.engines.base import Piece

TokenText = Callable[[int], str]
_UNLIKELY = -9999.0  # OpenAI's stand-in for minus infinity, which JSON does not have


def logprob_entries(pieces: Sequence[Piece], token_text: TokenText) -> list[dict[str, Any]]:
    """An entry for each token of the pieces, with those of the likeliest tokens in its place."""
    entries = []
    for token, logprob, top in (piece.logprob for piece in pieces if piece.logprob):
        likeliest = [_entry(token_text, *one) for one in top]
        entries.append(_entry(token_text, token, logprob) | {"top_logprobs": likeliest})
    return entries


def _entry(token_text: TokenText, token: int, logprob: float) -> dict[str, Any]:
    """A token's entry. Of a part of a character the text does not tell which bytes it is: OpenAI allows null there."""
    text = token_text(token)
    encoded = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": max(logprob, _UNLIKELY), "bytes": encoded}
