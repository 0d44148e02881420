"""Settings of the log, of the metrics and of traces."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

_URL = re.compile(r"https?://[^\s?#/@]+(/[^\s?#]*)?")


class ObservabilitySettings(BaseModel):
    """Choose what is logged, what metrics tell apart, and where traces go."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="how much is logged")] = "info"
    log_format: Annotated[Literal["text", "json"], Field(description="lines for people, or one JSON object a line")] = (
        "text"
    )
    metrics_tenants: Annotated[
        int,
        Field(ge=0, le=1000, description="tenants in /metrics by name, the first of the keys; the rest are 'other'"),
    ] = 0
    otlp_endpoint: Annotated[
        str | None,
        Field(description="OpenTelemetry collector that gets traces and metrics: 'http://localhost:4318'"),
    ] = None

    def otlp_url(self, signal: Literal["traces", "metrics"]) -> str | None:
        """Return where a signal is sent, if a collector was named."""
        return self.otlp_endpoint and f"{self.otlp_endpoint.rstrip('/')}/v1/{signal}"

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and not _URL.fullmatch(value):
            raise ValueError("expected the base URL of a collector that takes OTLP over HTTP: 'http://localhost:4318'")
        return value
