"""Forms over HTTP: texts in a form, the list, and the check of a text."""

import time

import httpx
import pytest

import cpm_gen
from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.named import named
from tests.service_process import WINDOW, error

GOOD = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"


def test_a_text_in_a_form_needs_no_prompt(client: httpx.Client) -> None:
    body = {"form": "七绝", "style": "lyric", "seed": 1, "n": 2, "max_new_tokens": 5, "temperature": 0.9, "top_k": 50}
    answer = client.post("/generate", json=body)
    assert answer.status_code == 200
    for choice in answer.json()["choices"]:
        assert choice["finish_reason"] == "form"
        assert check(named("七绝"), choice["text"]) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"form": "七觉"}, "did you mean 七绝"),
        ({"form": "7a\n5"}, 'form, line 1: rhyme "a" is used once'),
        ({"form": "5，「龘」5"}, "the vocabulary has no token for 龘"),
        ({"form": "五绝", "stop": ["。"]}, "leave stop out"),
        ({"acrostic": "春", "prompt": "春"}, "acrostic belongs to a form"),
    ],
)
def test_a_form_that_is_wrong_is_refused(client: httpx.Client, body, message) -> None:
    answer = client.post("/generate", json={"style": "lyric"} | body)
    assert answer.status_code == 422
    assert message in error(answer)["message"]


def test_the_forms_are_listed(client: httpx.Client) -> None:
    found = {f["name"]: f for f in client.get("/forms").json()["forms"]}
    assert found["浣溪沙"]["variants"] == 5
    assert "百字令" in found["念奴娇"]["aliases"]
    assert found["撷芳词"]["alias_variants"]["钗头凤"] == 4
    assert found["浣溪沙"]["lines"] is None
    assert (found["七排"]["variants"], found["七排"]["lines"]) == (0, [10, 200])
    assert len(found) > 800


def test_a_text_is_checked_against_a_form(client: httpx.Client) -> None:
    answer = client.post("/forms/check", json={"form": "五绝", "text": GOOD}).json()
    assert answer["pattern"] == ["⊙●○○●，○○●●○a。", "⊙○○●●，⊙●●○○a。"]
    assert answer["lines"][1]["parts"][1] == {
        "slots": "⊙●●○○", "least": 5, "label": "a", "same": False, "echo": False, "end": "。",
    }  # fmt: skip
    assert answer["faults"] == []
    wrong = GOOD.replace("流", "河").replace("层", "月")
    faults = client.post("/forms/check", json={"form": "五绝", "text": wrong}).json()["faults"]
    assert [(f["line"], f["column"]) for f in faults] == [(1, 11), (2, 10), (2, 11)]
    assert [(f["kind"], f["expected"], f["found"]) for f in faults] == [
        ("twice", "", "河"),
        ("tone", "平", "月"),
        ("rhyme", "河", "楼"),
    ]
    refused = client.post("/forms/check", json={"form": "7&"})
    assert (refused.status_code, error(refused)["field"]) == (422, "form")


def test_a_check_takes_the_settings_of_a_form(client: httpx.Client) -> None:
    body = {"form": "五绝", "rhyme_book": "中华通韵", "acrostic": "白黄欲更", "include": ["黄河"], "exclude": ["入海"]}
    answer = client.post("/forms/check", json=body | {"text": GOOD}).json()
    assert answer["form"].startswith("韵: 中华通韵\n必含: 黄河\n禁用: 入海\n")
    assert [p[0] for p in answer["pattern"]] == ["白", "欲"]
    assert [f["message"] for f in answer["faults"]] == ["入海 is not wanted", "一 is 平; 仄 stands here"]
    refused = client.post("/forms/check", json={"form": "五绝", "acrostic": "春江花月夜"})
    assert refused.status_code == 422
    assert "藏头 has 5 characters, the form only 4 clauses" in error(refused)["message"]


@pytest.mark.parametrize(
    ("path", "body", "found"),
    [
        ("/v1/completions", {"model": "cpm-embedded"}, lambda a: a["choices"][0]["text"]),
        ("/completion", {}, lambda a: a["content"]),
        ("/api/v1/generate", {}, lambda a: a["results"][0]["text"]),
        ("/api/v1/generate", {"memory": "春风"}, lambda a: a["results"][0]["text"]),
    ],
)
def test_other_servers_bodies_need_no_prompt_beside_a_form(client: httpx.Client, path, body, found) -> None:
    answer = client.post(path, json={"form": "五绝", "style": "lyric", "seed": 1} | body)
    assert answer.status_code == 200, answer.text
    assert check(named("五绝"), found(answer.json())) == []


def test_a_work_in_a_form_ends_and_is_not_continued(client: httpx.Client) -> None:
    body = {"form": "浣溪沙", "style": "lyric", "seed": 3, "include": ["黄昏"], "temperature": 0.9}
    work = client.post("/works", json=body).json()
    for _ in range(200):
        found = client.get(f"/works/{work['id']}").json()
        if found["state"] == "finished":
            break
        time.sleep(0.1)
    choice = found["choices"][0]
    assert choice["finish_reason"] == "form"
    assert "黄昏" in choice["text"]
    assert check(named("浣溪沙"), choice["text"]) == []
    assert found["parameters"]["form"].startswith("韵: 词林正韵\n必含: 黄昏\n")
    assert client.post("/generate", json=body).json()["choices"][0]["text"] == choice["text"]
    refused = client.post(f"/works/{work['id']}/continue", json={})
    assert (refused.status_code, error(refused)["code"]) == (409, "wrong_state")


def test_lines_that_are_kept_stay_in_texts_and_works(client: httpx.Client) -> None:
    first, second = GOOD.split("\n")
    body = {"form": "五绝", "style": "lyric", "seed": 1, "temperature": 0.9, "keep_lines": [None, second]}
    text = client.post("/generate", json=body).json()["choices"][0]["text"]
    assert text.split("\n")[1] == second
    assert text.split("\n")[0] != first
    assert check(named("五绝"), text) == []
    work = client.post("/works", json=body).json()
    for _ in range(200):
        found = client.get(f"/works/{work['id']}").json()
        if found["state"] == "finished":
            break
        time.sleep(0.1)
    assert found["choices"][0]["text"] == text
    refused = client.post("/generate", json=body | {"keep_lines": [first.replace("流", "水")]})
    assert refused.status_code == 422
    assert error(refused)["field"] == "keep_lines"
    assert error(refused)["message"].startswith("keep_lines, line 1, column 11: 水 is 仄; 平 stands here")
    wrong = client.post("/generate", json=body | {"keep_lines": [3]})
    assert (wrong.status_code, error(wrong)["field"]) == (422, "keep_lines.0")


def test_the_words_that_may_end_a_line(client: httpx.Client) -> None:
    body = {"form": "五绝", "text": GOOD, "line": 2}
    with cpm_gen.load(window_limit=WINDOW) as llm:
        expected = llm.rhymes(GOOD, 2, form="五绝")
    answer = client.post("/forms/rhymes", json=body).json()
    assert [w["text"] for w in answer["words"]] == [w.text for w in expected.words]
    for got, word in zip(answer["words"], expected.words, strict=True):
        assert got["logprob"] == pytest.approx(word.logprob, abs=1e-3)
    assert (answer["groups"], answer["notes"], len(answer["words"])) == (["尤"], [], 20)
    after = client.post("/forms/rhymes", json=body | {"prompt": "登高", "n": 3, "rhyme_book": "十三辙"}).json()
    assert (after["groups"], len(after["words"])) == (["油求"], 3)


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"line": 3}, "line", "line 3 is no line of the form; the text has 1, 2"),
        ({"line": 0}, "line", "must be at least 1"),
        ({"n": 0}, "n", "must be at least 1"),
        ({"form": None}, "form", "must be text"),
        ({"form": "七觉"}, "form", "did you mean 七绝"),
        ({"text": ""}, "text", "must not be empty"),
        ({"temperature": 1.0}, "temperature", "unknown field"),
    ],
    ids=str,
)
def test_rhyme_words_that_cannot_be_found_name_a_field(client: httpx.Client, change, field, message) -> None:
    refused = client.post("/forms/rhymes", json={"form": "五绝", "text": GOOD, "line": 2} | change)
    assert refused.status_code == 422
    assert error(refused)["field"] == field
    assert message in error(refused)["message"]


def test_the_pattern_in_parts_names_sections_and_what_may_be_left_out(client: httpx.Client) -> None:
    form = "[主]\n2+4-6a\n「风」3a\n[副] 同 主, a=换\n[主] 重复\n"
    lines = client.post("/forms/check", json={"form": form}).json()["lines"]
    assert [(line["section"], line["repeated"]) for line in lines] == [
        ("主", False), (None, False), ("副", False), (None, False), ("主", True), (None, True),
    ]  # fmt: skip
    first, second = lines[0]["parts"]
    assert (first["slots"], first["end"], second["slots"], second["least"]) == ("⊙⊙", "+", "⊙" * 6, 4)
    assert lines[1]["parts"][0]["slots"] == "风⊙⊙⊙"
    assert [line["parts"][-1]["label"] for line in lines] == ["a", "a", "b", "b", "a", "a"]


@pytest.mark.parametrize("path", ["/generate", "/works"])
def test_a_form_that_the_vocabulary_cannot_fill_is_refused_before_anything_is_written(client, path):
    body = {"style": "lyric", "unconditional": True, "form": "7a\n7a", "include": ["龘"], "max_new_tokens": 40}
    response = client.post(path, json=body)
    assert response.status_code == 422
    assert "必含 龘: the vocabulary has no token for 龘" in response.json()["error"]["message"]
