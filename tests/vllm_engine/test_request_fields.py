"""The server knows every field of vLLM's chat requests: each is honoured, or refused in words of its own."""

import json

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from lookonce_server.http.chat_request import parse_chat
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.settings import Settings

from ..support.chat_fields import REQUEST
from ..support.vllm_fields import ALL


def test_vllm_has_no_field_that_is_not_listed():
    assert ChatCompletionRequest.model_fields.keys() - REQUEST.keys() == ALL


def test_a_request_with_all_of_vllms_defaults_is_taken():
    """Clients that send every field they know ask for nothing by those at their defaults."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    made = json.loads(ChatCompletionRequest(**asked).model_dump_json(exclude={"request_id"}))  # a random one
    both = [parse_chat(ChatRequest.model_validate(request), Settings()) for request in (asked, asked | made)]
    assert both[0] == both[1]
