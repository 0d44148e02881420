"""What joined contexts have to answer: plain transformers on the prompt with all whole images, and a mask.

The prompt is the chat template's own, of one describe turn an image, each answered with nothing, and a question. By the
mask no image's turn sees another's, a seam between two turns sees none, and what follows sees of each image the tokens
that were kept. To each turn and seam the prompt's beginning is as near as it was when the image was described: for that
it has a copy of it, which nobody else sees, at the positions just before it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookonce_cache import CompressedContext
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.engines.visuals import Video


class _Part(NamedTuple):
    """Neighbours in the prompt that see themselves and the prompt's beginning."""

    start: int
    stop: int
    seen: list[int]  # those of them that are seen by what follows


def joined_logits(
    loaded: LoadedModel,
    images: Sequence[Image.Image | Video],
    contexts: Sequence[CompressedContext],
    question: str,
    answer: Sequence[int],
    *,
    packed: bool = False,
) -> Tensor:
    """The logits of each token of an answer, and of the one after it: [tokens + 1, vocabulary].

    images: whole; videos with all their frames
    contexts: of the images, whose kept tokens are seen
    packed: whether each turn is as wide as its context has tokens, and not as with its whole image
    """
    prompts = [context.identity.describe_prompt for context in contexts]
    turns = [turn for i, prompt in enumerate(prompts) for turn in (Turn("user", (i, prompt)), Turn("assistant", ()))]
    inputs = _processed(loaded, [*turns, Turn("user", (question,))], images)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([list(answer)], dtype=torch.long)], 1)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = _kinds(loaded, inputs["input_ids"])
    alone = [
        _processed(loaded, [Turn("user", (0, prompt))], [image])["input_ids"][0]
        for prompt, image in zip(prompts, images, strict=True)
    ]
    prefix, parts = _parts(_kinds(loaded, inputs["input_ids"])[0] > 0, inputs["input_ids"][0], alone, contexts)
    positions = _positions(loaded, inputs)
    if packed:
        positions = _pack(positions, prefix, parts, contexts)
    return _run(loaded, inputs, positions, prefix, parts)[-len(answer) - 1 :]


def _processed(loaded: LoadedModel, turns: list[Turn], images: Sequence[Image.Image | Video]) -> dict[str, Tensor]:
    videos = [image for image in images if isinstance(image, Video)]
    has_own = hasattr(loaded.model.config, "video_token_id")  # else a video's frames are images that follow each other
    parts = [
        [{"type": "image"}]
        if not isinstance(image, Video)
        else [{"type": "video"}]
        if has_own
        else [{"type": "image"}] * len(image.frames)
        for image in images
    ]
    pictures = [
        picture
        for image in images
        for picture in (() if isinstance(image, Video) and has_own else getattr(image, "frames", (image,)))
    ]
    given = {"images": pictures or None}
    if videos and has_own:
        given |= {"videos": [np.stack([np.array(frame) for frame in video.frames]) for video in videos]}
    text = loaded.processor.apply_chat_template(
        Conversation(tuple(turns)).as_messages(parts.__getitem__), add_generation_prompt=True
    )
    inputs = loaded.processor(text=[text], return_tensors="pt", add_special_tokens=False, **given)
    return {name: value for name, value in inputs.items() if name != "attention_mask"}


def _kinds(loaded: LoadedModel, ids: Tensor) -> Tensor:
    """1 for an image's token, 2 for a video's, else 0."""
    config = loaded.model.config
    return (ids == config.image_token_id).int() + 2 * (ids == getattr(config, "video_token_id", -1)).int()


def _parts(is_media: Tensor, ids: Tensor, alone: list[Tensor], contexts: Sequence[CompressedContext]):
    """The tokens of the beginning, and the parts behind it: image, seam, image, seam, ..., image."""
    prefix = int(is_media.nonzero()[0])
    parts, at = [], prefix
    for own, context in zip(alone, contexts, strict=True):
        start = at + int(is_media[at:].nonzero()[0])
        if start > at:
            parts.append(_Part(at, start, list(range(at, start))))
        at = start + len(own) - prefix
        assert torch.equal(ids[start:at], own[prefix:])
        (kept,) = context.kept_indices.tolist()
        media = (start + is_media[start:at].nonzero().flatten()).tolist()
        assert len(media) == context.image_tokens
        parts.append(_Part(start, at, sorted({*range(start, at)} - {*media} | {media[i] for i in kept})))
    return prefix, parts


def _positions(loaded: LoadedModel, inputs: dict[str, Tensor]) -> Tensor:
    """The positions that the model gives the prompt by itself: [1 or 3, tokens]."""
    if "mm_token_type_ids" not in inputs:
        return torch.arange(inputs["input_ids"].shape[1])[None]
    names = ("input_ids", "image_grid_thw", "video_grid_thw", "mm_token_type_ids")
    positions, _ = loaded.model.model.get_rope_index(**{name: inputs[name] for name in names if name in inputs})
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
        repeated["mm_token_type_ids"] = _kinds(loaded, repeated["input_ids"])
    with torch.inference_mode():
        logits = loaded.model(
            **inputs | repeated,
            position_ids=positions if len(positions) > 1 else positions[0],
            attention_mask=sees[None, None],
            use_cache=False,
        ).logits
    return logits[0].float()
