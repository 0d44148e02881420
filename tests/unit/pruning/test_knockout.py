from __future__ import annotations

import sys

import pytest
import torch

from lookonce_pruning import AttentionRecorder, Blocked, Knockout, RecordingError

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def eager_with(tiny, blocked, monkeypatch):
    """The prompt's logits by eager attention, what is blocked set to minus infinity in its logits by hand."""
    model = tiny.eager()
    for index, layer in enumerate(model.base_model.language_model.layers):
        rows = torch.zeros(tiny.prompt_length, tiny.prompt_length)
        for one in blocked:
            if index in one.layers:
                rows[one.rows.start : min(one.rows.stop, tiny.prompt_length), one.columns] = -torch.inf
        forward = layer.self_attn.forward

        def masked(*args, forward=forward, rows=rows, attention_mask=None, **kwargs):
            return forward(*args, attention_mask=attention_mask + rows, **kwargs)

        monkeypatch.setattr(layer.self_attn, "forward", masked)
    return tiny.prefill(model)[0].logits


def test_blocked_attention_is_minus_infinity_in_eager_attention(tiny, monkeypatch):
    query = range(int(tiny.image_positions.max()) + 1, tiny.prompt_length)
    blocked = [
        Blocked(query, tiny.image_positions, range(1, 3)),
        Blocked(range(query.stop - 1, query.stop), torch.tensor(query[:2]), (3,)),
    ]
    expected = eager_with(tiny, blocked, monkeypatch)
    with Knockout(tiny.model, [blocked]):
        found, _ = tiny.prefill()
    plain, _ = tiny.prefill()
    torch.testing.assert_close(found.logits, expected, **TOLERANCE)
    assert (found.logits[0, -1] - plain.logits[0, -1]).abs().max() > 0.01
    torch.testing.assert_close(found.logits[0, query.start - 1], plain.logits[0, query.start - 1], **TOLERANCE)


def test_cases_of_one_batch_do_not_touch_each_other(llava):
    """After a shared image, each row of the batch is what it would be alone, decoding included."""
    end = int(llava.image_positions.max()) + 1
    query, generated = range(end, llava.prompt_length), range(llava.prompt_length, sys.maxsize)
    cases = [[], [Blocked(query, llava.image_positions, range(4))], [Blocked(generated, llava.image_positions, (0, 2))]]
    with Knockout(llava.model, cases):
        together = logits_of(llava, len(cases))
    for row, case in enumerate(cases):
        with Knockout(llava.model, [case]):
            alone = logits_of(llava, 1)
        torch.testing.assert_close(together[row], alone[0], **TOLERANCE)
    assert (together[0, -1] - together[2, -1]).abs().max() > 0.01
    torch.testing.assert_close(together[0, 0], together[2, 0], **TOLERANCE)  # the prompt's rows are not blocked there


def logits_of(tiny, batch: int):
    """Logits of the prompt's last row and of two decoded ones, `[batch, 3, vocabulary]`."""
    ids = tiny.input_ids.expand(batch, -1)
    pixels = tiny.extra["pixel_values"].expand(batch, -1, -1, -1)
    output = tiny.model(input_ids=ids, pixel_values=pixels)
    past = output.past_key_values
    rows = [output.logits[:, -1]]
    for offset, token in enumerate((20, 33)):
        positions = torch.full((1, 1), tiny.prompt_length + offset)
        step = torch.full((batch, 1), token)
        rows.append(tiny.model(input_ids=step, position_ids=positions, past_key_values=past).logits[:, -1])
    return torch.stack(rows, 1)


def test_in_chunks_as_in_one_call(llava):
    blocked = [Blocked(range(19, 24), torch.arange(2, 9), range(4))]
    with Knockout(llava.model, [blocked]):
        whole, _ = llava.prefill()
        first = llava.model(input_ids=llava.input_ids[:, :21], **llava.extra)
        second = llava.model(input_ids=llava.input_ids[:, 21:], past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits[0, -1], whole.logits[0, -1], **TOLERANCE)


def test_the_model_is_as_before_afterwards(llava):
    before, _ = llava.prefill()
    with pytest.raises(ZeroDivisionError), Knockout(llava.model, [[Blocked(range(20, 24), torch.arange(19), (0,))]]):
        raise ZeroDivisionError
    after, _ = llava.prefill()
    assert torch.equal(before.logits, after.logits)


def test_a_batch_of_another_size_is_refused(llava):
    with Knockout(llava.model, [[], []]), pytest.raises(ValueError, match="a batch of 1 was run; expected one row"):
        llava.prefill()


def test_a_token_with_nothing_to_look_at_is_refused(llava):
    blocked = Blocked(range(20, 21), torch.arange(24), (1,))
    with Knockout(llava.model, [[blocked]]), pytest.raises(ValueError, match="layer 1: a token is left with nothing"):
        llava.prefill()


def test_one_observer_a_model(llava):
    recorder = AttentionRecorder(
        llava.model, image_positions=llava.image_positions, prompt_length=24, window=range(4), grid=(4, 4)
    )
    with recorder, pytest.raises(RecordingError, match="observed already"), Knockout(llava.model, [[]]):
        pass


def test_recorded_weights_are_eager_attention(llava):
    recorder = AttentionRecorder(
        llava.model, image_positions=llava.image_positions, prompt_length=24, window=range(1, 3), grid=(4, 4)
    )
    with recorder:
        llava.prefill()
    columns = torch.tensor([0, 1, 5, 20])
    output, _ = llava.prefill(llava.eager(), output_attentions=True)
    expected = torch.stack([output.attentions[layer][0].mean(0) for layer in (1, 2)])[:, 19:24][:, :, columns]
    torch.testing.assert_close(recorder.weights(range(19, 24), columns), expected, **TOLERANCE)
