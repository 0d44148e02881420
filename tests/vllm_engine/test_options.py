"""vLLM's own options reach vLLM, and those that lookonce decides are refused."""

import copy
import re
import shutil
from dataclasses import fields

import pytest

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.checkpoint import transformers_weights
from lookonce_server.engines.vllm import options
from lookonce_server.engines.vllm.options import computing_options, engine_args, read_weights
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
    assert found.disable_hybrid_kv_cache_manager is True


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model", "other", "--vllm-model: not for vLLM to decide. Use --model."),
        ("dtype", "bfloat16", "--vllm-dtype: not for vLLM to decide. Use --dtype."),
        ("kv_transfer_config", "{}", "--vllm-kv-transfer-config: not for vLLM to decide"),
        ("worker_extension_cls", "x.Y", "--vllm-worker-extension-cls: not for vLLM to decide"),
        ("structured_outputs_config", "{}", "--vllm-structured-outputs-config: not for vLLM to decide"),
        ("trust_remote_code", True, "--vllm-trust-remote-code: not for vLLM to decide. Use --trust-remote-code."),
        ("tokenizer", "/elsewhere", "--vllm-tokenizer: it takes a part of the model from outside of its folder"),
        ("hf-config-path", "/elsewhere", "--vllm-hf-config-path: it takes a part of the model from outside"),
        ("revision", "main", "--vllm-revision: it takes a part of the model from outside"),
        ("nnodes", 2, "--vllm-nnodes=2: contexts are handed to vLLM's workers in files"),
        ("data_parallel_size_local", 0, "--vllm-data-parallel-size-local=0: contexts are handed to"),
        ("load_format", "pt", "--vllm-load-format=pt: it reads weights that are no safetensors"),
        ("load_format", "sharded_state", "--vllm-load-format=sharded_state: it reads weights that are no safetensors"),
        ("max_modle_len", "4", "unrecognized arguments: --vllm-max-modle-len=4"),
        ("tensor_parallel_size", "two", "argument --vllm-tensor-parallel-size/-tp: invalid"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(name, value, said):
    with pytest.raises(ModelRefusedError, match=re.escape(said)):
        args(**{name: value})


def counting(**given):
    return computing_options(given, model=str(CHECKPOINT), dtype="float32")


def test_options_that_change_what_is_computed_count():
    for given in (
        {"load_format": "dummy"},
        {"quantization": "fp8"},
        {"kv_cache_dtype": "fp8"},
        {"hf_overrides": {"rope_theta": 5.0}},
        {"mm_processor_kwargs": {"size": 5}},
        {"video_pruning_rate": "0.5"},
        {"model_impl": "transformers"},
    ):
        assert list(counting(**given)) == list(given)


def test_every_option_counts_unless_it_is_known_to_be_harmless():
    """So one that a later vLLM has will, whatever it is called and does."""
    plain = options._parse({}, str(CHECKPOINT), "float32")
    for field in fields(plain):
        other = copy.copy(plain)
        setattr(other, field.name, "another value")
        assert list(options._diff(other, plain)) == [field.name]
    assert {field.name for field in fields(plain)} > options._HARMLESS


def test_options_that_change_no_result_do_not_count():
    assert counting() == {}
    assert counting(tensor_parallel_size="2", max_model_len="1k", enforce_eager=True, gpu_memory_utilization=0.5) == {}
    assert counting(load_format="auto") == {}  # what it is without being told


def test_an_option_counts_alike_however_it_is_written():
    assert counting(hf_overrides={"b": 1, "a": 2}) == counting(hf_overrides='{"a": 2, "b": 1}')
    assert counting(hf_overrides={"b": 1}) != counting(hf_overrides={"b": 2})


def test_the_weights_that_count_are_those_that_vllm_reads(tmp_path):
    """As both engines read them, a context is everybody's; a second copy that vLLM would prefer is named as such."""
    index = {"model.safetensors.index.json", "model-1.safetensors"}
    mistral = {"consolidated.safetensors"}
    plain = {"model.safetensors"}
    for present, expected in (
        (plain, {"auto": plain, "safetensors": plain, "dummy": plain}),
        (index, {"auto": index, "safetensors": index}),
        (index | {"other.safetensors"}, {"auto": index, "safetensors": index}),
        (plain | {"other.safetensors"}, {"auto": plain | {"other.safetensors"}}),
        (index | mistral, {"auto": mistral, "safetensors": index, "hf": index, "mistral": mistral}),
    ):
        folder = tmp_path / "-".join(sorted(present))
        folder.mkdir()
        for name in present:
            (folder / name).write_text('{"weight_map": {"a": "model-1.safetensors"}}')
        for load_format, names in expected.items():
            assert read_weights(folder, load_format) == names, (present, load_format)
        if not present - plain - index:
            assert read_weights(folder, "auto") == transformers_weights(folder)


def test_a_copy_of_the_weights_in_mistrals_form_is_not_read_unless_the_configuration_is(tmp_path):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "copy")
    for files, expected in (
        ((), "auto"),
        (("model.safetensors.index.json",), "safetensors"),
        (("consolidated.safetensors",), "safetensors"),
        (("params.json",), "auto"),
    ):
        for name in files:
            (folder / name).write_text("{}")
        assert engine_args({}, model=str(folder), dtype="float32").load_format == expected
        assert computing_options({}, model=str(folder), dtype="float32") == {}
