"""POST /score, /tokenize, /detokenize."""

import concurrent.futures
import math

import pytest

import cpm_gen
from tests.embedded import VOCABULARY
from tests.service_process import WINDOW, error, stream

TEXT = "春江潮水连海平，\n海上明月共潮生。"


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load(window_limit=WINDOW) as llm:
        yield llm


def test_score_is_the_librarys(client, llm):
    ids = llm.encode(TEXT)
    expected = llm.score(ids)
    for body in ({"text": TEXT}, {"token_ids": ids}):
        answer = client.post("/score", json=body).json()
        assert answer["token_ids"] == ids
        assert answer["logprobs"][0] is None
        assert answer["logprobs"][1:] == pytest.approx(expected[1:], abs=1e-3)
        known = expected[1:]
        assert answer["perplexity"] == pytest.approx(math.exp(-sum(known) / len(known)), rel=1e-3)


def test_a_text_longer_than_the_window_is_scored_beside_a_generation(client, llm, server):
    ids = llm.encode(TEXT) * 100
    body = {"prompt": TEXT, "max_new_tokens": 200, "seed": 1}
    alone = stream(client, **body)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, server.client() as other:
        scoring = pool.submit(other.post, "/score", json={"token_ids": ids})
        beside = stream(client, **body)
        assert scoring.result().json()["logprobs"][1:] == pytest.approx(llm.score(ids)[1:], abs=1e-3)
    tokens = [[id for name, data in told if name == "token" for id in data["token_ids"]] for told in (beside, alone)]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("ids", [[], [5]], ids=str)
def test_too_little_to_score(client, ids):
    answer = client.post("/score", json={"token_ids": ids}).json()
    assert answer["logprobs"] == [None] * len(ids)
    assert answer["perplexity"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": "a", "token_ids": [1]}, "text"),
        ({"token_ids": [VOCABULARY]}, "token_ids"),
        ({"token_ids": [1] * 16_385}, "token_ids"),
        ({"text": " "}, "text"),
        ({"text": "a", "style": "ode"}, "style"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_scored(client, body, field):
    response = client.post("/score", json=body)
    assert response.status_code == 422
    assert error(response)["field"] == field


@pytest.mark.parametrize("style", [None, "plain", "novel", "lyric"])
def test_tokenize_is_the_librarys(client, llm, style):
    answer = client.post("/tokenize", json={"text": TEXT, "style": style}).json()
    ids = llm.encode(TEXT, style) if style else llm.tokenizer.encode(TEXT)
    pieces = [llm.tokenizer.surface(i) for i in ids]
    assert answer == {"token_ids": ids, "pieces": pieces, "count": len(ids)}
    assert "".join(answer["pieces"]) == llm.tokenizer.decode(ids)


def test_newlines_end_lines_of_a_lyric_as_eod_does(client):
    lines, eod = (
        client.post("/tokenize", json={"text": f"床前{end}明月", "style": "lyric"}).json() for end in ("\n", "<eod>")
    )
    assert lines == eod
    assert lines["pieces"].count("<eod>") == 2


def test_an_empty_text_has_no_tokens(client):
    assert client.post("/tokenize", json={"text": ""}).json() == {"token_ids": [], "pieces": [], "count": 0}
    assert client.post("/detokenize", json={"token_ids": []}).json() == {"text": ""}


def test_detokenize_is_the_librarys(client, llm):
    ids = llm.encode(TEXT, "lyric")
    assert client.post("/detokenize", json={"token_ids": ids}).json() == {"text": llm.tokenizer.decode(ids)}
    lyric = client.post("/detokenize", json={"token_ids": ids, "style": "lyric"}).json()["text"]
    assert lyric == llm.tokenizer.decode(ids).replace("<eod>", "\n") == TEXT + "\n"
    response = client.post("/detokenize", json={"token_ids": [VOCABULARY]})
    assert (response.status_code, error(response)["field"]) == (422, "token_ids")


def test_tokenizing_in_vllms_words_is_the_same(client):
    ours = client.post("/tokenize", json={"text": "春江潮水"}).json()
    theirs = client.post(
        "/tokenize",
        json={"model": "cpm-embedded", "prompt": "春江潮水", "add_special_tokens": False, "return_token_strs": True},
    ).json()
    assert theirs["tokens"] == ours["token_ids"]
    assert theirs["token_strs"] == ours["pieces"]
    assert (theirs["count"], theirs["max_model_len"]) == (ours["count"], WINDOW)
    assert client.post("/detokenize", json={"model": "x", "tokens": ours["token_ids"]}).json()["prompt"] == "春江潮水"


def test_tokenizing_in_llamacpps_words_is_the_same(client):
    ours = client.post("/tokenize", json={"text": "春江潮水"}).json()
    theirs = client.post("/tokenize", json={"model": "", "content": "春江潮水", "add_special": False}).json()
    assert theirs["tokens"] == ours["token_ids"]
    assert client.post("/detokenize", json={"tokens": theirs["tokens"]}).json()["content"] == "春江潮水"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"text": "a", "content": "a"}),
        ("/tokenize", {"text": "a", "prompt": "a"}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": [], "token_ids": []}),
    ],
)
def test_one_of_two_names_is_given(client, path, body):
    assert client.post(path, json=body).status_code == 422


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/tokenize", "text", "a" * 150_001),
        ("/tokenize", "prompt", "a" * 150_001),
        ("/tokenize", "content", "a" * 150_001),
        ("/detokenize", "token_ids", [VOCABULARY]),
        ("/detokenize", "tokens", [VOCABULARY]),
        ("/detokenize", "tokens", [1] * 150_001),
    ],
)
def test_a_refusal_names_the_field_that_was_given(client, path, field, value):
    refused = client.post(path, json={field: value})
    assert (refused.status_code, error(refused)["field"]) == (422, field)


def test_the_tokenizer_is_described(client):
    info = client.get("/tokenizer_info").json()
    assert (info["eos_token"], info["model_max_length"]) == ("<eod>", WINDOW)
