"""``cpm-gen form``, and the form of a text that is written."""

import json
import os
from pathlib import Path

import pytest

from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.cli.main import main
from cpm_gen.text.cpm_tokenizer import Tokenizer
from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.named import named
from cpm_gen.text.prompt_styles import encode_prompt

GOOD = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。\n"


def test_forms_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["form", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert {"浣溪沙\t5", "排律\t10 to 200 lines", "钗头凤\t= 撷芳词 4"} <= set(listed)
    assert main(["form", "list", "--json"]) == 0
    assert {"name": "五排", "lines": [10, 200]} in json.loads(capsys.readouterr().out)["forms"]
    assert main(["form", "show", "钗头凤"]) == 0
    assert len(capsys.readouterr().out.split("\n\n")[0].splitlines()) == 18
    assert main(["form", "show", "浣溪沙", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["pattern"]) == 5


def test_a_text_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.txt").write_text(GOOD, encoding="utf-8")
    (tmp_path / "bad.txt").write_text(GOOD.replace("层", "月"), encoding="utf-8")
    (tmp_path / "form.txt").write_text("体: 五绝", encoding="utf-8")
    assert main(["form", "check", "五绝", str(tmp_path / "good.txt")]) == 0
    assert main(["form", "check", str(tmp_path / "form.txt"), str(tmp_path / "bad.txt")]) == 1
    assert capsys.readouterr().out.splitlines()[1] == "line 2, column 10: 月 is 仄; 平 stands here"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lyric", "--form", "七觉"], "cpm-gen: form: there is no form 七觉; did you mean 七绝"),
        (["lyric", "--form", "7a\n5"], 'cpm-gen: form, line 1: rhyme "a" is used once'),
        (["lyric", "--form-file", "nowhere.txt"], "cpm-gen: nowhere.txt: No such file"),
        (["lyric", "--form-file", ""], "cpm-gen: --form-file: the file's name is empty"),
        (["lyric", "--form-file", os.devnull], f"cpm-gen: {os.devnull}: the file is empty"),
        (["lyric", "春", "--acrostic", "春"], "cpm-gen: acrostic belongs to a form; give form, too"),
        (["lyric", "--form", "五绝", "--rhyme-book", "广韵"], "cpm-gen: --rhyme-book: "),
        (["form", "check", "五绝", "nowhere.txt"], "cpm-gen: nowhere.txt: No such file"),
        (["form", "learn"], "cpm-gen: give texts to learn from, or --from-model; one of them"),
        (["form", "learn", "nowhere.txt", "--output", "x"], "cpm-gen: nowhere.txt: No such file"),
        (["form", "learn", "nowhere.txt", "--output", "no/x"], "cpm-gen: no/x: there is no folder no"),
        (["lyric", "", "--form", "五绝", "--form-bigrams", "nowhere.xz"], "cpm-gen: nowhere.xz: No such file"),
        (["form", "show", ""], "cpm-gen: the form is empty"),
        (["form", "show", os.devnull + ".txt"], f"cpm-gen: {os.devnull}.txt: No such file"),
        (
            ["lyric", "--form", __file__],
            f"cpm-gen: --form takes a name or notation; give the file {__file__} with --form-file",
        ),
        (["form", "rhymes", "五绝", "nowhere.txt", "--line", "1"], "cpm-gen: nowhere.txt: No such file"),
        (["form", "rhymes", "五觉", "-", "--line", "1"], "cpm-gen: form: there is no form 五觉"),
        (["form", "rhymes", "五绝", "-", "--line", "1", "-n", "0"], "cpm-gen: -n must be at least 1, not 0"),
    ],
)
def test_what_is_wrong_is_one_line(words, message, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1


def test_lines_of_a_file_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept.txt").write_text("\n" + GOOD.splitlines()[1] + "\n", encoding="utf-8")
    words = ["lyric", "", "--form", "五绝", "--seed", "3", "--keep-lines"]
    assert main([*words, str(tmp_path / "kept.txt")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[1]) == (2, GOOD.splitlines()[1])
    (tmp_path / "settings.yaml").write_text("keep_lines: [null, 欲穷千里目，更上一层楼。]\n", encoding="utf-8")
    assert main([*words[:-1], "--config", str(tmp_path / "settings.yaml")]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    (tmp_path / "settings.yaml").write_text(f"keep_lines: {tmp_path / 'kept.txt'}\n", encoding="utf-8")
    assert main([*words[:-1], "--config", str(tmp_path / "settings.yaml")]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    (tmp_path / "kept.txt").write_text(GOOD.replace("流", "天"), encoding="utf-8")
    assert main([*words, str(tmp_path / "kept.txt")]) == 2
    assert capsys.readouterr().err == "cpm-gen: keep_lines, line 2, column 11: 楼 does not rhyme with 天 in 平水韵\n"
    assert main([*words, str(tmp_path / "nowhere.txt")]) == 2
    assert capsys.readouterr().err == f"cpm-gen: {tmp_path / 'nowhere.txt'}: No such file or directory\n"


def test_the_words_that_may_end_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.txt").write_text(GOOD, encoding="utf-8")
    words = ["form", "rhymes", "五绝", str(tmp_path / "good.txt"), "--line", "2", "-n", "5"]
    assert main(words) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [[f"{w['logprob']:.3f}", w["text"]] for w in found["words"]] == table
    assert (len(table), found["groups"]) == (5, ["尤"])
    (tmp_path / "good.txt").write_text("一" + GOOD, encoding="utf-8")
    assert main([*words, "--prompt", "登高"]) == 0  # another line that breaks the form
    other = [line.split() for line in capsys.readouterr().out.splitlines()]
    likeliest = [float(logprob) for logprob, _ in other]
    assert (len(other), likeliest) == (5, sorted(likeliest, reverse=True))
    assert other != table  # what stands before has changed
    pattern = named("五绝")
    for _, word in other:  # each ends the line without a fault that it does not have now
        faults = check(pattern, "一" + GOOD.replace("楼", word))
        assert not [f for f in faults if f.line == 2], word


def test_rhyme_words_keep_to_the_settings_of_the_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.txt").write_text(GOOD, encoding="utf-8")
    words = ["form", "rhymes", "五绝", str(tmp_path / "good.txt"), "--line", "2", "-n", "8"]

    def found(*flags: str) -> tuple[list[str], list[str], list[float]]:
        assert main([*words, "--json", *flags]) == 0
        shown = json.loads(capsys.readouterr().out)
        entries = shown["words"]
        return [w["text"] for w in entries], shown["groups"], [round(w["logprob"], 4) for w in entries]

    plain, _, likely = found()
    assert found("--rhyme-book", "十三辙")[1] == ["油求"]
    without, _, _ = found("--exclude", plain[0])
    assert without[:7] == plain[1:]
    assert found("--style", "lyric") == (plain, ["尤"], likely)
    assert found("--style", "plain")[2] != likely
    (tmp_path / "shared.yaml").write_text(f"exclude: [{plain[0]}]\nstop: [。]\nkeep_lines: [春]\n", encoding="utf-8")
    assert found("--config", str(tmp_path / "shared.yaml"))[0] == without
    assert main([*words, "--acrostic", "春眠"]) == 0
    assert main([*words, "--acrostic", "春眠不觉晓"]) == 2
    assert "acrostic" in capsys.readouterr().err


def test_an_error_of_a_form_in_a_file_names_its_own_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "form.txt").write_text("# 两句\n\n中中中中平a\n中中中中仄a*\n", encoding="utf-8")
    (tmp_path / "good.txt").write_text(GOOD, encoding="utf-8")
    words = ["form", "rhymes", str(tmp_path / "form.txt"), str(tmp_path / "good.txt"), "--line", "2"]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith('cpm-gen: form, line 4, column 5: "a*" wants the rhyme word in 仄')


def test_a_poem_needs_no_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "poem.txt"
    assert main(["lyric", "", "--form", "五绝", "--acrostic", "春江花月", "--seed", "3", "--output", str(target)]) == 0
    lines = target.read_text(encoding="utf-8").replace("，", "\n").replace("。", "").split()
    assert "".join(line[0] for line in lines) == "春江花月"
    assert main(["form", "check", "体: 五绝\n藏头: 春江花月", str(target)]) == 0


def test_a_table_is_learned_from_texts_or_the_model_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "verse.txt").write_text((GOOD + "\n") * 3, encoding="utf-8")
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    table, poem = str(tmp_path / "table.xz"), ["lyric", "", "--form", "五绝", "--seed", "3"]
    assert main(["form", "learn", str(tmp_path), "--output", table]) == 0
    read = 3 * len(encode_prompt("lyric", GOOD, Tokenizer(EMBEDDED)))
    assert f"pairs of {read} tokens" in capsys.readouterr().err
    assert main([*poem, "--form-bigrams", table]) == 0
    learned = capsys.readouterr().out
    assert main([*poem, "--form-bigrams", "none"]) == 0
    assert capsys.readouterr().out != learned
    assert main(["form", "learn", str(tmp_path / "empty.txt"), "--output", table]) == 2
    assert "there is no pair of tokens to learn from" in capsys.readouterr().err
    assert main(["form", "learn", "--from-model", "--tokens", "200", "--output", table]) == 0
    assert "pairs of 256 tokens" in capsys.readouterr().err
    assert main(["form", "check", "五绝", str(tmp_path / "verse.txt")]) == 1


def test_a_table_that_cannot_be_written_whole_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verse, target = tmp_path / "verse.txt", tmp_path / "table.xz"
    verse.write_text(GOOD, encoding="utf-8")
    assert main(["form", "learn", str(verse), "--output", str(target)]) == 0
    former = target.read_bytes()
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    capsys.readouterr()
    assert main(["form", "learn", str(verse), "--output", str(target)]) == 2
    assert capsys.readouterr().err == f"cpm-gen: {target}: could not be written: No space left on device\n"
    assert target.read_bytes() == former
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.xz", "verse.txt"]
