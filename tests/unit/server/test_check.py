"""`lookonce check` tells what a checkpoint would be, without its weights."""

import json
import shutil

import pytest

from lookonce_scenes import CHECKPOINT
from lookonce_server.check import check_checkpoint
from lookonce_server.cli import check
from lookonce_server.engines.summary import SIZES

from ...support import hybrids
from ...support.checkpoint_copies import WEIGHTS, copy_checkpoint
from ...support.hybrids import HYBRIDS
from ...support.qwen2_vl import HEAD_DIM, LAYERS, write_qwen2_vl
from ...support.samples import PROMPT, png


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch):
    """To import it takes longer than all the tests."""
    monkeypatch.setattr("lookonce_server.check.find_spec", lambda name: None)


@pytest.fixture
def folder(tmp_path):
    """The bundled model without its weights."""
    copy_checkpoint(tmp_path / "copy")
    (tmp_path / "copy" / WEIGHTS).unlink()
    return tmp_path / "copy"


def test_it_says_what_is_served_and_what_a_context_weighs(folder, capsys):
    assert check([str(folder)]) == 0
    told = capsys.readouterr().out
    assert f"model '{folder}' (LlavaForConditionalGeneration) can be served.\n" in told
    assert "on random weights, in 2 of its 8 layers." in told
    assert "--engine transformers  has its class\n" in told
    assert "--engine vllm          not installed: pip install" in told
    assert "several images        answered from their contexts\n" in told
    assert "videos                their frames, each an image\n" in told
    assert "224x224: 196" in told
    rows = [line.split() for line in told.splitlines() if line.split()[:1] in (["0.05"], ["1"])]
    assert [row[:2] for row in rows] == [["0.05", "15"], ["1", "201"]]  # five tokens are text


def test_a_sliding_window_is_told_of_the_engine_that_does_not_serve_it(folder):
    config = json.loads((folder / "config.json").read_text())
    text = {name: config["text_config"][name] for name in ("vocab_size", "hidden_size", "intermediate_size")}
    text |= {"model_type": "mistral", "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    config["text_config"] = text | {"sliding_window": 1024}
    (folder / "config.json").write_text(json.dumps(config))
    report = check_checkpoint(str(folder), describe_prompt=PROMPT)
    assert report.engines["transformers"] == ""
    assert report.engines["vllm"] == "it loads no contexts into layers with a sliding attention window (1024 tokens)"


@pytest.mark.anyio
async def test_its_bytes_are_those_of_a_context(bench):
    context = await bench.create(png(1))
    report = check_checkpoint(str(CHECKPOINT), describe_prompt=PROMPT)
    size = next(size for size in report.summary.context_sizes if size.retention == 0.05)
    assert size.stored_tokens == context.stored_tokens
    in_bfloat16 = (context.keys.nbytes + context.values.nbytes) // 2  # this engine is in float32
    assert size.bytes["native"] == in_bfloat16


def test_image_tokens_are_those_of_the_pictures_size(tmp_path):
    report = check_checkpoint(str(write_qwen2_vl(tmp_path)), describe_prompt=PROMPT).summary
    assert list(report.image_tokens) == list(SIZES)
    assert report.image_tokens[224, 224] == 64
    assert report.image_tokens[448, 448] == 256
    whole = report.context_sizes[-1]
    assert whole.bytes["native"] == 2 * 2 * LAYERS * 2 * HEAD_DIM * whole.stored_tokens  # two key heads, two bytes


def test_the_states_of_recurrent_layers_count(tmp_path):
    for name, each in (("qwen3.5", 2 * 128 * 4 + 4 * 4 * 16 * 16), ("lfm2-vl", 2 * 64 * 3)):
        loaded = HYBRIDS[name]()
        loaded.model.config.save_pretrained(tmp_path / name)
        loaded.processor.save_pretrained(tmp_path / name)
        report = check_checkpoint(str(tmp_path / name), describe_prompt=PROMPT)
        states = (hybrids.LAYERS - hybrids.ATTENTION) * each
        assert report.summary.state_bytes == states
        whole = report.summary.context_sizes[-1]
        assert whole.bytes["native"] == 2 * 2 * hybrids.ATTENTION * 32 * whole.stored_tokens + states
        assert whole.bytes["int4"] > states
        assert report.engines == {
            "transformers": "",
            "vllm": "6 of its 8 layers are recurrent, and it loads no states of theirs",
        }
        assert "6 of its 8 layers are recurrent" in report.unjoinable
        assert any("their states are whole in every context" in line for line in report.lines())


def test_what_cannot_be_served_is_told_in_a_sentence(folder, capsys):
    config = json.loads((folder / "config.json").read_text())
    shutil.copy(folder / "chat_template.jinja", folder / "kept")
    for changes, template, said in (
        ({"model_type": "paligemma"}, None, "cannot be served by image re-prompting: all tokens of its prompt see"),
        ({"model_type": "brand_new"}, None, "does not know the model type 'brand_new'"),
        (
            {"text_config": config["text_config"] | {"num_kv_shared_layers": 2}},
            None,
            "cannot be served by image re-prompting: its last layers have no keys of their own",
        ),
        ({}, "{{ 1 + messages }}", "The model's chat template does not take this conversation: TypeError: "),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        (folder / "chat_template.jinja").write_text(template or (folder / "kept").read_text())
        assert check([str(folder)]) == 1
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith("lookonce check: ")
        assert said in told.err
        assert told.err.count("\n") == 1
