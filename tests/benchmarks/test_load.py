"""The load generator: its arithmetic, its reading of streams, and a short run of it against a real service."""

import asyncio
import json
import random
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from load import asking, figures, loops, soak  # noqa: E402
from load.http import Broken, Server  # noqa: E402
from load.process import Reading  # noqa: E402
from models import percentile  # noqa: E402


def test_percentiles() -> None:
    values = [float(n) for n in random.Random(0).sample(range(100), 100)]
    assert [percentile(values, share) for share in (0, 0.5, 0.95, 0.99, 1)] == [0, 50, 95, 99, 99]
    assert percentile([3.0], 0.99) == 3


def test_lengths_are_drawn_as_they_are_named_and_the_same_for_a_seed() -> None:
    drawn = [asking.llmperf(random.Random(seed)) for seed in range(4000)]
    assert drawn == [asking.llmperf(random.Random(seed)) for seed in range(4000)]
    for values, mean, deviation in zip(zip(*drawn, strict=True), (550, 150), (150, 10), strict=True):
        assert min(values) > 0
        assert statistics.mean(values) == pytest.approx(mean, rel=0.02)
        assert statistics.stdev(values) == pytest.approx(deviation, rel=0.05)
    prompts, texts = zip(*(asking.mixed(random.Random(seed)) for seed in range(4000)), strict=True)
    assert (min(prompts), max(prompts)) == (20, 500)
    assert 50 <= min(texts) < 60 < 1490 < max(texts) <= 1500


def test_arrivals_are_a_poisson_process() -> None:
    times = asking.arrivals(5, 4000, random.Random(1))
    assert times == asking.arrivals(5, 4000, random.Random(1))
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert min(gaps) > 0
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.05)  # as the mean: that is what exponential means


def test_prompts_have_exactly_so_many_tokens() -> None:
    async def count(text: str) -> int:  # 一 joins what follows it, so that lengths jump
        return sum(2 if character == "二" else character != "一" for character in text)

    text = "".join(random.Random(2).choices("一二三四", k=3000))
    dice = random.Random(3)
    pieces = {n: asyncio.run(asking.cut(text, n, dice, count)) for n in (1, 2, 7, 50, 333, 1000)}
    assert all(piece in text and asyncio.run(count(piece)) == n for n, piece in pieces.items())
    with pytest.raises(SystemExit, match="no piece of 10 characters has 11 tokens"):
        asyncio.run(asking.cut("三" * 10, 11, dice, count))


def serve(answer: bytes, use: Callable[[Server], object]) -> object:
    """What ``use`` gets from a server that answers everything with these bytes."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for at in range(0, len(answer), 7):  # in crumbs, as a network may
            writer.write(answer[at : at + 7])
            await writer.drain()
        writer.close()

    async def go() -> object:
        async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
            return await use(Server(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))

    return asyncio.run(go())


def streamed(*events: str, end: bool = True) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [event.encode() for event in events]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + (b"0\r\n\r\n" if end else b"")


def token(*ids: int) -> str:
    return f'event: token\ndata: {{"index":0,"text":"{"春" * len(ids)}","token_ids":{list(ids)}}}\n\n'


DONE = 'event: done\ndata: {"usage":{"completion_tokens":3}}\n\n'
REFUSED = (
    b'HTTP/1.1 429 Too Many Requests\r\nRetry-After: 4\r\nContent-Length: 32\r\n\r\n{"error":{"code":"queue_full" }}'
)


@pytest.mark.parametrize(
    ("answer", "tokens", "gaps", "failure"),
    [
        (streamed(token(1), ": keep-alive\n\n", token(2, 3), DONE), 3, 1, None),
        (streamed(token(1, 2, 3) + DONE), 3, 0, None),
        (streamed(token(1), token(2), token(3), DONE, end=False), 3, 2, "broken"),
        (streamed(token(1), token(2), DONE), 2, 1, "incomplete"),
        (streamed(token(1), token(2), token(3)), 3, 2, "incomplete"),
        (streamed(token(1), token(2)[:20]), 1, 0, "broken"),
        (streamed(token(1), 'event: error\ndata: {"error":{"code":"engine_failed"}}\n\n'), 1, 0, "error engine_failed"),
        (REFUSED, 0, 0, "429 queue_full"),
        (b"HTTP/1.1 200 OK\r\nTransf", 0, 0, "broken"),
        (b"", 0, 0, "broken"),
    ],
)
def test_a_stream_is_whole_or_a_failure(answer: bytes, tokens: int, gaps: int, failure: str | None) -> None:
    request = asking.Request("从前", 1, 3, 0)

    async def use(server: Server) -> loops.Outcome:
        return await loops.stream(loops.Target(server, "/generate", "m"), request, 0.0)

    outcome = serve(answer, use)
    assert isinstance(outcome, loops.Outcome)
    assert (outcome.tokens, len(outcome.gaps), outcome.failure) == (tokens, gaps, failure)
    assert outcome.retry_after == (4 if answer == REFUSED else 0)
    assert (outcome.first is not None) is (tokens > 0)


def test_a_server_that_is_not_there_breaks() -> None:
    async def use() -> None:
        async with Server("http://127.0.0.1:1").ask("GET", "/"):
            pass

    with pytest.raises(Broken, match="ConnectionRefused"):
        asyncio.run(use())


def test_a_row_counts_what_failed_and_times_what_did_not() -> None:
    good = [loops.Outcome(10.0, 10.0 + n / 10, [0.01 * n] * 4, 12.0, tokens=10) for n in (1, 2, 3)]
    bad = [
        loops.Outcome(10.0, 19.0, [5.0], 20.0, tokens=2, failure="broken"),
        loops.Outcome(10.0, failure="429 queue_full"),
        loops.Outcome(10.0, failure="429 queue_full"),
    ]
    row = figures.row(good + bad, 4.0, allow_429=False)
    assert (row["requests"], row["tokens"], row["tokens_per_second"]) == (6, 32, 8)
    assert (row["ttft_p50_ms"], row["itl_p99_ms"], row["whole_p95_s"]) == (200, 30, 2)
    assert row["tokens_per_event"] == 2
    assert row["codes"] == {"broken": 1, "429 queue_full": 2}
    assert (row["failures"], row["refused"]) == (3, 0)
    row = figures.row(good + bad, 4.0, allow_429=True)
    assert (row["failures"], row["refused"]) == (1, 2)
    assert figures.row(bad, 4.0, allow_429=True)["ttft_p50_ms"] is None


METRICS = (
    "# HELP cpm_requests_total Requests\n"
    'cpm_requests_total{route="/generate",status="200"} 40.0\ncpm_requests_total{route="other",status="404"} 2.0\n'
    "cpm_samples_total 30.0\ncpm_generated_tokens_total 900.0\ncpm_queue_depth 0.0\ncpm_running_sequences 0.0\n"
    "cpm_kv_slots_used 0.0\ncpm_open_requests 1.0\n"
)


def test_a_soak_notices_what_stays_behind() -> None:
    after = soak.parse(METRICS)
    assert after["cpm_requests_total"] == 42
    tally = soak.Tally(sent=42, begun=28, perhaps=3, tokens=700, seen=150, most=900)
    series = [Reading(500 + n % 3, 7, 10) for n in range(20)]
    before = Counter({"cpm_open_requests": 1})
    clean = (tally, before, after, series, "all is well")
    assert soak.verdict(*clean) == []

    def told(at: int, value: object) -> str:
        [problem] = soak.verdict(*clean[:at], value, *clean[at + 1 :])
        return problem

    assert told(2, after | {"cpm_kv_slots_used": 1}) == "at the end, cpm_kv_slots_used is 1, not 0"
    assert told(2, after | {"cpm_open_requests": 2}) == "at the end, cpm_open_requests is 2, not 1"
    assert told(2, after | {"cpm_samples_total": 27}).startswith("cpm_samples_total grew by 27; the clients know of 28")
    assert told(2, after | {"cpm_samples_total": 32}).endswith("28 to 31")
    assert told(2, after | {"cpm_requests_total": 43}).endswith("grew by 43; the clients know of 42")
    assert told(2, after | {"cpm_generated_tokens_total": 849}).endswith("850 to 1600")
    assert told(1, Counter(cpm_open_requests=1, cpm_queue_depth=3)) == "warm, cpm_queue_depth is 3, not 0"
    assert told(3, [*series, Reading(500, 7 + 33, 10)]).startswith("7 threads")
    assert told(3, [*series, Reading(500, 7, 11)]).startswith("10 open files")
    assert (
        told(3, [Reading(500 + 3 * n, 7, 10) for n in range(20)])
        == "521 MB in the second quarter of the time, 551 MB in the last"
    )
    assert told(4, "x\nTraceback (most recent call last):\n bug").endswith("bug")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[int, str, list[dict]]]:
    """Exit status, what was printed, and the rows of ``benchmarks/serve.py``."""

    def run(*words: str) -> tuple[int, str, list[dict]]:
        target = tmp_path / "rows.json"
        done = subprocess.run(
            [sys.executable, "benchmarks/serve.py", "--json", str(target), *words],
            capture_output=True, text=True, timeout=600, cwd=ROOT,
        )  # fmt: skip
        assert done.stderr == ""
        return done.returncode, done.stdout, json.loads(target.read_text())

    return run


@pytest.mark.slow
@pytest.mark.parametrize("route", ["/generate", "/v1/completions"])
def test_a_level_of_load_has_a_row_and_no_failures(run, route: str) -> None:
    words = ["--clients", "2", "--requests", "4", "--lengths", "llmperf", "--source-tokens", "3000", "--route", route]
    status, printed, [row] = run(*words)
    assert (status, row["failures"], row["requests"]) == (0, 0, 4)
    assert 400 < row["tokens"] < 800
    assert 0 < row["ttft_p50_ms"] <= row["ttft_p99_ms"]
    assert 0 < row["itl_p50_ms"] <= row["itl_p99_ms"]
    assert 0 < row["generator_cores"] < row["server_cores"]
    assert printed.count("| llmperf | 2 clients | 4 |") == 1


@pytest.mark.slow
def test_refusals_fail_unless_they_were_asked_for(run) -> None:
    words = ["--rate", "100", "--requests", "12", "--lengths", "llmperf", "--source-tokens", "3000"]
    flags = ["--", "--batch", "1", "--queue", "1"]
    status, _, [row] = run(*words, *flags)
    assert status == 1
    assert row["failures"] == row["codes"]["429 queue_full"] > 0
    status, _, [row] = run(*words, "--allow-429", *flags)
    assert (status, row["failures"]) == (0, 0)
    assert row["refused"] > 0


@pytest.mark.slow
def test_a_short_soak_leaves_nothing_behind(run) -> None:
    status, printed, [row] = run("--soak", "20", "--", "--queue", "24")
    assert (status, row["problems"]) == (0, []), printed
    assert row["requests"] > 50
    assert row["texts"] > 50


@pytest.mark.slow
def test_five_thousand_idle_connections_hold_up_nothing(run) -> None:
    status, printed, [row] = run("--soak", "20", "--idle", "5000", "--", "--queue", "24")
    assert (status, row["problems"]) == (0, []), printed
    assert row["requests"] > 50
    most = max(reading["files"] for reading in row["series"])
    assert 1000 < most < 1088 + 256, "as many connections as the service keeps"
