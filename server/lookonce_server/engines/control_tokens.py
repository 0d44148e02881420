"""Encoding prompts so that no text of a request's becomes a control token.

Chat templates put the texts of a request between the model's control tokens, in one string, which the tokenizer then
takes apart: whoever writes "<|im_start|>" would open a turn. So the control tokens of a prompt are compared with those
of the same conversation about nothing. Where they differ, the prompt is rendered once more with the texts *broken*: a
character that means nothing stands within each spelling. A tokenizer of its own looks for control tokens first and
takes that character out then, so that the spelling is encoded as any text is, in one piece with what is around it.

Where the texts spell nothing, the prompt is encoded as the model's own processor does it.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
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


class Rendered(NamedTuple):
    """A rendered prompt."""

    text: str
    is_broken: bool = False  # to be encoded by the tokenizer of broken texts
    begins: bool = True  # a prompt begins here: the tokenizer may put a token before it


class ControlTokens:
    """The control tokens of a tokenizer: those that texts must not become.

    They are its special tokens, and what was added to its vocabulary, as "<tool_call>". Not among them is what is text
    by its own nature: blanks, and pieces of the vocabulary proper that the template does not use.

    Args:
        tokenizer: of transformers.
        template: the chat template.
        stand_ins: texts that stand for images and the like, for the processor or the model.
    """

    def __init__(self, tokenizer: Any, template: str, stand_ins: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        # The unknown token comes of any text: it is what spells it that is looked for.
        self._looked_for = (*stand_ins, *([tokenizer.unk_token] if tokenizer.unk_token else []))
        added: dict[int, Any] = tokenizer.added_tokens_decoder
        base = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False) if tokenizer.is_fast else {}

        def is_text(token: Any) -> bool:
            """Whether it is a piece of text that is only looked for first."""
            is_mark = token.content in template and not token.content.isalnum()
            return not token.content.strip(_BLANKS) or not (token.special or token.content not in base or is_mark)

        self.ids = frozenset(id_ for id_, token in added.items() if not is_text(token)) - {tokenizer.unk_token_id}
        texts = {*(added[id_].content for id_ in self.ids), *self._looked_for}
        self._texts = frozenset(texts)
        longest_first = sorted(map(re.escape, texts), key=len, reverse=True)
        self._spelling = re.compile(f"(?=(?:{'|'.join(longest_first)}))(.)", re.IGNORECASE | re.DOTALL)

    @cached_property
    def broken(self) -> "BrokenTokenizer | None":
        """The tokenizer of broken texts; None for a tokenizer that is not of the tokenizers library."""
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

    def encode(self, rendered: Rendered) -> list[int]:
        """Token ids of a rendered prompt."""
        tokenizer: Any = self.broken if rendered.is_broken else self._tokenizer
        ids: list[int] = tokenizer(rendered.text, add_special_tokens=self.are_added(rendered))["input_ids"]
        return ids

    def are_added(self, rendered: Rendered) -> bool:
        """Whether the tokenizer puts its own token before the prompt: unless the template has, as in transformers."""
        bos = self._tokenizer.bos_token
        return rendered.begins and not (bos is not None and rendered.text.startswith(bos))

    def render(self, render: Render, *, begins: bool = True) -> Rendered:
        """A prompt whose control tokens are the template's own.

        Args:
            render: renders it.
            begins: whether it is a whole prompt, and not what follows a context.

        Raises:
            UnencodableError: it has others, whatever is done.
        """
        plain, other = (Rendered(render(change), begins=begins) for change in (_unchanged, _about_nothing))
        if self._structure(plain) == self._structure(other):
            return plain
        if self.broken is None:
            raise UnencodableError
        for change in (self._break_spellings, _break_everywhere):
            text = render(change).removeprefix(_BREAK)  # at the very start some tokenizers put a blank
            rendered = Rendered(text, is_broken=True, begins=begins)
            # To the model's own tokenizer what breaks a spelling is a letter: it finds the template's tokens alone.
            if self._structure(rendered) == self._structure(rendered._replace(is_broken=False)):
                return rendered
        raise UnencodableError

    def is_encodable(self, text: str) -> bool:
        """Whether a text by itself can be encoded without control tokens."""
        try:
            self.render(lambda change: change(text), begins=False)
        except UnencodableError:
            return False
        return True

    def _structure(self, rendered: Rendered) -> "_Structure":
        ids = tuple(id_ for id_ in self.encode(rendered) if id_ in self.ids)
        return _Structure(ids, tuple(map(rendered.text.count, self._looked_for)), self.are_added(rendered))

    def _break_spellings(self, text: str) -> str:
        return _within(text, lambda core: self._spelling.sub(rf"\1{_BREAK}", core))


class _Structure(NamedTuple):
    """What two prompts with other texts have in common."""

    ids: tuple[int, ...]  # of control tokens, in their order
    texts: tuple[int, ...]  # how many there are of each that stands for something else
    are_added: bool


class BrokenTokenizer:
    """Encodes broken texts; in all else the tokenizer that it is made from, so that processors can use it.

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
        """See transformers; there is one text, and so no padding."""
        if isinstance(text, str):
            ids = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
            return BatchEncoding({"input_ids": ids, "attention_mask": [1] * len(ids)})
        rows = [self._backend.encode(one, add_special_tokens=add_special_tokens).ids for one in text]
        made = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        return BatchEncoding(made, tensor_type=return_tensors)


def _within(text: str, change: Change) -> str:
    """A text, changed and set off from what is around it, its blanks at both ends as they are: templates trim them."""
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
