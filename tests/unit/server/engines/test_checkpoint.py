"""Which checkpoint it is: every file that may shape an answer counts, and what was named is what was loaded."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.checkpoint import check_unchanged, file_digest, find_checkpoint, fingerprint
from lookonce_server.engines.transformers.loading import LoadedModel, load_model
from lookonce_server.errors import ModelRefusedError

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the bundled model that may be written to."""
    return shutil.copytree(CHECKPOINT, tmp_path / "copy", copy_function=shutil.copyfile)


@pytest.fixture
def other_weights(tmp_path) -> Path:
    """A file of weights of the same shapes and names, all of them other ones."""
    weights = {name: -tensor for name, tensor in load_file(CHECKPOINT / WEIGHTS).items()}
    save_file(weights, tmp_path / "other.safetensors", metadata={"format": "pt"})
    return tmp_path / "other.safetensors"


def load(folder: Path) -> LoadedModel:
    return load_model(str(folder), dtype=torch.bfloat16, device="cpu")


def logits(loaded: LoadedModel) -> torch.Tensor:
    """What the model makes of a few words."""
    with torch.inference_mode():
        return loaded.model(input_ids=torch.arange(5, 25)[None]).logits


def write(folder: Path, name: str, content: str = "{}") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)


def test_the_digest_is_of_the_files_alone(folder):
    assert file_digest(folder) == file_digest(CHECKPOINT)
    (folder / "chat_template.jinja").write_text("other")
    assert file_digest(folder) != file_digest(CHECKPOINT)


def test_the_fingerprint_is_of_the_checkpoint_and_of_the_arithmetic(loaded):
    class OnPillow:
        image_processor = type("CLIPImageProcessorPil", (), {})()

    prints = [
        fingerprint(checkpoint, dtype, processor)
        for checkpoint in ("a", "b")
        for dtype in (torch.float32, torch.bfloat16)
        for processor in (loaded.processor, OnPillow())
    ]
    assert len(set(prints)) == 8
    assert fingerprint("a", torch.float32, loaded.processor) == prints[0]


def test_whatever_a_loader_may_read_counts(tmp_path):
    """A list of the kinds that are known would miss the next one: so the last ones here are of no known kind."""
    folder = tmp_path / "checkpoint"
    write(folder, "config.json")
    seen = {file_digest(folder)}
    for name in (
        "model-00001-of-00002.safetensors",
        "consolidated.safetensors",
        "sub/model-00002-of-00002.safetensors",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "processor/config.json",
        "tokenizer.model",
        "tokenizer.model.v3",
        "qwen.tiktoken",
        "vocab.bpe",
        "merges.txt",
        "modeling_new.py",
        "of_a_kind.unheard",
        "without_suffix",
    ):
        for content in ("one", "other"):
            write(folder, name, content)
            seen.add(file_digest(folder))
    assert len(seen) == 1 + 2 * 14
    (folder / "merges.txt").rename(folder / "vocab.txt")
    assert file_digest(folder) not in seen


def test_what_no_loader_reads_does_not_count(tmp_path):
    write(tmp_path, "config.json")
    bare = file_digest(tmp_path)
    for name in (
        "README.md",
        "LICENSE",
        "License.txt",
        "sub/NOTICE",
        ".gitattributes",
        ".git/config",
        ".cache/huggingface/download/config.json.metadata",
        "pytorch_model-00001-of-00002.bin",
        "original/consolidated.00.pth",
        "onnx/decoder.onnx_data",
        "model-Q4_K_M.gguf",
        "images/scene.png",
    ):
        write(tmp_path, name)
    os.mkfifo(tmp_path / "pipe")
    assert file_digest(tmp_path) == bare


def test_no_file_name_feigns_another_file(tmp_path):
    """Names are part of what is hashed, and may have any character: a line's end, or a byte that is no text."""
    for name in ("x", "y"):
        write(tmp_path / "two", name)
    content = hashlib.blake2b(b"{}", digest_size=32).hexdigest()
    write(tmp_path / "one", f"x {content}\ny")
    write(tmp_path / "escaped", f"x {content}\\ny")
    write(tmp_path / "no-text", "\udcff")
    assert len({file_digest(tmp_path / folder) for folder in ("two", "one", "escaped", "no-text")}) == 4


def test_links_are_followed_as_loaders_do(tmp_path):
    """The hub's cache is made of links to blobs; a link upwards does not make it endless."""
    write(tmp_path / "plain", "config.json", "a")
    write(tmp_path / "plain", "sub/model.safetensors", "b")
    write(tmp_path / "blobs", "1", "a")
    write(tmp_path / "elsewhere", "model.safetensors", "b")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "config.json").symlink_to(tmp_path / "blobs" / "1")
    (tmp_path / "linked" / "sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "linked" / "upwards").symlink_to(tmp_path)
    assert file_digest(tmp_path / "linked") == file_digest(tmp_path / "plain")
    write(tmp_path / "elsewhere", "model.safetensors", "c")
    assert file_digest(tmp_path / "linked") != file_digest(tmp_path / "plain")


def sharded(folder: Path, shard: str) -> Path:
    """The folder with its weights in one shard of that name, which an index names."""
    names = list(load_file(folder / WEIGHTS))
    (folder / shard).parent.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).rename(folder / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, shard)}
    write(folder, "model.safetensors.index.json", json.dumps(index))
    return folder / shard


def test_shards_in_a_folder_below_count(folder, other_weights):
    whole = load(folder)
    shard = sharded(folder, "sub/model-00001-of-00001.safetensors")
    first = load(folder)
    assert torch.equal(logits(first), logits(whole))
    other_weights.rename(shard)
    second = load(folder)
    assert not torch.equal(logits(second), logits(first))
    assert second.fingerprint != first.fingerprint


@pytest.mark.parametrize("shard", ["../elsewhere/model.safetensors", ".hidden/model.safetensors", "model.bin"])
def test_shards_that_would_not_count_are_refused(folder, shard):
    sharded(folder, shard)
    with pytest.raises(ModelRefusedError, match=r"index\.json names '.*'\. Accepted: safetensors files of the same"):
        load(folder)


def test_an_index_of_shards_that_are_not_there_is_left_to_the_loader(folder):
    write(folder, "model.safetensors.index.json", json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    load(folder)
    write(folder, "model.safetensors.index.json", "no JSON")
    load(folder)


def test_an_adapter_is_refused(folder):
    write(folder, "adapter_config.json", json.dumps({"base_model_name_or_path": "elsewhere"}))
    with pytest.raises(ModelRefusedError, match="is an adapter"):
        find_checkpoint(str(folder))


def test_weights_that_are_half_written_are_refused(folder):
    whole = (folder / WEIGHTS).read_bytes()
    for length in (0, 4, 1000, len(whole) // 2):
        (folder / WEIGHTS).write_bytes(whole[:length])
        with pytest.raises(ModelRefusedError, match="cannot be loaded: "):
            load(folder)


def test_a_folder_that_vanishes_is_refused(tmp_path):
    with pytest.raises(ModelRefusedError, match="cannot be read: "):
        check_unchanged(tmp_path / "gone", "")


# --- while the server starts ------------------------------------------------------------------------------------------


@pytest.fixture
def meanwhile(monkeypatch):
    """A function whose argument is done once, just before a part of the model is loaded, as a deployment would."""

    def between(part: type, act) -> None:
        right = part.from_pretrained

        def late(*arguments, **options):
            monkeypatch.undo()
            act()
            return right(*arguments, **options)

        monkeypatch.setattr(part, "from_pretrained", late)

    return between


@pytest.mark.parametrize("part", [AutoModelForImageTextToText, AutoProcessor])
@pytest.mark.parametrize("written", [WEIGHTS, "processor_config.json", "tokenizer.json", "sub/new.jinja"])
def test_a_checkpoint_that_changes_while_it_is_loaded_is_refused(folder, other_weights, meanwhile, part, written):
    def deploy() -> None:
        if written == WEIGHTS:
            other_weights.replace(folder / WEIGHTS)
        else:
            before = (folder / written).read_text() if (folder / written).exists() else "{}"
            write(folder, written, before + "\n")

    meanwhile(part, deploy)
    with pytest.raises(ModelRefusedError, match="changed while the model was loaded") as refused:
        load(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", [AutoModelForImageTextToText, AutoProcessor])
def test_a_link_turned_while_the_model_is_loaded_changes_nothing(folder, other_weights, meanwhile, part, tmp_path):
    newer = shutil.copytree(folder, tmp_path / "newer")
    other_weights.replace(newer / WEIGHTS)
    write(newer, "chat_template.jinja", "other")
    link = tmp_path / "current"
    link.symlink_to(folder)

    def deploy() -> None:
        (tmp_path / "next").symlink_to(newer)
        (tmp_path / "next").replace(link)

    meanwhile(part, deploy)
    found, expected = load(link), load(folder)
    assert torch.equal(logits(found), logits(expected))
    assert found.processor.chat_template == expected.processor.chat_template
    assert found.fingerprint == expected.fingerprint != load(link).fingerprint


# --- while it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_running_model_is_its_own(folder, other_weights, dtype):
    """Its memory: bytes that are written into the file are not in it."""
    loaded = load_model(str(folder), dtype=dtype, device="cpu")
    before = logits(loaded)
    with (folder / WEIGHTS).open("r+b") as file:  # the same file, as `cp` and `rsync --inplace` write
        file.write(other_weights.read_bytes())
    assert torch.equal(logits(loaded), before)
    assert not torch.equal(logits(load_model(str(folder), dtype=dtype, device="cpu")), before)
