"""vLLM's own fields of a chat request, checked against vLLM itself by `tests/vllm_engine`."""

from typing import Any, NamedTuple


class Neutral(NamedTuple):
    """A field that is refused, but for the values that ask for nothing, null among them."""

    taken: list[Any]
    refused: list[Any]
    why: str = ""  # what the refusal says besides the field's name


HONOURED = {"top_k": ([-1, 0, 1, 50], [-2, 1.5, "1"]), "min_p": ([0, 0.5, 1], [-0.1, 1.1, "0"])}
LABELS = {"include_reasoning": [True, False], "return_mm_kwargs": [True, False], "session_id": ["s"]}
NEUTRAL = {
    "add_generation_prompt": Neutral([True], [False], "begins a message"),
    "add_special_tokens": Neutral([False], [True], "chat template"),
    "allowed_token_ids": Neutral([[]], [[1]], "response_format"),
    "bad_words": Neutral([[]], [["red"]], "logit_bias"),
    "cache_salt": Neutral([], ["s"], "not for a request to set"),
    "chat_template": Neutral([], ["{{ messages }}"], "chat template"),
    "chat_template_kwargs": Neutral([{}], [{"enable_thinking": False}], "chat template"),
    "continue_final_message": Neutral([False], [True], "must be the user's"),
    "documents": Neutral([[]], [[{"text": "a"}]], "put their text into a message"),
    "echo": Neutral([False], [True]),
    "ec_transfer_params": Neutral([], [{}], "not for a request to set"),
    "ignore_eos": Neutral([False], [True]),
    "include_stop_str_in_output": Neutral([False], [True]),
    "kv_transfer_params": Neutral([], [{}, {"do_remote_prefill": True}], "not for a request to set"),
    "length_penalty": Neutral([1, 1.0], [0.5]),
    "logprob_token_ids": Neutral([[]], [[1]], "top_logprobs"),
    "media_io_kwargs": Neutral([{}], [{"image": {}}]),
    "min_tokens": Neutral([0], [1, False]),
    "mm_payload": Neutral(["tensors", "none"], ["x"]),
    "mm_processor_kwargs": Neutral([{}], [{"do_resize": False}], "processor"),
    "priority": Neutral([0], [-1, 1], "as they come"),
    "prompt_logprobs": Neutral([], [0, 1], "not in the prompt"),
    "repetition_detection": Neutral([], [{"max_pattern_size": 3}]),
    "repetition_penalty": Neutral([1, 1.0], [1.1, True], "presence_penalty or frequency_penalty"),
    "request_id": Neutral([], ["r"], "x-request-id"),
    "return_prompt_text": Neutral([False], [True]),
    "return_token_ids": Neutral([False], [True]),
    "return_token_offsets": Neutral([False], [True]),
    "return_tokens_as_token_ids": Neutral([False], [True]),
    "routed_experts_prompt_start": Neutral([0], [1]),
    "skip_special_tokens": Neutral([True], [False]),
    "spaces_between_special_tokens": Neutral([True], [False]),
    "stop_token_ids": Neutral([[]], [[1]], "send stop"),
    "stream_interval": Neutral([1], [10]),
    "structured_outputs": Neutral([], [{"json": {}}], "response_format"),
    "thinking_token_budget": Neutral([], [10]),
    "truncate_prompt_tokens": Neutral([], [-1, 10], "never shortens a prompt"),
    "truncation_side": Neutral([], ["left"]),
    "use_beam_search": Neutral([False], [True]),
    "vllm_xargs": Neutral([{}], [{"a": 1}]),
    "watermarking": Neutral([False], [True]),
}
# What older versions of vLLM have.
OLDER = {
    "best_of": Neutral([1], [2], "send n"),
    "guided_choice": Neutral([[]], [["red"]], "response_format"),
    "guided_grammar": Neutral([], ["root ::= 'a'"], "response_format"),
    "guided_json": Neutral([], [{}, "{}"], "response_format"),
    "guided_regex": Neutral([], ["a+"], "response_format"),
}
ALL = HONOURED.keys() | LABELS.keys() | NEUTRAL.keys()
