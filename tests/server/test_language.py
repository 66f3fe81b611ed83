"""Errors over HTTP in the language that the client asks for."""

import httpx
import pytest

from tests.service_process import error

CHINESE = {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": "春", "top_p": 3}, "top_p 不能大于 1"),
        ({"prompt": "春", "topp": 1}, "topp 是不认识的字段；是不是 'top_p'？"),
        ({"prompt": 3}, "prompt 须是"),
        ({}, "prompt 没有写"),
        ({"form": "7a\n5", "style": "lyric"}, "体式第 1 行：韵“a”只用了一次"),
        ({"prompt": "春", "story": "[前言]\n雪夜"}, "故事第 1 行第 2 字：没有"),
    ],
)
def test_a_mistake_is_named_in_chinese_where_the_client_asks_for_it(client: httpx.Client, body, message) -> None:
    answer = client.post("/generate", json=body, headers=CHINESE)
    english = client.post("/generate", json=body)
    assert message in error(answer)["message"]
    assert error(english)["message"].isascii() or "form" in body or "story" in body
    assert {**error(answer), "message": ""} == {**error(english), "message": ""}
    assert answer.status_code == english.status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/nowhere", "这个地址没有东西"),
        ("GET", "/works/nothing", "没有这部作品"),
        ("DELETE", "/generate", "这个地址不接受这种方法"),
    ],
)
def test_addresses_and_methods(client: httpx.Client, method: str, path: str, message: str) -> None:
    assert error(client.request(method, path, headers=CHINESE))["message"] == message


def test_other_shapes_of_an_error(client: httpx.Client) -> None:
    openai = client.post("/v1/completions", json={"prompt": "春", "temperature": 9}, headers=CHINESE)
    assert openai.json()["error"]["message"] == "temperature 不能大于 2"
    kobold = client.post("/api/v1/generate", json={"prompt": 3}, headers=CHINESE)
    assert "prompt" in kobold.json()["detail"]["msg"]
    assert not kobold.json()["detail"]["msg"].isascii()


def test_another_language_gets_english(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"prompt": "春", "top_p": 3}, headers={"Accept-Language": "de,zh;q=0.5"})
    assert error(answer)["message"] == "top_p must be at most 1"
