"""Health and metrics; and that nothing blocks the event loop."""

import concurrent.futures
import json
import re
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service_process import PATIENCE, WINDOW, Server, error, stream, until
from tests.works_client import create, settled

SERVICE = Path(__file__).parents[2] / "docs" / "service.md"
TEXT = "明月几时有，把酒问青天。不知天上宫阙，今夕是何年。"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_while_it_loads_the_process_lives_but_is_not_ready(start, tmp_path):
    port, looked = free_port(), tmp_path / "looked"
    (tmp_path / "sitecustomize.py").write_text(  # what reads texts is not ready before somebody could look
        "import os, sys, time\n"
        "if '-c' in sys.orig_argv and 'tokenizer_pool' in str(sys.orig_argv):\n"
        f"    while not os.path.exists({str(looked)!r}) and os.getppid() == int(sys.orig_argv[-1]): time.sleep(0.02)\n"
    )
    server = start("--port", str(port), environment={"PYTHONPATH": str(tmp_path)}, ready=False)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:

        def answer(path: str, **body: object) -> httpx.Response | None:
            try:
                return client.post(path, json=body) if body else client.get(path)
            except httpx.TransportError:
                return None

        assert until(lambda: answer("/health/live")).status_code == 200
        response = answer("/health/ready")
        refused = answer("/generate", prompt="从前")
        assert response is not None and refused is not None
        assert not server.lines["stdout"]
        for each in (response, refused):
            assert each.status_code == 503
            assert error(each)["code"] == "loading"
            assert each.headers["Retry-After"]
        looked.touch()
        server.await_ready()
        assert client.get("/health/ready").json() == {"status": "ready", "model": "cpm-embedded"}
        assert client.post("/generate", json={"prompt": "从前", "max_new_tokens": 1}).status_code == 200
    assert len(server.lines["stdout"]) == 1


@pytest.mark.slow
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


def test_a_tokenizer_that_does_not_start_is_one_line(start, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '-c' in sys.orig_argv and 'tokenizer_pool' in str(sys.orig_argv): os._exit(1)\n"
    )
    server = start(environment={"PYTHONPATH": str(tmp_path)}, ready=False)
    assert server.wait() == 2
    assert server.lines["stdout"] == []
    assert server.lines["stderr"] == ["cpm-gen: the tokenizer ended; try again"]


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
    tokens = WINDOW + 90  # the window of each text moves once
    stream(client, prompt="春江", max_new_tokens=tokens, n=2, seed=1)
    client.post("/score", json={"token_ids": [5, 6, 7]})
    client.get("/nothing/here")
    after = read()

    def grew(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grew("cpm_generated_tokens_total") == 2 * tokens
    assert grew("cpm_prompt_tokens_total") == client.post("/tokenize", json={"text": "春江"}).json()["count"]
    assert grew("cpm_scored_tokens_total") == 2
    assert grew("cpm_window_slides_total") == 2
    assert grew('cpm_samples_total{finish_reason="length"}') == 2
    assert grew("cpm_time_to_first_token_seconds_count") == 2
    assert grew("cpm_inter_token_seconds_count") == 2 * tokens - 2
    assert grew("cpm_request_seconds_count") == 1
    assert grew("cpm_step_seconds_count") >= tokens
    assert grew('cpm_requests_total{route="/generate",status="200"}') == 1
    assert grew('cpm_requests_total{route="other",status="404"}') == 1
    assert after["cpm_running_sequences"] == after["cpm_kv_slots_used"] == 0
    assert after["cpm_kv_slots"] == 16, "two for each of eight texts"


def test_metrics_are_those_of_the_documentation(client):
    client.post("/generate", json={"prompt": "从前", "max_new_tokens": 1})
    told = {}
    for line in SERVICE.read_text(encoding="utf-8").splitlines():
        for name, labels in re.findall(r"`(cpm_\w+)(?:\{([\w,]+)\})?`", line.split(" | ")[0]):
            told[name] = set(labels.split(",")) - {""}
    text = client.get("/metrics").text
    made = {}
    for name in re.findall(r"^# TYPE (cpm_\w+) ", text, re.MULTILINE):
        if not name.endswith("_created"):
            labels = re.findall(rf"^{name}(?:_bucket)?\{{(.*)\}} ", text, re.MULTILINE)
            made[name] = {label for each in labels for label in re.findall(r'(\w+)="', each)} - {"le"}
    assert made == told


def latencies(server: Server, post: Callable[[], httpx.Response]) -> tuple[httpx.Response, list[float]]:
    """Of /health/live, one after the other, from before a request until it is answered."""
    seconds: list[float] = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool, server.client() as client:
        client.get("/health/live")
        during = pool.submit(post)
        while not during.done():
            began = time.perf_counter()
            assert client.get("/health/live").status_code == 200
            seconds.append(time.perf_counter() - began)
            time.sleep(0.002)
    return during.result(), seconds


LARGE = {
    "tokenize": ("/tokenize", {"text": TEXT * 4000}),  # 100,000 characters
    "generate": ("/generate", {"prompt": TEXT * 4000, "truncate_prompt": True, "max_new_tokens": 20}),
    "score": ("/score", {"text": TEXT * 100}),
    "detokenize": ("/detokenize", {"token_ids": [1000] * 150_000}),
    "wrong ids": ("/score", {"token_ids": [""] * 200_000}),
    "wrong prompts": ("/v1/completions", {"model": "cpm-embedded", "prompt": [["", ""]] * 80_000}),
    "wrong biases": ("/v1/completions", {"model": "", "prompt": "", "logit_bias": {str(i): "" for i in range(70_000)}}),
    "wrong fields": ("/generate", {"prompt": "从前"} | {str(i): 1 for i in range(70_000)}),
    "wrong metadata": ("/works", {"prompt": "从前", "metadata": {str(i): 1 for i in range(70_000)}}),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_request_does_not_hold_up_others(server, name):
    path, body = LARGE[name]
    content = json.dumps(body, ensure_ascii=False).encode()
    with server.client(headers={"Content-Type": "application/json"}) as client:
        if name in ("tokenize", "generate", "score"):
            client.post("/tokenize", json={"text": TEXT * 200})  # the child for long texts runs
        # a busy machine holds everybody up for a while; what blocks the event loop does so each time
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            answer, seconds = latencies(server, lambda: client.post(path, content=content))
            if calm(seconds):
                break
    assert answer.status_code in ((200,) if "wrong" not in name else (400, 404, 422))
    print(f"{name}: {len(seconds)} answers, median {statistics.median(seconds):.4f} s, slowest {max(seconds):.4f} s")
    assert calm(seconds)


def calm(seconds: list[float]) -> bool:
    """Nobody waited long, and of many nearly nobody at all."""
    return max(seconds) < 0.15 and (len(seconds) < 20 or statistics.median(seconds) < 0.02)


def test_documentation_is_complete(client):
    document = client.get("/openapi.json").json()
    expected = {
        "/generate", "/rewrite", "/score", "/tokenize", "/detokenize", "/tokenizer_info", "/forms", "/forms/check", "/forms/rhymes",
        "/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/models/{model}",
        "/works", "/works/{id}", "/works/{id}/pause", "/works/{id}/resume", "/works/{id}/continue", "/works/{id}/events",
        "/health", "/health/live", "/health/ready", "/metrics", "/settings",
        "/api/v1/generate", "/api/v1/model", "/api/v1/info/version", "/api/v1/config/max_length",
        "/api/v1/config/max_context_length", "/api/extra/true_max_context_length", "/api/extra/version", "/api/extra/tokencount",
        "/api/extra/generate/stream", "/api/extra/generate/check", "/api/extra/abort", "/completion", "/props",
    }  # fmt: skip
    assert set(document["paths"]) == expected
    for path in expected:
        for operation in document["paths"][path].values():
            assert operation["summary"]
            # what becomes of any request at the gate; that the process lives is said whatever else holds
            assert set(operation["responses"]) >= {"408", "413", "421"}
            assert ("503" in operation["responses"]) == (path != "/health/live")
            for status, answer in operation["responses"].items():
                assert answer["description"]
                if int(status) >= 400:
                    schema = answer["content"]["application/json"]["schema"]["$ref"]
                    shapes = {"/v1/": "OpenAIError", "/api/": "KoboldError"}
                    assert schema.endswith(next((s for at, s in shapes.items() if path.startswith(at)), "ErrorAnswer"))
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Body") and name not in ("WindowBody", "SamplingBody"):
            assert schema["examples"], name


def test_every_example_of_the_documentation_is_taken(client):
    document = client.get("/openapi.json").json()
    finished = settled(client, create(client, max_new_tokens=1)["id"])["id"]
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content")
        for example in examples(document, content) if content else ():
            response = client.post(path.replace("{id}", finished), json=example)
            assert response.is_success, (path, example, response.text)
            if "{id}" in path:
                settled(client, finished)
            if path == "/works":
                client.delete(response.headers["Location"])
    client.delete(f"/works/{finished}")


def examples(document: dict[str, Any], content: dict[str, Any]) -> list[Any]:
    """Of a request's body."""
    schema = content["application/json"]["schema"]
    [name] = [s["$ref"].rpartition("/")[2] for s in schema.get("anyOf", [schema]) if "$ref" in s]
    return list(document["components"]["schemas"][name]["examples"])
