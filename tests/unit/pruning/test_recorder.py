from __future__ import annotations

import pytest
import torch
from transformers import Gemma2Config, Gemma3TextConfig, GptOssConfig, MistralConfig, StaticCache

from lookonce_pruning import AttentionRecorder, RecordingError, UnsupportedModelError

DESCRIPTION = [20, 33, 41, 9, 50]
WINDOWS = [range(4), range(1, 3), range(3, 4)]


def recorder_for(tiny, window=range(4)):
    return AttentionRecorder(
        tiny.model,
        image_positions=tiny.image_positions,
        prompt_length=tiny.prompt_length,
        window=window,
        grid=tiny.grid,
    )


def eager_rows(tiny, window):
    """[layers, rows, columns]: eager attention of every row, averaged over heads, padded to the final length."""
    outputs, _ = tiny.describe(DESCRIPTION, tiny.eager(), output_attentions=True)
    total = tiny.prompt_length + len(DESCRIPTION)
    layers = []
    for layer in window:
        rows = [output.attentions[layer][0].mean(dim=0) for output in outputs]
        layers.append(torch.cat([torch.nn.functional.pad(row, (0, total - row.shape[1])) for row in rows]))
    return torch.stack(layers)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("rows", ["generated", "query", "both"])
def test_scores_equal_eager_attention(tiny, window, rows):
    recorder = recorder_for(tiny, window)
    with recorder:
        tiny.describe(DESCRIPTION)
    scores = recorder.scores(rows)

    after_image, prompt = int(tiny.image_positions[-1]) + 1, tiny.prompt_length
    wanted = {
        "generated": slice(prompt - 1, None),
        "query": slice(after_image, prompt),
        "both": slice(after_image, None),
    }
    expected = eager_rows(tiny, window)[:, wanted[rows]][:, :, tiny.image_positions].mean(dim=1)
    torch.testing.assert_close(scores.values, expected, atol=1e-6, rtol=0)
    assert expected.std() > 1e-3  # far from uniform: the comparison can fail
    assert scores.layers == tuple(window)
    assert (scores.grid, scores.num_layers) == (tiny.grid, 4)


def test_scores_within_a_sliding_window_equal_eager_attention(llava_with):
    """Tokens that have left a layer's window draw nothing there; other layers see them all the same."""
    layers = ["sliding_attention", "full_attention"] * 2
    for tiny in (
        llava_with(MistralConfig, sliding_window=8),
        llava_with(Gemma3TextConfig, sliding_window=8, layer_types=layers, head_dim=16),
    ):
        recorder = recorder_for(tiny)
        with recorder:
            tiny.describe(DESCRIPTION)
        scores = recorder.scores("both")
        rows = eager_rows(tiny, range(4))[:, int(tiny.image_positions[-1]) + 1 :]
        expected = rows[:, :, tiny.image_positions].mean(dim=1)
        torch.testing.assert_close(scores.values, expected, atol=1e-6, rtol=0)
        assert (expected[0] == 0).any()


def test_what_image_tokens_see_of_each_other_is_not_looked_at(llava):
    """They may see those behind them, as Gemma 3's: their rows score nothing. What comes after them is causal."""
    length, image = llava.prompt_length, llava.image_positions
    mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    mask[0, 0, image[:, None], image] = True
    plain, ahead = recorder_for(llava), recorder_for(llava)
    with plain:
        llava.prefill()
    with ahead:
        llava.model(input_ids=llava.input_ids, attention_mask=mask, **llava.extra)
    assert not torch.allclose(ahead.scores().values, plain.scores().values, atol=1e-3)
    mask[0, 0, -3, -1] = True  # a token of the prompt's text sees the next ones, as a prefix-LM's
    with recorder_for(llava), pytest.raises(UnsupportedModelError, match="not causal"):
        llava.model(input_ids=llava.input_ids, attention_mask=mask, **llava.extra)


def test_chunked_prefill_gives_the_same_scores(llava):
    whole, chunked = recorder_for(llava), recorder_for(llava)
    with whole:
        _, past = llava.describe(DESCRIPTION)
    embeddings = llava.model.get_input_embeddings()(llava.input_ids)
    embeddings[:, llava.image_positions] = llava.model.get_image_features(llava.extra["pixel_values"]).pooler_output[0]
    with chunked:
        past = None
        for part in embeddings.split(9, dim=1):
            past = llava.model(inputs_embeds=part, past_key_values=past, use_cache=True).past_key_values
        for offset, token in enumerate(DESCRIPTION):
            llava.step(past, [token], llava.prompt_length + offset)
    for rows in ("generated", "query", "both"):
        torch.testing.assert_close(chunked.scores(rows).values, whole.scores(rows).values, atol=1e-6, rtol=0)


def test_many_rows_are_computed_in_blocks(llava, monkeypatch):
    recorder = recorder_for(llava)
    with recorder:
        llava.describe(DESCRIPTION)
    at_once = recorder.scores("both").values
    monkeypatch.setattr("lookonce_pruning.capture._ROWS_AT_ONCE", 3)
    torch.testing.assert_close(recorder.scores("both").values, at_once, atol=1e-7, rtol=0)


def test_outputs_are_those_of_an_unrecorded_model(tiny):
    plain, _ = tiny.describe(DESCRIPTION)
    with recorder_for(tiny):
        recorded, _ = tiny.describe(DESCRIPTION)
    for expected, output in zip(plain, recorded, strict=True):
        assert torch.equal(output.logits, expected.logits)


def test_generate_runs_inside_a_recorder(llava):
    recorder = recorder_for(llava)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    plain = llava.model.generate(llava.input_ids, **llava.extra, **options)
    with recorder:
        assert torch.equal(llava.model.generate(llava.input_ids, **llava.extra, **options), plain)
    assert recorder.scores().tokens == 16


def test_vision_tower_is_left_alone_and_everything_restored(tiny):
    text = tiny.model.config.get_text_config()
    vision = tiny.model.config.vision_config

    def interrupted() -> None:
        with recorder_for(tiny):
            assert text._attn_implementation == "lookonce"
            assert vision._attn_implementation == "sdpa"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert text._attn_implementation == "sdpa"


def test_only_one_recorder_a_model(llava):
    with recorder_for(llava), pytest.raises(RecordingError, match="observed already"), recorder_for(llava):
        pass
    assert llava.model.config.text_config._attn_implementation == "sdpa"


def test_recorders_of_two_models_nest(llava, qwen2_vl):
    outer, inner = recorder_for(llava), recorder_for(qwen2_vl)
    with outer:
        with inner:
            qwen2_vl.describe(DESCRIPTION)
        llava.describe(DESCRIPTION)
    assert (outer.scores().tokens, inner.scores().tokens) == (16, 24)


def test_nothing_recorded(llava):
    recorder = recorder_for(llava)
    with recorder:
        pass
    with pytest.raises(RecordingError, match=r"layers \[0, 1, 2, 3\]"):
        recorder.scores()


def test_prompt_cut_short(llava):
    recorder = recorder_for(llava)
    with recorder:
        llava.model(input_ids=llava.input_ids[:, :-1], **llava.extra)
    with pytest.raises(RecordingError, match="too few tokens"):
        recorder.scores()


def test_a_layer_that_missed_a_step(llava, monkeypatch):
    recorder = recorder_for(llava)
    layer = llava.model.model.language_model.layers[2]
    with recorder, monkeypatch.context() as patch:
        _, past = llava.prefill()
        patch.setattr(layer, "forward", lambda hidden_states, **_: hidden_states)
        llava.step(past, [5], llava.prompt_length)
    with pytest.raises(RecordingError, match=r"layers \[2\]"):
        recorder.scores()


def test_second_prompt_in_one_recorder(llava):
    with recorder_for(llava):
        llava.prefill()
        with pytest.raises(RecordingError, match="one cache"):
            llava.prefill()


def test_static_cache_is_refused(llava):
    past = StaticCache(llava.model.config.text_config, max_cache_len=64)
    with recorder_for(llava), pytest.raises(RecordingError, match="static"):
        llava.model(input_ids=llava.input_ids, past_key_values=past, **llava.extra)


def test_batch_is_refused(llava):
    with recorder_for(llava), pytest.raises(RecordingError, match="batch of 2"):
        llava.model(input_ids=llava.input_ids.repeat(2, 1), pixel_values=llava.extra["pixel_values"].repeat(2, 1, 1, 1))


def test_mask_that_is_not_causal_is_refused(llava):
    mask = torch.ones_like(llava.input_ids)
    mask[0, 0] = 0
    with recorder_for(llava), pytest.raises(UnsupportedModelError, match="not causal"):
        llava.model(input_ids=llava.input_ids, attention_mask=mask, **llava.extra)


@pytest.mark.parametrize(
    ("config", "options", "reason"),
    [
        (Gemma2Config, {"attn_logit_softcapping": 20.0, "head_dim": 16}, "softcap"),
        (GptOssConfig, {"head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1}, "s_aux"),
    ],
)
def test_attention_that_is_more_than_softmax_is_refused(llava_with, config, options, reason):
    tiny = llava_with(config, **options)
    with recorder_for(tiny), pytest.raises(UnsupportedModelError, match=reason):
        tiny.prefill()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"window": range(2, 5)}, "window"),
        ({"window": range(2, 2)}, "window"),
        ({"grid": (4, 5)}, "grid"),
        ({"prompt_length": 19}, "prompt_length"),
    ],
)
def test_contradicting_arguments(llava, changed, message):
    arguments = {"image_positions": llava.image_positions, "prompt_length": 24, "window": range(4), "grid": (4, 4)}
    with pytest.raises(ValueError, match=message):
        AttentionRecorder(llava.model, **{**arguments, **changed})


def test_unknown_row_source(llava):
    recorder = recorder_for(llava)
    with recorder:
        llava.prefill()
    with pytest.raises(ValueError, match="'generated', 'query' or 'both'"):
        recorder.scores("everything")
