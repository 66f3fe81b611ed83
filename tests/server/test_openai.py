"""/v1 with the openai package as the client."""

import asyncio

import httpx
import openai
import pytest

import cpm_gen
from cpm_gen.config.options import ModelOptions
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.server.app import create_app
from cpm_gen.serving.service import Service
from tests.embedded import ended, seed_of
from tests.service_process import PATIENCE, WINDOW
from tests.works.manager import managing

MODEL = "cpm-embedded"
PROMPT = "春江潮水连海平，"


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load(window_limit=WINDOW) as llm:
        yield llm


@pytest.fixture(scope="module")
def api(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=PATIENCE) as api:
        yield api


def complete(api, **options):
    return api.completions.create(**({"model": MODEL, "prompt": PROMPT, "max_tokens": 12, "seed": 1} | options))


def ended_at_eod(llm: cpm_gen.LLM) -> cpm_gen.Completion:
    """A text of at most 12 tokens that ends with the end of its document."""
    options = {"max_new_tokens": 12, "temperature": 0.5, "top_p": 0.9, "stop_at_eod": True}
    return llm.generate(PROMPT, seed=seed_of(llm, PROMPT, ended, **options), **options)


def test_models(api):
    [model] = api.models.list().data
    assert model.max_model_len == WINDOW
    assert model.limits["max_tokens"] == 16_384
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "cpm-gen")
    assert api.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as refused:
        api.models.retrieve("gpt-5")
    assert refused.value.code == "model_not_found"


def test_the_models_are_listed_while_the_engine_does_not_answer(tmp_path):
    async def ask():
        async with managing(tmp_path / "works.db") as (works, _, service):
            transport = httpx.ASGITransport(create_app(service, works))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                before = await client.get("/v1/models")
                service.engine.set_state("stuck")
                during = await client.get("/v1/models"), await client.get("/v1/models/cpm-embedded")
                assert (await client.get("/health/ready")).status_code == 503
                service.engine.set_state("ready")
        return before, *during

    before, models, model = asyncio.run(ask())
    assert models.json() == before.json()
    assert [model.json()] == before.json()["data"]


@pytest.mark.parametrize("given", [".", "../CPM", "../CPM/", "{}/x/..", "../link"])
def test_a_model_is_called_as_its_folder(tmp_path, monkeypatch, given):
    (tmp_path / "CPM").mkdir()
    (tmp_path / "link").symlink_to("CPM")
    monkeypatch.chdir(tmp_path / "CPM")
    model = ModelOptions(model=given.format(tmp_path / "CPM"))

    async def name() -> str:
        return Service(ServeOptions(), model).model_id

    assert asyncio.run(name()) == ("link" if given == "../link" else "CPM")


def test_a_completion_is_what_the_library_writes(api, llm):
    expected = ended_at_eod(llm)
    answer = complete(api, seed=expected.seed, temperature=0.5, top_p=0.9)
    assert answer.object == "text_completion"
    assert answer.model == MODEL
    assert answer.id.startswith("cmpl-")
    [choice] = answer.choices
    assert (choice.text, choice.index, choice.finish_reason) == (
        expected.text,
        0,
        "stop",
    )  # at <eod>, as OpenAI's models end
    assert choice.logprobs is None
    prompt = len(expected.prompt_token_ids)
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": prompt,
        "completion_tokens": len(expected.token_ids),
        "total_tokens": prompt + len(expected.token_ids),
    }


@pytest.mark.parametrize("seed", [1, 2, 3, 5, 8])
def test_a_text_holds_no_markup(api, seed):
    choice = complete(api, prompt="春江潮水连海平，海上明月共潮生。", max_tokens=60, seed=seed).choices[0]
    assert "<eod>" not in choice.text


def test_a_chat_continues_its_messages_joined_by_newlines(api):
    messages = [
        {"role": "system", "content": "从前"},
        {"role": "user", "content": [{"type": "text", "text": "有一座山，"}]},
    ]
    answer = api.chat.completions.create(model=MODEL, messages=messages, max_completion_tokens=12, seed=1)
    expected = complete(api, prompt="从前\n有一座山，")
    assert answer.object == "chat.completion"
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected.choices[0].text)
    assert choice.finish_reason == expected.choices[0].finish_reason
    assert answer.usage == expected.usage


def test_a_stream_of_a_chat_joins_to_the_whole(api):
    asked = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 30, "seed": 1, "n": 2}
    whole = api.chat.completions.create(**asked)
    chunks = list(api.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == whole.usage
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(c.delta.content for c in mine) == choice.message.content
        assert mine[-1].finish_reason == choice.finish_reason


def test_ignore_eos_writes_on_after_the_end_of_a_document(api, llm):
    seed = ended_at_eod(llm).seed
    expected = llm.generate(PROMPT, max_new_tokens=12, seed=seed, temperature=0.5, top_p=0.9)
    extra = {"ignore_eos": True}
    assert complete(api, seed=seed, temperature=0.5, top_p=0.9, extra_body=extra).choices[0].text == expected.text


def test_what_changes_nothing_is_ignored(api):
    plain = complete(api, top_p=0.5).choices[0].text
    extra = {  # what SillyTavern and others send at their defaults
        "max_new_tokens": 12, "top_k": -1, "min_p": 0, "rep_pen": 1.0, "repetition_penalty": 1, "typical_p": 1, "tfs": 1, "top_a": 0,
        "skip_special_tokens": True, "mirostat_mode": 0, "do_sample": True, "min_tokens": 0.0, "ignore_eos": False, "stop": None,
        "n": None, "presence_penalty": None, "metadata": {"a": "b"}, "store": False, "custom_token_bans": "", "banned_strings": [],
        "ban_eos_token": False, "guidance_scale": 1, "negative_prompt": "", "dry_multiplier": 0, "sampler_priority": ["temperature"],
    }  # fmt: skip
    assert complete(api, top_p=0.5, user="u", extra_body=extra).choices[0].text == plain


def test_a_whole_number_may_be_written_with_a_point(api):
    assert (
        complete(api, extra_body={"top_k": 40.0}).choices[0].text
        == complete(api, extra_body={"top_k": 40}).choices[0].text
    )


def test_other_names_of_a_setting_mean_the_same(api):
    expected = complete(api, extra_body={"repetition_penalty": 1.3}).choices[0].text
    assert complete(api, extra_body={"rep_pen": 1.3}).choices[0].text == expected
    assert complete(api, extra_body={"repeat_penalty": 1.3}).choices[0].text == expected


def test_logit_bias_bans_and_prefers_tokens(api, llm):
    [first, *_] = llm.generate(PROMPT, max_new_tokens=1, temperature=0.0).token_ids
    banned = complete(api, max_tokens=1, temperature=0, logit_bias={str(first): -100}).choices[0].text
    assert banned == llm.generate(PROMPT, max_new_tokens=1, temperature=0.0, banned_ids=[first]).text
    assert complete(api, max_tokens=1, temperature=0, logit_bias={"103": 100}).choices[0].text == llm.tokenizer.surface(
        103
    )


def test_every_form_of_prompt(api, llm):
    ids = llm.encode(PROMPT)
    text = complete(api).choices[0].text
    assert complete(api, prompt=ids).choices[0].text == text
    assert [c.text for c in complete(api, prompt=[PROMPT, PROMPT]).choices] == [text, text]
    assert [c.text for c in complete(api, prompt=[ids, ids]).choices] == [text, text]


def test_n(api):
    choices = complete(api, n=3, prompt=[PROMPT, "从前"], extra_body={"ignore_eos": True}).choices
    assert [c.index for c in choices] == list(range(6))
    assert len({c.text for c in choices}) == 6


def test_a_stream_joins_to_the_whole(api):
    body = {"n": 2, "max_tokens": 30, "extra_body": {"ignore_eos": True}}
    whole = complete(api, **body)
    chunks = list(complete(api, **body, stream=True, stream_options={"include_usage": True}))
    *pieces, last = chunks
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(chunk.usage is None for chunk in pieces)
    for choice in whole.choices:
        mine = [c for chunk in pieces for c in chunk.choices if c.index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        assert [c.finish_reason for c in mine] == [None] * (len(mine) - 1) + ["length"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_without_asking_a_stream_has_no_usage(api):
    assert all(chunk.usage is None and chunk.choices for chunk in complete(api, stream=True))


@pytest.mark.parametrize("form", [str, lambda stop: [stop, "unlikely"]], ids=["one", "several"])
def test_stop(api, llm, form):
    body = {"max_tokens": 40, "logit_bias": {str(llm.tokenizer.eod): -100}}
    plain = complete(api, **body).choices[0].text
    stop = plain[10:12]
    answer = complete(api, **body, stop=form(stop))
    assert answer.choices[0].text == plain[: plain.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_logprobs(api, llm):
    known = complete(api, logprobs=3).choices[0]
    ids = llm.generate(PROMPT, max_new_tokens=12, seed=1, stop_at_eod=True).token_ids
    prompt = llm.encode(PROMPT)
    assert "".join(known.logprobs.tokens) == known.text
    assert known.logprobs.token_logprobs == pytest.approx(llm.score([*prompt, *ids])[len(prompt) :], abs=1e-3)
    assert [
        known.text[at:][: len(t)] for at, t in zip(known.logprobs.text_offset, known.logprobs.tokens, strict=True)
    ] == (known.logprobs.tokens)
    for logprob, top in zip(known.logprobs.token_logprobs, known.logprobs.top_logprobs, strict=True):
        assert len(top) <= 3
        assert max(top.values()) >= logprob - 1e-6
    assert complete(api, logprobs=0).choices[0].logprobs.top_logprobs == [{}] * len(ids)


def test_logprobs_in_a_stream_join_to_the_whole(api):
    whole = complete(api, logprobs=2, echo=True).choices[0]
    pieces = [chunk.choices[0] for chunk in complete(api, logprobs=2, echo=True, stream=True)]
    assert "".join(p.text for p in pieces) == whole.text
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [v for p in pieces for v in getattr(p.logprobs, name)] == getattr(whole.logprobs, name)


def test_logprobs_end_where_a_stop_string_ended_the_text(api, llm):
    body = {"max_tokens": 40, "logit_bias": {str(llm.tokenizer.eod): -100}}
    plain = complete(api, **body).choices[0].text
    answer = complete(api, **body, logprobs=1, stop=plain[20]).choices[0]
    assert answer.text == plain[: plain.index(plain[20])]
    assert "".join(answer.logprobs.tokens) == answer.text


def test_echo(api, llm):
    text = complete(api).choices[0].text
    assert complete(api, echo=True).choices[0].text == PROMPT + text
    ids = llm.encode(PROMPT)
    assert complete(api, echo=True, prompt=ids).choices[0].text == llm.tokenizer.decode(ids) + text


def test_echo_alone_scores_the_prompt(api, llm):
    [choice] = complete(api, echo=True, logprobs=1, max_tokens=0).choices
    ids = llm.encode(PROMPT)
    assert choice.text == llm.tokenizer.decode(ids)
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(llm.score(ids)[1:], abs=1e-3)
    assert choice.finish_reason == "length"


def test_the_prompts_tokens_have_the_models_most_probable_ones(api, llm):
    [choice] = complete(api, echo=True, logprobs=3, max_tokens=0).choices
    known, ids = choice.logprobs, llm.encode(PROMPT)
    assert known.top_logprobs[0] is None
    for at in range(1, len(ids)):
        top = complete(api, prompt=ids[:at], logprobs=3, max_tokens=1).choices[0].logprobs.top_logprobs[0]
        assert list(known.top_logprobs[at]) == list(top)  # what the model writes from this beginning
        assert list(known.top_logprobs[at].values()) == pytest.approx(list(top.values()), abs=1e-3)
        if known.tokens[at] in known.top_logprobs[at]:
            assert known.top_logprobs[at][known.tokens[at]] == known.token_logprobs[at]


def test_the_prompts_most_probable_tokens_are_known_beside_a_generation_too(api, server):
    alone = complete(api, prompt=PROMPT * 60, echo=True, logprobs=2, max_tokens=0).choices[0].logprobs
    endless = {"prompt": PROMPT, "max_new_tokens": 10_000, "stream": True}
    with server.client() as client, client.stream("POST", "/generate", json=endless) as response:
        pieces = response.iter_raw()
        next(pieces)
        beside = complete(api, prompt=PROMPT * 60, echo=True, logprobs=2, max_tokens=0).choices[0].logprobs
    assert [sorted(top) for top in beside.top_logprobs[1:]] == [sorted(top) for top in alone.top_logprobs[1:]]
    assert beside.token_logprobs[1:] == pytest.approx(alone.token_logprobs[1:], abs=1e-3)


def test_the_end_of_a_document_is_a_token_without_text(api, llm):
    expected = ended_at_eod(llm)
    assert expected.token_ids[-1] == llm.tokenizer.eod
    known = complete(api, seed=expected.seed, temperature=0.5, top_p=0.9, logprobs=1).choices[0]
    assert (len(known.logprobs.tokens), known.logprobs.tokens[-1]) == (len(expected.token_ids), "")
    assert "".join(known.logprobs.tokens) == known.text


def test_ours_come_as_extra_body(api, llm):
    expected = llm.generate(PROMPT, style="lyric", max_new_tokens=12, seed=1, top_k=5, repetition_penalty=1.2)
    extra = {"style": "lyric", "top_k": 5, "repetition_penalty": 1.2, "window": {"hop": 64}, "ignore_eos": True}
    assert complete(api, extra_body=extra).choices[0].text == expected.text


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"suffix": "完"}, "unsupported", "suffix"),
        ({"best_of": 3}, "unsupported", "best_of"),
        ({"logit_bias": {"5": 101}}, "invalid", "logit_bias"),
        ({"logit_bias": {"x": 1}}, "invalid", "logit_bias"),
        ({"logit_bias": {"2000000": 1}}, "invalid", "logit_bias"),
        ({"extra_body": {"typical_p": 0.5}}, "invalid", "typical_p"),
        ({"extra_body": {"do_sample": False}}, "invalid", "do_sample"),
        ({"extra_body": {"max_new_tokens": 5}}, "invalid", "max_new_tokens"),
        ({"extra_body": {"rep_pen": 1000}}, "invalid", "rep_pen"),
        ({"max_tokens": 0}, "invalid", "max_tokens"),
        ({"max_tokens": 20_000}, "too_many_tokens", "max_tokens"),
        (
            {"max_tokens": openai.omit, "extra_body": {"max_completion_tokens": 20_000}},
            "too_many_tokens",
            "max_completion_tokens",
        ),
        ({"temperature": 3}, "invalid", "temperature"),
        ({"n": 9}, "too_many_samples", "n"),
        ({"prompt": PROMPT * (WINDOW // 4)}, "prompt_too_long", "prompt"),
        (
            {"prompt": [5] * 16_385, "echo": True, "logprobs": 1, "extra_body": {"truncate_prompt": True}},
            "too_many_tokens",
            "prompt",
        ),
        ({"prompt": []}, "invalid", "prompt"),
        ({"prompt": [10**6]}, "invalid", "prompt"),
        ({"stream_options": {"include_usage": True}}, "invalid", "stream_options"),
        ({"extra_body": {"sufix": ""}}, "invalid", "sufix"),
    ],
    ids=lambda value: repr(value).replace(repr(openai.omit), "omit"),
)
def test_what_cannot_be_is_refused_by_name(api, change, code, param):
    with pytest.raises(openai.BadRequestError) as refused:
        complete(api, **change)
    assert refused.value.code == code
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert param in refused.value.body["message"] or "unknown field" in refused.value.body["message"]


def test_an_unknown_model_is_refused(api):
    with pytest.raises(openai.NotFoundError) as refused:
        complete(api, model="davinci-002")
    assert refused.value.param == "model"


def test_an_address_that_is_not_there_lists_those_that_are(client):
    refused = client.get("/v1/model/list")
    assert refused.status_code == 404
    listed = refused.json()["error"]["message"].partition("under /v1 there are: ")[2].split(", ")
    assert listed == ["/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}"]


def test_the_asynchronous_client_streams_too(server):
    import asyncio

    async def run():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", timeout=PATIENCE) as api:
            stream = await complete(api, stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", timeout=PATIENCE) as api:
        assert asyncio.run(run()) == complete(api).choices[0].text
