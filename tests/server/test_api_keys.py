"""API keys: where they come from, what they allow, and that they are nowhere in the clear."""

import concurrent.futures
import contextlib
import hashlib
import re
import select
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from cpm_gen.errors import ConfigError
from cpm_gen.serving.api_keys import VARIABLE, ApiKey, ApiKeys, make_key
from cpm_gen.serving.errors import ServiceError
from tests.embedded import VOCABULARY
from tests.service_process import PATIENCE, Server, error, until
from tests.works_client import create, follow

OF_THE_ENVIRONMENT = "secret-of-the-environment"
BODY = {"prompt": "从前", "max_new_tokens": 2}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keys():
    return {name: make_key(name) for name in ("ann", "bob", "carl")}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, keys):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(
        f"# who may write here\n{keys['ann'][1]}\n\n{keys['bob'][1]} streams=1 # one at a time\n{keys['carl'][1]} rate=3\n"
    )
    server = Server("--keys", str(file), "--host", "0.0.0.0", environment={VARIABLE: f"env:{OF_THE_ENVIRONMENT}"})
    server.url = server.url.replace("0.0.0.0", "127.0.0.1")
    yield server
    server.close()


def test_without_a_key_there_is_health_and_nothing_else(guarded):
    with guarded.client() as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 200
        assert client.get("/metrics").status_code == 401
        for path in ("/generate", "/score", "/tokenize", "/detokenize", "/v1/completions"):
            response = client.post(path, json=BODY)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "key_missing"
        assert client.get("/v1/models").status_code == 401


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", "Basic YTpi", "Bearer \xe9", "cpm-x"])
def test_a_wrong_key_is_refused(guarded, header):
    with guarded.client() as client:
        response = client.post("/generate", json=BODY, headers={"Authorization": header.encode("latin-1")})
        assert response.status_code == 401
        assert error(response)["code"] in ("key_unknown", "key_missing")


def test_who_has_no_key_does_not_hold_a_place_with_a_body(guarded, keys):
    def answer(header: str, length: int, patience: float = PATIENCE) -> bytes:
        head = f"POST /generate HTTP/1.1\r\nHost: x\r\n{header}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        with socket.create_connection(
            ("127.0.0.1", int(guarded.url.rpartition(":")[2])), timeout=patience
        ) as connection:
            connection.sendall(head.encode())
            return connection.recv(65536)

    for length in (50, 99_999_999):
        assert answer("", length).startswith(b"HTTP/1.1 401 ")
        assert answer("Authorization: Bearer wrong\r\n", length).startswith(b"HTTP/1.1 401 ")
    with pytest.raises(TimeoutError):
        answer(f"Authorization: Bearer {keys['ann'][0]}\r\n", 50, patience=0.5)


def test_bodies_that_do_not_come_are_streams_of_their_key(guarded, keys):
    """Sixteen of them at most, so that no key can take all requests that may be open."""
    head = (
        f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {keys['ann'][0]}\r\n"
        "Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    )
    with contextlib.ExitStack() as stack:
        halves = [
            stack.enter_context(socket.create_connection(("127.0.0.1", int(guarded.url.rpartition(":")[2])), PATIENCE))
            for _ in range(40)
        ]
        for half in halves:
            half.sendall(head.encode())
        refused = until(lambda: len(found := select.select(halves, [], [], 0)[0]) >= 24 and found)
        assert {half.recv(12) for half in refused} == {b"HTTP/1.1 429"}
        ann, other = (
            stack.enter_context(guarded.client(headers=bearer(key))) for key in (keys["ann"][0], OF_THE_ENVIRONMENT)
        )
        assert error(ann.post("/generate", json=BODY))["code"] == "too_many_streams"
        assert error(ann.post("/tokenize", json={"text": "从前"}))["code"] == "too_many_streams"
        assert ann.get("/works").status_code == 200
        assert other.post("/generate", json=BODY).status_code == 200
        late = next(half for half in halves if half not in refused)
        late.sendall('"prompt": "从", "max_new_tokens": 1}'.encode().ljust(49))
        assert late.recv(12) == b"HTTP/1.1 200", "the other fifteen bodies and it are sixteen streams"
    with guarded.client(headers=bearer(keys["ann"][0])) as ann:
        until(lambda: ann.post("/generate", json=BODY).status_code == 200)


def test_a_large_body_that_does_not_come_is_a_stream_of_its_key(guarded, keys):
    key = bearer(keys["bob"][0])
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: {key['Authorization']}\r\nContent-Length: 99999999\r\n\r\n"
    port = int(guarded.url.rpartition(":")[2])
    with guarded.client(headers=key) as bob, socket.create_connection(("127.0.0.1", port), PATIENCE) as large:
        large.sendall(head.encode())

        def refused() -> bool:
            large.sendall(b"x")  # at least every 0.3 s
            return bob.post("/tokenize", json={"text": "从前"}).status_code == 429

        until(refused, every=0.1)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as second:
            second.sendall(head.encode() + b"x" * 70_000)  # it is refused for its size, whenever it comes
            for _ in range(15):
                large.sendall(b"x")
                second.sendall(b"x")
                if select.select([second], [], [], 0.1)[0]:
                    break
            assert second.recv(12) == b"HTTP/1.1 413"
    with guarded.client(headers=key) as bob:
        until(lambda: bob.post("/tokenize", json={"text": "从前"}).status_code == 200)


def test_bodies_of_a_key_that_arrive_at_the_same_time_are_bounded():
    limited, endless = ApiKey("ann", b"", streams=2, rate=0), ApiKey("bob", b"", streams=0, rate=0)
    for key in (limited, endless):
        with key.receiving(2), key.receiving(2), key.running(), contextlib.ExitStack() as stack:
            if key is limited:
                stack.enter_context(pytest.raises(ServiceError, match="bodies of 2 requests"))
            stack.enter_context(key.receiving(2))
        assert (key.bodies, key.open) == (0, 0)


def test_keys_of_the_file_and_of_the_environment_are_let_in(guarded, keys):
    with guarded.client() as client:
        for key in (keys["ann"][0], OF_THE_ENVIRONMENT):
            assert client.post("/generate", json=BODY, headers=bearer(key)).status_code == 200
    until(lambda: all(f" {name} POST /generate 200" in guarded.log for name in ("ann", "env")))
    assert keys["ann"][0] not in guarded.log
    for child in guarded.all_children():
        assert OF_THE_ENVIRONMENT.encode() not in Path(f"/proc/{child}/environ").read_bytes()


def test_the_openai_client_sends_its_key(guarded, keys):
    with openai.OpenAI(base_url=guarded.url + "/v1", api_key=keys["ann"][0], timeout=PATIENCE) as api:
        assert api.models.list().data
    with openai.OpenAI(base_url=guarded.url + "/v1", api_key="wrong", timeout=PATIENCE) as api:
        with pytest.raises(openai.AuthenticationError) as refused:
            api.models.list()
        assert refused.value.code == "key_unknown"


def test_a_key_has_its_number_of_streams(guarded, keys):
    endless = BODY | {"max_new_tokens": 10_000, "stream": True}
    with guarded.client(headers=bearer(keys["bob"][0])) as client, guarded.client() as other:
        with client.stream("POST", "/generate", json=endless):
            refused = client.post("/generate", json=BODY)
            assert refused.status_code == 429
            assert error(refused)["code"] == "too_many_streams"
            assert refused.headers["Retry-After"] == "1"
            assert client.post("/detokenize", json={"token_ids": [5]}).status_code == 200
            assert other.post("/generate", json=BODY, headers=bearer(keys["ann"][0])).status_code == 200
        until(lambda: client.post("/generate", json=BODY).status_code == 200)


def test_whatever_takes_its_time_is_one_of_a_keys_streams(guarded, keys):
    with guarded.client(headers=bearer(keys["bob"][0])) as client:
        work = create(client, max_new_tokens=None)["id"]
        following = follow(client, work)
        next(following)
        for path, body in [
            ("/generate", BODY),
            ("/v1/completions", {"model": "cpm-embedded", "prompt": "从前"}),
            ("/works", BODY),
            ("/score", {"text": "从前"}),
            ("/tokenize", {"text": "从前"}),
        ]:
            refused = client.post(path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_streams"), path
        assert client.get(f"/works/{work}/events").status_code == 429
        assert client.post(f"/works/{work}/pause").status_code == 200  # stopping is always possible
        following.close()
        until(lambda: client.post("/tokenize", json={"text": "从前"}).status_code == 200)
        assert client.post("/score", json={"token_ids": [VOCABULARY]}).status_code == 422
        create(client, max_new_tokens=1)  # each of them was left again
        next(follow(client, work))


def test_a_key_has_its_rate(guarded, keys):
    with guarded.client(headers=bearer(keys["carl"][0])) as client:
        statuses = [client.get("/v1/models").status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        refused = client.get("/v1/models")
        assert 1 <= int(refused.headers["Retry-After"]) <= 20
        assert refused.json()["error"]["code"] == "rate_limited"


def test_bearer_is_documented_where_there_are_keys(guarded, client):
    with guarded.client() as inside:
        document = inside.get("/openapi.json").json()
        assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert document["paths"]["/generate"]["post"]["security"] == [{"HTTPBearer": []}]
        assert "security" not in document["paths"]["/health/live"]["get"]
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"]


def test_a_new_key_and_its_line():
    run = subprocess.run(
        [sys.executable, "-m", "cpm_gen", "serve", "--new-key", "ann"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.returncode == 0
    key = re.search(r"cpm-\S+", run.stderr)[0]
    assert run.stdout == f"ann sha256:{hashlib.sha256(key.encode()).hexdigest()}\n"
    assert len(key) > 40


@pytest.mark.parametrize("name", ["", "a b", "a#", "a:b"])
def test_a_name_that_a_line_cannot_hold(name):
    with pytest.raises(ConfigError, match="one word"):
        make_key(name)


HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "line",
    ["ann", "ann cpm-secret", "ann sha256:12", *(f"ann {HASH} {limits}" for limits in (
        "speed=3", "rate=" + "9" * 5000, "rate=٣", "rate=-1", "rate=1 rate=2")), f"\x1b[31mann {HASH}", f"a\0n {HASH}"],
    ids=lambda line: ascii(line)[:20] + ascii(line)[-10:],
)  # fmt: skip
def test_a_wrong_line_is_named_without_what_it_holds(tmp_path, line):
    file = tmp_path / "keys"
    file.write_text(f"# keys\n{line}\n")
    with pytest.raises(ConfigError, match="keys, line 2: must be") as wrong:
        ApiKeys(str(file), {}, streams=1, rate=0)
    assert "cpm-secret" not in str(wrong.value)


def test_a_file_of_keys_is_read_up_to_a_bound():
    with pytest.raises(ConfigError, match=r"/dev/zero: more than 1,000,000 bytes"):
        ApiKeys("/dev/zero", {}, streams=1, rate=0)


def test_a_file_without_keys_is_an_error(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# none yet\n")
    with pytest.raises(ConfigError, match="holds no key"):
        ApiKeys(str(file), {}, streams=1, rate=0)


@pytest.mark.parametrize("value", ["secret", "a:", ":b"])
def test_a_wrong_variable_is_named_without_what_it_holds(value):
    with pytest.raises(ConfigError, match=VARIABLE) as wrong:
        ApiKeys(None, {VARIABLE: value}, streams=1, rate=0)
    assert "secret" not in str(wrong.value)


def test_a_rate_fills_up_again(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    key = ApiKey("ann", b"", 0, 60)
    for _ in range(60):
        key.count()
    with pytest.raises(ServiceError):
        key.count()
    now += 2.0
    key.count()
    key.count()
    with pytest.raises(ServiceError):
        key.count()
    now += 1e6
    for _ in range(60):
        key.count()
    with pytest.raises(ServiceError):
        key.count()


def test_leaving_early_gives_the_stream_back(guarded, keys):
    with guarded.client(headers=bearer(keys["bob"][0])) as client, concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            responses = [pool.submit(client.post, "/generate", json=BODY | {"n": 0}) for _ in range(4)]
            assert {r.result().status_code for r in responses} == {422}
        assert client.post("/generate", json=BODY).status_code == 200
