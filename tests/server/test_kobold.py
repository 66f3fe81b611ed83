"""/api: KoboldAI's and KoboldCpp's interface."""

import asyncio
import concurrent.futures
import contextlib

import httpx
import pytest

import cpm_gen
from cpm_gen.server.app import create_app
from tests.embedded import ended, seed_of
from tests.server.test_conversations import lites_events
from tests.service_process import WINDOW, idle, until
from tests.works.manager import managing

PROMPT = "春江潮水连海平，"
ENDLESS = {"prompt": PROMPT, "max_length": 10_000, "use_default_badwordsids": True}


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load(window_limit=WINDOW) as llm:
        yield llm


def generate(client, **body):
    response = client.post("/api/v1/generate", json={"prompt": PROMPT, "max_length": 12, "sampler_seed": 1} | body)
    assert response.status_code == 200, response.text
    [result] = response.json()["results"]
    return result


def detail(response):
    return response.json()["detail"]


def test_a_text_is_what_the_library_writes(client, llm):
    options = {"max_new_tokens": 12, "repetition_penalty": 1.1, "min_p": 0.05, "top_k": 40, "stop_at_eod": True}
    seed = seed_of(llm, PROMPT, ended, **options)
    expected = llm.generate(PROMPT, seed=seed, **options)
    result = generate(client, sampler_seed=seed, rep_pen=1.1, min_p=0.05, top_k=40, typical=1, tfs=1.0, mirostat=0)
    assert result["text"] == expected.text
    assert result["finish_reason"] == "stop"
    assert result["completion_tokens"] == len(expected.token_ids)


def test_a_stream_joins_to_the_whole(client):
    body = {"prompt": PROMPT, "max_length": 30, "sampler_seed": 2, "use_default_badwordsids": True}
    whole = generate(client, **body)
    stream = client.post("/api/extra/generate/stream", json=body)
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = lites_events(stream.text)
    assert "".join(event["token"] for event in events) == whole["text"]
    assert [event["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["length"]
    assert whole["completion_tokens"] == 30


def test_the_end_of_a_document_can_be_banned_or_passed_over(client, llm):
    eod = llm.tokenizer.eod
    banned = llm.generate(PROMPT, max_new_tokens=30, seed=1, banned_ids=[eod])
    assert eod not in banned.token_ids
    assert generate(client, max_length=30, use_default_badwordsids=True)["text"] == banned.text
    passed = llm.generate(PROMPT, max_new_tokens=30, seed=1, stop_at_eod=False)
    assert generate(client, max_length=30, bypass_eos=True)["text"] == passed.text


def test_the_memory_is_text_before_the_prompt_that_stays_in_the_window(client, llm):
    memory = "古诗一首："
    kept = len(llm.tokenizer.encode(memory))
    body = {"prompt": PROMPT * (WINDOW // 4), "max_length": 12, "sampler_seed": 1}
    result = generate(client, memory=memory, **body)
    with cpm_gen.load(window_limit=WINDOW, window_keep=kept) as keeps:
        expected = keeps.generate(memory + PROMPT * (WINDOW // 4), max_new_tokens=12, seed=1, stop_at_eod=True)
    assert result["text"] == expected.text
    assert result["text"] != generate(client, **body)["text"]


def test_a_text_with_a_memory_is_tokenized_once(tmp_path, monkeypatch):
    encoded = []

    async def write():
        async with managing(tmp_path / "works.db") as (works, _, service):
            encode = service.tokenizer_pool.encode

            async def record(text, *rest):
                encoded.append(text)
                return await encode(text, *rest)

            monkeypatch.setattr(service.tokenizer_pool, "encode", record)
            transport = httpx.ASGITransport(create_app(service, works))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                body = {"prompt": PROMPT, "memory": "古诗一首：", "max_length": 1}
                return await client.post("/api/v1/generate", json=body)

    assert asyncio.run(write()).status_code == 200
    assert encoded == ["古诗一首：" + PROMPT]


def test_a_memory_takes_at_most_half_of_the_window(client):
    memory = PROMPT * (WINDOW // 8)
    result = generate(client, memory=memory, prompt=PROMPT * (WINDOW // 4))
    with cpm_gen.load(window_limit=WINDOW, window_keep=WINDOW // 2) as keeps:
        expected = keeps.generate(memory + PROMPT * (WINDOW // 4), max_new_tokens=12, seed=1, stop_at_eod=True)
    assert result["text"] == expected.text


def test_a_memory_with_characters_outside_the_vocabulary_is_taken(client):
    assert generate(client, memory="龘𠮷😀 ｆ", style="lyric")["prompt_tokens"] > 1


def test_a_stop_sequence_ends_the_text(client):
    plain = generate(client, max_length=40, use_default_badwordsids=True)["text"]
    stopped = generate(client, max_length=40, use_default_badwordsids=True, stop_sequence=[plain[10:12]])
    assert stopped["text"] == plain[: plain.index(plain[10:12])]
    assert stopped["finish_reason"] == "stop"


@pytest.mark.parametrize(("asked", "count"), [(True, 5), (3, 3), (False, None), (0, None)])
def test_logprobs_are_those_of_the_tokens_shown(client, asked, count):
    result = generate(client, logprobs=asked)
    if count is None:
        assert result["logprobs"] is None
        return
    content = result["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == result["text"]  # without the <eod> that ended it
    for entry in content:
        assert len(entry["top_logprobs"]) == count
        assert max(best["logprob"] for best in entry["top_logprobs"]) >= entry["logprob"]


@pytest.mark.parametrize("none", ["", []])
def test_no_stop_sequence_may_be_given_in_two_ways(client, none):
    assert generate(client, stop_sequence=none)["text"] == generate(client)["text"]


@contextlib.contextmanager
def writing(server, **body):
    """A text that is being written, as its pieces."""
    with (
        server.client() as client,
        client.stream("POST", "/api/extra/generate/stream", json=ENDLESS | body) as response,
    ):
        pieces = response.iter_raw()
        next(pieces)
        yield pieces


def test_abort_ends_the_text_of_a_genkey_and_no_other(server, client):
    def abort(**body):
        return client.post("/api/extra/abort", json=body).json()["success"]

    with writing(server, genkey="A") as first, writing(server, genkey="B"):
        assert not abort()  # both have a genkey
        assert not abort(genkey="C")
        assert abort(genkey="A")
        for _ in first:
            pass  # it ends
        assert client.post("/api/extra/generate/check", json={"genkey": "B"}).json()["results"][0]["text"]
        assert abort(genkey="B")
    with writing(server), writing(server):
        assert not abort()  # it is not known which of the two is meant
    with writing(server) as only:
        assert abort()
        for _ in only:
            pass
    with writing(server, logprobs=True):  # those of a long text take long to write out
        [so_far] = client.post("/api/extra/generate/check").json()["results"]
        assert so_far["text"]
        assert so_far["logprobs"] is None
    until(lambda: idle(server))
    assert not abort(genkey="B")


def test_a_whole_text_can_be_followed_and_ended_too(server, client):
    with concurrent.futures.ThreadPoolExecutor(1) as pool, server.client() as other:
        writing = pool.submit(other.post, "/api/v1/generate", json=ENDLESS)
        so_far = until(lambda: client.post("/api/extra/generate/check").json()["results"][0]["text"])
        assert client.post("/api/extra/abort").json() == {"success": True}
        [result] = writing.result().json()["results"]
        assert result["text"].startswith(so_far)
        assert result["finish_reason"] == "length"
    until(lambda: idle(server))


def test_a_closed_connection_ends_the_text(server):
    with writing(server):
        pass
    until(lambda: idle(server))


def test_the_model_and_its_window(client):
    def get(path):
        return client.get("/api" + path).json()

    assert get("/v1/model") == {"result": "cpm-embedded"}
    assert get("/v1/config/max_context_length") == get("/extra/true_max_context_length") == {"value": WINDOW}
    assert get("/v1/config/max_length") == {"value": 16_384}
    assert get("/v1/info/version")["result"] == "1.2.5"
    version = get("/extra/version")
    assert (version["result"], version["version"]) == ("KoboldCpp", "1.73")
    counted = client.post("/api/extra/tokencount", json={"prompt": "春江潮水"}).json()
    assert counted["ids"] == client.post("/tokenize", json={"text": "春江潮水"}).json()["token_ids"]
    assert counted["value"] == len(counted["ids"])
    refused = client.post("/api/extra/tokencount", json={"prompt": "a" * 150_001})
    assert detail(refused)["msg"].startswith("prompt: 150,001 characters")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 20_000}, "max_length must be at most 16384"),
        ({"rep_pen": 1000}, "rep_pen must be at most 100"),
        ({"typical": 0.5}, "typical is not supported"),
        ({"xtc_probability": 0.5}, "xtc_probability is not supported"),
        ({"trim_stop": False}, "trim_stop is not supported"),
        ({"max_lenght": 5}, "did you mean 'max_length'"),
        ({"n": 2}, "n must be at most 1"),
        ({"max_length": ""}, "max_length must be a whole number"),
        ({"rep_pen": []}, "rep_pen must be a number"),
        ({"sampler_seed": ""}, "sampler_seed must be a whole number"),
        ({"ban_eos_token": ""}, "ban_eos_token must be true or false"),
    ],
    ids=str,
)
def test_a_refusal_has_koboldais_shape_and_the_clients_words(client, change, message):
    response = client.post("/api/v1/generate", json={"prompt": PROMPT} | change)
    assert response.status_code == 422
    assert message in detail(response)["msg"]


def test_a_full_queue_is_a_busy_server(single):
    with single.client() as client, writing(single), single.client() as other:
        with client.stream("POST", "/api/extra/generate/stream", json=ENDLESS):
            until(lambda: single.metric("cpm_queue_depth") == 1)
            busy = other.post("/api/v1/generate", json={"prompt": PROMPT})
        assert (busy.status_code, detail(busy)["type"]) == (429, "service_unavailable")
    until(lambda: idle(single))
