"""Signals of how sure an answer is: taken from the engine's own numbers, and what thresholds on them bring."""

import itertools
import json
import math

import pytest
import torch

from lookonce_evaluation import fallback
from lookonce_evaluation.confidence import SIGNALS, answers
from lookonce_evaluation.dataset import Case, held_out
from lookonce_evaluation.fallback import Kept, Pool, curve, point, record, summary, table
from lookonce_evaluation.roc import auc, auc_with_interval
from lookonce_pruning import AttentionRecorder, get_selection, kept_count, parse_window
from lookonce_scenes.questions import Question

CASES = held_out(2, 600_000_000)


@pytest.fixture(scope="module")
def asked(subject, settings):
    """Of each case: its describe pass, what is kept of it at 2%, and what is said from that."""
    window = parse_window(settings.window, subject.runner.num_layers)
    found = []
    for case in CASES:
        described = subject.describe(case, window)
        scores = described.scores()
        kept = get_selection("coverage").select(scores, kept_count(0.02, scores.tokens))
        found.append((case, described, kept, answers(subject, case.questions, described, kept, scores)))
    return found


def test_what_is_said_is_graded_as_the_grader_does(subject, asked):
    for case, described, kept, said in asked:
        assert said.right == subject.from_context(case, described, kept)[0].right
    assert not all(itertools.chain(*(said.right for *_, said in asked)))


def test_signals_are_those_of_a_question_asked_alone(subject, asked):
    """Token by token on the runner, as the engine decodes; attention as the describe pass's own recorder sees it."""
    case, described, kept, said = asked[0]
    packed = described.packed(kept, subject.runner.inv_freq)
    for i in (0, len(case.questions) - 1):
        ids = torch.tensor([subject.grader.after_context(case.questions[i])])
        cache = subject.runner.cache_of(packed.keys, packed.values)
        state = subject.runner.extend(cache, packed.tokens, ids)
        margins, probabilities = [], []
        for _ in subject.grader.answer(case.questions[i]):
            logprobs = state.logits.log_softmax(-1)
            first, second = logprobs.topk(2).values.tolist()
            margins.append(first - second)
            probabilities.append(math.exp(first))
            if len(margins) == 1:
                entropy = float((logprobs.exp() * logprobs).sum())
            token = int(state.logits.argmax())
            if token == subject.prompts.tokenizer.eos_token_id:
                break
            state = subject.runner.extend(state.cache, state.next_position, torch.tensor([[token]]))
        expected = [margins[0], probabilities[0], entropy, min(margins), min(probabilities)]
        assert [said.signals[name][i] for name in SIGNALS[:5]] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_attention_is_what_the_recorder_sees_when_all_is_kept(subject, asked):
    """With everything kept the context is the prompt itself: one pass over prompt and question has the same rows."""
    case, described, _, _ = asked[0]
    columns = described.prompt.image_positions
    question = case.questions[0]
    everything = torch.arange(len(columns))[None]
    said = answers(subject, [question], described, everything, described.scores())
    ids = torch.tensor([subject.grader.after_context(question)])
    prompt = described.prompt
    total = prompt.tokens + ids.shape[1]
    recorder = AttentionRecorder(
        subject.runner.model,
        image_positions=columns,
        prompt_length=total,
        window=range(subject.runner.num_layers),
        grid=prompt.grid,
    )
    with recorder:
        state = subject.runner.prefill(prompt)
        subject.runner.extend(state.cache, state.next_position, ids)
    shares = recorder.weights(range(total - 1, total), columns).sum(-1)[:, 0]
    expected = [float(third.mean()) for third in torch.tensor_split(shares, 3)]
    found = [said.signals[f"attention, {third}"][0] for third in ("early", "middle", "late")]
    assert found == pytest.approx(expected, rel=1e-3)
    assert said.signals["scores kept"] == [pytest.approx(1.0)]


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_the_area_is_the_chance_that_a_positive_has_less():
    generator = torch.Generator().manual_seed(3)
    signal = torch.randint(0, 6, (40,), generator=generator).float()  # with ties
    positive = torch.rand(40, generator=generator) < 0.3
    pairs = [(0.5 if p == n else float(p < n)) for p in signal[positive] for n in signal[~positive]]
    assert float(auc(signal, positive, torch.ones(1, 40))) == pytest.approx(sum(pairs) / len(pairs))


def test_the_interval_is_over_images_and_holds_the_area():
    signal = torch.arange(60.0)
    positive = torch.tensor([i % 7 == 0 or i < 10 for i in range(60)])
    found, low, high = auc_with_interval(signal, positive, [i // 3 for i in range(60)])
    assert 0.5 < low < found < high <= 1
    assert auc_with_interval(signal, torch.zeros(60, dtype=torch.bool), [0] * 60) is None
    assert auc_with_interval(-signal, ~positive, [0] * 60)[0] == pytest.approx(found)


YES, NO = Question("count", "?", "Yes"), Question("count", "?", "No")


def made_up() -> tuple[Pool, list[Case]]:
    """Two images with a pair of questions each."""
    pool = Pool(
        images=[0, 0, 1, 1],
        right=torch.tensor([True, False, False, True]),
        full=torch.tensor([True, True, False, False]),
        signals={fallback.SIGNAL: torch.tensor([9.0, 1.0, 2.0, 3.0])},
        hit_tokens=torch.tensor([10.0, 10.0, 10.0, 10.0]),
        full_tokens=torch.tensor([100.0, 100.0, 100.0, 100.0]),
    )
    return pool, [Case(str(i), None, {"count": (YES, NO)}, {}) for i in range(2)]


def test_a_threshold_brings_what_it_finds_and_costs_what_it_asks():
    pool, cases = made_up()
    assert pool.recoverable.tolist() == [False, True, False, False]
    found = point(pool, cases, pool.signals[fallback.SIGNAL] < 2.5)
    assert (found["again"], found["precision"], found["recall"]) == (0.5, 0.5, 1.0)
    assert (found["acc"], found["acc+"]) == (75.0, 50.0)
    assert (found["tokens"], found["of_full"]) == (60.0, pytest.approx(0.6))
    never = point(pool, cases, torch.zeros(4, dtype=torch.bool))
    assert (never["acc"], never["precision"], never["recall"], never["of_full"]) == (50.0, 0.0, 0.0, pytest.approx(0.1))


def test_the_curve_goes_from_nothing_to_everything():
    pool, _ = made_up()
    assert curve(pool, fallback.SIGNAL, steps=4) == [(0.0, 0.0), (0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (1.0, 1.0)]


def test_a_small_evaluation_from_end_to_end(subject, settings, tmp_path):
    window = parse_window(settings.window, subject.runner.num_layers)
    kept = Kept(window, "generated", "coverage", (0.05,))
    records = json.loads(json.dumps([record(subject, case, kept) for case in CASES], allow_nan=False))
    result = summary({"search": records, "held out": records}, CASES, kept.retentions)
    json.dumps(result, allow_nan=False)
    rows = result["ways"]["0.05"]["points"]
    assert [rows[0]["again"], rows[-1]["again"]] == [0.0, 1.0]
    assert rows[-1]["recall"] == (1.0 if result["ways"]["0.05"]["counts"]["recoverable"] else 0.0)
    for block in table(result).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    fallback.plot(tmp_path / "recall.png", result)
    assert (tmp_path / "recall.png").stat().st_size > 1000


@pytest.mark.parametrize("given", ["", "0", "1.5", "a", "0.05,"])
def test_a_wrong_retention_is_refused(given, capsys):
    with pytest.raises(SystemExit):
        fallback.main(["--retentions", given])
    assert "expected numbers between 0 and 1" in capsys.readouterr().err
