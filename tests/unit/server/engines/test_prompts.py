"""What the model is shown, to the token."""

import copy
from itertools import product
from types import SimpleNamespace

import pytest

from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.errors import InvalidRequestError, ModelRefusedError

from ....support.families import TEMPLATES, TOKENIZERS, llava, renderer_of, tokenizer_of, wrapped
from ....support.samples import PROMPT, about, picture

LOOPS = "{%- for message in messages -%}{{ BODY }}{%- endfor -%}{{ '<|assistant|>' if add_generation_prompt }}"


@pytest.fixture
def prompts(loaded) -> PromptRenderer:
    return PromptRenderer(loaded.processor, loaded.model.config)


@pytest.fixture
def prompts_with(loaded):
    """A renderer whose checkpoint has another chat template."""

    def build(template: str) -> PromptRenderer:
        processor = copy.copy(loaded.processor)
        processor.chat_template = template
        return PromptRenderer(processor, loaded.model.config)

    return build


def continued(prompts: PromptRenderer, *turns: Turn) -> str:
    ids = prompts.continuation(PROMPT, Conversation(turns))
    assert ids.ndim == 2
    return prompts.tokenizer.decode(ids[0])


def test_a_question_follows_the_turn_it_closes(prompts):
    assert continued(prompts, Turn("user", (0, "What color is it?"))) == ("</s><|user|>What color is it?<|assistant|>")


def test_system_text_opens_the_first_turn_that_follows(prompts):
    turns = [Turn("system", ("Be brief.",)), Turn("system", ("Be kind.",)), Turn("user", (0, "What color is it?"))]
    assert continued(prompts, *turns) == "</s><|user|>Be brief.\nBe kind.\nWhat color is it?<|assistant|>"


def test_system_text_opens_a_turn_of_the_users(prompts):
    turns = [
        Turn("user", (0,)),
        Turn("assistant", ("a circle",)),
        Turn("user", ("Sure?",)),
        Turn("system", ("Be brief.",)),
    ]
    assert continued(prompts, *turns) == "</s><|assistant|>a circle</s><|user|>Be brief.\nSure?<|assistant|>"


def test_text_before_the_image_follows_it(prompts):
    turn = Turn("user", ("Here is a picture.", 0, "What is it?"))
    assert continued(prompts, turn) == "</s><|user|>Here is a picture.\nWhat is it?<|assistant|>"


def test_a_full_pass_has_the_parts_in_the_order_of_the_message(prompts_with):
    parts = (
        "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    )
    prompts = prompts_with(LOOPS.replace("{{ BODY }}", "{{ message['name'] | default('?') }}: " + parts + ";"))
    turns = (
        Turn("user", ("a\nb", 0, "c"), name="ann"),
        Turn("assistant", ("d",)),
        Turn("user", ("", "e")),
    )
    rendered = prompts.tokenizer.decode(prompts.full_ids(Conversation(turns)))
    assert rendered == "ann: a\nb<image>c;?: d;?: e;<|assistant|>"


def test_the_bundled_template_keeps_the_order(prompts):
    """As the model was trained."""
    turn = Turn("user", ("a", 0, "b"))
    assert prompts.tokenizer.decode(prompts.full_ids(Conversation((turn,)))) == "<s><|user|>a<image>b<|assistant|>"


def test_what_a_template_does_not_take_is_the_requests_fault(prompts_with):
    prompts = prompts_with("{{ raise_exception('no system here') if messages[0]['role'] == 'system' }}?")
    system = Conversation((Turn("system", ("a",)), Turn("user", ("b",))))
    with pytest.raises(InvalidRequestError, match="no system here") as caught:
        prompts.full(system, [])
    assert caught.value.param == "messages"


def test_a_template_that_does_not_take_the_describe_turn_is_refused(prompts_with):
    with pytest.raises(ModelRefusedError, match="no users"):
        prompts_with("{{ raise_exception('no users') }}").check_template(PROMPT)


def test_earlier_turns_are_kept_in_order(prompts):
    turns = [
        Turn("user", (0, "What is it?")),
        Turn("assistant", ("a circle",)),
        Turn("user", ("What color is it?",)),
    ]
    assert continued(prompts, *turns) == (
        "</s><|user|>What is it?<|assistant|>a circle</s><|user|>What color is it?<|assistant|>"
    )


def test_turns_before_the_images_follow_it(prompts):
    turns = [Turn("user", ("Hi",)), Turn("assistant", ("Hello",)), Turn("user", (0, "What is it?"))]
    assert continued(prompts, *turns) == ("</s><|user|>Hi<|assistant|>Hello</s><|user|>What is it?<|assistant|>")


def test_a_turn_that_was_the_image_alone_has_been_said(prompts):
    turns = [Turn("user", (0, " ")), Turn("user", ("What color is it?",))]
    assert continued(prompts, *turns) == "</s><|user|>What color is it?<|assistant|>"


def test_the_describe_prompt_has_every_image_token_and_no_other(prompts):
    prompt = prompts.describe(PROMPT, picture(1))
    assert prompts.tokenizer.decode(prompt.inputs["input_ids"][0]) == (
        f"<s><|user|>{'<image>' * 196}{PROMPT}<|assistant|>"
    )
    assert prompt.image_positions.tolist() == list(range(2, 198))
    assert prompt.grid == (14, 14)


def test_the_context_and_what_follows_it_are_the_whole_conversation(prompts):
    described = prompts.describe(PROMPT, picture(1)).inputs["input_ids"][0].tolist()
    after = prompts.continuation(PROMPT, about("What color is it?"))[0].tolist()
    turns = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", ("What color is it?",)))
    whole = prompts.full(Conversation(turns), [picture(1)]).inputs["input_ids"][0].tolist()
    assert described + after == whole


def test_the_seam_of_context_and_question_is_as_in_the_whole_text():
    """Some tokenizers put a blank before any text, which is not there in the middle of a prompt."""
    tried = 0
    for kind, (name, template) in product(TOKENIZERS, TEMPLATES.items()):
        tokenizer = tokenizer_of(kind)
        if name == "looking" and "<tool_call>" not in tokenizer.get_vocab():
            continue
        renderer = renderer_of(llava(tokenizer, template))
        renderer.check_template(PROMPT)
        turn = renderer.describe_turn(PROMPT)
        for question in ("What is it?", "1?", "\u6f22?", " x", "\nx", ""):
            messages = Conversation((Turn("user", (0, PROMPT)),)).as_messages()
            messages += Conversation((Turn("assistant", ("@@@@",)),)).as_messages() + about(question).after_images()
            rest = renderer._processor.apply_chat_template(messages, add_generation_prompt=True).partition("@@@@")[2]
            whole = tokenizer(turn.rendered.text + rest, add_special_tokens=turn.rendered.has_own)["input_ids"]
            assert turn.ids + renderer.continuation(PROMPT, about(question))[0].tolist() == whole, (kind, name)
            tried += 1
    assert tried > 100


def test_a_tokenizer_that_joins_the_seam_is_refused():
    """A merge of the describe turn's last letter with what closes it: no keys of a context have that token."""
    tokenizer = TOKENIZERS["byte level"]()
    tokenizer.add_tokens([":;"])
    template = "{% for message in messages %}{{ 'A:' if message['role'] == 'assistant' }}"
    template += "{% for part in message['content'] %}{{ part['text'] or '<image>' }}{% endfor %};{% endfor %}"
    template += "{{ 'A:' if add_generation_prompt }}"
    with pytest.raises(ModelRefusedError, match="joins the end of the describe turn"):
        renderer_of(llava(wrapped(tokenizer), template)).check_template(PROMPT)
    renderer_of(llava(wrapped(tokenizer), template.replace("A:", "A!"))).check_template(PROMPT)


@pytest.mark.parametrize("question", ["What color is it?", "漢字?", " spaces "])
def test_full_prompt_tokens_counts_what_a_full_pass_would_run(prompts, question):
    context = SimpleNamespace(frames=None, full_tokens=prompts.describe(PROMPT, picture(1)).tokens)
    turn_tokens = len(prompts.describe_ids(PROMPT))
    counted = prompts.full_prompt_tokens(about(question), [context], turn_tokens)
    assert counted == prompts.full(about(question), [picture(1)]).tokens
    text = Conversation((Turn("user", (question,)),))
    assert prompts.full_prompt_tokens(text, [], 0) == prompts.full(text, []).tokens


def test_the_bundled_template_is_accepted(prompts):
    prompts.check_template(PROMPT)


@pytest.mark.parametrize(
    "body",
    [
        "messages | length",
        "'<last>' if loop.last else ''",
        "message['role'] if messages[-1]['content'][-1]['text'] == '?' else ''",
    ],
)
def test_a_template_that_depends_on_later_turns_is_refused(prompts_with, body):
    text = f"({body}) ~ message['content'][-1]['text']"
    with pytest.raises(ModelRefusedError, match="differently when another turn follows"):
        prompts_with(LOOPS.replace("BODY", text)).check_template(PROMPT)


def test_a_template_that_hides_the_assistants_turns_is_refused(prompts_with):
    hidden = prompts_with(LOOPS.replace("BODY", "message['content'][-1]['text'] if message['role'] == 'user' else ''"))
    with pytest.raises(ModelRefusedError):
        hidden.check_template(PROMPT)


def test_a_model_without_an_image_token_is_refused(loaded):
    with pytest.raises(ModelRefusedError, match="no image token"):
        PromptRenderer(loaded.processor, loaded.model.config.text_config)


@pytest.mark.parametrize("prompt", ["lookonce:description", "lookonce:description' lookonce:description''"])
def test_a_describe_prompt_is_never_taken_for_the_description(prompts, prompt):
    question = about("What color is it?")
    assert prompts.continuation(prompt, question).tolist() == prompts.continuation(PROMPT, question).tolist()
    prompts.check_template(prompt)
