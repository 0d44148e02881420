"""Serve `/v1/chat/completions`."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.bodies.json_body import JsonRoute
from lookonce_server.http.chat_format import ChatFormat
from lookonce_server.http.chat_request import check_logit_bias, check_request, parse_chat
from lookonce_server.http.generation import generate
from lookonce_server.http.image_reader import ImageReader
from lookonce_server.http.schemas.answers import ANSWER
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.http.schemas.errors import errors
from lookonce_server.http.state import AppState, Tenant, state_of
from lookonce_server.http.tools import blame_tool, check_tools
from lookonce_server.sessions.answer_passes import Session

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/chat/completions", response_model=None, responses={200: ANSWER, **errors(400, 404, 415, 503)})
async def chat(body: ChatRequest, request: Request, tenant: Tenant) -> Response:
    """Answer a question; `stream` sends the answer as it is generated."""
    state = state_of(request)
    answer_format = ChatFormat(body, state.served_name, state.engine)
    return await generate(request, state, _ask(body, state, tenant), answer_format, stream=bool(body.stream))


async def _ask(body: ChatRequest, state: AppState, tenant: str) -> Session:
    check_request(body, state)
    question = parse_chat(body, state.settings)
    check_logit_bias(body, state.engine.facts.vocabulary)
    check_tools(question.tools, state.engine, has_format=question.sampling.json_schema is not None)
    reader = ImageReader(state, tenant, question.options)
    images = await reader.read_all(question.images)
    try:
        session = await state.sessions.ask(
            question.conversation, images, question.sampling, tenant=tenant, options=question.options, n=question.n
        )
    except InvalidRequestError as error:
        raise await blame_tool(question.tools, state.engine, error) from error
    return await reader.bind_uuids(session)
