"""Which checkpoint it is: every file that may shape an answer counts, and what was named is what was loaded."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
import transformers.utils as hub
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.checkpoint import check_unchanged, file_digest, find_checkpoint, fingerprint
from lookonce_server.engines.transformers.loading import LoadedModel, load_model
from lookonce_server.errors import ModelRefusedError

from ....support.checkpoint_copies import WEIGHTS, copy_checkpoint, write_other_weights


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the bundled model that may be written to."""
    return copy_checkpoint(tmp_path / "copy")


@pytest.fixture
def other_weights(tmp_path) -> Path:
    """A file of weights of the same shapes and names, all of them other ones."""
    return write_other_weights(tmp_path / "other.safetensors")


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


def test_what_a_loader_reads_counts(tmp_path):
    folder = tmp_path / "checkpoint"
    write(folder, "config.json")
    write(folder, "model.safetensors.index.json", '{"weight_map": {"a": "a.safetensors", "b": "sub/b.safetensors"}}')
    seen = {file_digest(folder)}
    names = (
        *("a.safetensors", "sub/b.safetensors", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"),
        *("processor/config.json", "preprocessor_config.json", "tokenizer.model", "tokenizer.model.v3"),
        *("qwen.tiktoken", "vocab.bpe", "merges.txt", "added_tokens.json", "tekken.json"),
    )
    for name in names:
        for content in ("one", "other"):
            write(folder, name, content)
            seen.add(file_digest(folder))
    assert len(seen) == 1 + 2 * len(names)
    (folder / "merges.txt").rename(folder / "vocab.txt")
    assert file_digest(folder) not in seen


def test_every_file_that_a_tokenizer_of_transformers_names_counts(tmp_path):
    """The names are patterns: this finds a kind of file that the next transformers reads, and they miss."""
    tables = {
        table
        for source in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py")
        for table in re.findall(r"^VOCAB_FILES_NAMES = \{([^}]*)\}", source.read_text(), re.MULTILINE)
    }
    names = {name for table in tables for name in re.findall(r':\s*"([^"]+\.[^"]+)"', table)}
    names |= {hub.CONFIG_NAME, hub.GENERATION_CONFIG_NAME, hub.PROCESSOR_NAME, hub.FEATURE_EXTRACTOR_NAME}
    names |= {hub.IMAGE_PROCESSOR_NAME, hub.VIDEO_PROCESSOR_NAME, hub.CHAT_TEMPLATE_FILE}
    names.add(hub.LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE)
    assert len(names) > 20
    write(tmp_path, "x.txt")
    bare = file_digest(tmp_path)
    assert [name for name in sorted(names) if not counts(tmp_path, name, bare)] == []


def counts(folder: Path, name: str, bare: str) -> bool:
    write(folder, name)
    changed = file_digest(folder) != bare
    (folder / name).unlink()
    return changed


def test_what_no_loader_reads_does_not_count(tmp_path):
    for weights in ("model.safetensors", "model-00001-of-00001.safetensors"):
        folder = tmp_path / weights
        write(folder, "config.json")
        write(folder, weights)
        if weights != WEIGHTS:
            write(folder, "model.safetensors.index.json", json.dumps({"weight_map": {"a": weights}}))
        bare = file_digest(folder)
        for name in (
            *("README.md", "LICENSE", "USE_POLICY.txt", "notes.txt", "sub/NOTICE", "without_suffix", "of_a.kind"),
            *(".gitattributes", ".git/config", ".cache/huggingface/download/config.json.metadata"),
            *("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"),
            *("consolidated.safetensors", "consolidated.safetensors.index.json", "sub/model.safetensors"),
            *("original/consolidated.00.pth", "onnx/decoder.onnx_data", "model-Q4_K_M.gguf", "images/scene.png"),
            *("trainer_state.json", "all_results.json", "modeling_new.py"),
        ):
            write(folder, name)
            assert file_digest(folder) == bare, name
        os.mkfifo(folder / "pipe")
        assert file_digest(folder) == bare


def test_every_file_counts_for_a_checkpoint_with_code_of_its_own(tmp_path):
    write(tmp_path, "config.json")
    bare = file_digest(tmp_path, everything=True)
    for name in ("modeling_new.py", "of_a.kind", "notes.txt"):
        write(tmp_path, name)
        assert file_digest(tmp_path, everything=True) != bare
        (tmp_path / name).unlink()


def test_weights_that_the_configuration_names_count(folder, other_weights):
    (folder / WEIGHTS).rename(folder / "named.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"transformers_weights": "named.safetensors"}
    write(folder, "config.json", json.dumps(config))
    first = load(folder)
    other_weights.replace(folder / "named.safetensors")
    second = load(folder)
    assert not torch.equal(logits(second), logits(first))
    assert second.fingerprint != first.fingerprint


def test_no_file_name_feigns_another_file(tmp_path):
    """Names are part of what is hashed, and may have any character: a line's end, or a byte that is no text."""
    for name in ("x.model", "y.model"):
        write(tmp_path / "two", name)
    content = hashlib.blake2b(b"{}", digest_size=32).hexdigest()
    write(tmp_path / "one", f"x.model {content}\ny.model")
    write(tmp_path / "escaped", f"x.model {content}\\ny.model")
    write(tmp_path / "no-text", "\udcff.model")
    assert len({file_digest(tmp_path / folder) for folder in ("two", "one", "escaped", "no-text")}) == 4


def test_links_are_followed_as_loaders_do(tmp_path):
    """The hub's cache is made of links to blobs; a link upwards does not make it endless."""
    write(tmp_path / "plain", "config.json", "a")
    write(tmp_path / "plain", "sub/tokenizer.json", "b")
    write(tmp_path / "blobs", "1", "a")
    write(tmp_path / "elsewhere", "tokenizer.json", "b")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "config.json").symlink_to(tmp_path / "blobs" / "1")
    (tmp_path / "linked" / "sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "linked" / "upwards").symlink_to(tmp_path)
    assert file_digest(tmp_path / "linked") == file_digest(tmp_path / "plain")
    write(tmp_path / "elsewhere", "tokenizer.json", "c")
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


@pytest.mark.parametrize("shard", ["../elsewhere/model.safetensors", "model.bin"])
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
@pytest.mark.parametrize("written", [WEIGHTS, "processor_config.json", "tokenizer.json", "new.jinja"])
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
