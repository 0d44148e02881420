"""What else a context may hold: the description's tokens; and image tokens that only some layers may look at."""

import sys
from functools import partial

import torch

from lookonce_evaluation.search.candidate import Candidate, Look, Way, middle_half
from lookonce_pruning import Blocked, compress, get_selection
from lookonce_server.engines.transformers.model import stacked


def candidates(num_layers: int) -> list[Candidate]:
    """The image tokens are chosen by `coverage` in the middle half of the layers."""
    half = middle_half(num_layers)
    quarters = [(0, 3), (0, 2), (1, 3), (1, 4)]
    ranges = dict.fromkeys(range(num_layers * first // 4, num_layers * end // 4) for first, end in quarters)
    return [
        Candidate("description", "with the description's tokens", partial(with_description, layers=half)),
        *(_seen_in(seen, half) for seen in ranges if seen),
    ]


def _seen_in(seen: range, half: range) -> Candidate:
    name = f"in layers {seen.start}-{seen.stop} only"
    return Candidate("some layers", name, partial(only, layers=half, seen_in=seen))


def with_description(look: Look, keep: int, *, layers: range) -> Way:
    """The description's keys and values stay: more tokens than the others have."""
    described, runner = look.described, look.subject.runner
    cache = runner.cache_of(described.keys, described.values)
    state = runner.extend(cache, described.next_position, torch.tensor([described.said]))
    length = described.prompt.tokens + len(described.said)
    keys, values = stacked(state.cache, length)
    packed = compress(
        keys,
        values,
        prompt_length=length,
        image_positions=described.prompt.image_positions,
        kept=get_selection("coverage").select(look.scores(layers), keep),
        inv_freq=runner.inv_freq,
        next_position=state.next_position,
    )
    return Way(packed)


def only(look: Look, keep: int, *, layers: range, seen_in: range) -> Way:
    """In the other layers no question sees the image tokens: a context could leave them out there."""
    kept = get_selection("coverage").select(look.scores(layers), keep)
    first = int(look.described.prompt.image_positions[0])
    elsewhere = [layer for layer in look.all_layers if layer not in seen_in]
    blocked = Blocked(range(sys.maxsize), torch.arange(first, first + keep), elsewhere)
    return Way(look.described.packed(kept, look.subject.runner.inv_freq), (blocked,))
