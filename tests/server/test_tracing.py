"""Traces: what a collector gets, and what the service does without the extra, without a collector and without any wish for traces."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from cpm_gen.config.options import TextOptions
from cpm_gen.errors import ConfigError
from cpm_gen.server import tracing
from cpm_gen.serving.engine_thread import engine_lost
from cpm_gen.serving.job import Job
from cpm_gen.serving.request_ids import read_ids
from cpm_gen.serving.tracing import RequestTracer
from tests.service_process import Server, stream, until
from tests.works_client import create, settled

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Collector(ThreadingHTTPServer):
    """Receives spans over OTLP, on loopback."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        super().__init__(("127.0.0.1", 0), _Receiver)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self, trace: str | None = None) -> list[Any]:
        """All spans so far, or those of a trace."""
        groups = [scope for r in self.requests for resource in r.resource_spans for scope in resource.scope_spans]
        return [s for g in groups for s in g.spans if trace in (None, s.trace_id.hex())]

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with closing(Collector()) as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Server]:
    environment = {ENDPOINT: collector.url, "OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    with closing(Server("--log-format", "json", "--threads", "1", environment=environment)) as server:
        yield server
    assert "Traceback" not in server.log


def attributes(span: Any) -> dict[str, Any]:
    """A span's attributes as plain values."""
    found = {}
    for item in span.attributes:
        kind = item.value.WhichOneof("value")
        value = getattr(item.value, kind)
        found[item.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found


def complete(collector: Collector, trace: str, count: int) -> dict[str, Any]:
    """The spans of a trace by name, once there are ``count``."""
    until(lambda: len(collector.spans(trace)) >= count)
    return {span.name: span for span in collector.spans(trace)}


def test_a_stream_is_one_trace_from_the_request_to_its_last_token(traced: Server, collector: Collector) -> None:
    with traced.client(headers=HEADERS) as client:
        events = stream(client, prompt="从前", max_new_tokens=20, seed=1)
        completion = events[-1][1]
    spans = complete(collector, TRACE, 5)
    assert spans.keys() == {"POST /generate", "generate", "queue", "prefill", "decode"}
    server, whole = spans["POST /generate"], spans["generate"]
    assert server.parent_span_id.hex() == CALLER
    assert whole.parent_span_id == server.span_id
    parts = [spans[name] for name in ("queue", "prefill", "decode")]
    assert all(part.parent_span_id == whole.span_id for part in parts)
    edges = [whole.start_time_unix_nano, *(p.end_time_unix_nano for p in parts)]
    assert edges == sorted(edges)
    # computed from one clock at slightly different moments
    for before, after in zip(edges, [p.start_time_unix_nano for p in parts], strict=False):
        assert abs(before - after) < 5e6
    assert server.start_time_unix_nano <= whole.start_time_unix_nano + 5e6
    request, job = attributes(server), attributes(whole)
    assert (request["http.route"], request["http.response.status_code"]) == ("/generate", 200)
    assert job["gen_ai.usage.output_tokens"] == 20
    assert job["gen_ai.usage.input_tokens"] == completion["usage"]["prompt_tokens"]
    assert job["gen_ai.response.finish_reasons"] == ["length"]
    assert job["gen_ai.response.id"] == completion["id"]
    assert (
        0 < job["gen_ai.latency.time_in_queue"] < job["gen_ai.latency.time_to_first_token"] < job["gen_ai.latency.e2e"]
    )


def test_the_response_and_the_log_name_the_span_also_without_a_callers_trace(
    traced: Server, collector: Collector
) -> None:
    with traced.client() as client:
        response = client.post("/tokenize", json={"text": "春江"})
    _, trace, span, _ = response.headers["traceparent"].split("-")
    spans = complete(collector, trace, 1)
    assert spans["POST /tokenize"].span_id.hex() == span
    assert not spans["POST /tokenize"].parent_span_id
    lines = until(lambda: [e for e in map(json.loads, traced.lines["stderr"]) if e.get("path") == "/tokenize"])
    assert {line["trace_id"] for line in lines} == {trace}


def test_a_work_is_written_in_the_trace_of_the_request_that_created_it(traced: Server, collector: Collector) -> None:
    with traced.client() as client:
        response = client.post("/works", json={"prompt": "话说", "max_new_tokens": 5})
        assert response.status_code == 201
        settled(client, response.json()["id"])
        client.get(f"/works/{response.json()['id']}")
    trace = response.headers["traceparent"].split("-")[1]
    spans = complete(collector, trace, 5)
    assert spans["decode"].parent_span_id == spans["generate"].span_id
    assert spans["generate"].parent_span_id == spans["POST /works"].span_id
    assert until(lambda: [s for s in collector.spans() if s.name == "GET /works/{id}"])


def test_probes_and_scrapes_are_not_traced_and_refusals_are(traced: Server, collector: Collector) -> None:
    with traced.client() as client:
        assert client.get("/health/live", headers={"traceparent": f"00-{'1' * 32}-{CALLER}-01"}).status_code == 200
        assert client.get("/metrics").status_code == 200
        refused = client.get("/settings", headers={"Host": "evil.example", "traceparent": f"00-{'2' * 32}-{CALLER}-01"})
        assert refused.status_code == 421
    [span] = complete(collector, "2" * 32, 1).values()
    assert attributes(span)["http.response.status_code"] == 421
    names = {s.name for s in collector.spans()}
    assert not {n for n in names if "health" in n or "metrics" in n}
    assert not collector.spans("1" * 32)


@pytest.mark.slow
def test_spans_that_are_not_sent_yet_are_sent_at_the_end(collector: Collector) -> None:
    environment = {ENDPOINT: collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_SERVICE_NAME": "texts"}
    with closing(Server("--threads", "1", environment=environment)) as server, server.client() as client:
        assert client.get("/settings", headers={"traceparent": f"00-{'3' * 32}-{CALLER}-01"}).status_code == 200
        server.signal()
        assert server.wait() == 0
    assert [s.name for s in collector.spans("3" * 32)] == ["GET /settings"]
    resources = {a.value.string_value for a in collector.requests[-1].resource_spans[0].resource.attributes}
    assert "texts" in resources


@pytest.mark.slow
def test_a_collector_that_does_not_answer_delays_neither_texts_nor_the_end() -> None:
    with closing(ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)) as silent:  # accepts, never answers
        silent.close = silent.server_close  # type: ignore[attr-defined]
        environment = {ENDPOINT: f"http://127.0.0.1:{silent.server_port}", "OTEL_BSP_SCHEDULE_DELAY": "10"}
        with closing(Server("--threads", "1", environment=environment)) as server, server.client() as client:
            assert client.post("/generate", json={"prompt": "从前", "max_new_tokens": 3}).status_code == 200
            server.signal()
            assert server.wait() == 0


def test_a_job_that_failed_has_an_error_and_the_parts_that_it_came_to() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    job = Job("gen-1", [], TextOptions(), request=read_ids([], [HEADERS["traceparent"]]))
    RequestTracer(provider).record(job, engine_lost(), "CPM")
    queue, whole = exporter.get_finished_spans()
    assert [queue.name, whole.name] == ["queue", "generate"]
    assert whole.status.status_code is StatusCode.ERROR
    assert whole.attributes["error.type"] == "engine_failed"
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert f"{whole.parent.span_id:016x}" == CALLER


@pytest.mark.parametrize(
    "environment",
    [
        {},
        pytest.param({"OTEL_SERVICE_NAME": "cpm-gen"}, marks=pytest.mark.slow),
        pytest.param({ENDPOINT: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, marks=pytest.mark.slow),
        pytest.param({ENDPOINT: "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, marks=pytest.mark.slow),
    ],
)
def test_without_a_wish_for_traces_nothing_of_opentelemetry_is_imported(environment: dict[str, str]) -> None:
    code = (
        "import sys, fastapi\nbefore = set(sys.modules)\n"  # which may know OpenTelemetry itself
        "import cpm_gen.server.main\nfrom cpm_gen.server.tracing import start_tracing\n"
        f"assert start_tracing({environment!r}) is None\n"
        "sys.exit(', '.join(m for m in set(sys.modules) - before if m.startswith('opentelemetry')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stderr.strip() == ""


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with caplog.at_level(logging.WARNING, "cpm_gen.server"):
        assert tracing.start_tracing({ENDPOINT: "http://127.0.0.1:1"}) is None
    [record] = caplog.records
    assert ENDPOINT in record.getMessage()
    assert "otel" in record.getMessage()


def test_an_exporter_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigError, match="opentelemetry-exporter-otlp-proto-grpc"):
        tracing.start_tracing({ENDPOINT: "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    with pytest.raises(ConfigError, match="opentelemetry-exporter-jaeger"):
        tracing.start_tracing({"OTEL_TRACES_EXPORTER": "jaeger"})


def test_a_work_of_an_untraced_service_has_no_span(collector: Collector, server: Server) -> None:
    with server.client(headers={"traceparent": f"00-{'4' * 32}-{CALLER}-01"}) as client:
        settled(client, create(client, prompt="话说", max_new_tokens=2)["id"])
    assert not collector.spans("4" * 32)
