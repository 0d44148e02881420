"""vLLM's own fields of a chat request: a few are honoured, the others are refused in words that help.

Each is taken at the value that asks for nothing, as clients send it that fill in all fields.
"""

from typing import Annotated, Any

from pydantic import Field

from lookonce_server.api.messages import ChatModel, Text
from lookonce_server.api.unused import Unused

_FORMAT = "send response_format with a json_schema"
_TEMPLATE = "contexts are made with the model's own chat template and processor, which a request cannot change"
_PLACEHOLDERS = "not supported by this server, since a context's tokens are not in the prompt"
_CACHE = "not for a request to set: it decides whose contexts are met"


class VllmFields(ChatModel):
    """What vLLM takes beside OpenAI's fields."""

    # How the answer is made.
    top_k: Annotated[int, Field(ge=-1, lt=2**31, description="-1 and 0: all tokens")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None

    # Labels, and what changes nothing here.
    include_reasoning: bool | None = None  # there is none
    mm_payload: Annotated[Any, Unused("tensors", "none")] = None
    return_mm_kwargs: bool | None = None
    session_id: Text | None = None

    # What would change the answer.
    allowed_token_ids: Annotated[Any, Unused([], instead=_FORMAT)] = None
    bad_words: Annotated[Any, Unused([], instead="logit_bias keeps tokens away")] = None
    guided_choice: Annotated[Any, Unused([], instead=_FORMAT)] = None
    guided_grammar: Annotated[Any, Unused(instead=_FORMAT)] = None
    guided_json: Annotated[Any, Unused(instead=_FORMAT)] = None
    guided_regex: Annotated[Any, Unused(instead=_FORMAT)] = None
    ignore_eos: Annotated[Any, Unused(False)] = None
    include_stop_str_in_output: Annotated[Any, Unused(False)] = None
    length_penalty: Annotated[Any, Unused(1.0)] = None
    min_tokens: Annotated[Any, Unused(0)] = None
    repetition_detection: Annotated[Any, Unused()] = None
    repetition_penalty: Annotated[
        Any,
        Unused(
            1.0,
            why="not supported by this server, since it looks at the prompt's tokens, and a context has none",
            instead="send presence_penalty or frequency_penalty, which look at the answer's",
        ),
    ] = None
    skip_special_tokens: Annotated[Any, Unused(True)] = None
    spaces_between_special_tokens: Annotated[Any, Unused(True)] = None
    stop_token_ids: Annotated[Any, Unused([], instead="send stop, with texts")] = None
    structured_outputs: Annotated[Any, Unused(instead=_FORMAT)] = None
    thinking_token_budget: Annotated[Any, Unused()] = None
    use_beam_search: Annotated[Any, Unused(False)] = None
    best_of: Annotated[Any, Unused(1, instead="send n for several answers")] = None
    watermarking: Annotated[Any, Unused(False)] = None

    # What would change the prompt.
    add_generation_prompt: Annotated[Any, Unused(True, why="an answer always begins a message of its own")] = None
    add_special_tokens: Annotated[Any, Unused(False, why=_TEMPLATE)] = None
    chat_template: Annotated[Any, Unused(why=_TEMPLATE)] = None
    chat_template_kwargs: Annotated[Any, Unused({}, why=_TEMPLATE)] = None
    continue_final_message: Annotated[
        Any, Unused(False, why="an answer is not continued: the last message must be the user's")
    ] = None
    documents: Annotated[Any, Unused([], instead="put their text into a message")] = None
    echo: Annotated[Any, Unused(False)] = None
    media_io_kwargs: Annotated[Any, Unused({}, why=_TEMPLATE)] = None
    mm_processor_kwargs: Annotated[Any, Unused({}, why=_TEMPLATE)] = None
    truncate_prompt_tokens: Annotated[Any, Unused(why="this server never shortens a prompt")] = None
    truncation_side: Annotated[Any, Unused()] = None

    # What would be told of it.
    logprob_token_ids: Annotated[Any, Unused([], instead="send logprobs with top_logprobs")] = None
    prompt_logprobs: Annotated[Any, Unused(why=_PLACEHOLDERS)] = None
    request_id: Annotated[Any, Unused(instead="send the header x-request-id")] = None
    return_prompt_text: Annotated[Any, Unused(False, why=_PLACEHOLDERS)] = None
    return_token_ids: Annotated[Any, Unused(False, why=_PLACEHOLDERS)] = None
    return_token_offsets: Annotated[Any, Unused(False)] = None
    return_tokens_as_token_ids: Annotated[Any, Unused(False)] = None
    routed_experts_prompt_start: Annotated[Any, Unused(0)] = None
    stream_interval: Annotated[Any, Unused(1, why="each token is sent as it comes")] = None

    # What belongs to the server.
    cache_salt: Annotated[Any, Unused(why=_CACHE)] = None
    ec_transfer_params: Annotated[Any, Unused(why=_CACHE)] = None
    kv_transfer_params: Annotated[Any, Unused(why=_CACHE)] = None
    priority: Annotated[Any, Unused(0, why="requests are served as they come")] = None
    vllm_xargs: Annotated[Any, Unused({})] = None
