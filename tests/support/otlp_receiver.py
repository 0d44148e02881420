"""A collector that takes OTLP over HTTP, and keeps every byte that came."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SECONDS = 60.0  # only a failure, or a very busy machine, waits that long


@dataclass
class Span:
    """A span that was sent."""

    name: str
    id: str
    parent: str
    trace: str
    start: int  # nanoseconds
    end: int
    kind: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]
    children: list["Span"] = field(default_factory=list)

    @property
    def child_names(self) -> list[str]:
        """The names of its parts, as they began."""
        return [child.name for child in self.children]

    def child(self, name: str) -> "Span":
        """Its only part of that name."""
        (found,) = [child for child in self.children if child.name == name]
        return found

    def walk(self) -> Iterator["Span"]:
        """It and all its parts."""
        yield self
        for child in self.children:
            yield from child.walk()

    def lines(self, depth: int = 0, since: int | None = None) -> Iterator[str]:
        """The trace as text: for each part when it began, how long it took, and its attributes."""
        since = self.start if since is None else since
        times = f"{(self.start - since) / 1e6:7.1f} {(self.end - self.start) / 1e6:7.1f}"
        yield f"{times}  {'  ' * depth}{self.name}"
        for name, value in sorted(self.attributes.items()):
            yield f"{'':15}  {'  ' * depth}  {name} = {value!r}"
        for child in self.children:
            yield from child.lines(depth + 1, since)


class OtlpReceiver:
    """See the module; within the block of this context manager.

    Attributes:
        status: that it answers with.
        bodies: (path, body) of each request.
    """

    def __init__(self) -> None:
        self.status = 200
        self.bodies: list[tuple[str, bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.bodies.append((self.path, body))
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What --otlp-endpoint is given."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def traces(self) -> list[Span]:
        """The requests' spans, with their parts, as they began."""
        spans = sorted(self._spans(), key=lambda span: (span.start, span.end))
        by_id = {span.id: span for span in spans}
        for span in spans:
            if span.parent in by_id:
                by_id[span.parent].children.append(span)
        return [span for span in spans if span.parent not in by_id]

    def wait_for(self, found: Callable[[Span], object]) -> Span:
        """The first request's span for which `found` is true, once it and its parts were sent."""
        deadline = time.monotonic() + SECONDS
        while True:
            for span in self.traces():
                if found(span):
                    return span
            assert time.monotonic() < deadline, "\n".join(line for span in self.traces() for line in span.lines())
            time.sleep(0.02)

    def metrics(self) -> dict[str, list[Any]]:
        """The newest points of each metric, with their attributes."""
        points: dict[str, list[Any]] = {}
        for path, body in self.bodies:
            if path == "/v1/metrics":
                for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    for scope in resource.scope_metrics:
                        points |= {metric.name: list(metric.histogram.data_points) for metric in scope.metrics}
        return points

    def _spans(self) -> Iterator[Span]:
        for path, body in list(self.bodies):
            if path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    of = attributes(resource.resource.attributes)
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            yield Span(
                                span.name,
                                span.span_id.hex(),
                                span.parent_span_id.hex(),
                                span.trace_id.hex(),
                                span.start_time_unix_nano,
                                span.end_time_unix_nano,
                                span.kind,
                                span.status.code == span.status.STATUS_CODE_ERROR,
                                attributes(span.attributes),
                                of,
                            )


def attributes(pairs: Any) -> dict[str, Any]:
    """Attributes as Python's values."""

    def value(of: Any) -> Any:
        kind = of.WhichOneof("value")
        return [value(one) for one in of.array_value.values] if kind == "array_value" else getattr(of, kind)

    return {pair.key: value(pair.value) for pair in pairs}
