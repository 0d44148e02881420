"""The model under evaluation, its prompts, and its one greedy decoder."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.progress import set_library_bars
from lookonce_pruning import Blocked, Knockout, count_recurrent_layers, parse_window
from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.geometry import image_crop
from lookonce_server.engines.prompts import Prompt, PromptRenderer
from lookonce_server.engines.text_stream import end_ids
from lookonce_server.engines.transformers.loading import LoadedModel, load_model
from lookonce_server.engines.transformers.model import ModelRunner, stacked
from lookonce_server.errors import ModelRefusedError
from lookonce_server.settings import BUNDLED, Settings


class Step(NamedTuple):
    """A batch after a forward pass."""

    cache: DynamicCache
    next_position: int  # RoPE position of each row's next token
    logits: Tensor  # [batch, tokens run, vocabulary], of the token after each


class PreparedCache(NamedTuple):
    """A model's cache before the questions, and the questions as they follow it."""

    keys: Tensor  # [layers, kv_heads, tokens, head_dim], after RoPE
    values: Tensor  # like keys
    next_position: int  # RoPE position of each question's first token
    prompts: Sequence[list[int]] = ()  # token ids, by question

    @property
    def tokens(self) -> int:
        """Count the tokens in context before the question."""
        return self.keys.shape[2]

    @property
    def bytes(self) -> int:
        """Count the bytes of keys and values."""
        return 2 * self.keys.nbytes


def about_image(text: str) -> Conversation:
    """Ask one question about an image."""
    return about_images(1, text)


def about_images(count: int, text: str) -> Conversation:
    """Ask one question about several images, or about none."""
    return Conversation((Turn("user", (*range(count), text)),))


class EvalModel:
    """A checkpoint under evaluation, run as the server would with these settings."""

    def __init__(self, loaded: LoadedModel, settings: Settings) -> None:
        self.runner = ModelRunner(loaded.model)
        self.prompts = PromptRenderer(loaded.processor, loaded.model.config)
        self.tokenizer = self.prompts.tokenizer
        self.fingerprint, self.checkpoint = loaded.fingerprint, loaded.checkpoint
        self.framing = image_crop(loaded.processor)
        self.describe_prompt, self.describe_tokens = settings.describe_prompt, settings.describe_tokens
        self.end_ids = end_ids(loaded.model.generation_config, self.tokenizer)

    @classmethod
    def load(cls, checkpoint: str, settings: Settings, device: str = "cpu") -> Self:
        """Load a checkpoint, in float32 on a CPU and in bfloat16 elsewhere.

        Raises:
            ModelRefusedError: it cannot be loaded, or has recurrent layers.
            EvaluationError: there is no such device.
        """
        set_library_bars()
        _check_device(device)
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        name = str(CHECKPOINT) if checkpoint == BUNDLED else checkpoint
        trust = settings.trust_remote_code
        loaded = load_model(name, dtype=dtype, device=device, trust_remote_code=trust)
        if recurrent := count_recurrent_layers(loaded.model.config.get_text_config()):
            raise ModelRefusedError(
                f"{recurrent} of the model's layers are recurrent. The server answers from contexts of such models, but"
                " nothing here measures them: methods are compared by what they keep of keys and values alone."
            )
        return cls(loaded, settings)

    @property
    def num_layers(self) -> int:
        """Count the layers of the text model."""
        return self.runner.num_layers

    def window(self, text: str) -> range:
        """Parse a scoring window; EvaluationError for layers that the model does not have."""
        try:
            return parse_window(text, self.num_layers)
        except ValueError as error:
            raise EvaluationError(f"--window: {error}") from None

    def prefix(self, *images: Image.Image) -> PreparedCache:
        """Run a prompt up to its last image's end, shared by all questions."""
        prompt = self.prompts.full(about_images(len(images), "?"), images)
        after = len(self.after_image("?", len(images)))
        state = self.runner.prefill(prompt)
        # What follows the image is text, which takes one position a token.
        return PreparedCache(*stacked(state.cache, prompt.tokens - after), state.next_position - after)

    def after_image(self, question: str, images: int = 1) -> list[int]:
        """Encode what follows the last image's last token where a question is asked directly."""
        ids = self.prompts.full_ids(about_images(images, question))
        return ids[len(ids) - ids[::-1].index(self.prompts.image_id) :]

    def after_context(self, question: str, describe_prompt: str | None = None) -> list[int]:
        """Encode a question as it follows a context of a describe prompt."""
        prompt = self.describe_prompt if describe_prompt is None else describe_prompt  # an empty one is one
        ids: list[int] = self.prompts.continuation(prompt, about_image(question))[0].tolist()
        return ids

    def describe_room(self, prompt: Prompt) -> int:
        """Compute the token limit of a description; EvaluationError if it is 0."""
        room = min(self.describe_tokens, self.runner.max_tokens - prompt.tokens)
        if room < 1:
            raise EvaluationError(f"the describe prompt has {prompt.tokens} tokens, which leaves the model no room")
        return room

    @property
    def end_id(self) -> int:
        """The end token that right answers are written with; see `with_one_end`."""
        eos = self.tokenizer.eos_token_id
        return eos if eos in self.end_ids else min(self.end_ids)

    def answer_ids(self, text: str) -> list[int]:
        """Encode a whole answer, its end included."""
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.end_id]

    def with_one_end(self, tokens: Tensor) -> Tensor:
        """Replace each of the model's end tokens by `end_id`: any of them ends an answer."""
        return tokens.masked_fill(torch.isin(tokens, torch.tensor([*self.end_ids], device=tokens.device)), self.end_id)

    def text(self, tokens: Sequence[int]) -> str:
        """Decode generated tokens to the text that the server would send."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def prefill(self, prompt: Prompt) -> Step:
        """Run a whole prompt."""
        state = self.runner.prefill(prompt)
        return Step(state.cache, state.next_position, state.logits[None, None])

    def expand(self, cache: PreparedCache, batch: int) -> DynamicCache:
        """Make a cache with the same keys and values in every row."""
        rows = DynamicCache()
        for layer in range(self.num_layers):
            keys, values = (each[layer].expand(batch, -1, -1, -1) for each in (cache.keys, cache.values))
            rows.update(keys, values, layer)
        return rows

    @torch.inference_mode()
    def extend(self, cache: DynamicCache, next_position: int, ids: Tensor) -> Step:
        """Run `ids` `[batch, tokens]` after the cache, with padding at the end."""
        output = self.runner.model(
            input_ids=ids.to(self.runner.model.device),
            position_ids=self.runner.positions(next_position, ids.shape[1]),
            past_key_values=cache,
            use_cache=True,
        )
        return Step(cache, next_position + ids.shape[1], output.logits)

    def extend_padded(self, cache: PreparedCache, rows: Sequence[Sequence[int]]) -> Tensor:
        """Run rows of any length after a cache: `[rows, longest, vocabulary]`."""
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return self.extend(self.expand(cache, len(rows)), cache.next_position, ids).logits

    def ask(self, cache: PreparedCache, ids: Sequence[int]) -> Step:
        """Run one prompt after a cache."""
        return self.extend(self.expand(cache, 1), cache.next_position, torch.tensor([ids]))

    def decode(
        self,
        step: Step,
        max_tokens: int,
        *,
        knockouts: Sequence[Sequence[Blocked]] = (),
        is_enough: Callable[[list[int]], bool] = lambda _: False,
        watch: Callable[[Tensor], object] = lambda _: None,
    ) -> list[list[int]]:
        """Decode greedily until an end token or `max_tokens`, as the server's engine.

        The last token of a row that reaches `max_tokens` is not run, and a row that has ended leaves the batch.

        Args:
            step: the batch after its prompts.
            max_tokens: most tokens of a row.
            knockouts: attention that is blocked while each row is decoded.
            is_enough: whether a row's tokens are, before an end.
            watch: is shown the logits of each token, `[rows in the batch, vocabulary]`.

        Returns:
            Each row's tokens, the end left out.
        """
        rows: list[list[int]] = [[] for _ in step.logits]
        live = list(range(len(rows))) if max_tokens > 0 else []
        while live:
            watch(step.logits[:, -1])
            tokens = step.logits[:, -1].argmax(-1).tolist()
            going = [i for i, token in enumerate(tokens) if token not in self.end_ids and not is_enough(rows[live[i]])]
            if len(going) < len(live) and going:
                step.cache.batch_select_indices(torch.tensor(going, device=step.logits.device))
            live = [live[i] for i in going]
            for row, i in zip(live, going, strict=True):
                rows[row].append(tokens[i])
            if not live or len(rows[live[0]]) >= max_tokens:
                break
            knockout = Knockout(self.runner.model, [knockouts[row] for row in live]) if knockouts else nullcontext()
            with knockout:
                step = self.extend(step.cache, step.next_position, torch.tensor([rows[row][-1:] for row in live]))
        return rows


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:  # a torch without CUDA asserts that it has it
        reason = str(error).partition("\n")[0]
        raise EvaluationError(
            f"--device {name}: expected 'cpu', 'cuda' or 'cuda:1', of this machine ({reason})"
        ) from None
