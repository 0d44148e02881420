"""The chat fields of vLLM: a few are supported, the others are rejected.

Each may have the value that asks for nothing, for clients that send all fields.
"""

from typing import Annotated, Any

from pydantic import Field

from lookonce_server.http.schemas.must_be_unset import MustBeUnset, StrictModel

_FORMAT = "send response_format with a json_schema"
_TEMPLATE = "contexts are made with the model's own chat template and processor, which a request cannot change"
_PLACEHOLDERS = "not supported by this server, since a context's tokens are not in the prompt"
_CACHE = "not for a request to set: it decides whose contexts are met"


class VllmFields(StrictModel):
    """The fields that vLLM adds to OpenAI's."""

    # Sampling.
    top_k: Annotated[int, Field(ge=-1, lt=2**31, description="-1 and 0: all tokens")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None

    # Labels, and fields that change nothing here.
    include_reasoning: bool | None = None  # there is none
    mm_payload: Annotated[Any, MustBeUnset("tensors", "none")] = None
    return_mm_kwargs: bool | None = None
    session_id: str | None = None

    # Fields that would change the answer.
    allowed_token_ids: Annotated[Any, MustBeUnset([], instead=_FORMAT)] = None
    bad_words: Annotated[Any, MustBeUnset([], instead="logit_bias keeps tokens away")] = None
    guided_choice: Annotated[Any, MustBeUnset([], instead=_FORMAT)] = None
    guided_grammar: Annotated[Any, MustBeUnset(instead=_FORMAT)] = None
    guided_json: Annotated[Any, MustBeUnset(instead=_FORMAT)] = None
    guided_regex: Annotated[Any, MustBeUnset(instead=_FORMAT)] = None
    ignore_eos: Annotated[Any, MustBeUnset(False)] = None
    include_stop_str_in_output: Annotated[Any, MustBeUnset(False)] = None
    length_penalty: Annotated[Any, MustBeUnset(1.0)] = None
    min_tokens: Annotated[Any, MustBeUnset(0)] = None
    repetition_detection: Annotated[Any, MustBeUnset()] = None
    repetition_penalty: Annotated[
        Any,
        MustBeUnset(
            1.0,
            why="not supported by this server, since it looks at the prompt's tokens, and a context has none",
            instead="send presence_penalty or frequency_penalty, which look at the answer's",
        ),
    ] = None
    skip_special_tokens: Annotated[Any, MustBeUnset(True)] = None
    spaces_between_special_tokens: Annotated[Any, MustBeUnset(True)] = None
    stop_token_ids: Annotated[Any, MustBeUnset([], instead="send stop, with texts")] = None
    structured_outputs: Annotated[Any, MustBeUnset(instead=_FORMAT)] = None
    thinking_token_budget: Annotated[Any, MustBeUnset()] = None
    use_beam_search: Annotated[Any, MustBeUnset(False)] = None
    best_of: Annotated[Any, MustBeUnset(1, instead="send n for several answers")] = None
    watermarking: Annotated[Any, MustBeUnset(False)] = None

    # Fields that would change the prompt.
    add_generation_prompt: Annotated[Any, MustBeUnset(True, why="an answer always begins a message of its own")] = None
    add_special_tokens: Annotated[Any, MustBeUnset(False, why=_TEMPLATE)] = None
    chat_template: Annotated[Any, MustBeUnset(why=_TEMPLATE)] = None
    chat_template_kwargs: Annotated[Any, MustBeUnset({}, why=_TEMPLATE)] = None
    continue_final_message: Annotated[
        Any, MustBeUnset(False, why="an answer is not continued: the last message must be the user's")
    ] = None
    documents: Annotated[Any, MustBeUnset([], instead="put their text into a message")] = None
    echo: Annotated[Any, MustBeUnset(False)] = None
    media_io_kwargs: Annotated[Any, MustBeUnset({}, why=_TEMPLATE)] = None
    mm_processor_kwargs: Annotated[Any, MustBeUnset({}, why=_TEMPLATE)] = None
    truncate_prompt_tokens: Annotated[Any, MustBeUnset(why="this server never shortens a prompt")] = None
    truncation_side: Annotated[Any, MustBeUnset()] = None

    # The answer's shape.
    logprob_token_ids: Annotated[Any, MustBeUnset([], instead="send logprobs with top_logprobs")] = None
    prompt_logprobs: Annotated[Any, MustBeUnset(why=_PLACEHOLDERS)] = None
    request_id: Annotated[Any, MustBeUnset(instead="send the header x-request-id")] = None
    return_prompt_text: Annotated[Any, MustBeUnset(False, why=_PLACEHOLDERS)] = None
    return_token_ids: Annotated[Any, MustBeUnset(False, why=_PLACEHOLDERS)] = None
    return_token_offsets: Annotated[Any, MustBeUnset(False)] = None
    return_tokens_as_token_ids: Annotated[Any, MustBeUnset(False)] = None
    routed_experts_prompt_start: Annotated[Any, MustBeUnset(0)] = None
    stream_interval: Annotated[Any, MustBeUnset(1, why="each token is sent as it comes")] = None

    # Fields that belong to the server.
    cache_salt: Annotated[Any, MustBeUnset(why=_CACHE)] = None
    ec_transfer_params: Annotated[Any, MustBeUnset(why=_CACHE)] = None
    kv_transfer_params: Annotated[Any, MustBeUnset(why=_CACHE)] = None
    priority: Annotated[Any, MustBeUnset(0, why="requests are served as they come")] = None
    vllm_xargs: Annotated[Any, MustBeUnset({})] = None
