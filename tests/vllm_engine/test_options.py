"""vLLM's own options reach vLLM, and those that lookonce decides are refused."""

import re

import pytest

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.vllm.options import engine_args
from lookonce_server.errors import ModelRefusedError


def args(**given):
    return engine_args(given, model=str(CHECKPOINT), dtype="float32")


def test_flags_as_text_and_values_as_json_mean_the_same():
    as_flags = args(
        tensor_parallel_size="2",
        max_model_len="2k",
        kv_cache_dtype="fp8",
        enforce_eager=True,
        no_enable_prefix_caching=True,
        limit_mm_per_prompt='{"image": 2}',
    )
    as_json = args(
        tensor_parallel_size=2,
        max_model_len=2000,
        kv_cache_dtype="fp8",
        enforce_eager=True,
        enable_prefix_caching=False,
        limit_mm_per_prompt={"image": 2},
    )
    for found in (as_flags, as_json):
        assert found.tensor_parallel_size == 2
        assert found.max_model_len == 2000
        assert found.kv_cache_dtype == "fp8"
        assert found.enforce_eager is True
        assert found.enable_prefix_caching is False
        assert found.limit_mm_per_prompt == {"image": 2}


def test_what_lookonce_sets():
    found = args()
    assert found.model == str(CHECKPOINT)
    assert found.dtype == "float32"
    assert found.scheduling_policy == "priority"
    assert found.kv_transfer_config.kv_connector == "ContextConnector"
    assert found.kv_transfer_config.kv_load_failure_policy == "fail"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model", "other", "--vllm-model: not for vLLM to decide. Use --model."),
        ("dtype", "bfloat16", "--vllm-dtype: not for vLLM to decide. Use --dtype."),
        ("kv_transfer_config", "{}", "--vllm-kv-transfer-config: not for vLLM to decide"),
        ("worker_extension_cls", "x.Y", "--vllm-worker-extension-cls: not for vLLM to decide"),
        ("structured_outputs_config", "{}", "--vllm-structured-outputs-config: not for vLLM to decide"),
        ("max_modle_len", "4", "unrecognized arguments: --vllm-max-modle-len=4"),
        ("tensor_parallel_size", "two", "argument --vllm-tensor-parallel-size/-tp: invalid"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(name, value, said):
    with pytest.raises(ModelRefusedError, match=re.escape(said)):
        args(**{name: value})
