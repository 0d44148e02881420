"""Sampling, and text that comes token by token."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.base import Piece, Sampling
from lookonce_server.engines.detokenizing import TextStream
from lookonce_server.engines.transformers.sampling import Sampler

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


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_any_64_bit_seed(seed):
    assert picks(3, temperature=1.0, seed=seed) == picks(3, temperature=1.0, seed=seed)
