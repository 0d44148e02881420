"""Render messages with a checkpoint's own chat template.

Templates differ in what they take and in how they begin an answer; both are found by trying.
"""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

from jinja2 import TemplateError

from lookonce_server.engines.pretrained import reason_of
from lookonce_server.engines.reasoning import END, START, ReasoningFormat
from lookonce_server.errors import InvalidRequestError

Message = dict[str, Any]
_MARK = "lookonce:mark"
_TRIES = 3  # of a comparison that the clock may spoil, where a template prints the time
_DUMP = "'type': '"  # what a template prints that takes a list of parts for a text


class ChatTemplate:
    """Render messages, whose contents are lists of parts, in the form that the template takes.

    Args:
        processor: of transformers, with a chat template.
        placeholders: the texts that stand for an image and a video in a prompt, by the parts' types.
    """

    def __init__(self, processor: Any, placeholders: Mapping[str, str]) -> None:
        self._processor = processor
        self._forms: tuple[Callable[[Message], Message], ...] = (
            _as_parts,
            _texts_as_strings,
            partial(_as_string, placeholders=placeholders),
        )

    def apply(self, messages: list[Message], tools: list[Message] | None = None) -> str:
        """Render messages, and the beginning of an answer.

        Args:
            messages: the conversation.
            tools: that the template tells the model of.

        Raises:
            InvalidRequestError: the template does not take them.
        """
        try:
            return self.render(messages, self._form, tools)
        except Exception as error:  # of a checkpoint's template: on roles that it does not have, or in another order
            reason = error if isinstance(error, TemplateError) else reason_of(error)
            raise InvalidRequestError(
                f"The model's chat template does not take this conversation: {reason}", param="messages"
            ) from error

    def open_turn(self, messages: list[Message], mark: str) -> str:
        """Render messages, and the beginning of an answer as it is when another turn follows it.

        Some templates begin the answer to be generated otherwise than that of an earlier turn: with an open "<think>".
        A context goes on as an earlier turn, so its describe turn is begun as one; then the model does not think first.

        Args:
            messages: the last one is the user's.
            mark: a text that is not in them.

        Raises:
            InvalidRequestError: the template does not take them.
        """
        if not self._opens_otherwise:
            return self.apply(messages)
        return self.apply([*messages, _text_message("assistant", mark), _text_message("user", "?")]).partition(mark)[0]

    @cached_property
    def reasoning(self) -> ReasoningFormat | None:
        """The way in which the model reasons before it answers; None if its template knows of none."""
        if END not in str(self._processor.chat_template):
            return None
        try:
            prompt = self.apply([_text_message("user", "?")])
        except InvalidRequestError:
            return None
        return ReasoningFormat(is_opened=prompt.rstrip().endswith(START))

    def render(
        self, messages: list[Message], form: Callable[[Message], Message], tools: list[Message] | None = None
    ) -> str:
        """Render messages in a form; a template's own errors are raised as they are."""
        # Options of the processor, which is not called: SmolVLM's adds its own to those that there are, else it warns.
        text: str = self._processor.apply_chat_template(
            [form(message) for message in messages],
            tools=tools or None,
            add_generation_prompt=True,
            tokenize=False,
            processor_kwargs={"padding": False},
        )
        return text

    @cached_property
    def tool_forms(self) -> "tuple[Callable[[Message], Message], ...]":
        """Forms of messages about tools, the likeliest first: a text is a string in most templates."""
        return tuple(dict.fromkeys((_texts_as_strings, self._form, *self._forms)))

    @cached_property
    def _form(self) -> Callable[[Message], Message]:
        """The first form of messages that the template takes; the first of all if it takes none."""
        return next((form for form in self._forms if self._takes(form)), self._forms[0])

    def _takes(self, form: Callable[[Message], Message]) -> bool:
        """Return whether the template renders messages of a form."""
        marks = [f"{_MARK}:{i}" for i in range(3)]
        question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": marks[0]}]}
        messages = [question, _text_message("assistant", marks[1]), _text_message("user", marks[2])]
        try:
            text = self.render(messages, form)
        except Exception:  # whatever a template raises on what it does not take
            return False
        return _DUMP not in text and all(mark in text for mark in marks)

    @cached_property
    def _opens_otherwise(self) -> bool:
        """Whether an answer to be generated begins as one in an earlier turn does but for marks of reasoning."""
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
        history = [*turn, _text_message("assistant", _MARK), _text_message("user", "?")]
        for _ in range(_TRIES):
            try:
                alone, (before, mark, _) = self.apply(turn).rstrip(), self.apply(history).partition(_MARK)
            except InvalidRequestError:
                return False
            shorter, longer = sorted((alone, before.rstrip()), key=len)
            if mark and longer.startswith(shorter):
                return "".join(longer[len(shorter) :].split()) in (START, START + END)
        return False


def _text_message(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _as_parts(message: Message) -> Message:
    return message


def _texts_as_strings(message: Message) -> Message:
    """Return a message whose content is a string where it has text alone."""
    content = message["content"]
    if isinstance(content, str):
        return message
    return message if any(part["type"] != "text" for part in content) else _as_string(message, {})


def _as_string(message: Message, placeholders: Mapping[str, str]) -> Message:
    """Return a message whose content is a string, with placeholders for images and videos."""
    if isinstance(message["content"], str):
        return message
    texts = (part["text"] if part["type"] == "text" else placeholders[part["type"]] for part in message["content"])
    return message | {"content": "".join(texts)}
