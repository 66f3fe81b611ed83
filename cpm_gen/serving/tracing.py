"""Spans of OpenTelemetry for the jobs of requests. :mod:`cpm_gen.server.tracing` makes the tracer, where it is configured.

A job's spans are recorded at its end, from the times that it kept: ``generate``, and in it ``queue``, ``prefill`` and ``decode``. Their
parent is the ``traceparent`` of the job's request, so a work's spans are in the trace of the request that created it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.job import Job

if TYPE_CHECKING:  # an extra
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span


class RequestTracer:
    """Makes spans with a provider, which it closes. All methods but :meth:`close` return at once."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.provider = provider
        self._trace = trace
        self._tracer = provider.get_tracer("cpm_gen")
        self._propagator = TraceContextTextMapPropagator()

    def traceparent(self) -> str | None:
        """The header (W3C Trace Context) that names the current span; None outside of a span."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent")

    def name_request(self, method: str, route: str) -> None:
        """Name the current span after a route, such as ``POST /works/{id}``."""
        span = self._trace.get_current_span()
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)

    def record(self, job: Job, failure: ServiceError | None, model: str) -> None:
        """Record the spans of a job that has ended. Times are those of the engine's thread, in seconds."""
        now = time.monotonic()
        admitted, first = job.entered, job.first_token
        parent = self._parent(job)
        whole = self._span("generate", job.submitted, parent)
        whole.set_attributes(
            {
                "gen_ai.operation.name": "text_completion",
                "gen_ai.request.model": model,
                "gen_ai.response.id": job.id,
                "gen_ai.usage.input_tokens": job.prompt_tokens,
                "gen_ai.usage.output_tokens": job.generated_tokens,
                "gen_ai.response.finish_reasons": job.finish_reasons(),
                "gen_ai.latency.e2e": now - job.submitted,
            }
        )
        if admitted is not None:
            whole.set_attribute("gen_ai.latency.time_in_queue", admitted - job.submitted)
        if first is not None:
            whole.set_attribute("gen_ai.latency.time_to_first_token", first - job.submitted)
        if failure is not None:
            whole.set_attribute("error.type", failure.code)
            whole.set_status(self._trace.StatusCode.ERROR, failure.message)
        inside = self._trace.set_span_in_context(whole, parent)
        for name, begin, end in (
            ("queue", job.submitted, admitted),
            ("prefill", admitted, first),
            ("decode", first, None),
        ):
            if begin is not None:
                self._span(name, begin, inside).end(_nanoseconds(now if end is None else end))
        whole.end(_nanoseconds(now))

    def close(self, timeout: float) -> None:
        """Send what is recorded, for at most ``timeout`` seconds; ``force_flush`` itself waits for a collector that does not answer."""
        sending = threading.Thread(target=self.provider.force_flush, daemon=True)
        sending.start()
        sending.join(timeout)

    def _parent(self, job: Job) -> Context:
        header = job.request.traceparent if job.request is not None else None
        return self._propagator.extract({"traceparent": header} if header else {}, context=_nothing())

    def _span(self, name: str, begin: float, parent: Context) -> Span:
        return self._tracer.start_span(name, parent, start_time=_nanoseconds(begin))


def _nothing() -> Context:
    """A context without the span of the code that runs: a job may end while another request is handled."""
    from opentelemetry.context import Context

    return Context()


def _nanoseconds(at: float) -> int:
    """A time of ``time.monotonic()`` as nanoseconds since 1970."""
    return time.time_ns() - int((time.monotonic() - at) * 1e9)
