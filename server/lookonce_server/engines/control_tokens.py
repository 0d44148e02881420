"""Encode prompts so that no text of a request becomes a control token.

Chat templates put the texts of a request between the model's control tokens, in one string, which the tokenizer then
takes apart: whoever writes "<|im_start|>" would open a turn. So the control tokens of a prompt are compared with those
of the same conversation about nothing. Where they differ, the prompt is rendered once more with the texts *broken*: a
character that means nothing stands within each spelling. A tokenizer of its own looks for control tokens first and
takes that character out then, so that the spelling is encoded as any text is, in one piece with what is around it.

Where the texts spell nothing, the prompt is encoded as the model's own processor does it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import BatchEncoding

Change = Callable[[str], str]
"""Makes another text of one of a request's."""

Render = Callable[[Change], str]
"""Renders a prompt, each of the request's texts changed."""

_BREAK = "\U0010ffff"  # no character: Unicode keeps it for uses such as this one
_BLANKS = " \t\r\n\u2581"  # the last is SentencePiece's space


class UnencodableError(Exception):
    """The texts spell control tokens, and the tokenizer has no other tokens for them."""


class TooManyTokensError(Exception):
    """The prompt is too long, and spells control tokens.

    Args:
        tokens: how many.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


class Rendered(NamedTuple):
    """A rendered prompt, and its tokens."""

    text: str
    ids: list[int]
    is_broken: bool  # it is encoded by the tokenizer of broken texts
    has_own: bool  # the tokenizer puts a token of its own, such as BOS, before it


class ControlTokens:
    """Find the control tokens of a tokenizer, and keep texts from them.

    They are its special tokens, and what was added to its vocabulary, as "<tool_call>". Not among them is what is text
    by its own nature: blanks, and pieces of the vocabulary proper that the template does not use.

    Args:
        tokenizer: of transformers.
        template: the chat template.
        placeholders: texts that stand for images and the like, for the processor or the model.
        aliases: placeholders that are no tokens, since the processor takes them out, and the tokens that they stand
            for: as many pieces of text they would join with what is around them.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        placeholders: Sequence[str] = (),
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._tokenizer = tokenizer
        self._aliases = aliases
        # The unknown token comes of any text: it is what spells it that is looked for.
        self._looked_for = (*placeholders, *([tokenizer.unk_token] if tokenizer.unk_token else []))
        added: dict[int, Any] = tokenizer.added_tokens_decoder
        base = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False) if tokenizer.is_fast else {}

        def is_text(token: Any) -> bool:
            """Tell whether a token is a piece of text that is only looked for first."""
            is_mark = token.content in template and not token.content.isalnum()
            return not token.content.strip(_BLANKS) or not (token.special or token.content not in base or is_mark)

        self.ids = frozenset(id_ for id_, token in added.items() if not is_text(token)) - {tokenizer.unk_token_id}
        texts = {*(added[id_].content for id_ in self.ids), *self._looked_for}
        self._texts = frozenset(texts)
        firsts = {form for text in texts for form in (text[0], text[0].lower(), text[0].upper())}
        self._first = re.compile(f"([{re.escape(''.join(sorted(firsts)))}])")

    @cached_property
    def broken(self) -> "BrokenTokenizer | None":
        """Return the tokenizer of broken texts, None if there can be none."""
        if not self._tokenizer.is_fast:
            return None
        described = json.loads(self._tokenizer.backend_tokenizer.to_str())
        for token in described["added_tokens"]:
            if token["content"] in self._texts:
                token["normalized"] = False  # looked for before the normalizer takes out what breaks a spelling
        take_out = {"type": "Replace", "pattern": {"String": _BREAK}, "content": ""}
        normalizer = described["normalizer"]
        described["normalizer"] = {"type": "Sequence", "normalizers": [take_out, *([normalizer] if normalizer else [])]}
        described["truncation"] = described["padding"] = None
        return BrokenTokenizer(self._tokenizer, Tokenizer.from_str(json.dumps(described)))

    def encode(self, text: str, *, begins: bool, is_broken: bool = False) -> Rendered:
        """Encode a rendered prompt.

        Args:
            text: as it was rendered.
            begins: whether it is a whole prompt, which gets the tokenizer's own token unless the template has printed
                it, as in transformers.
            is_broken: whether its texts are.
        """
        bos = self._tokenizer.bos_token
        has_own = begins and not (bos is not None and text.startswith(bos))
        tokenizer: Any = self.broken if is_broken else self._tokenizer
        encoded = text
        for placeholder, token in self._aliases.items():
            encoded = encoded.replace(placeholder, token)
        return Rendered(text, tokenizer(encoded, add_special_tokens=has_own)["input_ids"], is_broken, has_own)

    def prepare(self) -> None:
        """Make the tokenizer of broken texts now, since that may take seconds."""
        _ = self.broken

    def render(self, render: Render, *, begins: bool = True, max_tokens: int | None = None) -> Rendered:
        """Render a prompt whose control tokens are the template's own.

        Args:
            render: renders it.
            begins: whether it is a whole prompt, and not what follows a context.
            max_tokens: tokens that it may have before it is encoded in another way.

        Raises:
            TooManyTokensError: it has more, control tokens of a request's among them.
            UnencodableError: it has others, whatever is done.
        """
        plain, other = (self.encode(render(change), begins=begins) for change in (_unchanged, _about_nothing))
        if self._structure(plain) == self._structure(other):
            return plain
        if max_tokens is not None and len(plain.ids) > max_tokens:
            raise TooManyTokensError(len(plain.ids))
        if self.broken is None:
            raise UnencodableError
        for change in (self._break_spellings, _break_everywhere):
            text = render(change).removeprefix(_BREAK)  # at the very start some tokenizers put a blank
            broken, own = (self.encode(text, begins=begins, is_broken=is_broken) for is_broken in (True, False))
            # To the model's own tokenizer what breaks a spelling is a letter: it finds the template's tokens alone.
            if self._structure(broken) == self._structure(own):
                return broken
        raise UnencodableError

    def is_encodable(self, text: str) -> bool:
        """Tell whether a text alone can be encoded without control tokens."""
        try:
            self.render(lambda change: change(text), begins=False)
        except UnencodableError:
            return False
        return True

    def _structure(self, rendered: Rendered) -> "_Structure":
        ids = tuple(id_ for id_ in rendered.ids if id_ in self.ids)
        return _Structure(ids, tuple(map(rendered.text.count, self._looked_for)), rendered.has_own)

    def _break_spellings(self, text: str) -> str:
        """Break a text behind each letter that may begin a spelling, in either case."""
        return _within(text, lambda core: self._first.sub(rf"\1{_BREAK}", core))


class _Structure(NamedTuple):
    """The parts that two prompts with other texts have in common."""

    ids: tuple[int, ...]  # of control tokens, in their order
    texts: tuple[int, ...]  # how many there are of each that stands for something else
    has_own: bool


class BrokenTokenizer:
    """Encode broken texts; for processors it is the tokenizer it is made from.

    Args:
        tokenizer: of transformers.
        backend: encodes.
    """

    def __init__(self, tokenizer: Any, backend: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(
        self,
        text: str | list[str],
        *,
        add_special_tokens: bool = True,
        return_tensors: Any = None,
        **_: Any,
    ) -> BatchEncoding:
        """Encode each text by itself, with no padding; see transformers."""
        texts = [text] if isinstance(text, str) else text
        encodings = [self._backend.encode(each, add_special_tokens=add_special_tokens) for each in texts]
        rows = {"input_ids": [e.ids for e in encodings], "attention_mask": [e.attention_mask for e in encodings]}
        data = {name: row[0] for name, row in rows.items()} if isinstance(text, str) else rows
        return BatchEncoding(data, encodings, tensor_type=return_tensors)


def _within(text: str, change: Change) -> str:
    """Change a text between its blanks, which templates trim, and set it off."""
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return f"{text[:start]}{_BREAK}{change(core)}{_BREAK}{text[start + len(core) :]}"


def _break_everywhere(text: str) -> str:
    return _within(text, _BREAK.join)


def _unchanged(text: str) -> str:
    return text


def _about_nothing(text: str) -> str:
    core = text.strip()
    return text.replace(core, "x", 1) if core else text
