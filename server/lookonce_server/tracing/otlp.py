"""Send traces and metrics of requests to an OpenTelemetry collector, by OTLP over HTTP.

The SDK's own environment variables say how: OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME ...
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lookonce_server.tracing.spans import Attributes

_log = logging.getLogger(__name__)
_W3C = TraceContextTextMapPropagator()
# Bounds of buckets that the semantic conventions name.
_DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKENS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_TOKENS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_CLOSE_SECONDS = 5.0  # that the last spans may take
_LOG_SECONDS = 60.0  # between two lines about what could not be sent
_CUT = (asyncio.CancelledError, GeneratorExit)  # nobody waits any more, which is no fault


class OtlpSpan:
    """See `Span`.

    Args:
        tracer: makes its children.
        span: of the SDK.
        offset: of the trace: nanoseconds that `time.time_ns` is ahead of `time.monotonic_ns`.
    """

    def __init__(self, tracer: Tracer, span: OtelSpan, offset: int) -> None:
        self.attributes: dict[str, object] = {}
        self._tracer = tracer
        self._span = span
        self._offset = offset

    @property
    def trace_id(self) -> str:
        """See `Span.trace_id`."""
        return format_trace_id(self._span.get_span_context().trace_id)

    def annotate(self, attributes: Attributes) -> None:
        """See `Span.annotate`."""
        self.attributes.update(attributes)
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        """Give it a name that was not known when it began."""
        self._span.update_name(name)

    def fail(self) -> None:
        """Mark it as failed by a fault of the server."""
        self._span.set_status(Status(StatusCode.ERROR))

    def start_child(self, name: str, at: float | None = None) -> "OtlpSpan":
        """See `Span.start_child`."""
        context = set_span_in_context(self._span)
        child = self._tracer.start_span(name, context, start_time=self._nanoseconds(at))
        return OtlpSpan(self._tracer, child, self._offset)

    def end(self, at: float | None = None, error: BaseException | None = None) -> None:
        """See `Span.end`. An error's text is not sent: it may quote the request."""
        if error is not None:
            is_cut = isinstance(error, _CUT)
            self.annotate({"error.type": "cancelled" if is_cut else type(error).__name__})
            if not is_cut:
                self.fail()
        self._span.end(self._nanoseconds(at))

    def trace_headers(self) -> dict[str, str]:
        """See `Span.trace_headers`."""
        headers: dict[str, str] = {}
        _W3C.inject(headers, set_span_in_context(self._span))
        return headers

    def _nanoseconds(self, at: float | None) -> int:
        return self._offset + (time.monotonic_ns() if at is None else int(at * 1e9))


class Telemetry:
    """Make the spans of requests, and send them with their metrics, behind the requests.

    Args:
        traces_url: of the collector; None: as the environment says.
        metrics_url: the same of metrics.
        model: the served model's name.
    """

    def __init__(self, traces_url: str | None, metrics_url: str | None, model: str) -> None:
        self.model = model
        self._failures = _FailureLog()
        self._failures.install()
        resource = _resource()
        # Nothing is left to the interpreter's exit, which would wait for a collector that is away: see `close`.
        self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(traces_url)))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(metrics_url))
        self._meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._tracer = self._tracers.get_tracer("lookonce", version("lookonce"))
        meter = self._meters.get_meter("lookonce", version("lookonce"))
        self._duration = meter.create_histogram(
            "gen_ai.server.request.duration",
            "s",
            "Generative AI server request duration such as time-to-last byte or last output token.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._first_token = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "Time to generate first token for successful responses.",
            explicit_bucket_boundaries_advisory=_FIRST_TOKENS,
        )
        self._token = meter.create_histogram(
            "gen_ai.server.time_per_output_token",
            "s",
            "Time per output token generated after the first token for successful responses.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )

    def start_request(self, name: str, headers: Mapping[str, str]) -> OtlpSpan:
        """Start a request's span, in the trace that its headers name if they do.

        Args:
            name: until a better one is known.
            headers: of the request, by lower-case names.
        """
        offset = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(name, _W3C.extract(headers), SpanKind.SERVER)
        return OtlpSpan(self._tracer, span, offset)

    def record(self, attributes: Attributes, *, seconds: float, first_token: float | None, token: float | None) -> None:
        """Record a question's metrics.

        Args:
            attributes: of all three.
            seconds: until its end.
            first_token: seconds until its first token, of an answer that went well.
            token: seconds a token after that.
        """
        self._duration.record(seconds, attributes)
        if first_token is not None:
            self._first_token.record(first_token, attributes)
        if token is not None:
            self._token.record(token, attributes)

    def flush(self) -> None:
        """Send what there is, and wait until it is sent."""
        self._tracers.force_flush()
        self._meters.force_flush()

    async def close(self) -> None:
        """Send what is left, for some seconds at most."""
        sending = threading.Thread(target=self._shut_down, name="otlp-close", daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, _CLOSE_SECONDS)
        self._failures.remove()

    def _shut_down(self) -> None:
        self._tracers.shutdown()
        self._meters.shutdown()


def _resource() -> Resource:
    """Describe this process, as OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say."""
    resource = Resource.create({SERVICE_VERSION: version("lookonce"), SERVICE_INSTANCE_ID: str(uuid.uuid4())})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # the SDK's default
        resource = resource.merge(Resource({SERVICE_NAME: "lookonce"}))
    return resource


class _FailureLog(logging.Handler):
    """Log one line in a while of what OpenTelemetry's exporters cannot send; they would log several a second."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._logger = logging.getLogger("opentelemetry")
        self._silent_until = 0.0

    def install(self) -> None:
        """Take the exporters' lines off the log."""
        self._logger.addHandler(self)
        self._logger.propagate = False

    def remove(self) -> None:
        """Leave them to the log again."""
        self._logger.removeHandler(self)
        self._logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        """Log a line, unless one was logged a moment ago."""
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _LOG_SECONDS
            _log.warning("traces or metrics could not be sent, and are dropped: %s", record.getMessage())
