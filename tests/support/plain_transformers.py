"""What an engine has to answer, by plain transformers: eager attention, one prompt, and its cache.

From a context: the describe prompt is run whole, the rows of the image tokens that were not kept are deleted from its
cache, and what follows the describe turn is run at its original positions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache

from lookonce_cache import CompressedContext
from lookonce_server.engines.conversation import Conversation, Turn

from .samples import PROMPT

QUESTION = "What color is it?"
ASKED = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (QUESTION,)))
_MARK = "lookonce:nothing"


class PlainModel:
    """A checkpoint in transformers, without anything of this project.

    Args:
        folder: of the checkpoint.
        dtype: of the arithmetic.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self._model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
        self._model.eval()
        self._processor = AutoProcessor.from_pretrained(folder)

    @property
    def image_token_id(self) -> int:
        token_id: int = self._model.config.image_token_id
        return token_id

    def full_inputs(self, turns: Sequence[Turn], image: Image.Image) -> dict[str, Tensor]:
        """Process a conversation as the model's own processor does."""
        messages = self._messages(turns)
        if self._takes_strings:
            return self._process(self._render(turns), image)
        for message in messages:
            for part in message["content"]:
                part |= {"image": image} if part["type"] == "image" else {}
        return dict(
            self._processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        )

    def context_text(self) -> str:
        """Render the describe turn and `QUESTION` behind it; an empty answer has none of the template's blanks."""
        question, _, asked = ASKED
        alone = self._render([question])
        before, after = self._render([question, Turn("assistant", (_MARK,)), asked]).split(_MARK)
        return (alone if before.rstrip() == alone.rstrip() else before) + after

    def full_text(self) -> str:
        """Render the conversation of a pass."""
        return self._render(ASKED)

    @property
    def _takes_strings(self) -> bool:
        """Whether the template takes texts alone."""
        return "message['content'] +" in self._processor.chat_template

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = Conversation(tuple(turns)).as_messages()
        for message in messages if self._takes_strings else ():
            message["content"] = "".join(part.get("text", self._processor.image_token) for part in message["content"])
        return messages

    def _render(self, turns: Sequence[Turn]) -> str:
        text: str = self._processor.apply_chat_template(self._messages(turns), add_generation_prompt=True)
        return text

    def _process(self, text: str, image: Image.Image) -> dict[str, Tensor]:
        begun = text.startswith(self._processor.tokenizer.bos_token)
        return dict(self._processor(text=[text], images=[image], return_tensors="pt", add_special_tokens=not begun))

    @torch.inference_mode()
    def full_logprobs(self, turns: Sequence[Turn], image: Image.Image, answer: Sequence[int]) -> Tensor:
        """Return the log-probabilities of each token of an answer, `[tokens, vocabulary]`."""
        inputs = self.full_inputs(turns, image)
        cache = DynamicCache(config=self._model.config.get_text_config())
        first = self._model(**inputs, past_key_values=cache, use_cache=True).logits[0, -1:]
        rest = self._go_on(cache, inputs["input_ids"].shape[1], list(answer[:-1]))
        return torch.cat([first, rest]).float().log_softmax(dim=-1)

    @torch.inference_mode()
    def context_logprobs(self, context: CompressedContext, image: Image.Image, answer: Sequence[int]) -> Tensor:
        """Return the same for `QUESTION`, asked to the image tokens that a context has."""
        inputs = self._process(self.context_text(), image)
        ids, length = inputs["input_ids"][0], context.full_tokens
        described = {
            name: value[:, :length] if value.shape == inputs["input_ids"].shape else value
            for name, value in inputs.items()
        }
        cache = DynamicCache()
        self._model(**described, past_key_values=cache, use_cache=True)
        is_image = ids[:length] == self.image_token_id
        assert int(is_image.sum()) == int((ids == self.image_token_id).sum()) == context.image_tokens
        stays = ~is_image
        stays[is_image.nonzero().flatten()[context.kept_indices[0].long()]] = True
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, stays], layer.values[:, :, stays]
        logits = self._go_on(cache, length, [*ids[length:].tolist(), *answer[:-1]])
        return logits[-len(answer) :].float().log_softmax(dim=-1)

    def _go_on(self, cache: DynamicCache, length: int, ids: list[int]) -> Tensor:
        """Return the logits of tokens that follow a prompt of some length, whose image may have fewer positions."""
        deltas = getattr(self._model.model, "rope_deltas", None)
        first = length + (0 if deltas is None else int(deltas[0]))
        positions = torch.arange(first, first + len(ids))[None]
        if deltas is not None:
            positions = positions.expand(3, 1, -1)
        logits: Tensor = self._model(
            input_ids=torch.tensor([ids]), position_ids=positions, past_key_values=cache, use_cache=True
        ).logits[0]
        return logits
