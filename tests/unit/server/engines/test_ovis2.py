"""Ovis2: the text that its template prints for an image is no token, and comes to several that join with others."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import PromptRenderer, common_prefix
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.engines.transformers.selfcheck import check_model, find_join_problem

from ....support.families import CORPUS, special
from ....support.samples import PROMPT, picture

IMAGE_TOKENS = 16
MARKS = ("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
# Says what the model is before any turn, and a line break behind each image.
TEMPLATE = (
    "<|im_start|>system\nYou help.<|im_end|>\n"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)


@pytest.fixture(scope="module")
def ovis2() -> LoadedModel:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    backend.add_tokens(special(["<|im_start|>", "<|im_end|>", *MARKS]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=MARKS[-1], pad_token=MARKS[-1])
    images = Ovis2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=2)
    processor = Ovis2Processor(images, tokenizer, TEMPLATE, image_seq_length=IMAGE_TOKENS)
    first, *others = tokenizer.convert_tokens_to_ids(list(MARKS))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "max_position_embeddings": 1024,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 4,
        "hidden_stride": 2,
        "vocab_size": 32,
        "initializer_range": 0.2,
    }
    torch.manual_seed(0)
    config = Ovis2Config(
        text_config=text,
        vision_config=vision,
        image_token_id=first,
        visual_indicator_token_ids=others,
        hidden_size=64,
        vocab_size=len(tokenizer),
    )
    with torch.inference_mode(False):
        model = Ovis2ForConditionalGeneration(config).eval()
    return LoadedModel(model, processor, "0" * 64, "0" * 64)


def test_it_is_served_and_its_contexts_are_joined(ovis2):
    check_model(ovis2, PROMPT)
    assert find_join_problem(ovis2, PROMPT) is None


def test_the_tokens_before_the_image_are_those_of_the_describe_pass(ovis2):
    prompts = PromptRenderer(ovis2.processor, ovis2.model.config)
    turn = prompts.describe_turn(PROMPT)
    prompt = prompts.process_turn(turn, picture(1))
    assert prompts.tokenizer.decode(turn.prefix) == "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n"
    assert common_prefix(turn.prefix, prompt.ids) == turn.prefix
    assert turn.ids.count(prompts.image_id) == 1
    # Behind the image, too, the tokens are those of the processor: none joins the text that stands for it.
    rest = turn.ids[turn.ids.index(prompts.image_id) + 1 :]
    assert prompt.ids[-len(rest) :] == rest


def test_a_text_that_spells_an_image_is_text(ovis2):
    prompts = PromptRenderer(ovis2.processor, ovis2.model.config)
    for spelled in ("<image>", "<IMG_ATOM>", "x<image>\n<IMG_END>"):
        found = prompts.full(Conversation((Turn("user", (0, spelled)),)), [picture(1)])
        expected = prompts.full(Conversation((Turn("user", (0, "yes")),)), [picture(1)])
        assert len(found.image_positions) == len(expected.image_positions)
        assert prompts.full_ids(Conversation((Turn("user", (0, spelled)),))).count(prompts.image_id) == 1
