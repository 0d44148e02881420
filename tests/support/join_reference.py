"""What joined contexts have to answer: plain transformers on the prompt with all whole images, and a mask.

The prompt is the chat template's own, of one describe turn an image, each answered with nothing, and a question. By the
mask no image's turn sees another's, a seam between two turns sees none, and what follows sees of each image the tokens
that were kept. To each turn and seam the prompt's beginning is as near as it was when the image was described: for that
it has a copy of it, which nobody else sees, at the positions just before it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from lookonce_cache import CompressedContext
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.transformers.loading import LoadedModel


class _Part(NamedTuple):
    """Neighbours in the prompt that see themselves and the prompt's beginning."""

    start: int
    stop: int
    seen: list[int]  # those of them that are seen by what follows


def joined_logits(
    loaded: LoadedModel,
    images: Sequence[Image.Image],
    contexts: Sequence[CompressedContext],
    question: str,
    answer: Sequence[int],
    *,
    packed: bool = False,
) -> Tensor:
    """The logits of each token of an answer, and of the one after it: [tokens + 1, vocabulary].

    images: whole
    contexts: of the images, whose kept tokens are seen
    packed: whether each turn is as wide as its context has tokens, and not as with its whole image
    """
    prompts = [context.identity.describe_prompt for context in contexts]
    turns = [turn for i, prompt in enumerate(prompts) for turn in (Turn("user", (i, prompt)), Turn("assistant", ()))]
    inputs = _processed(loaded, [*turns, Turn("user", (question,))], images)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([list(answer)], dtype=torch.long)], 1)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == loaded.model.config.image_token_id).int()
    alone = [
        _processed(loaded, [Turn("user", (0, prompt))], [image])["input_ids"][0]
        for prompt, image in zip(prompts, images, strict=True)
    ]
    prefix, parts = _parts(loaded.model.config.image_token_id, inputs["input_ids"][0], alone, contexts)
    positions = _positions(loaded, inputs)
    if packed:
        positions = _pack(positions, prefix, parts, contexts)
    return _run(loaded, inputs, positions, prefix, parts)[-len(answer) - 1 :]


def _processed(loaded: LoadedModel, turns: list[Turn], images: Sequence[Image.Image]) -> dict[str, Tensor]:
    messages = Conversation(tuple(turns)).as_messages()
    text = loaded.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = loaded.processor(text=[text], images=list(images), return_tensors="pt", add_special_tokens=False)
    return {name: value for name, value in inputs.items() if name != "attention_mask"}


def _parts(image_id: int, ids: Tensor, alone: list[Tensor], contexts: Sequence[CompressedContext]):
    """The tokens of the beginning, and the parts behind it: image, seam, image, seam, ..., image."""
    prefix = int((ids == image_id).nonzero()[0])
    parts, at = [], prefix
    for own, context in zip(alone, contexts, strict=True):
        start = at + int((ids[at:] == image_id).nonzero()[0])
        if start > at:
            parts.append(_Part(at, start, list(range(at, start))))
        at = start + len(own) - prefix
        assert torch.equal(ids[start:at], own[prefix:])
        (kept,) = context.kept_indices.tolist()
        text = range(start + context.image_tokens, at)
        parts.append(_Part(start, at, [*(start + i for i in kept), *text]))
    return prefix, parts


def _positions(loaded: LoadedModel, inputs: dict[str, Tensor]) -> Tensor:
    """The positions that the model gives the prompt by itself: [1 or 3, tokens]."""
    if "image_grid_thw" not in inputs:
        return torch.arange(inputs["input_ids"].shape[1])[None]
    names = ("input_ids", "image_grid_thw", "mm_token_type_ids")
    positions, _ = loaded.model.model.get_rope_index(**{name: inputs[name] for name in names})
    return positions[:, 0]


def _pack(positions: Tensor, prefix: int, parts: list[_Part], contexts: Sequence[CompressedContext]) -> Tensor:
    """Move each part so that it ends where its context's tokens, counted, end."""
    positions, cursor, left = positions.clone(), prefix, iter(contexts)
    natural = positions.clone()
    for number, part in enumerate(parts):
        is_image = number % 2 == 0
        cursor += next(left).stored_tokens if is_image else part.stop - part.start
        positions[:, part.start : part.stop] += cursor - int(natural[0, part.stop - 1]) - 1
    end = parts[-1].stop
    positions[:, end:] += cursor - int(natural[0, end])
    return positions


def _run(loaded: LoadedModel, inputs: dict, positions: Tensor, prefix: int, parts: list[_Part]) -> Tensor:
    """Run the prompt behind a copy of its beginning for each part, by the mask."""
    ids = inputs["input_ids"]
    length, copied = ids.shape[1], prefix * len(parts)
    sees = torch.zeros(copied + length, copied + length, dtype=torch.bool)

    def see(rows: range, columns) -> None:
        sees[torch.tensor([*rows])[:, None], torch.tensor([*columns], dtype=torch.long)] = True

    copies = []
    first = range(copied, copied + prefix)
    see(first, first)
    for number, part in enumerate(parts):
        copy = range(number * prefix, (number + 1) * prefix)
        rows = range(copied + part.start, copied + part.stop)
        see(copy, copy)
        see(rows, [*copy, *rows])
        begins = int(positions[0, part.start])
        copies.append(torch.arange(begins - prefix, begins).expand(len(positions), -1))
    rest = range(copied + parts[-1].stop, copied + length)
    see(rest, [*first, *(copied + at for part in parts for at in part.seen), *rest])
    sees &= torch.ones_like(sees).tril()
    positions = torch.cat([*copies, positions], 1)[:, None]
    repeated = {"input_ids": torch.cat([ids[:, :prefix].repeat(1, len(parts)), ids], 1)}
    if "mm_token_type_ids" in inputs:
        repeated["mm_token_type_ids"] = (repeated["input_ids"] == loaded.model.config.image_token_id).int()
    with torch.inference_mode():
        logits = loaded.model(
            **inputs | repeated,
            position_ids=positions if len(positions) > 1 else positions[0],
            attention_mask=sees[None, None],
            use_cache=False,
        ).logits
    return logits[0].float()
