"""Reading packed samples back: what each segment sees, as one plain sequence."""

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from lookonce_scenes.packing import IGNORE, MAX_SEGMENTS, Sample
from lookonce_scenes.tokenizer import ASSISTANT, EOS, IMAGE, IMAGE_TOKENS, USER

_ROLE = re.compile(r"<\|(system|user|assistant)\|>")


class Seen(NamedTuple):
    """An answered segment and everything that it sees, in the order of positions."""

    segment: int
    rows: NDArray[np.int64]  # of the sample, head, pictures and text, as positions go; its own are the last
    ids: list[int]  # their tokens
    own: int  # how many are its own
    kept: NDArray[np.bool_]  # [rows] False where an image token is dropped

    @property
    def is_whole(self) -> bool:
        """Whether no image token is dropped."""
        return bool(self.kept.all())


def all_ids(sample: Sample) -> NDArray[np.int64]:
    """Every row's token."""
    return np.concatenate([sample.head, [IMAGE] * (len(sample.patches) * IMAGE_TOKENS), sample.ids])


def answered(sample: Sample) -> list[Seen]:
    """The segments with labels of their own; a description's first one is the row before it."""
    text = sample.segments[-len(sample.ids) :]
    return [seen(sample, int(s)) for s in np.unique(text[sample.labels != IGNORE]) if s != MAX_SEGMENTS - 1]


def seen(sample: Sample, segment: int) -> Seen:
    """What a segment sees."""
    rows = sample.visible[segment][sample.segments].nonzero()[0]
    rows = rows[np.argsort(sample.positions[rows], kind="stable")]
    first = len(sample.head)
    is_image = (rows >= first) & (rows < len(sample.segments) - len(sample.ids))
    kept = np.ones(len(rows), dtype=np.bool_)
    kept[is_image] = sample.image_kept[segment][rows[is_image] - first]
    return Seen(segment, rows, all_ids(sample)[rows].tolist(), int((sample.segments == segment).sum()), kept)


def labels_of(sample: Sample, question: Seen) -> list[int]:
    """The labels of a segment's own rows."""
    rows = question.rows[-question.own :] - (len(sample.segments) - len(sample.ids))
    return [int(label) for label in sample.labels[rows] if label != IGNORE]


def said_before_answer(question: Seen) -> str | list[int]:
    """The tokens up to where the answer begins."""
    ids = question.ids
    return ids[: len(ids) - ids[::-1].index(ASSISTANT)]


def one_token_an_image(ids: list[int]) -> list[int]:
    """The sequence as the template gives it, before images are made wide."""
    result = []
    for i, id_ in enumerate(ids):
        run = id_ == IMAGE and i and ids[i - 1] == IMAGE
        if not run or _starts_image(ids, i):
            result.append(id_)
    return result


def _starts_image(ids: list[int], at: int) -> bool:
    start = at
    while start and ids[start - 1] == IMAGE:
        start -= 1
    return (at - start) % IMAGE_TOKENS == 0


def messages(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[dict[str, object]]:
    """A sequence as the chat that renders it."""
    text = tokenizer.decode(one_token_an_image(ids))
    begin, *parts = _ROLE.split(text)
    assert begin == "<s>"
    chat = []
    for role, said in zip(parts[::2], parts[1::2], strict=True):
        assert said.endswith("</s>") == (role == "assistant") or (role == "assistant" and said == "")
        pieces = [p for p in re.split("(<image>)", said.removesuffix("</s>")) if p]
        content = [{"type": "image"} if p == "<image>" else {"type": "text", "text": p} for p in pieces]
        chat.append({"role": role, "content": content})
    return chat


def joined_blocks(ids: list[int]) -> NDArray[np.bool_]:
    """Who sees whom in a joined prompt, told from its tokens alone: `[tokens, tokens]`.

    Each picture and the describe turn behind it see what stands before the first picture, and themselves; a seam sees
    what stands before the first picture, and itself; the rest sees all.
    """
    count = len(ids)
    sees = np.tril(np.ones((count, count), dtype=np.bool_))
    first = ids.index(IMAGE)
    at = first
    while at < count and ids[at] == IMAGE:
        end = ids.index(ASSISTANT, at) + 1
        sees[at:end, first:at] = False
        seam = ids[end : end + 3] == [EOS, USER, IMAGE]
        if not seam:
            break
        sees[end : end + 2, first:end] = False
        at = end + 2
    return sees
