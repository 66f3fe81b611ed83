"""Writing with vocabularies of other kinds than CPM's, through every door: Python, the command line, the service, works."""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints.formats.megatron_layout import shard_name
from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.errors import CheckpointError, InputError, TokenizerError
from cpm_gen.llm import LLM
from cpm_gen.serving import scoring
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.generation_spec import GenerationSpec
from cpm_gen.serving.results import TextUpdate
from cpm_gen.text.find_tokenizer import open_tokenizer
from cpm_gen.works.spec import WindowSpec, WorkSpec
from tests.random_networks import random_checkpoint
from tests.text.vocabularies import bert, byte_level
from tests.works.manager import OWNER, create, managing, settled, until

pytest.importorskip("tokenizers")

KINDS = ["BERT", "byte-level BPE", "tokenizer.json"]
SIZE = ModelSize(layers=1, hidden=16, heads=2, vocabulary=0, positions=24)


def made(folder: Path, kind: str) -> Path:
    """A random network with a vocabulary of its own, and three rows more than that has pieces."""
    vocabulary = {
        "BERT": bert,
        "byte-level BPE": byte_level,
        "tokenizer.json": lambda folder: byte_level(folder, whole=True),
    }[kind](folder)
    size = open_tokenizer(vocabulary).size
    sizes = {"layers": SIZE.layers, "hidden": SIZE.hidden, "heads": SIZE.heads, "positions": SIZE.positions}
    return random_checkpoint(folder, ModelSize(vocabulary=size + 3, **sizes))


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with cpm_gen.load(folder) as llm:
        yield llm


def forced(llm: LLM, i: int | None) -> dict[str, Any]:
    """Options with which the network writes nothing but one token."""
    return {"temperature": 0, "max_new_tokens": 4, "logit_bias": {i: 100}}


@pytest.mark.parametrize("style", ["plain", "lyric", "novel"])
def test_chunks_join_to_the_text_past_the_window(llm: LLM, style: str) -> None:
    for seed in range(4):
        chunks = list(llm.stream("床前明月", style=style, seed=seed, max_new_tokens=60, ignore_eos=True))
        whole = chunks[-1].completion
        assert whole is not None
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert len(whole.token_ids) == 60
        if style == "plain":
            assert whole.text == llm.tokenizer.decode(whole.token_ids)


def test_rows_without_a_piece_and_unknown_text_are_never_written(llm: LLM) -> None:
    bias = dict.fromkeys(range(llm.tokenizer.size, llm.size.vocabulary), 50)
    bias |= {} if llm.tokenizer.unk is None else {llm.tokenizer.unk: 50}
    ids = llm.generate("床前", seed=1, max_new_tokens=40, logit_bias=bias, ignore_eos=True).token_ids
    assert len(ids) == 40
    assert not set(bias) & set(ids)


def test_rows_without_a_piece_are_noted(llm: LLM) -> None:
    assert f"3 of the network's {llm.size.vocabulary} rows have no piece; they are never written" in llm.notes


@pytest.mark.parametrize(
    ("name", "limit"), [("gpt2-chinese-lyric", 512), ("models--uer--gpt2-chinese-ancient/snapshots/0a1b", 320)]
)
def test_a_model_of_uer_is_noted_to_be_trained_on_fewer_positions(tmp_path: Path, name: str, limit: int) -> None:
    size = ModelSize(layers=1, hidden=8, heads=1, vocabulary=80, positions=1024)
    folder = bert(random_checkpoint(tmp_path / name, size))
    with cpm_gen.load(folder) as llm:
        assert any(f"on {limit} of its 1,024 positions; --window-limit {limit}" in note for note in llm.notes)
    with cpm_gen.load(folder, window_limit=limit) as llm:
        assert not any("positions" in note for note in llm.notes)


def test_an_unconditional_text_begins_from_the_start_token(llm: LLM) -> None:
    got = llm.generate(unconditional=True, temperature=0, max_new_tokens=12)
    assert got.prompt_token_ids == (llm.tokenizer.start,)
    (chunk,) = [
        chunk
        for chunk in llm.engine.run(
            [[llm.tokenizer.start or 0]], SamplingParams(temperature=0.0), TextOptions(max_new_tokens=12)
        )
        if chunk.completion
    ]
    assert chunk.completion is not None
    assert got.token_ids == chunk.completion.token_ids


def test_two_unconditional_texts_are_samples_and_a_prompt_beside_them_is_refused(llm: LLM) -> None:
    assert len({done.text for done in llm.generate_many(unconditional=True, n=4, seed=3, max_new_tokens=20)}) > 1
    with pytest.raises(InputError, match="no prompt"):
        llm.generate("床", unconditional=True)
    with pytest.raises(InputError, match="unconditional=True"):
        llm.generate()


def test_the_end_token_ends_a_text_unless_it_is_ignored(llm: LLM) -> None:
    ended = llm.generate("床前", **forced(llm, llm.tokenizer.end))
    assert (ended.text, ended.token_ids, ended.finish_reason) == ("", (llm.tokenizer.end,), "stop")
    on = llm.generate("床前", ignore_eos=True, **forced(llm, llm.tokenizer.end))
    assert (on.token_ids, on.finish_reason) == ((llm.tokenizer.end,) * 4, "length")
    late = llm.generate("床前", min_new_tokens=3, **forced(llm, llm.tokenizer.end))
    assert (late.token_ids.index(llm.tokenizer.end), late.finish_reason) == (3, "stop")


def test_another_end_token_ends_a_text_where_it_is_set(folder: Path) -> None:
    piece = open_tokenizer(folder).name(5)
    with cpm_gen.load(folder, end_token=piece) as llm:
        assert llm.tokenizer.end == llm.tokenizer.special(str(piece))
        assert llm.generate("床前", **forced(llm, llm.tokenizer.end)).finish_reason == "stop"
    with cpm_gen.load(end_token="<sep>") as llm:
        done = llm.generate("床前", stop=[], **forced(llm, 4))
        assert (done.token_ids, done.finish_reason) == ((4,), "stop")


def test_cpms_eod_ends_a_text_only_on_request() -> None:
    with cpm_gen.load() as llm:
        eod = llm.tokenizer.end
        assert llm.generate("床前", **forced(llm, eod)).finish_reason == "length"
        assert llm.generate("床前", stop_at_eod=True, **forced(llm, eod)).finish_reason == "stop"
        assert llm.generate("床前", stop_at_eod=True, ignore_eos=True, **forced(llm, eod)).finish_reason == "length"
        assert llm.generate(unconditional=True, max_new_tokens=1).prompt_token_ids == (eod,)


def test_a_model_without_a_vocabulary_writes_ids_and_refuses_text(tmp_path: Path) -> None:
    with cpm_gen.load(random_checkpoint(tmp_path)) as llm:
        chunks = list(llm.engine.run([[1, 2, 3]], SamplingParams(temperature=0.0), TextOptions(max_new_tokens=40)))
        done = chunks[-1].completion
        assert done is not None
        assert (len(done.token_ids), done.text) == (40, "")
        for use in (lambda: llm.generate("床"), lambda: llm.tokenizer, lambda: llm.generate(unconditional=True)):
            with pytest.raises(TokenizerError, match="--tokenizer"):
                use()


def test_a_named_vocabulary_is_read_before_the_weights(tmp_path: Path) -> None:
    vocabulary = made(tmp_path / "model", "BERT")
    with pytest.raises(TokenizerError, match="they do not belong together"):
        cpm_gen.load(tokenizer=vocabulary)
    with pytest.raises(TokenizerError, match="no vocabulary there"):
        cpm_gen.load(tokenizer=tmp_path)
    damaged = random_checkpoint(tmp_path / "net", degree=2)
    shard = damaged / "7" / shard_name(1)
    content = torch.load(shard)
    content["module"]["transformer.final_layernorm.bias"] += 1
    torch.save(content, shard)
    with pytest.raises(CheckpointError, match="every rank must hold the same"):  # found by reading the weights
        cpm_gen.load(damaged, tensor_parallel=1)
    with pytest.raises(TokenizerError, match="they do not belong together"):
        cpm_gen.load(damaged, tensor_parallel=1, tokenizer=EMBEDDED)


def test_rows_without_a_piece_are_noted_for_a_named_vocabulary_too(tmp_path: Path) -> None:
    folder = made(tmp_path / "model", "byte-level BPE")
    with cpm_gen.load(folder) as beside, cpm_gen.load(folder, tokenizer=folder) as named:
        assert any("3 of the network's" in note for note in beside.notes)
        assert named.notes == beside.notes


def run(*words: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    words = (sys.executable, "-m", "cpm_gen", *map(str, words))
    return subprocess.run(words, input=stdin, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command_line_writes_without_a_prompt_and_refuses_one_beside_it(tmp_path: Path) -> None:
    folder = made(tmp_path, "BERT")
    flags = ["--model", folder, "--unconditional", "--max-new-tokens", 5, "--seed", 1]
    done = run("generate", *flags, "--json", stdin="this is not read")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    assert written["prompt_token_ids"] == [open_tokenizer(folder).start]
    refused = run("generate", "床前", *flags)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "cpm-gen: --unconditional writes without a prompt; leave the prompt out, or the flag\n"
    other = run("generate", *flags, "--start-token", "nothing")
    assert other.returncode == 2
    assert other.stderr.endswith("the vocabulary has no piece 'nothing'\n")


@pytest.mark.slow
def test_inspect_and_tokenize_say_what_the_tokenizer_is(tmp_path: Path) -> None:
    folder = made(tmp_path, "byte-level BPE")
    tokenizer = open_tokenizer(folder)
    about = run("tokenize", "--about", "--model", folder)
    assert about.stdout.startswith(
        f"{tokenizer.kind}, {tokenizer.size} ids; a text begins with {tokenizer.name(tokenizer.start)}"
    )
    assert tokenizer.kind in run("inspect", folder).stdout
    assert "ids only" in run("inspect", random_checkpoint(tmp_path / "bare")).stdout
    told = json.loads(run("inspect", folder, "--json").stdout)["tokenizer"]
    assert (told["kind"], told["size"], told["end"]) == (tokenizer.kind, tokenizer.size, tokenizer.name(tokenizer.end))
    assert told["without_piece"] == 3
    ids = run("tokenize", "床前the moon", "--model", folder).stdout
    assert [int(word) for word in ids.split()] == tokenizer.encode("床前the moon")
    assert run("tokenize", "--decode", ids, "--model", folder).stdout == "床前the moon\n"


def test_a_bad_vocabulary_in_the_models_folder_is_refused_by_every_command(tmp_path: Path) -> None:
    bert(random_checkpoint(tmp_path))
    (tmp_path / "vocab.txt").write_bytes("[UNK]\n床\n".encode("gbk"))
    with pytest.raises(TokenizerError, match=r"vocab\.txt: not UTF-8 at byte 6"):
        cpm_gen.load(tmp_path)
    for words in (["inspect", tmp_path], ["tokenize", "床", "--model", tmp_path]):
        done = run(*words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "vocab.txt: not UTF-8 at byte 6" in done.stderr
        lines = done.stdout.splitlines()
        if words[0] == "inspect":  # says first what is in order
            assert any(line.startswith("network") for line in lines)
            assert lines.pop() == "tokenizer   cannot be used"
        else:
            assert lines == []


@pytest.mark.parametrize("folder", ["BERT", "byte-level BPE"], indirect=True)
def test_the_service_encodes_and_writes_as_the_library_does(folder: Path, llm: LLM, tmp_path: Path) -> None:
    text = TextOptions(style="lyric", max_new_tokens=20, seed=2)
    spec = GenerationSpec(prompts=["床前\n明月the moon"], sampling=SamplingParams(), text=text)
    free = GenerationSpec(
        prompts=[""], sampling=SamplingParams(), text=TextOptions(unconditional=True, max_new_tokens=20, seed=2)
    )

    async def check() -> None:
        async with managing(tmp_path / "works.db", ModelOptions(model=str(folder))) as (_, _, service):
            for asked, expected in (
                (spec, llm.generate(str(spec.prompts[0]), style="lyric", max_new_tokens=20, seed=2)),
                (free, llm.generate(unconditional=True, max_new_tokens=20, seed=2)),
            ):
                updates = [update async for update in service.stream(asked) if isinstance(update, TextUpdate)]
                assert "".join(update.text for update in updates) == expected.text
                assert [i for update in updates for i in update.token_ids] == list(expected.token_ids)
            found = await scoring.tokenize(service, "床前the moon是😀")
            assert list(found.token_ids) == llm.tokenizer.encode("床前the moon是😀")
            assert "".join(found.pieces) == llm.tokenizer.decode(found.token_ids)
            assert await scoring.detokenize(service, found.token_ids) == llm.tokenizer.decode(found.token_ids)
            mixed = GenerationSpec(prompts=["床"], sampling=SamplingParams(), text=TextOptions(unconditional=True))
            with pytest.raises(ServiceError, match="no prompt"):
                await service.generate(mixed)

    asyncio.run(check())


def test_a_work_that_is_paused_inside_characters_has_the_undisturbed_text(tmp_path: Path) -> None:
    folder = made(tmp_path / "model", "byte-level BPE")
    with cpm_gen.load(folder) as llm:
        window = WindowSpec(hop=llm.window.hop)
        expected = llm.generate("床前明月", style="novel", max_new_tokens=300, seed=7, ignore_eos=True)
    pauses = random.Random(1)

    async def check() -> None:
        async with managing(tmp_path / "works.db", ModelOptions(model=str(folder))) as (works, _, _):
            live = await create(works, "床前明月", style="novel", max_new_tokens=300, seed=7, window=window)
            for _ in range(6):
                start = live.texts[0].current.tokens
                await until(lambda: live.texts[0].current.tokens > start or live.state == "finished")  # noqa: B023
                if live.state == "finished":
                    break
                await works.pause(live)
                await asyncio.sleep(pauses.random() / 100)
                await works.resume(live)
            view = await settled(works, live)
            (text,) = view.texts
            assert tuple(text.token_ids or ()) == expected.token_ids
            assert expected.text.startswith(text.text)
            assert set(expected.text[len(text.text) :]) <= {"\ufffd"}  # the last character may want its end

    asyncio.run(check())


def test_a_work_keeps_the_end_token_it_was_created_with(tmp_path: Path) -> None:
    folder = made(tmp_path / "model", "BERT")
    end = open_tokenizer(folder).end
    assert end is not None
    bias = (f"{end}:100",)

    async def check() -> None:
        other = ModelOptions(model=str(folder), end_token="[MASK]")
        async with managing(tmp_path / "works.db", other) as (works, _, service):
            window = service.require().window
            generation = GenerationSpec(
                prompts=["床"],
                sampling=SamplingParams(temperature=0.0, logit_bias=bias),
                text=TextOptions(max_new_tokens=5, seed=1),
            )
            for name, reason in (("[SEP]", "stop"), ("[MASK]", "length")):
                spec = WorkSpec.of(generation, 1, window, "cached", end_token=name)
                assert WorkSpec.read(json.loads(json.dumps(spec.write()))) == spec
                live = await works.create(spec, "床", {}, OWNER)
                assert (await settled(works, live)).texts[0].finish_reason == reason
            unknown = WorkSpec.of(generation, 1, window, "cached", end_token="[NONE]")
            view = await settled(works, await works.create(unknown, "床", {}, OWNER))
            assert view.state == "paused"
            assert "[NONE]" in str(view.error)

    asyncio.run(check())
