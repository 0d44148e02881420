"""Render conversations, and the part of them that follows contexts.

A context ends where the describe turn's answer would begin. What follows it is the difference between the rendered
conversation with that answer and later turns, and the one without: the template's own tokens that close the answer,
then the question. The description itself is dropped, so the turn is closed as if it had been empty.

Several contexts follow each other as their describe turns do, each closed with nothing: between two of them stands a
*seam*, which ends the one turn and begins the next, up to its image.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookonce_cache import CompressedContext, digest
from lookonce_pruning import TileLayout
from lookonce_server.engines.chat_template import ChatTemplate
from lookonce_server.engines.control_tokens import (
    Change,
    ControlTokens,
    Render,
    Rendered,
    TooManyTokensError,
    UnencodableError,
)
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.media import Media, fitting_layout, media_grid
from lookonce_server.engines.placeholder_tokens import PlaceholderTokens
from lookonce_server.engines.reasoning import ReasoningFormat
from lookonce_server.engines.request_texts import change_texts, texts_of
from lookonce_server.engines.tiles import Tiles
from lookonce_server.engines.tool_calls import CallFormat
from lookonce_server.engines.tool_template import ToolTemplate
from lookonce_server.engines.tools import change_strings
from lookonce_server.engines.visuals import Video, Visual, frames_of
from lookonce_server.errors import (
    ContextOutdatedError,
    InvalidImageError,
    InvalidRequestError,
    ModelRefusedError,
    PromptTooLongError,
)

UNKNOWN_FORM = "The form in which this model writes calls is not known."
_MARK = "lookonce:description"  # stands for the description while what follows it is looked for
_SEAM_TEXTS = ("What is it?", "1?", "\u6f22?", " x", "\nx", "")  # questions by which the seam is tried
_ANSWER_ROOM = 256  # tokens that a video's frames leave to an answer, or an eighth of the positions
_TRIES = 3  # of a check that the clock may spoil, where a template prints the time


class Prompt(NamedTuple):
    """A rendered and tokenised prompt, ready for the model."""

    inputs: dict[str, Tensor]  # what the processor made: input_ids [1, tokens], pixels, ...
    image_positions: Tensor  # [image tokens], int64: where the image tokens stand
    grid: tuple[int, ...]  # of the image tokens: rows and columns, of a video frames before them
    images: tuple[Visual, ...] = ()  # and videos, as they are shown
    turn: "DescribeTurn | None" = None  # that was processed
    layout: TileLayout | None = None  # of the one image's tokens, or of each frame's, where they are no grid

    @property
    def tokens(self) -> int:
        """Count the prompt's tokens."""
        return self.inputs["input_ids"].shape[1]

    @property
    def ids(self) -> list[int]:
        """Return the prompt's token ids."""
        ids: list[int] = self.inputs["input_ids"][0].tolist()
        return ids


class DescribeTurn(NamedTuple):
    """A describe turn as rendered at one moment: templates may print the date."""

    rendered: Rendered
    ids: list[int]  # with one image token for the whole image
    prefix: tuple[int, ...]  # ids of what comes before the image
    digest: str  # of the template and the turn: part of what a context is a function of
    prompt: str  # the instruction
    frames: int | None = None  # of a video


class JoinedPrompt(NamedTuple):
    """The text around images whose describe turns follow each other."""

    prefix: tuple[int, ...]  # ids of what comes before the first image
    seams: tuple[tuple[int, ...], ...]  # from the end of each turn to the next one's image
    after: list[int]  # the end of the last turn, and the conversation
    turn_tokens: int = 0  # of all turns, one for each whole image


class PromptRenderer:
    """Render conversations to tokens, with a checkpoint's own processor.

    Args:
        processor: of transformers, with a chat template.
        config: the model's configuration.
        allow_control_tokens: whether what a request's text spells becomes control tokens.
    """

    def __init__(self, processor: Any, config: Any, *, allow_control_tokens: bool = False) -> None:
        self._processor = processor
        self._config = config
        self._allow_control_tokens = allow_control_tokens
        self.tokenizer = processor.tokenizer
        self._media = Media(processor, config)
        self.tiles = Tiles(processor)
        self.image_id = self._media.image_id
        self.placeholder_tokens = PlaceholderTokens.of(processor, config)
        texts = [text for text, _ in self.placeholder_tokens.kinds]
        placeholders = {kind: text for text, kind in self.placeholder_tokens.kinds}
        self._template = ChatTemplate(processor, placeholders)
        self._tools = ToolTemplate(self._template, placeholders)
        self._max_tokens: int = config.get_text_config().max_position_embeddings
        aliases = _aliases(processor, self.tokenizer.convert_ids_to_tokens(self.image_id))
        self._control_tokens = ControlTokens(self.tokenizer, str(processor.chat_template), texts, aliases)
        added, placeholder = self.tokenizer.added_tokens_decoder, getattr(processor, "image_token", None)
        self._image_ids = {*self._media.ids, *(id_ for id_, token in added.items() if token.content == placeholder)}

    @property
    def reasoning(self) -> ReasoningFormat | None:
        """Return the way in which the model reasons before it answers."""
        return self._template.reasoning

    @cached_property
    def call_format(self) -> CallFormat | None:
        """Return the form in which the model writes calls of its own."""
        form = self._tools.call_format
        special = {token for token in self.tokenizer.all_special_tokens if form and token in (form.start, form.end)}
        return form and form._replace(is_special=bool(special))

    @property
    def no_tools(self) -> str | None:
        """Return the reason for which the model cannot choose tools; None: it can."""
        if not self._tools.takes_tools:
            return "This model's chat template knows no tools."
        return None if self.call_format else UNKNOWN_FORM

    @property
    def media(self) -> Media:
        """Return how images and videos are shown to the model."""
        return self._media

    def full(self, conversation: Conversation, images: Sequence[Visual], max_tokens: int | None = None) -> Prompt:
        """Render the whole conversation, with its images in the order of their numbers.

        Args:
            conversation: with their numbers.
            images: and videos, which have fewer frames where they would not fit; see `Prompt.images`.
            max_tokens: positions that there are; by default those of the model.
        """

        def render(shown: Sequence[Visual]) -> Prompt:
            return self._process(self._encode_conversation(conversation, list(map(frames_of, shown))), shown)

        return self._fit(images, render, max_tokens)

    def describe(self, prompt: str, image: Visual, max_tokens: int | None = None) -> Prompt:
        """Render the describe turn, with its image or video; see `full`."""

        def render(shown: Sequence[Visual]) -> Prompt:
            return self.process_turn(self.describe_turn(prompt, frames_of(shown[0])), shown[0])

        return self._fit([image], render, max_tokens)

    def process_turn(self, turn: DescribeTurn, image: Visual) -> Prompt:
        """Tokenise a describe turn with its image or video."""
        return self._process(turn.rendered, [image])._replace(turn=turn)

    def _fit(
        self, images: Sequence[Visual], render: Callable[[Sequence[Visual]], Prompt], max_tokens: int | None
    ) -> Prompt:
        """Render a prompt, with as many frames of videos as leave room for an answer."""
        positions = self._max_tokens if max_tokens is None else max_tokens
        limit = positions - min(_ANSWER_ROOM, positions // 8)
        prompt = render(images)
        while prompt.tokens > limit and any((frames_of(image) or 1) > 1 for image in prompt.images):
            text = prompt.tokens - len(prompt.image_positions)
            share = max(0, limit - text) / len(prompt.image_positions)
            prompt = render([_thin_out(image, share) for image in prompt.images])
        return prompt

    def describe_turn(self, prompt: str, frames: int | None = None) -> DescribeTurn:
        """Render the describe turn, as the template does now.

        Args:
            prompt: the instruction.
            frames: of a video; None for an image.

        Raises:
            InvalidRequestError: the prompt cannot be encoded.
        """
        turn = self._describe_messages(prompt, frames)
        rendered = self._encode(
            lambda change: self._template.open_turn(change_texts(turn, change), _mark(prompt)),
            [("lookonce.describe_prompt", prompt)],
        )
        ids = rendered.ids
        at = self._find_image(ids, 0)
        prefix = tuple(ids[: at if at < len(ids) else 0])
        # All of the turn, since a context keeps what is printed behind the image too, as the date of the day. A video's
        # identity is needed before its frames are counted, so its turn is known by that of an image.
        content = [str(self._processor.chat_template), rendered.is_broken, ids]
        known = digest(repr(content).encode()) if frames is None else self.describe_turn(prompt).digest
        return DescribeTurn(rendered, ids, prefix, known, prompt, frames)

    def describe_ids(self, prompt: str) -> list[int]:
        """Return the ids of the describe turn, one token for the whole image."""
        return self.describe_turn(prompt).ids

    def continuation(
        self, describe_prompt: str, conversation: Conversation, turn: DescribeTurn | None = None
    ) -> Tensor:
        """Return the ids of the turn's end and the conversation, `[1, tokens]`.

        They follow the describe turn's ids in the whole text: encoded alone, many tokenizers put a blank before them,
        as SentencePiece's do.

        Args:
            describe_prompt: of the context.
            conversation: its image is the context's.
            turn: the describe turn where it is rendered already.

        Raises:
            ContextOutdatedError: the whole text does not begin with the describe turn's tokens.
        """
        joined = self.join([turn or self.describe_turn(describe_prompt)], conversation)
        return torch.tensor([joined.after], dtype=torch.int64)

    def join(self, turns: Sequence[DescribeTurn], conversation: Conversation) -> JoinedPrompt:
        """Render describe turns that follow each other, and the conversation.

        They are rendered as one text, each turn answered with nothing, and cut by their tokens.

        Args:
            turns: at least one.
            conversation: its images are those of the turns.

        Raises:
            ContextOutdatedError: a turn's tokens are not its own there.
        """
        conversation = self._tools.of(conversation)
        ids = self._encode(lambda change: self._render_joined(turns, conversation, change), texts_of(conversation)).ids
        between: list[tuple[int, ...]] = []
        end = 0
        for turn in turns:
            own = turn.ids[len(turn.prefix) :]  # the image, and what follows it
            at = self._find_image(ids, end) if between else len(turn.prefix)
            if turn.prefix != turns[0].prefix or ids[at : at + len(own)] != own:
                raise ContextOutdatedError("The describe turn's tokens are others where this conversation follows.")
            between.append(tuple(ids[end:at]))
            end = at + len(own)
        prefix, *seams = between
        if prefix != turns[0].prefix:
            raise ContextOutdatedError("The tokens before the image are others where this conversation follows.")
        return JoinedPrompt(prefix, tuple(seams), ids[end:], sum(len(turn.ids) for turn in turns))

    def count_image_tokens(self, ids: Sequence[int]) -> int:
        """Count the image and video tokens of a processed prompt."""
        return len(self._media.positions(torch.tensor(ids)))

    def _find_image(self, ids: list[int], start: int) -> int:
        """Return the place of the first image from `start` on, the end if there is none."""
        return next((i for i in range(start, len(ids)) if ids[i] in self._image_ids), len(ids))

    def _render_joined(self, turns: Sequence[DescribeTurn], conversation: Conversation, change: Change) -> str:
        """Render turns as they are by themselves, with what stands between them."""
        mark = _mark("".join(turn.prompt for turn in turns))
        questions = [change_texts(self._describe_messages(turn.prompt, turn.frames), change) for turn in turns]
        messages = [message for question in questions for message in (*question, _assistant_message(mark))]
        after = conversation.after_images(self._tools.text_of(conversation.tools, change))
        text = self._tools.apply([*messages, *change_texts(after, change)])
        _, *rests = text.split(mark, len(turns))
        if len(rests) != len(turns):
            raise ModelRefusedError("The chat template does not show the assistant's turns.")
        # Before an answer templates differ in blanks: alone the turn ends as a context does.
        kinds = {(turn.prompt, turn.frames): question for turn, question in zip(turns, questions, strict=True)}
        alone = {kind: self._template.open_turn(question, mark) for kind, question in kinds.items()}
        own = [alone[turn.prompt, turn.frames] for turn in turns]
        ends = [text[len(text.rstrip()) :] for text in own[1:]]
        between = [rest.rstrip() + end for rest, end in zip(rests, ends, strict=False)]
        return "".join((own[0], *between, rests[-1]))

    def full_prompt_tokens(
        self, conversation: Conversation, contexts: Sequence[CompressedContext], turn_tokens: int
    ) -> int:
        """Count the tokens of the conversation's prompt with all whole images.

        An image brings its tokens, and the markers and breaks that the processor writes around and between them: what
        its describe turn became longer by.

        Args:
            conversation: with their numbers.
            contexts: of the images and videos.
            turn_tokens: of the contexts' describe turns together, one for each whole image.
        """
        ids = self.full_ids(conversation, [context.frames for context in contexts])
        return len(ids) + sum(context.full_tokens for context in contexts) - turn_tokens

    def full_ids(self, conversation: Conversation, frames: Sequence[int | None] = ()) -> list[int]:
        """Return the ids of the conversation, one token for each whole image.

        Args:
            conversation: with numbers of images and videos.
            frames: of each, None for an image; all images by default.
        """
        return self._encode_conversation(conversation, frames).ids

    def check_template(self, describe_prompt: str) -> None:
        """Raise ModelRefusedError unless contexts can be continued.

        A later turn must leave the describe turn's own rendering and tokens as they are.
        """
        self._control_tokens.prepare()
        turn, mark = self._describe_messages(describe_prompt), _mark(describe_prompt)
        question = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        joined = None
        for _ in range(_TRIES):
            try:
                rendered = self._template.apply([*turn, _assistant_message(mark), question])
                before, mark_found, _ = rendered.partition(mark)
                alone = self._template.open_turn(turn, mark)
            except InvalidRequestError as error:
                raise ModelRefusedError(str(error)) from error
            if mark_found and before.rstrip() == alone.rstrip():
                self._check_end(alone)
                joined = self._find_joined(describe_prompt)
                if joined is None:
                    return
        if joined is not None:
            raise ModelRefusedError(
                f"The tokenizer joins the end of the describe turn with what follows it, here {joined!r}, so that no"
                " question can follow a context."
            )
        raise ModelRefusedError(
            "The chat template renders the describe turn differently when another turn follows it, or each time, so"
            " that what follows a context cannot be told."
        )

    def join_problem(self, describe_prompt: str) -> str | None:
        """Return the reason against joining contexts, None if they can be joined."""
        problem = None
        for _ in range(_TRIES):
            try:
                turn = self.describe_turn(describe_prompt)
                for text in _SEAM_TEXTS:
                    self.join([turn] * 3, Conversation((Turn("user", (0, 1, 2, text)),)))
            except ContextOutdatedError:
                problem = "Describe turns that follow each other have other tokens than each has alone."
            except (InvalidRequestError, ModelRefusedError) as error:
                problem = str(error)
            else:
                return None
        return problem

    def _check_end(self, text: str) -> None:
        """Raise ModelRefusedError if the tokenizer ends prompts with own tokens."""
        alone, begun = (self._control_tokens.encode(text, begins=begins).ids for begins in (False, True))
        if begun[len(begun) - len(alone) :] != alone:
            raise ModelRefusedError("The tokenizer ends each prompt with a token of its own: no answer can follow.")

    def _find_joined(self, describe_prompt: str) -> str | None:
        """Return a question whose tokens span the describe turn's end, None if there is none."""
        for text in _SEAM_TEXTS:
            try:
                self.continuation(describe_prompt, Conversation((Turn("user", (0, text)),)))
            except ContextOutdatedError:
                return text
        return None

    def _describe_messages(self, prompt: str, frames: int | None = None) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [*self._media.parts(frames), {"type": "text", "text": prompt}]}]

    def _encode_conversation(self, conversation: Conversation, frames: Sequence[int | None] = ()) -> Rendered:
        conversation = self._tools.of(conversation)
        messages = conversation.as_messages(lambda image: self._media.parts(frames[image] if frames else None))
        tools = [tool.as_message() for tool in conversation.tools]

        def render(change: Change) -> str:
            return self._tools.apply(change_texts(messages, change), [change_strings(tool, change) for tool in tools])

        return self._encode(render, texts_of(conversation))

    def _encode(self, render: Render, texts: list[tuple[str, str]]) -> Rendered:
        """Render a prompt in which no text of a request is a control token.

        Args:
            render: renders it.
            texts: the request's texts in it, by their fields.

        Raises:
            InvalidRequestError: one cannot be encoded without, or stands for an image where control tokens are allowed.
            PromptTooLongError: the prompt is too long to be worth the work that control tokens in it cause.
        """
        if self._allow_control_tokens:
            for field, text in texts:
                self.placeholder_tokens.refuse(text, field)
            return self._control_tokens.encode(render(lambda text: text), begins=True)
        try:
            return self._control_tokens.render(render, max_tokens=self._max_tokens)
        except TooManyTokensError as error:
            raise PromptTooLongError.beyond(self._max_tokens, f"the prompt has {error.tokens} tokens") from error
        except UnencodableError as error:
            field = next((name for name, text in texts if not self._control_tokens.is_encodable(text)), "messages")
            raise InvalidRequestError(
                "The text spells control tokens of the model, which its tokenizer cannot encode as plain text. Remove"
                " them.",
                param=field,
            ) from error

    def _process(self, rendered: Rendered, images: Sequence[Visual]) -> Prompt:
        options = self._media.options(images)
        if not rendered.has_own:
            options["add_special_tokens"] = False
        processor = self._broken_processor if rendered.is_broken else self._processor
        try:
            output = processor(text=[rendered.text], return_tensors="pt", **options)
        except ValueError as error:  # what processors raise on pictures, as Qwen2-VL's on very long ones
            if not images:
                raise
            raise InvalidImageError(f"This model does not take the image: {error}.") from error
        inputs = {name: value for name, value in output.items() if isinstance(value, Tensor)}
        columns = self._media.positions(inputs["input_ids"][0])
        frames, layout = None, None
        if len(images) == 1:
            frames = frames_of(images[0])
            layout = fitting_layout(self.tiles.layout(images[0]), len(columns), frames)
        grid = media_grid(self._config, len(columns), inputs, frames, layout)
        return Prompt(inputs, columns, grid, tuple(images), layout=layout)

    @cached_property
    def _broken_processor(self) -> Any:
        """Return the processor with the tokenizer of broken texts."""
        processor = copy.copy(self._processor)
        processor.tokenizer = self._control_tokens.broken
        return processor


def _aliases(processor: Any, image_token: str | None) -> dict[str, str]:
    """Return the processor's placeholder for an image, if its tokenizer does not know it, and the image token."""
    placeholder, tokenizer = getattr(processor, "image_token", None), processor.tokenizer
    if placeholder is None or image_token is None or placeholder in tokenizer.get_vocab():
        return {}
    return {str(placeholder): image_token}


def common_prefix(prefix: Sequence[int], prompt: Sequence[int]) -> tuple[int, ...]:
    """Return the tokens of a prefix that a prompt, as processed, begins with."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(prefix, prompt, strict=False))
    return tuple(id_ for id_, _ in same)


def _thin_out(image: Visual, share: float) -> Visual:
    """Return a video with that share of its frames, fewer than it has if it can be."""
    if not isinstance(image, Video):
        return image
    count = len(image.frames)
    return image.thin_out(max(1, min(count - 1, int(count * share))))


def _assistant_message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _mark(prompt: str) -> str:
    """Return a mark that is not in the prompt before it."""
    mark = _MARK
    while mark in prompt:
        mark += "'"
    return mark
