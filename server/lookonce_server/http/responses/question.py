"""Ask the question of a response's request, as a chat."""

import re
from collections.abc import Sequence

from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.chat_request import check_request, parse_chat
from lookonce_server.http.responses.images import ConversationImages
from lookonce_server.http.responses.objects import ResponseObject
from lookonce_server.http.responses.request import ResponseRequest
from lookonce_server.http.responses.response_store import KeptItem, KeptResponse, ResponseStore, check_size
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.http.schemas.messages import (
    MAX_MESSAGES,
    FilePart,
    ImagePart,
    ImageUrl,
    Message,
    RefusalPart,
    TextPart,
    VideoPart,
)
from lookonce_server.http.schemas.response_format import ChatSchemaFormat, ResponseSchemaFormat
from lookonce_server.http.schemas.tools import (
    CalledFunction,
    ChatNamedChoice,
    ChatTool,
    MessageCall,
    NamedChoice,
    NamedFunction,
)
from lookonce_server.http.state import AppState
from lookonce_server.http.tools import blame_tool, check_tools
from lookonce_server.sessions.answer_passes import Session

_CALL = re.compile(r"\.tool_calls\[(\d+)\]")
_MESSAGE = re.compile(r"messages\[(\d+)\](.*)")


class ResponseQuestion:
    """The question of a response's request.

    Args:
        request: the client's request.
        draft: the response without its answer.
        state: the server's parts.
        tenant: whose request it is.
    """

    def __init__(self, request: ResponseRequest, draft: ResponseObject, state: AppState, tenant: str) -> None:
        self._request = request
        self._draft = draft
        self._state = state
        self._tenant = tenant
        self._store = ResponseStore(state.store.records, tenant)
        # Known once the question is asked:
        self._items: list[KeptItem] = []  # the conversation, without the instructions
        self._places: list[list[str]] = []  # of the items in the request that each of the chat's messages is made of
        self._has_text: list[bool] = []  # whether the first of these items is a text
        self._images = ConversationImages()

    async def ask(self) -> Session:
        """Ask the question.

        Raises:
            InvalidRequestError: the request is wrong, or its conversation is too long.
            ResponseNotFoundError: there is no response with the previous id.
            ContextNotFoundError: an image of the conversation is not sent again, and its context is gone.
            StoreUnavailableError: the store that has one of them does not answer.
        """
        request, state = self._request, self._state
        self._check()
        previous = None
        if request.previous_response_id is not None:
            previous = await self._store.find(request.previous_response_id, param="previous_response_id")
            self._images = ConversationImages(previous)
        before = previous.conversation if previous else []
        self._check_length(before)
        numbers = await self._images.read(request, state, self._tenant)
        self._items = [*before, *(KeptItem.of(item, numbers) for item in request.messages.values())]
        chat = self._chat(len(before))
        if self._draft.store:
            check_size(self._kept(self._draft))
        question = parse_chat(chat, state.settings)
        check_tools(question.tools, state.engine, has_format=question.sampling.json_schema is not None)
        try:
            session = await state.sessions.ask(
                question.conversation,
                self._images.sources(question.options),
                question.sampling,
                tenant=self._tenant,
                options=question.options,
            )
        except InvalidRequestError as error:
            raise await blame_tool(question.tools, state.engine, error) from error
        self._images.take(session, bypass=question.options.bypass)
        return session

    async def keep(self, response: ResponseObject) -> bool:
        """Keep a response with its conversation; return whether the store has it."""
        return await self._store.keep(self._kept(response), ttl=self._request.context_options().ttl)

    def field(self, chat_field: str | None) -> str | None:
        """Name a chat's field as the request does; see `AnswerFormat.field`."""
        if chat_field is None or chat_field == "messages":
            return chat_field and "input"
        if chat_field.startswith("response_format"):
            return "text.format"
        match = _MESSAGE.fullmatch(chat_field)
        if match is None:
            return chat_field.replace(".function.", ".", 1) if chat_field.startswith("tools[") else chat_field
        places, call = self._places[int(match[1])], _CALL.match(match[2])
        if call is not None:
            # The message's own text, if it has one, is the first of the items.
            has_text = self._has_text[int(match[1])]
            return f"{places[int(call[1]) + has_text]}.call_id"
        place, rest = places[0], match[2].replace(".tool_call_id", ".call_id")
        return place + rest if place.startswith("input[") else place

    def _check(self) -> None:
        request = self._request
        check_request(request, self._state)
        if not request.messages:
            raise InvalidRequestError("input: it has reasoning alone; the last item must be the user's.", param="input")
        if request.top_logprobs and not request.wants_logprobs:
            raise InvalidRequestError(
                "top_logprobs needs include=['message.output_text.logprobs'].", param="top_logprobs"
            )
        if not self._state.settings.store_responses:
            for name in ("previous_response_id", "store"):
                if getattr(request, name):
                    raise InvalidRequestError(f"{name} is not supported: this server keeps no responses.", param=name)

    def _check_length(self, before: list[KeptItem]) -> None:
        """Reject a conversation with too many messages."""
        count = len(before) + len(self._request.messages) + (self._request.instructions is not None)
        if count > MAX_MESSAGES:
            raise InvalidRequestError(
                f"The conversation has {count} messages; at most {MAX_MESSAGES} are accepted. Begin a new one.",
                param="input",
            )

    def _chat(self, num_before: int) -> ChatRequest:
        """Return the question as a chat.

        Args:
            num_before: number of items that come from the response before.
        """
        request = self._request
        instructions = [] if request.instructions is None else [Message(role="system", content=request.instructions)]
        messages, places = _messages(self._items, [*["previous_response_id"] * num_before, *request.messages])
        self._places = [*([["instructions"]] * len(instructions)), *places]
        self._has_text = [
            len(one) > len(m.tool_calls or ()) for m, one in zip([*instructions, *messages], self._places, strict=True)
        ]
        text_format, choice = request.text.format, request.tool_choice
        return ChatRequest(
            model=request.model,
            messages=[*instructions, *messages],
            max_completion_tokens=request.max_output_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            logprobs=request.wants_logprobs,
            top_logprobs=request.top_logprobs if request.wants_logprobs else None,
            response_format=ChatSchemaFormat(type="json_schema", json_schema=text_format)
            if isinstance(text_format, ResponseSchemaFormat)
            else text_format,
            lookonce=request.lookonce,
            tools=[ChatTool(type="function", function=tool) for tool in request.tools or ()],
            tool_choice=ChatNamedChoice(type="function", function=NamedFunction(name=choice.name))
            if isinstance(choice, NamedChoice)
            else choice,
            parallel_tool_calls=request.parallel_tool_calls,
            prompt_cache_options=request.prompt_cache_options,
            prompt_cache_retention=request.prompt_cache_retention,
        )

    def _kept(self, response: ResponseObject) -> KeptResponse:
        return KeptResponse(response=response, items=self._items, images=self._images.kept)


def _messages(items: Sequence[KeptItem], places: Sequence[str]) -> tuple[list[Message], list[list[str]]]:
    """Return items as a chat's messages; calls belong to the assistant's message before them.

    Args:
        items: of the conversation.
        places: of each in the request.

    Returns:
        The messages, and the places of the items that each was made of.
    """
    messages: list[Message] = []
    whence: list[list[str]] = []
    for item, place in zip(items, places, strict=True):
        if item.name is None:
            messages.append(_message(item))
            whence.append([place])
            continue
        function = CalledFunction(name=item.name, arguments=item.arguments)
        call = MessageCall(id=item.call_id or "", function=function)
        if not messages or messages[-1].role != "assistant":
            messages.append(Message(role="assistant", tool_calls=[call]))
            whence.append([place])
        else:
            calls = [*(messages[-1].tool_calls or ()), call]
            messages[-1] = messages[-1].model_copy(update={"tool_calls": calls})
            whence[-1].append(place)
    return messages, whence


def _message(item: KeptItem) -> Message:
    """Return an item as a chat's message; the numbers of its images stand for their URLs."""
    parts: list[TextPart | ImagePart | VideoPart | FilePart | RefusalPart] = [
        TextPart(type="text", text=part.text)
        if part.image is None
        else ImagePart(type="image_url", image_url=ImageUrl(url=str(part.image)))
        for part in item.parts
    ]
    return Message(role=item.role, content=parts or "", tool_call_id=item.call_id)
