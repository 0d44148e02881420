"""Reading packed samples back: what each question sees, as one plain sequence."""

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from lookonce_scenes.packing import IGNORE, MAX_SEGMENTS, Sample

DESCRIBE_TURN, DESCRIPTION, FIRST_QUESTION = 1, 2, 3
_ROLE = re.compile(r"<\|(system|user|assistant)\|>")


class Seen(NamedTuple):
    """One segment and everything before it that it sees, the prefix left out."""

    segment: int
    rows: NDArray[np.int64]  # text rows in order, the segment's own last
    own: NDArray[np.int64]  # the segment's own rows
    sees: frozenset[int]  # other segments

    @property
    def chained(self) -> bool:
        """Whether earlier questions are visible."""
        return max(self.sees) >= FIRST_QUESTION

    @property
    def form(self) -> str:
        """How it is asked."""
        if DESCRIBE_TURN not in self.sees:
            return "direct"
        return "description shown" if DESCRIPTION in self.sees else "description hidden"


def questions(sample: Sample) -> list[Seen]:
    """The question segments of a sample."""
    last = MAX_SEGMENTS - 1
    return [seen(sample, int(s)) for s in np.unique(sample.segments) if FIRST_QUESTION <= s < last]


def seen(sample: Sample, segment: int) -> Seen:
    """What a segment sees."""
    own = (sample.segments == segment).nonzero()[0]
    rows = sample.visible[segment][sample.segments].nonzero()[0]
    others = frozenset(sample.visible[segment].nonzero()[0].tolist()) - {segment}
    return Seen(segment, rows[rows <= own[-1]], own, others)


def answer_of(sample: Sample, rows: NDArray[np.int64]) -> list[int]:
    """The labels among some rows."""
    labels = sample.labels[rows]
    found: list[int] = labels[labels != IGNORE].tolist()
    return found


def messages(tokenizer: PreTrainedTokenizerFast, prefix: list[int], ids: list[int]) -> list[dict[str, object]]:
    """A sequence as the chat it renders: the first user turn has the picture."""
    text = tokenizer.decode(prefix[: prefix.index(tokenizer.convert_tokens_to_ids("<image>"))] + ids)
    begin, *parts = _ROLE.split(text)
    assert begin == "<s>"
    chat = []
    for role, said in zip(parts[::2], parts[1::2], strict=True):
        content = said.removesuffix("</s>")
        assert "</s>" not in content
        assert said.endswith("</s>") == (role == "assistant")
        first = role == "user" and all(m["role"] != "user" for m in chat)
        image = [{"type": "image"}] if first else []
        chat.append({"role": role, "content": [*image, {"type": "text", "text": content}]})
    return chat
