"""Contexts of several images in one cache: joined as the server does, and in other ways.

A table tells what each token of a cache is and where it stands, so that any of them can be computed anew, behind all
that stands before it. For text an engine needs no more than it has: the ids, and the keys and values of the image
tokens that contexts keep. For image tokens it needs their embeddings too.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from lookonce_evaluation.data.image_set import ImageSet
from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.describe import DescribePass, describe, describe_visual
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.model import EvalModel, PreparedCache, about_images
from lookonce_pruning import ImageScores, rotate_keys
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.join import ContextSize, Join, lay_out, plan_join
from lookonce_server.engines.prefix import TextCache, TextKV, TextSpan
from lookonce_server.engines.prompts import DescribeTurn, JoinedPrompt
from lookonce_server.engines.transformers.model import stacked
from lookonce_server.engines.visuals import Video, frames_of
from lookonce_server.settings import Settings

TEXT = -1
"""In place of an image's number."""


class TokenTable(NamedTuple):
    """What the tokens of a cache are, in their order; each `[tokens]`, int64."""

    ids: Tensor  # an image's tokens have the model's placeholder
    positions: Tensor  # RoPE
    images: Tensor  # the number of the image that each is of, or TEXT
    cells: Tensor  # which of its image's tokens each is; 0 for text

    @classmethod
    def of_text(cls, ids: Sequence[int], first: int) -> "TokenTable":
        """Describe text whose positions begin at `first`."""
        nothing = torch.zeros(len(ids), dtype=torch.int64)
        return cls(torch.tensor(ids, dtype=torch.int64), first + torch.arange(len(ids)), nothing + TEXT, nothing)

    @classmethod
    def of_image(cls, number: int, kept: Tensor, first: int, placeholder: int) -> "TokenTable":
        """Describe kept tokens, `[kept]`, of an image whose first token's position is `first`."""
        return cls(torch.full_like(kept, placeholder), first + kept, torch.full_like(kept, number), kept)

    @classmethod
    def of_parts(cls, parts: Sequence["TokenTable"]) -> "TokenTable":
        """Describe tokens that follow each other."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))

    @property
    def is_text(self) -> Tensor:
        """Which tokens are text, `[tokens]`, bool."""
        return self.images == TEXT


class Joined(NamedTuple):
    """A cache of several images, and what its tokens are."""

    cache: PreparedCache
    table: TokenTable
    first_later: int  # from it on tokens have images of which they saw nothing before them


class ImagesRun:
    """Several images, and what all methods to answer about them share.

    Args:
        model: answers.
        images: and their questions.
        settings: the server's.
    """

    def __init__(self, model: EvalModel, images: ImageSet, settings: Settings) -> None:
        if model.runner.positions(0, 1).ndim > 2:
            raise EvaluationError("tokens are computed anew at plain positions; this model's have three components")
        self.model, self.images, self.settings = model, images, settings
        self._texts = TextCache()

    @property
    def count(self) -> int:
        """Count the images."""
        return len(self.images.images)

    @cached_property
    def described(self) -> list[DescribePass]:
        """The images' describe passes, each alone."""
        window = self.model.window(self.settings.window)
        cases = [Case(f"{self.images.name}.{i}", image, {}, {}) for i, image in enumerate(self.images.images)]
        return [describe(self.model, case, window) for case in cases]

    @cached_property
    def described_as_video(self) -> DescribePass:
        """The describe pass of all images as the frames of one video."""
        frames = self.images.images
        video = Video(tuple(frames), tuple(map(float, range(len(frames)))))
        window, prompt = self.model.window(self.settings.window), self.settings.describe_video_prompt
        described = describe_visual(self.model, self.images.name, video, window, prompt)
        if described.prompt.images and frames_of(described.prompt.images[0]) != len(frames):
            raise EvaluationError(f"{self.images.name}: its {len(frames)} frames do not fit the model")
        return described

    @cached_property
    def after_video(self) -> list[list[int]]:
        """The questions as they follow the context of a video."""
        prompts, prompt = self.model.prompts, self.settings.describe_video_prompt
        turn = prompts.describe_turn(prompt, self.count)
        return [prompts.join([turn], about_images(1, question.text)).after for question in self.images.questions]

    @cached_property
    def scores(self) -> list[ImageScores]:
        """What their tokens drew of attention."""
        return [described.scores(self.settings.rows) for described in self.described]

    @cached_property
    def turn(self) -> DescribeTurn:
        """The describe turn of each image."""
        return self.model.prompts.describe_turn(self.model.describe_prompt)

    @property
    def own_text(self) -> int:
        """Count the tokens of a describe turn behind its image."""
        return len(self.turn.ids) - len(self.turn.prefix) - 1

    @property
    def text_again(self) -> list[int]:
        """The text of all describe turns, as it follows the last one: each closes the one before it."""
        text = self.turn.ids[len(self.turn.prefix) + 1 :]
        seams = self.joined_prompts[0].seams
        return [id_ for seam in (seams[0], *seams) for id_ in (*seam, *text)]

    @property
    def embedding_bytes(self) -> int:
        """Count the bytes of one image token as the text model sees it."""
        one = self.embeddings[0][0]
        return one.numel() * one.element_size()

    @cached_property
    def joined_prompts(self) -> list[JoinedPrompt]:
        """By question: the text around the contexts and after them."""
        conversations = [about_images(self.count, question.text) for question in self.images.questions]
        return [self.model.prompts.join([self.turn] * self.count, each) for each in conversations]

    @cached_property
    def after_contexts(self) -> list[list[int]]:
        """The questions as they follow joined contexts."""
        return [joined.after for joined in self.joined_prompts]

    @cached_property
    def embeddings(self) -> list[Tensor]:
        """The images as the text model sees them, each `[image tokens, hidden]`."""
        features = []
        model: Any = self.model.runner.model
        for described in self.described:
            inputs = described.prompt.inputs
            pixels = {name: inputs[name].to(model.device) for name in inputs if name.startswith("pixel")}
            with torch.inference_mode():
                features.append(torch.cat([*model.get_image_features(**pixels).pooler_output]))
        return features

    def join(self, kept: Sequence[Tensor], *, packed: bool = False) -> Joined:
        """Join the contexts that keep these image tokens, each `[1, kept]`, as engines do.

        Args:
            kept: of each image.
            packed: whether each context is as wide as it has tokens, where it would be as wide as its whole image.
        """
        contexts = [described.context(cells) for described, cells in zip(self.described, kept, strict=True)]
        sizes = [
            ContextSize(len(self.turn.prefix), context.tokens, context.tokens - described.next_position)
            for described, context in zip(self.described, contexts, strict=True)
        ]
        plan = plan_join(self.joined_prompts[0], sizes, self.model.runner.max_tokens)
        if packed:
            plan = plan._replace(layout=lay_out(sizes, [len(seam.ids) for seam in plan.seams], packed=True))
        texts = [
            self._texts.get(span) or self._texts.keep(span, self.model.runner.text_kv(span)) for span in plan.spans
        ]
        prefix = plan.num_prefix_tokens
        own = [(context.keys[:, :, prefix:], context.values[:, :, prefix:]) for context in contexts]
        dense = plan.combine(texts, own, self.model.runner.rope)
        table = TokenTable.of_parts(self._joined_parts(plan, sizes, kept))
        cache = PreparedCache(dense.keys, dense.values, plan.layout.tokens, self.after_contexts)
        return Joined(cache, table, prefix + sizes[0].packed_width)

    def _text_kv(self, span: TextSpan) -> TextKV:
        return self._texts.get(span) or self._texts.keep(span, self.model.runner.text_kv(span))

    def _joined_parts(self, plan: Join, sizes: Sequence[ContextSize], kept: Sequence[Tensor]) -> list[TokenTable]:
        """Tell where the prefix, the contexts and the seams stand."""
        prefix, layout = plan.num_prefix_tokens, plan.layout
        parts = [TokenTable.of_text(plan.prefix.ids[:prefix], layout.prefix)]
        for number, (size, cells, shift) in enumerate(zip(sizes, kept, layout.contexts, strict=True)):
            if number:
                seam = plan.seams[number - 1]
                parts.append(TokenTable.of_text(seam.ids, prefix + layout.seams[number - 1]))
            start = prefix + size.position_shift + shift
            image_tokens = len(self.described[number].prompt.image_positions)
            text = self.described[number].prompt.ids[prefix + image_tokens :]
            parts.append(TokenTable.of_image(number, cells[0], start, self.model.prompts.image_id))
            parts.append(TokenTable.of_text(text, start + image_tokens))
        return parts

    def one_turn(self, kept: Sequence[Tensor]) -> Joined:
        """Put all kept image tokens, each `[1, kept]`, before the text of one describe turn; computes the text."""
        turn = self.model.prompts.full_ids(about_images(self.count, self.model.describe_prompt))
        parts, position, number = [], 0, 0
        pieces: list[tuple[Tensor, Tensor]] = []
        for id_ in turn:
            if id_ != self.model.prompts.image_id:
                parts.append(TokenTable.of_text([id_], position))
                pieces.append(self._no_keys())
                position += 1
                continue
            described, cells = self.described[number], kept[number][0]
            columns = described.prompt.image_positions[cells]
            shift = position - int(described.prompt.image_positions[0])
            keys = rotate_keys(described.keys[:, :, columns], described.rope, shift)
            pieces.append((keys, described.values[:, :, columns]))
            parts.append(TokenTable.of_image(number, cells, position, id_))
            position, number = position + len(described.prompt.image_positions), number + 1
        keys, values = (torch.cat(part, dim=2) for part in zip(*pieces, strict=True))
        turns = (Turn("user", (*range(self.count), self.model.describe_prompt)), Turn("assistant", ()))
        ids = [
            self.model.prompts.full_ids(Conversation((*turns, Turn("user", (question.text,)))))
            for question in self.images.questions
        ]
        cache = PreparedCache(keys, values, position, [each[len(turn) :] for each in ids])
        joined = Joined(cache, TokenTable.of_parts(parts), turn.index(self.model.prompts.image_id))
        return self.recompute(joined, joined.table.is_text)

    def _no_keys(self) -> tuple[Tensor, Tensor]:
        """Make room for a token that is computed later."""
        none = torch.zeros_like(self.described[0].keys[:, :, :1])
        return none, none

    def together(self, kept: Sequence[Tensor]) -> Joined:
        """Run all describe turns at once, images whole, and drop the image tokens that are not kept then."""
        turns = [
            turn
            for number in range(self.count)
            for turn in (Turn("user", (number, self.model.describe_prompt)), Turn("assistant", ()))
        ]
        prompt = self.model.prompts.full(Conversation(tuple(turns[:-1])), self.images.images)
        state = self.model.runner.prefill(prompt)
        keys, values = stacked(state.cache, prompt.tokens)
        stays, start = torch.ones(prompt.tokens, dtype=torch.bool), 0
        for described, cells in zip(self.described, kept, strict=True):
            columns = prompt.image_positions[start : start + len(described.prompt.image_positions)]
            stays[columns] = False
            stays[columns[cells[0]]] = True
            start += len(columns)
        cache = PreparedCache(keys[:, :, stays], values[:, :, stays], state.next_position, self.after_contexts)
        return Joined(cache, self.join(kept).table, 0)

    @torch.inference_mode()
    def recompute(self, joined: Joined, chosen: Tensor) -> Joined:
        """Compute tokens anew, `[tokens]` bool: each sees all that stands before it."""
        cache, table = joined.cache, joined.table
        new, old = chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
        if not len(new):
            return joined
        model, order = self.model.runner.model, torch.cat((old, new))
        rows = DynamicCache()
        for layer in range(self.model.num_layers):
            rows.update(cache.keys[layer, None][:, :, old], cache.values[layer, None][:, :, old], layer)
        embeddings = model.get_input_embeddings()(table.ids[new].to(model.device))
        for at, token in enumerate(new.tolist()):
            if (number := int(table.images[token])) != TEXT:
                embeddings[at] = self.embeddings[number][table.cells[token]]
        model(
            inputs_embeds=embeddings[None],
            position_ids=table.positions[new][None].to(model.device),
            attention_mask=(order[None, :] <= new[:, None])[None, None].to(model.device),
            past_key_values=rows,
            use_cache=True,
            logits_to_keep=1,
        )
        back = order.argsort()
        keys, values = (part[:, :, back] for part in stacked(rows, len(order)))
        return joined._replace(cache=cache._replace(keys=keys, values=values))

    def weights(self, joined: Joined) -> Tensor:
        """Weigh each token by the attention it drew times the norm of its values, `[tokens]`; text has none.

        After CONDUIT, arXiv 2609.05821: what matters to others is worth being right.
        """
        table = joined.table
        norms: Tensor = joined.cache.values.float().norm(dim=-1).mean((0, 1)).cpu()
        drawn = torch.zeros(len(norms))
        for number, scores in enumerate(self.scores):
            own = table.images == number
            drawn[own] = scores.values.mean(0)[table.cells[own]]
        return drawn * norms
