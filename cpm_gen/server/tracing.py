"""Traces of requests with OpenTelemetry, if its standard environment variables ask for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

import cpm_gen
from cpm_gen.errors import ConfigError
from cpm_gen.serving.tracing import RequestTracer

if TYPE_CHECKING:  # an extra
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("cpm_gen.server")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTERS = "OTEL_TRACES_EXPORTER"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_NOT_TRACED = "/health,/metrics"  # regular expressions of URLs: probes and scrapes


def start_tracing(environment: MutableMapping[str, str]) -> RequestTracer | None:
    """A tracer as the environment's ``OTEL_*`` variables describe it; None if they ask for no traces.

    Without the extra, one line is logged and nothing is traced, because a cluster may set these variables for all of its programs. Raises
    ConfigError for an exporter that is not installed.
    """
    asked = _asked(environment)
    if asked is None:
        return None
    environment.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")  # the stable names of attributes
    environment.setdefault("OTEL_PYTHON_EXCLUDED_URLS", _NOT_TRACED)
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning(
            "requests are not traced, although %s is set: install the extra otel "
            "(pip install -c constraints.txt -e '.[serve,otel]'), or set OTEL_SDK_DISABLED=true",
            asked,
        )
        return None
    resource = Resource.create({SERVICE_VERSION: cpm_gen.__version__})
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "cpm-gen"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # RequestTracer.close() ends in bounded time
    for name in environment.get(_EXPORTERS, "otlp").split(","):
        provider.add_span_processor(BatchSpanProcessor(_exporter(name.strip(), environment)))
    return RequestTracer(provider)


def _asked(environment: Mapping[str, str]) -> str | None:
    """The variable that asks for traces; None if none does, or another one forbids them."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporters := environment.get(_EXPORTERS):
        return None if exporters == "none" else _EXPORTERS
    return next((name for name in _ENDPOINTS if environment.get(name)), None)


def _exporter(name: str, environment: Mapping[str, str]) -> SpanExporter:
    from importlib.metadata import entry_points

    if name == "otlp":
        protocol = next((environment[p] for p in _PROTOCOLS if environment.get(p)), "http/protobuf")
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    for found in entry_points(group="opentelemetry_traces_exporter", name=name):
        exporter: SpanExporter = found.load()()
        return exporter
    raise ConfigError(
        f"OpenTelemetry's exporter {name} is not installed: install opentelemetry-exporter-{name.replace('_', '-')}, "
        "or use OTEL_TRACES_EXPORTER=otlp with OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
    )


def traced(app: ASGIApp, tracer: RequestTracer) -> ASGIApp:
    """``app`` with a span for each request, in the trace that the request names."""
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.util.http import get_excluded_urls

    around: ASGIApp = OpenTelemetryMiddleware(
        app,
        excluded_urls=get_excluded_urls("ASGI"),
        default_span_details=lambda scope: (scope["method"], {}),  # the route is known later: name_request
        tracer_provider=tracer.provider,
        exclude_spans=["receive", "send"],  # a stream has thousands of messages
    )
    return around
