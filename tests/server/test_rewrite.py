"""POST /rewrite."""

import concurrent.futures

import pytest

import cpm_gen
from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.named import named
from tests.embedded import VOCABULARY
from tests.service_process import WINDOW, error

TEXT = "第二天一早，天还没有亮，他便起了床。推开门，院子里积了厚厚的一层雪，连井台也看不见了。他站了一会儿，走了。"
SENTENCE = "推开门，院子里积了厚厚的一层雪，连井台也看不见了。"
WHERE = {"start": TEXT.index(SENTENCE), "end": TEXT.index(SENTENCE) + len(SENTENCE)}
SETTINGS = {"style": "novel", "temperature": 0.95, "top_k": 50, "top_p": 0.95}
BODY = {"text": TEXT, **WHERE, "n": 3, "seed": 4, **SETTINGS}


def test_candidates_are_the_librarys_alone_and_beside_other_requests(client, server):
    with cpm_gen.load(window_limit=WINDOW) as llm:
        expected = llm.rewrite(TEXT, WHERE["start"], WHERE["end"], n=3, seed=4, **SETTINGS)
    with concurrent.futures.ThreadPoolExecutor(2) as pool, server.client() as other, server.client() as third:
        writing = pool.submit(third.post, "/generate", json={"prompt": TEXT, "max_new_tokens": 60, "seed": 1})
        beside = pool.submit(other.post, "/rewrite", json=BODY)
        answers = [beside.result().json(), client.post("/rewrite", json=BODY).json()]
        assert writing.result().status_code == 200
    for answer in answers:
        assert [c["text"] for c in answer["candidates"]] == [c.text for c in expected.candidates]
        for got, candidate in zip(answer["candidates"], expected.candidates, strict=True):
            assert got["token_ids"] == list(candidate.token_ids)
            assert got["right"] == pytest.approx(candidate.right, abs=1e-3)
            assert got["own"] == pytest.approx(candidate.own, abs=1e-3)
        assert answer["selection"]["text"] == SENTENCE
        assert (answer["seed"], answer["start"], answer["end"]) == (4, WHERE["start"], WHERE["end"])
        assert answer["usage"]["completion_tokens"] > 0


def test_a_drawn_seed_is_reported_and_gives_the_same_candidates(client):
    drawn = client.post("/rewrite", json=BODY | {"seed": None, "n": 1}).json()
    again = client.post("/rewrite", json=BODY | {"seed": drawn["seed"], "n": 1}).json()
    assert again["candidates"] == drawn["candidates"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"end": 10_000}, "start"),
        ({"start": 20, "end": 10}, "start"),
        ({"text": " \n ", "start": 0, "end": 0}, "text"),
        ({"text": TEXT * 20, "start": 0, "end": 900}, "text"),
        ({"text": "，" * 199_999, "start": 0, "end": 199_999}, "text"),
        ({"start": -1}, "start"),
        ({"start": "1"}, "start"),
        ({"n": 0}, "n"),
        ({"n": 100}, "n"),
        ({"style": "ode"}, "style"),
        ({"max_new_tokens": 5}, "max_new_tokens"),
        ({"banned_ids": [VOCABULARY]}, "banned_ids"),
    ],
    ids=str,
)
def test_what_cannot_be_rewritten_names_its_field(client, change, field):
    response = client.post("/rewrite", json=BODY | change)
    assert response.status_code == 422
    assert error(response)["field"] == field


VERSE = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
IN_FORM = {"text": VERSE, "start": 13, "end": 18, "form": "五绝", "n": 4, "seed": 2, **SETTINGS, "style": "lyric"}


def test_candidates_in_a_form_are_the_librarys_and_keep_to_it(client):
    with cpm_gen.load(window_limit=WINDOW) as llm:
        expected = llm.rewrite(VERSE, 13, 18, n=4, seed=2, form="五绝", **SETTINGS | {"style": "lyric"})
    answer = client.post("/rewrite", json=IN_FORM).json()
    assert [c["text"] for c in answer["candidates"]] == [c.text for c in expected.candidates]
    assert (answer["start"], answer["end"], answer["selection"]["text"]) == (13, 18, "欲穷千里目")
    assert answer["notes"] == []
    for candidate in answer["candidates"]:
        assert check(named("五绝"), VERSE[:13] + candidate["text"] + VERSE[18:]) == []
    body = IN_FORM | {"rhyme_book": "中华通韵", "include": ["千里"], "exclude": ["欲"], "acrostic": "白更"}
    answer = client.post("/rewrite", json=body | {"acrostic": "白欲"}).json()
    assert answer["error"]["message"] == "acrostic, column 2: 欲 is given and 禁用 has 欲; drop one of them"
    for candidate in client.post("/rewrite", json=body | {"exclude": ["月"], "acrostic": None}).json()["candidates"]:
        assert "千里" in candidate["text"]


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"form": "五觉"}, "form", "did you mean 五绝"),
        ({"form": None, "acrostic": "白"}, "form", "acrostic belongs to a form"),
        (
            {"text": VERSE.replace("里目", "里")},
            "text",
            "line 2 does not keep to the form (5 characters stand here, not 4)",
        ),
        ({"start": 5, "end": 6}, "text", "holds no character of a line"),
        ({"form": "五绝\n" * 9}, "form", "form, line 1"),
        ({"form": "5，5。\n「欲穷千里目」，5。"}, "text", "the form gives every character"),
    ],
    ids=str,
)
def test_what_cannot_be_rewritten_in_a_form_names_its_field(client, change, field, message):
    response = client.post("/rewrite", json=IN_FORM | change)
    assert response.status_code == 422
    assert error(response)["field"] == field
    assert message in error(response)["message"]
