"""Contexts, answers and savings as people read them: tables, amounts with units, one line of facts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from .._saved import Saved
from .._types import Answer, Context, ContextStats
from .terminal import plain

_ROW = "{:64}  {:>7}  {:>10}  {:>11}  {:>10}  {:9}  {}"
_DESCRIPTION = 40  # characters of it in a row
_SPANS = ((24 * 3600, "d"), (3600, "h"), (60, "min"), (1, "s"))


def header() -> str:
    """The names of a row's columns."""
    return _ROW.format("ID", "AGE", "EXPIRES IN", "KEPT OF", "SIZE", "PRECISION", "DESCRIPTION")


def row(context: Context, now: float) -> str:
    """A context in one line; `now` is in seconds since 1970."""
    description = plain(context.description)
    if len(description) > _DESCRIPTION:
        description = description[: _DESCRIPTION - 1].rstrip() + "…"
    return _ROW.format(
        context.id,
        span(now - context.created_at),
        "never" if context.expires_at is None else span(context.expires_at - now),
        f"{context.kept_tokens} of {context.image_tokens}",
        size(context.bytes),
        plain(context.precision),
        description,
    ).rstrip()


def whole(context: Context, now: float) -> str:
    """A context in several lines."""
    expires = "never" if context.expires_at is None else f"in {span(context.expires_at - now)}, unless it is used"
    facts = (
        ("id", context.id),
        ("made", f"{_date(context.created_at)}, {span(now - context.created_at)} ago"),
        ("expires", expires),
        ("kept", f"{context.kept_tokens} of {context.image_tokens} image tokens"),
        ("chosen by", f"{plain(context.selection)}, retention {context.retention:g}"),
        ("tokens", f"{context.tokens} in context"),
        ("size", f"{size(context.bytes)} ({context.bytes} bytes)"),
        ("precision", plain(context.precision)),
        ("description", plain(context.description)),
    )
    return _aligned(facts)


def totals(stats: ContextStats, now: float) -> str:
    """What contexts amount to, in several lines."""
    facts = [("contexts", str(stats.contexts)), ("size", f"{size(stats.bytes)} ({stats.bytes} bytes)")]
    if stats.oldest is not None and stats.newest is not None:
        facts += [("oldest", f"{span(now - stats.oldest)} ago"), ("newest", f"{span(now - stats.newest)} ago")]
    rate = "" if stats.hit_rate is None else f" ({stats.hit_rate:.1%})"
    hits = f"{stats.hits} of {stats.hits + stats.misses} lookups{rate} since the server started"
    return _aligned([*facts, ("hits", hits)])


def facts(answer: Answer) -> str:
    """How an answer came about, in one line."""
    found = f"{answer.cache} ({answer.tier})" if answer.tier else answer.cache
    if answer.fallback == "full_pass":
        found += ", asked again of the whole image"
    return (
        f"{plain(found)} · {answer.context_tokens} tokens in context · {answer.tokens_saved} saved"
        f" · {answer.seconds:.2f} s"
    )


def kept(context: Context, *, created: bool) -> str:
    """What is kept of an image, in one line."""
    return (
        f"{'made now' if created else 'was there'} · kept {context.kept_tokens} of {context.image_tokens} image tokens"
        f" ({plain(context.selection)}, retention {context.retention:g}) · {context.tokens} tokens in context"
        f" · {size(context.bytes)}"
    )


def saved(total: Saved) -> str:
    """What several questions saved, in one line."""
    counts = f"{_count(total.questions, 'question')}, {_count(total.hits, 'hit')}"
    tokens = f"{total.prompt_tokens_saved} of {total.prompt_tokens_full} prompt tokens ({total.share:.0%})"
    return f"{counts} · saved {tokens} · {size(total.bytes_not_sent)} of image not sent"


def size(count: int) -> str:
    """Bytes with a unit: "512 B", "68.8 KiB"."""
    if count < 1024:
        return f"{count} B"
    amount, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}"


def span(seconds: float) -> str:
    """A time in its largest whole unit: "59 s", "3 min"; 0 for what a clock that runs behind makes negative."""
    whole_seconds = max(0, int(seconds))
    length, unit = next((one for one in _SPANS if whole_seconds >= one[0]), _SPANS[-1])
    return f"{whole_seconds // length} {unit}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _aligned(facts: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:{width}}  {value}".rstrip() for name, value in facts)
