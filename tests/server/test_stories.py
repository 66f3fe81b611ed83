"""Stories over HTTP: texts and works with one, what is in sight, and what is refused."""

import json

import httpx
import pytest

from tests.service_process import WINDOW, error

STORY = "[前提]\n林冲被高俅陷害。\n[笔记 深1]\n风雪很大。\n[设定: 山]\n山上有人。\n[设定: 水, 江]\n水在城东。\n"
BODY = {"prompt": "江上有月，", "style": "novel", "max_new_tokens": 900, "seed": 4, "temperature": 0.9, "story": STORY}
FIRST = {"in_sight": ["前提", "笔记", "设定: 水"], "left_out": []}


def events(response: httpx.Response) -> list[tuple[str, dict]]:
    blocks = [block.split("\n") for block in response.text.split("\n\n") if block.startswith(("event", "id"))]
    found = [{name: value for name, _, value in (line.partition(": ") for line in block)} for block in blocks]
    return [(e["event"], json.loads(e["data"])) for e in found]


def test_a_text_says_what_of_its_story_is_in_sight(client: httpx.Client) -> None:
    choice = client.post("/generate", json=BODY | {"max_new_tokens": 5}).json()["choices"][0]
    assert choice["story"] == FIRST
    without = client.post("/generate", json={k: v for k, v in BODY.items() if k != "story"} | {"max_new_tokens": 5})
    assert "story" not in without.json()["choices"][0]


def test_a_stream_says_it_with_the_first_token_and_after_every_move(client: httpx.Client) -> None:
    streamed = events(client.post("/generate", json=BODY | {"stream": True}))
    windows = [data for name, data in streamed if name == "window"]
    assert [name for name, _ in streamed[:2]] == ["token", "window"]
    assert windows[0] == {"index": 0, "start": 0, "text_start": 0, "slides": 0, "story": FIRST}
    assert len(windows) > 2
    assert all(w["story"]["in_sight"][:2] == ["前提", "笔记"] for w in windows)
    assert streamed[-1][1]["choices"][0]["story"] == windows[-1]["story"]


def test_a_work_with_a_story_writes_what_generate_writes(client: httpx.Client) -> None:
    work = client.post("/works", json=BODY).json()
    assert work["parameters"]["story"] == STORY
    followed = events(client.get(f"/works/{work['id']}/events"))
    found = client.get(f"/works/{work['id']}").json()
    answer = client.post("/generate", json=BODY).json()["choices"][0]
    assert found["choices"][0]["text"] == answer["text"]
    windows = [data for name, data in followed if name == "window"]
    assert windows[-1]["story"] == answer["story"]
    assert windows[-1]["slides"] > 1


@pytest.mark.parametrize("path", ["/generate", "/works"])
@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"story": "林冲"}, "story", "story, line 1, column 1: text before the first heading"),
        (
            {"story": "[前提]\n" + "雪" * (WINDOW + 1)},
            "story",
            f"tokens; a window of {WINDOW:,} has room for {WINDOW // 2}",
        ),
        ({"window": {"keep": 3}}, "story", "a story takes the place of window_keep, which is 3"),
        ({"prompt": "雪山" * WINDOW}, "prompt", "the network sees "),
    ],
)
def test_a_story_that_cannot_be_used_is_refused(client: httpx.Client, path, change, field, message) -> None:
    refused = client.post(path, json=BODY | change)
    assert refused.status_code == 422
    assert message in error(refused)["message"]
    assert error(refused)["field"] == field


OUTLINE = STORY + "[第一回 风雪] 60-80字\n林冲到草料场。\n[第二回 上山] 50-70字\n林冲上山。\n"


@pytest.mark.parametrize("prompt", [None, "", "江上有月，"])
def test_an_outline_ends_the_text_and_needs_no_prompt(client: httpx.Client, prompt) -> None:
    body = {k: v for k, v in BODY.items() if k != "prompt"} | {"story": OUTLINE, "max_new_tokens": 5}
    body |= {} if prompt is None else {"prompt": prompt}
    choice = client.post("/generate", json=body).json()["choices"][0]
    assert choice["finish_reason"] == "story"
    assert choice["text"].lstrip("\n").startswith("第一回 风雪\n")
    assert "\n第二回 上山\n" in choice["text"]
    assert choice["story"]["in_sight"][:2] == ["前提", "笔记"]
    work = client.post("/works", json=body).json()
    list(events(client.get(f"/works/{work['id']}/events")))
    found = client.get(f"/works/{work['id']}").json()
    assert (found["choices"][0]["text"], found["choices"][0]["finish_reason"]) == (choice["text"], "story")
    refused = client.post(f"/works/{work['id']}/continue", json={"max_new_tokens": 5})
    assert refused.status_code == 409
    assert "with an outline is complete" in error(refused)["message"]


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("/v1/completions", {}),
        ("/v1/completions", {"prompt": "江上有月，", "logprobs": 1}),
        ("/completion", {}),
        ("/api/v1/generate", {}),
    ],
)
def test_other_programs_endpoints_take_an_outline(client: httpx.Client, address, body) -> None:
    answer = client.post(address, json={"story": OUTLINE, "style": "novel", "seed": 4} | body)
    assert answer.status_code == 200, answer.text
    text = json.dumps(answer.json(), ensure_ascii=False)
    assert "第二回 上山\\n" in text
    assert "<eod>" not in text


def test_an_outline_that_cannot_be_written_is_refused(client: httpx.Client) -> None:
    cases = [
        ({"stop": ["。"]}, "an outline of chapters ends the text by itself"),
        ({"form": "五绝"}, "a form and an outline of chapters both end the text"),
        ({"story": "[第一回] 90000-100000字\n"}, "its chapters may have 100,203 tokens; the most here is"),
        ({"story": "[第一回 𠮷] 9-10字\n"}, "the vocabulary has no piece for 𠮷"),
        ({"story": "[第一回] 10-9字\n"}, "story, line 1, column 1: 第一回 has from 10 to 9 characters"),
    ]
    for change, message in cases:
        refused = client.post("/generate", json={"story": OUTLINE, "style": "novel"} | change)
        assert refused.status_code == 422, change
        assert message in error(refused)["message"]
        assert error(refused)["field"] in ("story", "form")
