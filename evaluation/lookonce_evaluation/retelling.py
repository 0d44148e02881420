"""Descriptions of an image that a model gives when it sees no more than a context."""

import torch
from torch import Tensor

from lookonce_evaluation.describing import MAX_TOKENS, Described, decode, generate
from lookonce_evaluation.subject import Subject
from lookonce_pruning import Blocked, Knockout, get_selection, kept_count
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.transformers.model import State, stacked
from lookonce_server.settings import Settings


def kept_tokens(described: Described, share: float, settings: Settings) -> Tensor:
    """What the server would keep at a retention, `[1 or layers, kept]`; at 0, no image token."""
    scores = described.scores(settings.rows)
    if not share:
        return torch.empty(1, 0, dtype=torch.int64)
    return get_selection(settings.selection).select(scores, kept_count(share, scores.tokens))


def retell(subject: Subject, described: Described, kept: Tensor) -> str:
    """The description decoded once more, while its tokens look at a context in the image's place.

    That is the describe pass with attention from the generated tokens to the image tokens that are not kept knocked out
    in every layer. The prompt's tokens saw the image, the last one too: so the first token is that of the description.

    Args:
        subject: the checkpoint.
        described: its describe pass.
        kept: image tokens of the context, `[1 or layers, kept]`.
    """
    first = described.said[:1]
    if not first:
        return ""
    return _decoded(subject, described, kept, first, first)


def describe_again(subject: Subject, described: Described, kept: Tensor, prompt: str) -> str:
    """The answer where a prompt is asked of a context, as any later question is.

    Args:
        subject: the checkpoint.
        described: the describe pass that the context is made of.
        kept: its image tokens, `[1 or layers, kept]`.
        prompt: what is asked.
    """
    asked = Conversation((Turn("user", prompt, has_image=True),))
    ids: list[int] = subject.prompts.continuation(subject.describe_prompt, asked)[0].tolist()
    return _decoded(subject, described, kept, ids, [])


def blinded(subject: Subject, described: Described) -> Described:
    """The describe pass up to its first token, with attention from the prompt's tokens to the image knocked out.

    Everywhere: in every layer, from all tokens after the image. The scores are those of the describe pass itself.
    """
    prompt = described.prompt
    query = range(int(prompt.image_positions.max()) + 1, prompt.tokens)
    with Knockout(subject.runner.model, [[Blocked(query, prompt.image_positions, range(subject.runner.num_layers))]]):
        state, said = generate(subject.runner, prompt, subject.prompts.tokenizer.eos_token_id, 1)
    keys, values = stacked(state.cache, prompt.tokens)
    return described._replace(keys=keys, values=values, said=said, text=subject.prompts.tokenizer.decode(said))


def _decoded(subject: Subject, described: Described, kept: Tensor, ids: list[int], said: list[int]) -> str:
    """What `ids` after a context lead to; what was `said` before comes first."""
    runner, tokenizer = subject.runner, subject.prompts.tokenizer
    packed = described.packed(kept, runner.inv_freq)
    state: State = runner.extend(runner.cache_of(packed.keys, packed.values), packed.tokens, torch.tensor([ids]))
    _, more = decode(runner, state, tokenizer.eos_token_id, MAX_TOKENS - len(said))
    text: str = tokenizer.decode([*said, *more])
    return text
