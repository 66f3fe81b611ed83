"""Health and metrics; and that nothing blocks the event loop."""

import concurrent.futures
import re
import socket
import statistics
import time

import httpx
import pytest

from tests.server.conftest import Server, error, stream, until

METRICS = {
    "cpm_requests_total", "cpm_open_requests", "cpm_queue_depth", "cpm_running_sequences", "cpm_kv_slots_used", "cpm_kv_slots",
    "cpm_prompt_tokens_total", "cpm_generated_tokens_total", "cpm_scored_tokens_total", "cpm_window_slides_total",
    "cpm_samples_total", "cpm_engine_restarts_total", "cpm_ready", "cpm_time_to_first_token_seconds", "cpm_inter_token_seconds",
    "cpm_request_seconds", "cpm_queue_seconds", "cpm_step_seconds",
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_while_it_loads_the_process_lives_but_is_not_ready(start):
    port = free_port()
    server = start("--port", str(port), ready=False)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:

        def answer(path: str, **body: object) -> httpx.Response | None:
            try:
                return client.post(path, json=body) if body else client.get(path)
            except httpx.TransportError:
                return None

        assert until(lambda: answer("/health/live"), every=0.001).status_code == 200
        response = answer("/health/ready")
        refused = answer("/generate", prompt="从前")
        assert response is not None and refused is not None
        assert not server.lines["stdout"], "ready before anybody could look"
        for each in (response, refused):
            assert each.status_code == 503
            assert error(each)["code"] == "loading"
            assert each.headers["Retry-After"]
        server.await_ready()
        assert client.get("/health/ready").json() == {"status": "ready", "model": "cpm-embedded"}
        assert client.post("/generate", json={"prompt": "从前", "max_new_tokens": 1}).status_code == 200
    assert len(server.lines["stdout"]) == 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model", "/no/such/folder"], "no/such/folder"),
        (["--host", "0.0.0.0"], "--keys"),
        pytest.param(["--host", "256.1.1.1"], "256.1.1.1", marks=pytest.mark.slow),
        pytest.param(["--keys", "/no/such/file"], "no/such/file", marks=pytest.mark.slow),
        (["--queue", "-1"], "queue"),
        (["--max-body", "0"], "max_body"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_one_line_and_status_2(start, flags, says):
    server = start(*flags, ready=False)
    assert server.wait() == 2
    assert server.lines["stdout"] == []
    [line] = server.lines["stderr"]
    assert line.startswith("cpm-gen: ")
    assert says in line


@pytest.mark.slow
def test_a_port_in_use_is_one_line_and_status_2(start, server):
    other = start("--port", server.url.rpartition(":")[2], ready=False)
    assert other.wait() == 2
    assert "in use" in other.log


@pytest.mark.slow
def test_insecure_listens_where_it_is_told(start):
    server = start("--host", "0.0.0.0", "--insecure")
    assert server.url.startswith("http://0.0.0.0:")


def test_metrics_count_what_happens(client):
    def read() -> dict[str, float]:
        text = client.get("/metrics").text
        return {name: float(value) for name, value in re.findall(r"^([^#\s]\S*) (\S+)$", text, re.MULTILINE)}

    before = read()
    stream(client, prompt="春江", max_new_tokens=600, n=2, seed=1)
    client.post("/score", json={"token_ids": [5, 6, 7]})
    client.get("/nothing/here")
    after = read()

    assert {re.sub(r"(_count|_sum|_bucket)?(\{.*)?$", "", name) for name in after} >= METRICS

    def grew(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grew("cpm_generated_tokens_total") == 1200
    assert grew("cpm_prompt_tokens_total") == client.post("/tokenize", json={"text": "春江"}).json()["count"]
    assert grew("cpm_scored_tokens_total") == 2
    assert grew("cpm_window_slides_total") == 2
    assert grew('cpm_samples_total{finish_reason="length"}') == 2
    assert grew("cpm_time_to_first_token_seconds_count") == 2
    assert grew("cpm_inter_token_seconds_count") == 1198
    assert grew("cpm_request_seconds_count") == 1
    assert grew("cpm_step_seconds_count") >= 600
    assert grew('cpm_requests_total{route="/generate",status="200"}') == 1
    assert grew('cpm_requests_total{route="other",status="404"}') == 1
    assert after["cpm_running_sequences"] == after["cpm_kv_slots_used"] == 0
    assert after["cpm_kv_slots"] == 12


def latencies(server: Server, during: concurrent.futures.Future[httpx.Response]) -> list[float]:
    """Of /health/live, one after the other, until ``during`` is done."""
    seconds = []
    with server.client() as client:
        client.get("/health/live")
        while not during.done():
            began = time.perf_counter()
            assert client.get("/health/live").status_code == 200
            seconds.append(time.perf_counter() - began)
            time.sleep(0.002)
    return seconds


@pytest.mark.parametrize("path", ["/tokenize", "/generate", "/score"])
def test_a_long_prompt_does_not_hold_up_others(server, path):
    text = "明月几时有，把酒问青天。不知天上宫阙，今夕是何年。" * 4000  # 100,000 characters
    body = {"text": text} if path != "/generate" else {"prompt": text, "truncate_prompt": True, "max_new_tokens": 20}
    with concurrent.futures.ThreadPoolExecutor(1) as pool, server.client() as client:
        client.post("/tokenize", json={"text": text})  # the child for long texts runs
        seconds = latencies(server, pool.submit(client.post, path, json=body))
    assert len(seconds) > 5
    assert statistics.median(seconds) < 0.02
    print(f"{path}: {len(seconds)} answers, median {statistics.median(seconds):.4f} s, slowest {max(seconds):.4f} s")


def test_documentation_is_complete(client):
    document = client.get("/openapi.json").json()
    expected = {
        "/generate", "/score", "/tokenize", "/detokenize", "/v1/completions", "/v1/models", "/v1/models/{model}",
        "/health/live", "/health/ready", "/metrics",
    }  # fmt: skip
    assert set(document["paths"]) >= expected
    for path in expected:
        for operation in document["paths"][path].values():
            assert operation["summary"]
            for status, answer in operation["responses"].items():
                assert answer["description"]
                if int(status) >= 400:
                    schema = answer["content"]["application/json"]["schema"]["$ref"]
                    assert schema.endswith("OpenAIError" if path.startswith("/v1/") else "ErrorAnswer")
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Body") and name not in ("WindowBody", "SamplingBody"):
            assert schema["examples"], name
    for example in document["components"]["schemas"]["GenerateBody"]["examples"]:
        assert client.post("/generate", json=example).status_code == 200
