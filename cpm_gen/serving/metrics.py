"""What ``GET /metrics`` tells Prometheus, in a registry of our own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """All counters, gauges and histograms; each says here what it counts."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self.requests = Counter("cpm_requests", "Requests answered", ["route", "status"], registry=r)
        self.open = Gauge("cpm_open_requests", "Requests that are being answered", registry=r)
        self.queued = Gauge("cpm_queue_depth", "Samples that wait for a place in the batch", registry=r)
        self.running = Gauge("cpm_running_sequences", "Samples in the batch", registry=r)
        self.slots_used = Gauge("cpm_kv_slots_used", "Windows of the KV cache in use", registry=r)
        self.slots = Gauge("cpm_kv_slots", "Windows of the KV cache", registry=r)
        self.works_writing = Gauge("cpm_works_writing", "Texts of works that have a place", registry=r)
        self.works_waiting = Gauge("cpm_works_waiting", "Texts of works that wait for one", registry=r)
        self.works_held = Gauge("cpm_works_held", "Works that this process has leased", registry=r)
        self.works_unheld = Gauge("cpm_works_unheld", "Works of this model that no process has leased", registry=r)
        self.works_taken_over = Counter(
            "cpm_works_taken_over", "Works taken over from a process that did not renew their leases", registry=r
        )
        self.leases_lost = Counter("cpm_work_leases_lost", "Works that another process took from this one", registry=r)
        self.prompt_tokens = Counter("cpm_prompt_tokens", "Tokens of prompts", registry=r)
        self.generated_tokens = Counter("cpm_generated_tokens", "Tokens written", registry=r)
        self.scored_tokens = Counter("cpm_scored_tokens", "Tokens scored", registry=r)
        self.slides = Counter("cpm_window_slides", "Times that a window moved", registry=r)
        self.samples = Counter("cpm_samples", "Samples ended", ["finish_reason"], registry=r)
        self.restarts = Counter("cpm_engine_restarts", "Times that the model was loaded again", registry=r)
        self.ready = Gauge("cpm_ready", "1 while generations are taken, otherwise 0", registry=r)
        self.first_token = Histogram(
            "cpm_time_to_first_token_seconds",
            "From the request to a sample's first token",
            buckets=_LATENCY,
            registry=r,
        )
        self.between_tokens = Histogram(
            "cpm_inter_token_seconds", "Between two tokens of a sample", buckets=_TOKEN, registry=r
        )
        self.whole = Histogram(
            "cpm_request_seconds", "From the request to the end of all its samples", buckets=_LATENCY, registry=r
        )
        self.waiting = Histogram(
            "cpm_queue_seconds", "From the request to a place in the batch", buckets=_LATENCY, registry=r
        )
        self.step = Histogram("cpm_step_seconds", "A step of the engine", buckets=_TOKEN, registry=r)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
