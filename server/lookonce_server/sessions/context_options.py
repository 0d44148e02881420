"""The options that a request may set for its image's context, and their limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lookonce_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from lookonce_server.engines.base import DescribePlan

OnMiss = Literal["full", "compress"]
Mode = Literal["auto", "describe_first", "full_image"]
ON_MISSES: dict[str, OnMiss] = {"auto": "full", "describe_first": "compress"}  # by mode
MIN_TTL = 1.0  # seconds: a context that expires before it is used is of no use


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """A request's options for its context; None leaves one to the settings.

    Attributes:
        on_miss: for a new image: a full pass with the describe pass behind it, or the describe pass first.
        bypass: answer by a full pass, and neither look for a context nor make one.
        retention: share of the image tokens kept, above 0 and at most 1.
        ttl: seconds for which this use renews the context.
        describe_prompt: the describe pass's instruction.
        fallback: whether a full pass replaces an uncertain answer from a context.
        place: prefix of these fields in the request, as in "lookonce.".
        ttl_field: the request's field that has the ttl, if it is not `ttl` at that place.
        bypass_field: the request's field that asks to bypass contexts, if it is not `cache` at that place.
    """

    on_miss: OnMiss | None = None
    bypass: bool = False
    retention: float | None = None
    ttl: float | None = None
    describe_prompt: str | None = None
    fallback: bool | None = None
    place: str = ""
    ttl_field: str | None = None
    bypass_field: str | None = None


NO_OPTIONS = ContextOptions()


@dataclass(frozen=True, slots=True)
class ContextLimits:
    """The limits of a request's options. The server's own plan is always within them.

    Attributes:
        min_retention, max_retention: bounds of the share kept; a maximum of 0 allows the server's own alone.
        max_ttl: the longest ttl, in seconds; 0 allows none.
        max_describe_prompt: the longest prompt, in characters; 0 allows the server's own alone.
    """

    min_retention: float = 0.0
    max_retention: float = 0.25
    max_ttl: float = 7 * 24 * 3600.0
    max_describe_prompt: int = 1000

    def check(self, options: ContextOptions, own: DescribePlan) -> None:
        """Raise InvalidRequestError, naming the field, if an option is beyond the limits."""
        if options.retention not in (None, own.retention):
            self._check_retention(options, own)
        if options.ttl is not None:
            self._check_ttl(options)
        if options.describe_prompt not in (None, own.prompt, own.video_prompt):
            self._check_prompt(options)

    def _check_retention(self, options: ContextOptions, own: DescribePlan) -> None:
        assert options.retention is not None
        if not self.min_retention <= options.retention <= self.max_retention:
            minimum = f"at least {self.min_retention:g} and " if self.min_retention else ""
            span = f"{minimum}at most {self.max_retention:g}, or " if self.max_retention else ""
            _refuse(options, "retention", f"{options.retention:g}", f"{span}the server's own {own.retention:g}")

    def _check_ttl(self, options: ContextOptions) -> None:
        assert options.ttl is not None
        if not MIN_TTL <= options.ttl <= self.max_ttl:
            span = f"{MIN_TTL:g} to {self.max_ttl:.10g} seconds" if self.max_ttl else "none but the server's own"
            _refuse(options, "ttl", f"{options.ttl:g} seconds", span, options.ttl_field)

    def _check_prompt(self, options: ContextOptions) -> None:
        length, limit = len(options.describe_prompt or ""), self.max_describe_prompt
        if length > limit:
            span = f"at most {limit} characters" if limit else "none but the server's own"
            _refuse(options, "describe_prompt", f"{length} characters", span)


def _refuse(options: ContextOptions, name: str, value: str, accepted: str, field: str | None = None) -> None:
    field = field or f"{options.place}{name}"
    raise InvalidRequestError(f"{field}: {value}; accepted here: {accepted}.", param=field)
