"""``cpm-gen batch`` as a person meets it: lines in, results out, mistakes, an interrupt, and going on after it."""

import fcntl
import hashlib
import json
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cpm_gen
from cpm_gen.cli import batch as command
from tests.cli.conftest import Run
from tests.embedded import VOCABULARY

FLAGS = ("--threads", "1", "--max-new-tokens", "6", "--batch", "3")
PROMPTS = ("春江潮水连海平", "话说", "明月几时有", "林冲", "却说那", "白日依山尽", "从前", "大江东去")

Files = Callable[..., tuple[str, Path]]


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A file of these lines, objects or bytes, and the path of one for the results."""

    def files(*lines: dict[str, Any] | bytes) -> tuple[str, Path]:
        source = tmp_path / "in.jsonl"
        source.write_bytes(
            b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
        )
        return str(source), tmp_path / "out.jsonl"

    return files


@pytest.fixture
def prompts(files: Files) -> tuple[str, Path]:
    return files(*({"id": f"p{at}", "prompt": prompt} for at, prompt in enumerate(PROMPTS)))


def test_each_line_gets_the_text_that_it_gets_alone(run: Run, files: Files) -> None:
    lines: list[dict[str, Any]] = [
        {"id": "plain", "prompt": "春江潮水连海平", "seed": 4},
        {"id": "verse", "prompt": "明月", "style": "lyric", "seed": 5, "temperature": 0.7, "top_k": 20},
        {"id": "form", "form": "五绝", "seed": 6},
        {"id": "chosen", "prompt": "话说，", "seed": 7, "candidates": 3, "max_new_tokens": 20},
        {"id": "outline", "story": "[第一回 风雪] 10-20字", "seed": 8},
        {"id": "story", "prompt": "林冲道：", "story": "[人物]\n林冲：豹子头", "style": "novel", "seed": 9},
        {"id": "nothing", "unconditional": True, "seed": 10},
        {"id": "stopped", "prompt": "话说", "style": "novel", "seed": 11, "stop": ["，", "。"], "max_new_tokens": 30},
    ]
    source, out = files(*lines)
    status, said, err = run("batch", source, str(out), *FLAGS)
    assert (status, said, err) == (0, "", "")
    found = {r["id"]: r for r in results(out)}
    assert len(found) == len(lines)
    with cpm_gen.load(threads=1) as llm:
        for line in lines:
            wanted = {"max_new_tokens": 6, "prompt": None, **line}
            del wanted["id"]
            alone = llm.generate(**wanted)
            for name in ("text", "token_ids", "finish_reason", "seed"):
                value = getattr(alone, name)
                assert found[line["id"]][name] == (list(value) if name == "token_ids" else value), line


def test_a_line_without_a_seed_gets_one_of_the_commands_seed_and_its_id(run: Run, files: Files) -> None:
    source, out = files(
        {"id": "x", "prompt": "春"}, {"id": "y", "prompt": "春"}, {"id": "z", "prompt": "春", "seed": 3}
    )
    assert run("batch", source, str(out), *FLAGS)[0] == 0
    found = {r["id"]: r for r in results(out)}
    assert found["x"]["seed"] == int(hashlib.sha256(b"0:x").hexdigest()[:12], 16)
    assert found["x"]["token_ids"] != found["y"]["token_ids"]
    out.unlink()
    assert run("batch", source, str(out), "--seed", "1", *FLAGS)[0] == 0
    other = {r["id"]: r for r in results(out)}
    assert other["x"]["token_ids"] != found["x"]["token_ids"]
    assert other["z"] == found["z"]
    said = run("generate", "春", "--seed", str(other["x"]["seed"]), "--json", *FLAGS)[1]
    assert json.loads(said)["token_ids"] == other["x"]["token_ids"]


def test_bad_lines_are_named_by_number_and_the_others_are_written(run: Run, files: Files) -> None:
    source, out = files(
        {"id": "good", "prompt": "春"},
        b"not json",
        b"",
        b"[1]",
        "春".encode("gbk"),
        {"id": "good", "prompt": "again"},
        {"prompt": "without an id"},
        {"id": "empty", "prompt": " "},
        {"id": "none"},
        {"id": "hot", "prompt": "春", "temperature": 101},
        {"id": "typo", "prompt": "春", "temprature": 1},
        {"id": "model", "prompt": "春", "window_hop": 3},
        {"id": "endless", "prompt": "春", "max_new_tokens": "unlimited"},
        {"id": "many", "prompt": "春", "candidates": 4},
        {"id": "both", "prompt": "春", "unconditional": True},
        {"id": "two", "prompt": ["春", "秋"]},
        {"id": "far", "prompt": [10, VOCABULARY]},
        {"id": True, "prompt": "春"},
        {"id": "\ud800", "prompt": "春"},
        {"id": "half", "prompt": "春\ud800"},
        {"id": "verse", "form": "五言绝句体"},
        {"id": "tale", "prompt": "春", "story": "[前题]\n x"},
        {"id": "least", "prompt": "春", "min_new_tokens": 7},
    )
    status, said, err = run("batch", source, str(out), *FLAGS)
    assert (status, said) == (1, "")
    found = results(out)
    assert [r.get("id") for r in found if "error" not in r] == ["good", 7]
    errors = {(r["id"], r.get("line")): r["error"] for r in found if "error" in r}
    assert len(errors) == len(found) - 2 == 20
    for key, says in {
        (None, 2): "line 2: not JSON",
        (None, 4): "line 4: must be a JSON object",
        (None, 5): "line 5: not UTF-8",
        (None, 6): "line 6: the id 'good' is that of an earlier line",
        ("empty", None): "line 8: the prompt is empty",
        ("none", None): 'line 9: needs "prompt"',
        ("hot", None): "line 10: temperature must be from 0 to 100, not 101",
        ("typo", None): "did you mean 'temperature'",
        ("model", None): "line 12: window_hop is the same for all lines; give it to the command, as --window-hop",
        ("endless", None): "max_new_tokens must be a number in a batch",
        ("many", None): "candidates must be at most 3",
        ("both", None): "an unconditional text has no prompt",
        ("two", None): "prompt must be one text",
        ("far", None): f"token id {VOCABULARY}",
        (None, 18): "id must be text or a whole number, not True",
        (None, 19): "id must be Unicode text",
        ("half", None): "line 20: ",
        ("verse", None): "line 21: ",
        ("tale", None): "line 22: ",
        ("least", None): "min_new_tokens must be at most max_new_tokens",
    }.items():
        assert says in errors[key]
        assert f"{source}, {errors[key]}" in err
    assert "20 of 22 lines gave no text" in err


def test_a_run_goes_on_from_what_is_there(run: Run, prompts: tuple[str, Path]) -> None:
    source, out = prompts
    assert run("batch", source, str(out), *FLAGS)[0] == 0
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:3]) + lines[3][:40])  # its last line was not written to its end
    status, _, err = run("batch", source, str(out), *FLAGS)
    assert (status, err) == (0, f"note: {out} holds 3 results already\n")
    assert sorted(out.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert out.read_bytes().startswith(b"".join(lines[:3]))
    assert run("batch", source, str(out), *FLAGS)[0] == 0  # nothing is left
    assert sorted(out.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_in_order_writes_the_results_in_the_order_of_the_lines(run: Run, files: Files) -> None:
    lengths = (40, 1, 20, 2, 30, 3, 1)
    source, out = files(
        *({"id": n, "prompt": "春", "max_new_tokens": n} | {"id": str(at)} for at, n in enumerate(lengths))
    )
    assert run("batch", source, str(out), *FLAGS)[0] == 0
    as_they_come = results(out)
    assert [r["id"] for r in as_they_come] != [str(at) for at in range(len(lengths))]
    out.unlink()
    assert run("batch", source, str(out), "--in-order", *FLAGS)[0] == 0
    assert [r["id"] for r in results(out)] == [str(at) for at in range(len(lengths))]
    assert sorted(map(str, results(out))) == sorted(map(str, as_they_come))


def test_ctrl_c_keeps_what_is_written_and_says_how_to_go_on(
    run: Run, prompts: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = prompts
    assert run("batch", source, str(out), *FLAGS)[0] == 0
    whole = sorted(out.read_bytes().splitlines())
    out.unlink()

    class Interrupting(command._Report):
        def show(self, result: Any) -> None:
            super().show(result)
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(command, "_Report", Interrupting)
        status, _, err = run("batch", source, str(out), *FLAGS)
    kept = len(results(out))
    assert 0 < kept < len(PROMPTS)
    assert (status, err) == (
        130,
        f"note: stopped; {out} holds {kept} of {len(PROMPTS)} lines, and the same command goes on from there\n",
    )
    assert run("batch", source, str(out), *FLAGS)[0] == 0
    assert sorted(out.read_bytes().splitlines()) == whole


def test_no_room_for_a_result_leaves_whole_lines(run: Run, prompts: tuple[str, Path]) -> None:
    source, out = prompts
    assert run("batch", source, str(out), *FLAGS)[0] == 0
    whole = sorted(out.read_bytes().splitlines())
    size = out.stat().st_size
    out.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        status, _, err = run("batch", source, str(out), *FLAGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = len(results(out))
    assert status == 2
    assert 0 < kept < len(PROMPTS)
    assert err == (
        f"note: stopped; {out} holds {kept} of {len(PROMPTS)} lines, and the same command goes on from there\n"
        f"cpm-gen: {out}: cannot be written: File too large\n"
    )
    assert run("batch", source, str(out), *FLAGS)[0] == 0
    assert sorted(out.read_bytes().splitlines()) == whole


def test_another_process_that_writes_to_the_same_file_is_refused(run: Run, prompts: tuple[str, Path]) -> None:
    source, out = prompts
    with out.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, said, err = run("batch", source, str(out), *FLAGS)
    assert (status, said) == (2, "")
    assert err == f"cpm-gen: {out}: another process writes a batch to it; wait for it, or give another file\n"


def test_standard_input_is_read_to_its_end(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    lines = '{"id": 1, "prompt": "春"}\n{"id": 2, "prompt": "秋"}'.encode()
    assert run("batch", "-", str(out), *FLAGS, stdin=lines)[0] == 0
    assert {r["id"] for r in results(out)} == {1, 2}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["IN"], "the following arguments are required: OUT"),
        (["/nonexistent.jsonl", "OUT"], "/nonexistent.jsonl: No such file"),
        (["", "OUT"], "IN: the file's name is empty"),
        (["FOLDER", "OUT"], "is a folder; IN is a file of JSON lines"),
        (["IN", ""], "OUT: the file's name is empty"),
        (["IN", "FOLDER"], "is a folder; OUT takes a file"),
        (["IN", "NONE"], "there is no folder"),
        (["IN", "IN"], "is IN, too"),
        (["IN", "/dev/null"], "is not a regular file"),
        (["EMPTY", "OUT"], "holds nothing"),
        (["UTF16", "OUT"], "UTF-16"),
        (["IN", "TEXT"], "line 1: is no result of a batch"),
        (["IN", "OUT", "--form", "无此"], "无此"),
        (["IN", "OUT", "--temperature", "-1"], "--temperature"),
        (["IN", "OUT", "--model", "/nonexistent"], "no such folder"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(run: Run, prompts: tuple[str, Path], words: list[str], says: str) -> None:
    source, out = prompts
    folder = out.parent
    (folder / "empty.jsonl").write_text("\n \n")
    (folder / "utf16.jsonl").write_text("{}", encoding="utf-16")
    (folder / "text").write_text("my novel")
    places = {"IN": source, "OUT": str(out), "FOLDER": str(folder), "TEXT": str(folder / "text")}
    places |= {"EMPTY": str(folder / "empty.jsonl"), "UTF16": str(folder / "utf16.jsonl")}
    places["NONE"] = str(folder / "none" / "out.jsonl")
    status, said, err = run("batch", *(places.get(word, word) for word in words))
    assert (status, said) == (2, "")
    assert err.count("\n") == 1
    assert says in err
    assert (folder / "text").read_text() == "my novel"


def test_the_example_of_the_page_gives_what_it_shows(run: Run, files: Files) -> None:
    page = (Path(__file__).parents[2] / "docs" / "batch.md").read_text(encoding="utf-8")
    given, shown = (block.splitlines() for block in re.findall(r"```json\b.*?\n(.*?)\n```", page, re.DOTALL))
    source, out = files(*(line.encode() for line in given))
    assert run("batch", source, str(out), "--config", "lyric", *FLAGS, "--batch", "4")[0] == 0
    found = {r["id"]: r for r in results(out)}
    for line in map(json.loads, shown):
        result = found[line["id"]]
        assert result.keys() == line.keys()
        assert result["seed"] == line["seed"]
        assert line["id"] != "verse" or result["finish_reason"] == line["finish_reason"]
