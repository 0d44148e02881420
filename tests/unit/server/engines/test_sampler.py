"""Sampling, and text that comes token by token."""

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.base import Piece, Sampling, TokenLogprob
from lookonce_server.engines.text_stream import TextStream, token_text
from lookonce_server.engines.transformers.sampler import Sampler

from ....support.families import tokenizer_of

TOKENIZER = AutoTokenizer.from_pretrained(CHECKPOINT)
END = TOKENIZER.eos_token_id
SPECIAL = tuple(TOKENIZER.all_special_tokens)
# U+FFFD is what a half character decodes to: a stream that ends in one is not told from a torn one.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), min_size=1, max_size=30).filter(
    lambda text: not any(special in text for special in SPECIAL)
)


def tokens_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def streamed(tokens: list[int], *, max_tokens: int = 1000, stop: tuple[str, ...] = ()) -> list[Piece]:
    """The pieces, up to the one with a finish reason."""
    stream = TextStream(TOKENIZER, Sampling(max_tokens, stop=stop), frozenset({END}))
    pieces = []
    for token in tokens:
        pieces.append(stream.push(token))
        if pieces[-1].finish_reason:
            break
    return pieces


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@settings(deadline=None, max_examples=50)
@given(text=TEXTS)
def test_any_text_streams_as_itself(text):
    pieces = streamed([*tokens_of(text), END])
    assert text_of(pieces) == text
    assert pieces[-1].finish_reason == "stop"
    assert all(piece.tokens == 1 for piece in pieces)


@settings(deadline=None, max_examples=50)
@given(text=TEXTS, stop=st.text("aeiou rst", min_size=1, max_size=4))
def test_nothing_of_a_stop_text_or_after_it_gets_out(text, stop):
    text = f"{text} a large star {text}"
    pieces = streamed([*tokens_of(text), END], stop=(stop,))
    before, found, _ = text.partition(stop)
    assert text_of(pieces) == before
    assert pieces[-1].finish_reason == "stop"
    assert not found or len(pieces) <= len(tokens_of(text))


def test_a_character_split_over_tokens_comes_whole():
    tokens = tokens_of("é🎈漢")
    assert len(tokens) > 6  # bytes
    pieces = streamed([*tokens, END])
    assert [piece.text for piece in pieces if piece.text] == ["é", "🎈", "漢"]


def test_a_stop_text_across_tokens():
    tokens = tokens_of("a small red circle at the top left")
    pieces = streamed(tokens, stop=("d cir",))
    assert (text_of(pieces), pieces[-1].finish_reason) == ("a small re", "stop")


@pytest.mark.parametrize("stop", [("circle", "red"), ("red", "circle")])
def test_the_stop_text_that_comes_first_counts(stop):
    assert text_of(streamed(tokens_of("a small red circle"), stop=stop)) == "a small "


@pytest.mark.parametrize("stop", [("cl", "ir"), ("ir", "cl")])
def test_the_earliest_stop_text_within_one_token_counts(stop):
    assert len(tokens_of(" circle")) == 1
    assert text_of(streamed(tokens_of("red circle"), stop=stop)) == "red c"


def test_what_looked_like_a_stop_text_is_given_back():
    pieces = streamed([*tokens_of("a red star"), END], stop=("red circle",))
    assert text_of(pieces) == "a red star"


def test_max_tokens_ends_the_answer_with_all_of_its_text():
    tokens = tokens_of("a small red circle")
    pieces = streamed([*tokens, END], max_tokens=len(tokens), stop=("circles",))
    assert (text_of(pieces), pieces[-1].finish_reason, len(pieces)) == ("a small red circle", "length", len(tokens))


def test_an_end_token_ends_the_answer_and_is_no_text():
    pieces = streamed([*tokens_of("Yes"), END, *tokens_of(" but")])
    assert (text_of(pieces), pieces[-1].finish_reason, len(pieces)) == ("Yes", "stop", 2)


def test_special_tokens_are_no_text():
    image = TOKENIZER.convert_tokens_to_ids("<image>")
    assert text_of(streamed([image, *tokens_of("Yes"), image, END])) == "Yes"


def test_a_log_probability_stays_with_its_token_and_the_end_has_none():
    tokens = [*tokens_of("a red star"), END]
    stream = TextStream(TOKENIZER, Sampling(10, stop=("star!",)), frozenset({END}))
    pieces = [stream.push(token, TokenLogprob(token, -1.0, ())) for token in tokens]
    assert [piece.logprob and piece.logprob.token for piece in pieces] == [*tokens[:-1], None]
    assert pieces[-1].text == "star"  # held back, when its log-probability was not


def test_bytes_that_are_no_character_end_no_answer():
    """Tokenizers of SentencePiece's kind decode them with the character before, which changes what was told."""
    tokenizer = tokenizer_of("llama 2")
    tokens = tokenizer.convert_tokens_to_ids(["<0x0A>", "<0xE4>", "<0xB8>", "l", "m"])
    stream = TextStream(tokenizer, Sampling(10), frozenset({END}))
    pieces = [stream.push(token) for token in tokens]
    assert [piece.text for piece in pieces] == ["\n", "", "", "\ufffdl", "m"]


# --- the text of one token --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(text=st.text(st.characters(codec="ascii"), min_size=1, max_size=30))
def test_the_tokens_texts_make_the_text(text):
    assert "".join(token_text(TOKENIZER, token) for token in tokens_of(text)) == text


def test_the_text_of_a_special_token_and_of_a_part_of_a_character():
    assert token_text(TOKENIZER, END) == "</s>"
    assert {token_text(TOKENIZER, token) for token in tokens_of("🎈")} == {"\ufffd"}


def test_a_token_keeps_its_space_where_the_decoder_drops_a_texts_first_one():
    vocabulary = {"<unk>": 0, "▁red": 1, "s": 2, "<0x0A>": 3}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))  # noqa: S106
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = SimpleNamespace(backend_tokenizer=backend)
    assert backend.decode([1]) == "red"
    assert [token_text(tokenizer, token) for token in (1, 2, 3)] == [" red", "s", "\n"]


# --- sampling ---------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([1.0, 3.0, 2.5, -1.0])


def picks(count: int = 200, **options) -> list[int]:
    sampler = Sampler(Sampling(1, **options))
    return [sampler.pick(LOGITS) for _ in range(count)]


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-6])
def test_no_temperature_is_greedy(temperature):
    assert set(picks(20, temperature=temperature)) == {1}


def test_a_seed_repeats_and_another_differs():
    first, again, other = (picks(temperature=1.0, seed=seed) for seed in (7, 7, 8))
    assert first == again != other


def test_without_a_seed_no_two_answers_need_be_alike():
    assert picks(temperature=1.0) != picks(temperature=1.0)


def test_sampling_follows_the_distribution():
    counts = Counter(picks(2000, temperature=1.0, seed=0))
    for token, share in enumerate(LOGITS.softmax(0).tolist()):
        assert counts[token] / 2000 == pytest.approx(share, abs=0.05)


def test_top_p_leaves_the_tail_out():
    assert set(picks(temperature=1.0, top_p=0.1, seed=0)) == {1}
    assert set(picks(temperature=1.0, top_p=0.8, seed=0)) == {1, 2}


def test_top_k_and_min_p_leave_the_tail_out():
    for options, left in (
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 2}),
        ({"top_k": 9}, {0, 1, 2, 3}),
        ({"min_p": 1.0}, {1}),
        ({"min_p": 0.2}, {1, 2}),
        ({"min_p": 0.1}, {0, 1, 2}),
        ({"min_p": 0.2, "temperature": 2.0}, {0, 1, 2}),
        # Each looks at what the one before has left: of all four tokens, the first has less than this share.
        ({"top_k": 2, "top_p": 0.6}, {1}),
        ({"min_p": 0.2, "top_p": 0.6}, {1}),
        ({"top_p": 0.6}, {1, 2}),
    ):
        assert set(picks(1000, **{"temperature": 1.0, "seed": 0} | options)) == left, options
    assert set(picks(20, temperature=0.0, top_k=3, min_p=0.1)) == {1}


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_any_64_bit_seed(seed):
    assert picks(3, temperature=1.0, seed=seed) == picks(3, temperature=1.0, seed=seed)


PENALTIES = st.sampled_from([-2.0, -0.25, 0.0, 0.5, 2.0])


@settings(deadline=None, max_examples=100)
@given(presence=PENALTIES, frequency=PENALTIES, temperature=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 99))
def test_penalties_are_those_of_the_tokens_picked_before(presence, frequency, temperature, seed):
    logits = torch.randn(20, generator=torch.Generator().manual_seed(seed))
    before = logits.clone()
    plain = Sampling(1, temperature=temperature, seed=seed)
    penalising = Sampler(replace(plain, presence_penalty=presence, frequency_penalty=frequency))
    reference = Sampler(plain)
    counts: Counter[int] = Counter()
    for _ in range(30):
        expected = logits.clone()
        for token, count in counts.items():
            expected[token] -= frequency * count + presence
        token = penalising.pick(logits)
        assert token == reference.pick(expected)
        counts[token] += 1
    assert torch.equal(logits, before)


def test_greedy_goes_on_to_the_next_token_once_the_penalty_outweighs_the_first():
    assert picks(4) == [1, 1, 1, 1]
    assert picks(4, presence_penalty=1.0) == [1, 2, 1, 1]  # 3, 2.5; then 2, 2.5; then 2, 1.5
    assert picks(6, frequency_penalty=0.4) == [1, 1, 2, 1, 2, 1]


def logprob(logits: torch.Tensor = LOGITS, token: int = 2, **options) -> TokenLogprob | None:
    return Sampler(Sampling(1, **options)).logprob(logits, token)


def test_log_probabilities_are_of_the_raw_logits():
    total = math.log(sum(math.exp(value) for value in LOGITS.tolist()))
    expected = [value - total for value in LOGITS.tolist()]
    sampler = Sampler(Sampling(1, temperature=0.5, top_p=0.1, presence_penalty=2.0, logprobs=3))
    sampler.pick(LOGITS)
    found = sampler.logprob(LOGITS, 3)
    assert (found.token, found.logprob) == (3, pytest.approx(expected[3]))
    assert [token for token, _ in found.top] == [1, 2, 0]
    assert [value for _, value in found.top] == pytest.approx([expected[i] for i in (1, 2, 0)])


def test_as_many_log_probabilities_as_asked_for():
    assert logprob() is None
    assert logprob(logprobs=0).top == ()
    assert [len(logprob(logprobs=count).top) for count in (1, 4, 20)] == [1, 4, 4]


def test_log_probabilities_are_computed_in_float32():
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = logits.double().log_softmax(-1)
    found = logprob(logits, 7, logprobs=20)
    assert found.logprob == pytest.approx(float(exact[7]), abs=1e-5)
    assert [value for _, value in found.top] == pytest.approx(exact.topk(20).values.tolist(), abs=1e-5)
