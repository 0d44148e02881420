"""Rendering conversations, and what of them follows a context.

A context ends where the describe turn's answer would begin. What follows it is the difference between the rendered
conversation with that answer and later turns, and the one without: the template's own tokens that close the answer,
then the question. The description itself is dropped, so the turn is closed as if it had been empty.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookonce_server.conversation import Conversation
from lookonce_server.engines.stand_ins import StandIns
from lookonce_server.errors import InvalidImageError, ModelRefusedError

_MARK = "lookonce:description"  # stands for the description while what follows it is looked for


class Prompt(NamedTuple):
    """A rendered and tokenised prompt, ready for the model."""

    inputs: dict[str, Tensor]  # what the processor made: input_ids [1, tokens], pixels, ...
    image_columns: Tensor  # [image tokens], int64: where the image tokens stand
    grid: tuple[int, int]  # of the image tokens, rows and columns

    @property
    def tokens(self) -> int:
        """Length of the prompt."""
        return self.inputs["input_ids"].shape[1]


class PromptRenderer:
    """Renders with a checkpoint's own processor.

    Args:
        processor: of transformers, with a chat template.
        config: the model's configuration.
    """

    def __init__(self, processor: Any, config: Any) -> None:
        self._processor = processor
        self._config = config
        self.tokenizer = processor.tokenizer
        image_id = getattr(config, "image_token_id", None)
        if image_id is None:
            raise ModelRefusedError("The model's configuration names no image token.")
        self.image_id = int(image_id)
        self.stand_ins = StandIns.of(self.tokenizer, config)

    def full(self, conversation: Conversation, image: Any | None) -> Prompt:
        """The whole conversation, with the image where it has one."""
        self._refuse_stand_ins(conversation)
        return self._tokenise(self._render(conversation.as_messages()), image)

    def describe(self, prompt: str, image: Any) -> Prompt:
        """The describe turn."""
        return self._tokenise(self._render(_describe_turn(prompt)), image)

    def describe_ids(self, prompt: str) -> list[int]:
        """Token ids of the describe turn, with one image token for the whole image."""
        return self._ids(self._render(_describe_turn(prompt)))

    def before_image(self, prompt: Prompt) -> Prompt:
        """The part of a prompt that comes before its image, as a text."""
        ids = prompt.inputs["input_ids"][:, : int(prompt.image_columns[0])]
        return Prompt({"input_ids": ids}, torch.empty(0, dtype=torch.int64), (0, 0))

    def continuation(self, describe_prompt: str, conversation: Conversation) -> Tensor:
        """Token ids of what follows a context, `[1, tokens]`.

        The turn's end, and the conversation without its image.
        """
        self._refuse_stand_ins(conversation)
        mark = _mark(describe_prompt)
        described = [*_describe_turn(describe_prompt), _described(mark)]
        _, found, after = self._render(described + conversation.after_image()).partition(mark)
        if not found:
            raise ModelRefusedError("The chat template does not show the assistant's turns.")
        ids = self.tokenizer(after, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return torch.as_tensor(ids)

    def full_tokens(self, conversation: Conversation, image_tokens: int) -> int:
        """How long the conversation's prompt would be with the whole image."""
        return len(self.full_ids(conversation)) + (image_tokens - 1 if conversation.has_image else 0)

    def full_ids(self, conversation: Conversation) -> list[int]:
        """Token ids of the conversation's prompt, with one image token for the whole image."""
        self._refuse_stand_ins(conversation)
        return self._ids(self._render(conversation.as_messages()))

    def check_template(self, describe_prompt: str) -> None:
        """Raise ModelRefusedError unless a later turn leaves the describe turn's own rendering as it is."""
        turn, mark = _describe_turn(describe_prompt), _mark(describe_prompt)
        question = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        before, found, _ = self._render([*turn, _described(mark), question]).partition(mark)
        if not found or before.rstrip() != self._render(turn).rstrip():
            raise ModelRefusedError(
                "The chat template renders the describe turn differently when another turn follows it, so that what"
                " follows a context cannot be told."
            )

    def _render(self, messages: list[dict[str, Any]]) -> str:
        text: str = self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _tokenise(self, text: str, image: Any | None) -> Prompt:
        images = {"images": [image]} if image is not None else {}
        try:
            made = self._processor(text=[text], return_tensors="pt", add_special_tokens=False, **images)
        except ValueError as error:  # what processors raise on pictures, as Qwen2-VL's on very long ones
            if image is None:
                raise
            raise InvalidImageError(f"This model does not take the image: {error}.") from error
        inputs = {name: value for name, value in made.items() if isinstance(value, Tensor)}
        columns = (inputs["input_ids"][0] == self.image_id).nonzero().flatten()
        return Prompt(inputs, columns, image_grid(self._config, len(columns), inputs.get("image_grid_thw")))

    def _refuse_stand_ins(self, conversation: Conversation) -> None:
        for i, turn in enumerate(conversation.turns):
            self.stand_ins.refuse(turn.text, f"messages[{i}].content")


def image_grid(config: Any, count: int, grid_thw: Tensor | None) -> tuple[int, int]:
    """Rows and columns of an image's tokens: told by the processor, else a square, else one row.

    Args:
        config: the model's.
        count: image tokens.
        grid_thw: [1, 3] or [3], frames, rows and columns of patches, where the processor tells them.
    """
    if grid_thw is not None:
        merge = config.vision_config.spatial_merge_size
        _, height, width = grid_thw.flatten().tolist()
        return height // merge, width // merge
    side = int(count**0.5)
    return (side, side) if side * side == count else (1, count)


def _describe_turn(prompt: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]


def _described(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _mark(prompt: str) -> str:
    """A mark that is not in the prompt, which comes before it."""
    mark = _MARK
    while mark in prompt:
        mark += "'"
    return mark
