"""Log lines: their form, their level, and the ids of the request that they were written for."""

import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cpm_gen.server import logs
from cpm_gen.serving.request_ids import read_ids, working_for
from tests.service_process import error, until
from tests.works_client import create, settled

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
CALLER = {"X-Request-Id": "order-17/a", "traceparent": PARENT}
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture
def written(capsys) -> Iterator[Callable[[], str]]:
    """What is written to standard error; the process's logging is as before at the end."""
    root, ours = logging.getLogger(), logging.getLogger("cpm_gen")
    before = root.handlers[:], root.level, ours.level
    yield lambda: capsys.readouterr().err
    logging.captureWarnings(False)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_every_line_of_json_is_one_object(written):
    logs.configure("debug", "json")
    log = logging.getLogger("cpm_gen.server")
    log.debug("two\nlines %s", "\ud800 \u2028 春")
    with working_for(read_ids(["mine"], [PARENT])):
        log.info("%s", "done", extra={"fields": {"status": 200}})
        try:
            raise ValueError("broken")
        except ValueError:
            log.exception("a bug")
    logging.getLogger("asyncio").error("of another library")
    logging.getLogger("asyncio").info("of another library, which says too much")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)
    lines = [json.loads(line) for line in written().split("\n")[:-1]]
    first, second, third, fourth, fifth = lines
    assert all(re.fullmatch(TIME, line["time"]) for line in lines)
    assert first["message"].startswith("two\nlines")
    assert (first["level"], first["logger"]) == ("debug", "cpm_gen.server")
    assert "request_id" not in first
    assert second["status"] == 200
    assert {second["request_id"], third["request_id"]} == {"mine"}
    assert (second["trace_id"], second["traceparent"]) == (TRACE, PARENT)
    assert third["exception"].startswith("Traceback")
    assert (fourth["level"], fourth["message"]) == ("error", "of another library")
    assert "careful" in fifth["message"]


def test_a_line_of_text_names_its_request_and_trace(written):
    logs.configure("info", "text")
    log = logging.getLogger("cpm_gen.serving")
    log.info("the first")
    log.debug("too much")
    with working_for(read_ids(["mine"], [PARENT])):
        log.warning("the second")
    first, second = written().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]+ INFO the first", first)
    assert second.endswith(f" WARNING mine the second trace={TRACE}")


def test_less_important_lines_are_left_out(written):
    logs.configure("error", "text")
    logging.getLogger("cpm_gen.server").warning("too much")
    logging.getLogger("uvicorn.error").warning("too much")
    logging.getLogger("cpm_gen.server").error("enough")
    [line] = written().splitlines()
    assert line.endswith(" ERROR enough")


def entries(server: Any) -> list[dict[str, Any]]:
    """The lines of a log, each of which must be an object."""
    return [json.loads(line) for line in server.lines["stderr"]]


@pytest.fixture(scope="module")
def talkative() -> Iterator[Any]:
    """A server that writes everything, as JSON."""
    from tests.service_process import serving

    with serving("--log-format", "json", "--log-level", "debug", "--log-prompts") as server:
        yield server


def test_a_callers_ids_are_in_the_response_its_errors_and_every_line_of_its_job(talkative):
    with talkative.client() as client:
        response = client.post("/generate", json={"prompt": "从前", "max_new_tokens": 3}, headers=CALLER)
        assert response.status_code == 200
        assert response.headers["X-Request-Id"] == CALLER["X-Request-Id"]
        assert response.headers["traceparent"] == PARENT
        job = response.json()["id"]
        lines = until(lambda: [e for e in entries(talkative) if e.get("path") == "/generate"] and entries(talkative))
        of_the_job = [line for line in lines if job in line["message"]]
        assert [line["message"].removeprefix(job)[:9] for line in of_the_job] == [" prompts ", ": 1 texts", " ended af"]
        for line in [*of_the_job, *(e for e in lines if e.get("path") == "/generate")]:
            assert line["request_id"] == CALLER["X-Request-Id"]
            assert line["trace_id"] == TRACE
        [answered] = (e for e in lines if e.get("path") == "/generate")
        assert {k: answered[k] for k in ("user", "method", "route", "status")} == {
            "user": "anonymous", "method": "POST", "route": "/generate", "status": 200,
        }  # fmt: skip
        assert 0 < answered["seconds"] < 60


def test_a_request_is_logged_as_it_came(talkative):
    with talkative.client() as client:
        assert client.head("/v1/models/").status_code == 200
    [line] = until(lambda: [e for e in entries(talkative) if e.get("path") == "/v1/models/"])
    assert (line["method"], line["route"]) == ("HEAD", "/v1/models")


def test_an_error_repeats_the_callers_id(talkative):
    with talkative.client() as client:
        refused = client.post("/generate", json={"prompt": "从前", "n": 0}, headers=CALLER)
        assert refused.json()["error"]["request_id"] == CALLER["X-Request-Id"]
        assert refused.headers["traceparent"] == PARENT
        openai = client.post("/v1/completions", json={"prompt": "从前", "n": 0}, headers=CALLER)
        assert openai.json()["error"]["request_id"] == CALLER["X-Request-Id"]
        gate = client.get("/openapi.json", headers=CALLER | {"Host": "evil.example"})
        assert gate.status_code == 421
        assert gate.json()["error"]["request_id"] == gate.headers["X-Request-Id"] == CALLER["X-Request-Id"]
        assert error(client.post("/generate", json={"prompt": "从前", "n": 0}))["code"] == "invalid"


def test_an_id_that_would_forge_a_line_is_replaced(talkative):
    with talkative.client() as client:
        response = client.get("/health/live", headers={"X-Request-Id": "a b", "traceparent": "00-1-2-3"})
        assert re.fullmatch("[0-9a-f]{16}", response.headers["X-Request-Id"])
        assert "traceparent" not in response.headers


def test_a_work_is_written_for_the_request_that_created_it(talkative):
    with talkative.client() as client:
        made = client.post("/works", json={"prompt": "从前", "max_new_tokens": 2}, headers=CALLER).json()["id"]
        settled(client, made)
        other = create(client, max_new_tokens=2)["id"]
        settled(client, other)

    def ended() -> list[dict[str, Any]]:
        return [e for e in entries(talkative) if re.match(r"work-\w+\.0 ended", e["message"])]

    lines = until(lambda: len(ended()) >= 2 and ended())
    assert {e["message"].split(".")[0]: e["request_id"] for e in lines}[made] == CALLER["X-Request-Id"]
    assert {e["message"].split(".")[0]: e["request_id"] for e in lines}[other] != CALLER["X-Request-Id"]


@pytest.mark.slow
def test_the_level_leaves_out_the_lines_of_requests(start):
    server = start("--log-level", "warning")
    with server.client() as client:
        assert client.get("/health/live").status_code == 200
    server.signal()
    assert server.wait() == 0
    assert server.lines["stderr"] == []


@pytest.mark.parametrize(("flag", "word"), [("--log-level", "loud"), ("--log-format", "xml")])
def test_an_unknown_level_or_form_is_one_line(start, flag, word):
    server = start(flag, word, ready=False)
    assert server.wait() == 2
    [line] = server.lines["stderr"]
    assert flag in line
    assert word in line


def test_warnings_are_logged_although_they_were_captured_and_released_before(written):
    with warnings.catch_warnings():
        logging.captureWarnings(True)
    logs.configure("info", "json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)
    (line,) = written().split("\n")[:-1]
    assert "careful" in json.loads(line)["message"]
