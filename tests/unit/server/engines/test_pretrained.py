"""Whatever a loader raises is told in one sentence, in words of the field."""

import json

import pytest
import transformers
from transformers.models.smolvlm import processing_smolvlm
from transformers.utils import import_utils

from lookonce_server.engines.pretrained import load_config, load_processor, load_weights, reason_of, refuse
from lookonce_server.errors import EngineError, ModelRefusedError

from ....support.families import tokenizer_of

VERSION = f"transformers {transformers.__version__}"


@pytest.fixture
def config_of(tmp_path):
    """A function that writes a folder with this configuration."""

    def write(**config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return write


def refused(load, folder, trust=False, **options) -> str:
    with pytest.raises(ModelRefusedError) as error:
        load(folder, "model 'm' (C)", trust_remote_code=trust, **options)
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 400
    return said


def test_a_model_type_that_transformers_does_not_know(config_of):
    assert refused(load_config, config_of(model_type="brand_new")) == (
        f"model 'm' (C): its configuration cannot be loaded: {VERSION} does not know the model type 'brand_new'."
    )
    assert refused(load_config, config_of()) == (
        "model 'm' (C): its configuration cannot be loaded: its config.json names no model type."
    )


def test_a_class_that_shows_no_images(config_of):
    config = transformers.BertConfig()
    assert refused(load_weights, config_of(model_type="bert"), config=config) == (
        "model 'm' (C): its model cannot be loaded:"
        f" BertConfig is the configuration of no image-text-to-text model of {VERSION}."
    )


def test_code_that_nobody_trusts_or_that_misses_a_package(config_of):
    folder = config_of(model_type="own", auto_map={"AutoConfig": "configuration_own.Own"})
    (folder / "configuration_own.py").write_text("import no_such_package_1, no_such_package_2\n")
    assert "it needs code of its own; --trust-remote-code runs it, if you trust it." in refused(load_config, folder)
    assert refused(load_config, folder, trust=True).endswith(
        "it needs no_such_package_1 and no_such_package_2, not installed here: pip install no_such_package_1"
        " no_such_package_2."
    )


def test_code_that_fails_in_any_way(config_of):
    folder = config_of(model_type="own", auto_map={"AutoConfig": "configuration_own.Own"})
    for code, said in (("x = [][1]", "IndexError: list index out of range."), ("assert False", "AssertionError.")):
        (folder / "configuration_own.py").write_text(code)
        assert refused(load_config, folder, trust=True) == f"model 'm' (C): its configuration cannot be loaded: {said}"


def test_a_folder_without_a_processor(config_of):
    assert refused(load_processor, config_of(model_type="llava")).startswith(
        "model 'm' (C): its processor cannot be loaded: "
    )


def test_packages_that_processors_miss(monkeypatch):
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(ImportError) as missing:
        processing_smolvlm.SmolVLMProcessor(None, tokenizer_of("byte level"), None)
    assert reason_of(missing.value).startswith("it needs num2words, not installed here: pip install ")
    for backend, package in (("torchvision", "torchvision"), ("vision", "pillow"), ("timm", "timm")):
        _, message = import_utils.BACKENDS_MAPPING[backend]
        monkeypatch.setitem(import_utils.BACKENDS_MAPPING, backend, (lambda: False, message))
        with pytest.raises(ImportError) as missing:
            import_utils.requires_backends("Qwen2VLVideoProcessor", [backend])
        assert reason_of(missing.value).startswith(f"it needs {package}, not installed here: pip install "), backend
    assert reason_of(ModuleNotFoundError("No module named 'a.b'")) == "it needs a, not installed here: pip install a"


def test_what_libraries_dump_is_left_out():
    classes = ", ".join(f"Config{i}" for i in range(80))
    for error in (
        ValueError(f"Model architectures ['Own'] are not supported for now. Supported: dict_keys([{classes}])"),
        ValueError(f"wrong rope_parameters {{'rope_type': 'own', {classes}}}\nTraceback: {classes}"),
        KeyError("x" * 1000 + classes),
        RuntimeError(f"expected one of ({classes})"),
    ):
        said = reason_of(error)
        assert len(said) < 280
        assert "Config40" not in said
        assert "\n" not in said


def test_what_vllm_lacks_is_told_in_words():
    """As LightOnOCR's and Ovis2's tiny checkpoints make vLLM say it."""
    for error, said in (
        (
            AttributeError("'Ovis2Processor' object has no attribute '_get_num_multimodal_tokens'"),
            "needs a processor that counts tokens, as Ovis2Processor of transformers",
        ),
        (
            TypeError(
                "Invalid type of HuggingFace config. Expected type: <class 'transformers.models.m.c_m.MistralConfig'>,"
                " but found type: <class 'transformers.models.o.c_o.OcrConfig'>"
            ),
            "vLLM's class for it takes a MistralConfig, and the checkpoint has a OcrConfig",
        ),
    ):
        assert said in reason_of(error)
        assert reason_of(error).endswith("; try --engine transformers")


def test_a_short_dump_is_left_out_too():
    error = ValueError("bad {'rope_type': 'own', 'factor': 1.0, 'other': 12345}, use default")
    assert reason_of(error) == "ValueError: bad ..., use default"


def test_an_error_of_the_servers_own_stays_as_it_is():
    with pytest.raises(EngineError, match=r"^as it was$"), refuse("a problem"):
        raise EngineError("as it was")
    with pytest.raises(ModelRefusedError, match=r"^a problem: KeyError: 'x'\.$"), refuse("a problem"):
        raise KeyError("x")
