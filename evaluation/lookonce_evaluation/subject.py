"""The checkpoint under evaluation: its describe passes, and how it answers an image's questions."""

from typing import NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor

from lookonce_evaluation.dataset import Case
from lookonce_evaluation.describing import Described, describe
from lookonce_evaluation.grading import Graded, Grader
from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.geometry import image_crop
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.engines.transformers.loading import LoadedModel, load_model
from lookonce_server.engines.transformers.model import ModelRunner, stacked
from lookonce_server.settings import BUNDLED, Settings


class Prefix(NamedTuple):
    """A prompt up to its image, with the marks around it: what all questions about the image share."""

    keys: Tensor  # [layers, kv_heads, tokens, head_dim], after RoPE
    values: Tensor  # like keys
    next_position: int  # RoPE position of the token after it
    image_positions: Tensor  # [image tokens], int64
    grid: tuple[int, int]  # of the image tokens

    @property
    def tokens(self) -> int:
        """Its length."""
        return self.keys.shape[2]


class Subject:
    """One checkpoint under evaluation.

    Args:
        loaded: the model.
        describe_prompt: the turn that contexts end with.
    """

    def __init__(self, loaded: LoadedModel, describe_prompt: str) -> None:
        self.runner = ModelRunner(loaded.model)
        self.prompts = PromptRenderer(loaded.processor, loaded.model.config)
        self.fingerprint = loaded.fingerprint
        self.framing = image_crop(loaded.processor)
        self.checkpoint = loaded.checkpoint
        self.describe_prompt = describe_prompt
        self.grader = Grader(self.runner, self.prompts, describe_prompt)

    @classmethod
    def load(cls, checkpoint: str, settings: Settings, device: str = "cpu") -> Self:
        """Load a checkpoint, in float32 on a CPU and in bfloat16 elsewhere.

        Raises:
            ModelRefusedError: it cannot be loaded.
        """
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        name = str(CHECKPOINT) if checkpoint == BUNDLED else checkpoint
        return cls(load_model(name, dtype=dtype, device=device), settings.describe_prompt)

    def describe(self, case: Case, window: range, prompt: str | None = None) -> Described:
        """The describe pass of a case, by another prompt where one is given."""
        prompt = self.describe_prompt if prompt is None else prompt  # an empty one is one
        return describe(self.runner, self.prompts, case.image, prompt, window=window)

    def prefix(self, image: Image.Image) -> Prefix:
        """The image, and what comes before it in a prompt, run once."""
        asked = self.prompts.full(Conversation((Turn("user", "?", has_image=True),)), image)
        end = asked.tokens - len(self.after_image("?"))
        state = self.runner.prefill(asked)
        # What follows the image is text, which takes one position a token.
        position = state.next_position - (asked.tokens - end)
        return Prefix(*stacked(state.cache, end), position, asked.image_positions, asked.grid)

    def after_image(self, question: str) -> list[int]:
        """Token ids of what follows the image's last token where a question is asked directly."""
        ids = self.prompts.full_ids(Conversation((Turn("user", question, has_image=True),)))
        return ids[ids.index(self.prompts.image_id) + 1 :]

    def full_pass(self, case: Case) -> tuple[Graded, Prefix]:
        """Grades of the questions asked directly; the image's part of each prompt is the same, and is run once."""
        prefix = self.prefix(case.image)
        texts = [self.after_image(q.text) for q in case.questions]
        return self.grader.grade(prefix.keys, prefix.values, prefix.next_position, texts, case.questions), prefix

    def from_context(self, case: Case, described: Described, kept: Tensor) -> tuple[Graded, Tensor]:
        """Grades of the questions asked of a context, and its keys."""
        packed = described.packed(kept, self.runner.inv_freq)
        return self.ask(case, packed.keys, packed.values), packed.keys

    def ask(self, case: Case, keys: Tensor, values: Tensor) -> Graded:
        """How the questions are answered on a packed context's keys and values."""
        texts = [self.grader.after_context(q) for q in case.questions]
        return self.grader.grade(keys, values, keys.shape[2], texts, case.questions)
