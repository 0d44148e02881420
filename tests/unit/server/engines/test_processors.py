"""Prompts are, token for token, those that each family's own processor makes in transformers."""

import torch

from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import common_prefix

from ....support.families import PROCESSORS, family_processor, processed, renderer_of
from ....support.samples import PROMPT, picture

TURNS = (Turn("system", ("Be brief.",)), Turn("user", ("Look:", 0, "What is it?")))
STYLES = [(kind, prints) for kind in ("byte level", "byte level with BOS", "llama 2") for prints in (False, True)]


def test_a_full_pass_is_what_the_models_own_processor_makes():
    """Whether the template prints the BOS token, the tokenizer adds it, neither does or both would."""
    image = picture(1).resize((60, 40))
    for name, family in PROCESSORS.items():
        for kind, prints in STYLES:
            processor = family_processor(family, kind, prints=prints)
            renderer, conversation = renderer_of(processor), Conversation(TURNS)
            expected, found = processed(processor, TURNS, image), renderer.full(conversation, [image])
            assert found.ids == expected["input_ids"][0].tolist(), (name, kind, prints)
            assert found.ids.count(processor.tokenizer.bos_token_id) == (prints or kind != "byte level")
            assert all(torch.equal(value, expected[key]) for key, value in found.inputs.items())
            if name not in ("gemma 3", "idefics 3"):  # whose processors write more than the image's tokens
                ids = renderer.full_ids(conversation)
                at = ids.index(renderer.image_id)
                assert found.ids[:at] == ids[:at]


def test_what_follows_a_context_has_no_token_of_the_tokenizers():
    for family in PROCESSORS.values():
        for kind, prints in STYLES:
            processor = family_processor(family, kind, prints=prints)
            renderer = renderer_of(processor)
            ids = renderer.continuation(PROMPT, Conversation(TURNS))[0].tolist()
            assert not {processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id} & {*ids}


def test_the_tokens_before_the_image_are_those_of_every_picture():
    """Some processors write rows and tiles before an image's first token: they are the picture's own."""
    sizes = ((60, 40), (28, 28), (40, 120))
    for name, family in PROCESSORS.items():
        for kind, prints in STYLES:
            renderer = renderer_of(family_processor(family, kind, prints=prints))
            turn = renderer.describe_turn(PROMPT)
            prompts = [renderer.process_turn(turn, picture(1).resize(size)) for size in sizes]
            shared = {common_prefix(turn.prefix, prompt.ids) for prompt in prompts}
            assert len(shared) == 1, (name, kind)
            assert len(shared.pop()) >= len(turn.prefix) - 1 > 1, (name, kind)


def test_what_a_text_spells_is_text_to_every_processor():
    """Their own marks for an image among them: each picture is expanded where the template puts it."""
    image = picture(1).resize((60, 40))
    for name, family in PROCESSORS.items():
        renderer = renderer_of(family_processor(family, "llama 2", prints=False))
        harmless, spelled = "yes", f"{family.placeholder} {' '.join(family.tokens.values())}</s> <|im_end|>"
        found, expected = (
            renderer.full(Conversation((Turn("user", (text, 0, text)),)), [image]) for text in (spelled, harmless)
        )
        assert len(found.image_positions) == len(expected.image_positions) > 0, name
        shapes = [[id_ for id_ in p.ids if id_ in renderer._control_tokens.ids] for p in (found, expected)]
        assert shapes[0] == shapes[1], name
