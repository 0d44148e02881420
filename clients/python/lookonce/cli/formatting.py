"""Format contexts, answers and savings for people: tables, and amounts with units."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from unicodedata import combining, east_asian_width

from .._types import Answer, Context, ContextStats, Saved
from .terminal import one_line

SHORT_ID = 12  # digits of an id in a table; commands take any beginning that no other id has
_ROW = "{:12}  {:>6}  {:>7}  {:>12}  {:>10}  {}"
_MIN_DESCRIPTION, _MAX_DESCRIPTION = 8, 60  # columns in a row
_UNITS = ((24 * 3600, "d"), (3600, "h"), (60, "min"), (1, "s"))


def context_header() -> str:
    """Return the header of a table of contexts."""
    return _ROW.format("ID", "AGE", "EXPIRES", "TOKENS KEPT", "SIZE", "DESCRIPTION")


def context_row(context: Context, now: float, width: int) -> str:
    """Format a context as one row of a table.

    Args:
        context: of the row.
        now: seconds since 1970.
        width: of the terminal in columns; the description takes what is left of it.
    """
    row = _ROW.format(
        context.id[:SHORT_ID],
        format_duration(now - context.created_at),
        "never" if context.expires_at is None else format_duration(context.expires_at - now),
        f"{context.kept_tokens} of {context.image_tokens}",
        format_bytes(context.bytes),
        "",
    )
    room = max(min(width - 1 - len(row), _MAX_DESCRIPTION), _MIN_DESCRIPTION)
    return f"{row}{shorten(one_line(context.description), room)}".rstrip()


def shorten(text: str, room: int) -> str:
    """Cut a text that needs more columns of a terminal than there is room for."""
    if columns(text) <= room:
        return text
    while columns(text) >= room:
        text = text[:-1]
    return f"{text.rstrip()}…"


def columns(text: str) -> int:
    """Count the columns of a terminal that a text needs: East Asian wide characters take two."""
    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def context_details(context: Context, now: float) -> str:
    """Format a context in full, one property per line."""
    expires = (
        "never" if context.expires_at is None else f"in {format_duration(context.expires_at - now)}, unless it is used"
    )
    rows = (
        ("id", context.id),
        ("made", f"{_date(context.created_at)}, {format_duration(now - context.created_at)} ago"),
        ("expires", expires),
        ("kept", f"{context.kept_tokens} of {context.image_tokens} image tokens"),
        ("chosen by", f"{one_line(context.selection)}, retention {context.retention:g}"),
        ("tokens", f"{context.tokens} in context"),
        ("size", f"{format_bytes(context.bytes)} ({context.bytes} bytes)"),
        ("precision", one_line(context.precision)),
        ("description", one_line(context.description)),
    )
    return _align(rows)


def stats_details(stats: ContextStats, now: float) -> str:
    """Format the statistics of contexts, one per line."""
    rows = [("contexts", str(stats.contexts)), ("size", f"{format_bytes(stats.bytes)} ({stats.bytes} bytes)")]
    if stats.oldest is not None and stats.newest is not None:
        rows += [
            ("oldest", f"{format_duration(now - stats.oldest)} ago"),
            ("newest", f"{format_duration(now - stats.newest)} ago"),
        ]
    rate = "" if stats.hit_rate is None else f" ({stats.hit_rate:.1%})"
    hits = f"{stats.hits} of {stats.hits + stats.misses} lookups{rate} since the server started"
    return _align([*rows, ("hits", hits), ("saved", f"{stats.tokens_saved} prompt tokens since the server started")])


def answer_line(answer: Answer) -> str:
    """Format the origin and cost of an answer in one line."""
    origin = f"{answer.cache} ({answer.tier})" if answer.tier else answer.cache
    if answer.fallback == "full_pass":
        origin += ", asked again of the whole image"
    elif (known := sum(usage.cache == "hit" for usage in answer.images)) and not answer.hit:
        origin += f", {known} of {len(answer.images)} images known"
    return (
        f"{one_line(origin)} · {answer.context_tokens} tokens in context · {answer.tokens_saved} saved"
        f" · {answer.seconds:.2f} s"
    )


def context_line(context: Context, *, created: bool) -> str:
    """Format the size of a context in one line."""
    return (
        f"{'made now' if created else 'was there'} · kept {context.kept_tokens} of {context.image_tokens} image tokens"
        f" ({one_line(context.selection)}, retention {context.retention:g}) · {context.tokens} tokens in context"
        f" · {format_bytes(context.bytes)}"
    )


def saved_line(saved: Saved) -> str:
    """Format the savings of several questions in one line."""
    counts = f"{_count(saved.questions, 'question')}, {_count(saved.hits, 'hit')}"
    tokens = f"{saved.prompt_tokens_saved} of {saved.prompt_tokens_full} prompt tokens ({saved.share:.0%})"
    return f"{counts} · saved {tokens} · {format_bytes(saved.bytes_not_sent)} of image not sent"


def format_bytes(count: int) -> str:
    """Format a number of bytes: "512 B", "68.8 KiB"."""
    if count < 1024:
        return f"{count} B"
    amount, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Format a duration in its largest whole unit, such as "59 s" or "3 min"."""
    whole_seconds = max(0, int(seconds))
    length, unit = next((unit for unit in _UNITS if whole_seconds >= unit[0]), _UNITS[-1])
    return f"{whole_seconds // length} {unit}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _align(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}".rstrip() for name, value in rows)
