"""Trace requests: `spans` marks their parts, and `otlp` sends them by OpenTelemetry."""
