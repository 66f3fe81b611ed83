"""Choices equal an independent computation over the torch network's logits; tasks that make no sense are one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cpm_gen.config.json_lines import json_lines
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.evaluation.choose import Choice, accuracy, choose
from cpm_gen.evaluation.scorer import ModelScorer
from cpm_gen.evaluation.tasks import Task, read_task
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.runtime.text_engine import TextEngine

ROOT = Path(__file__).parents[2]


def records(name: str) -> list[tuple[int, dict[str, Any]]]:
    with (ROOT / "examples" / "choose" / f"{name}.jsonl").open("rb") as file:
        return list(json_lines(file, name))


def span_loss(network: TorchModel, prompt: Sequence[int], span: Sequence[int]) -> float:
    """Mean loss of the span over the logits of all tokens, without the engine or its scoring."""
    ids = torch.tensor([*prompt, *span])
    x = network.word_embeddings(ids) + network.position_embeddings(torch.arange(len(ids)))
    from cpm_gen.networks.interface import Segment

    hidden = network.transformer(x, [Segment(ids.tolist())], None)
    logits = (hidden @ network.word_embeddings.weight.T)[len(prompt) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits.double(), ids[len(prompt) :]))


def test_ocnli_is_the_mean_loss_of_the_second_sentence_after_each_word(engine: TextEngine, network: TorchModel) -> None:
    found = list(choose(ModelScorer(engine), read_task("ocnli"), records("ocnli"), length=512))
    kept = [(line, r) for line, r in records("ocnli") if r["label"] != "-"]
    assert [c.line for c in found] == [line for line, _ in kept]
    encode = engine.vocabulary.tokenizer.encode
    for choice, (_, r) in zip(found, kept, strict=True):
        words = {"entailment": "对", "contradiction": "错", "neutral": "也许"}
        expected = {
            label: span_loss(network, encode(f"{r['sentence1']}？{word}，"), encode(r["sentence2"]))
            for label, word in words.items()
        }
        assert choice.losses == pytest.approx(expected, abs=1e-3)
        assert choice.prediction == min(expected, key=expected.__getitem__)
        assert choice.answer == r["label"]


@pytest.mark.parametrize(("name", "what"), [("tnews", "文章"), ("iflytek", "应用程序")])
def test_four_candidates_are_the_right_one_last_and_three_others(
    engine: TextEngine, network: TorchModel, name: str, what: str
) -> None:
    task = read_task(name)
    found = list(choose(ModelScorer(engine), task, records(name), length=512, seed=3))
    for choice, (_, r) in zip(found, records(name), strict=True):
        tried = list(choice.losses)
        assert len(set(tried)) == 4
        assert tried[-1] == choice.answer == r[task.answer]
        encode = engine.vocabulary.tokenizer.encode
        for value, loss in choice.losses.items():
            prompt = encode(f"这是关于{task.labels[value]}的{what}：")
            assert loss == pytest.approx(span_loss(network, prompt, encode(r["sentence"])), abs=1e-3)
    again = list(choose(ModelScorer(engine), task, records(name), length=512, seed=3))
    assert found == again
    # a record's candidates do not depend on those before it
    assert list(choose(ModelScorer(engine), task, records(name)[3:], length=512, seed=3)) == found[3:]
    other = choose(ModelScorer(engine), task, records(name), length=512, seed=4)
    assert [list(c.losses) for c in other] != [list(c.losses) for c in found]


def test_a_sum_prefers_nothing_but_the_whole_and_all_labels_may_be_tried(engine: TextEngine) -> None:
    task = Task("t", "这是关于{label}的文章：", "{sentence}", {"a": "军事", "b": "农业", "c": "诗歌"})
    data = [(1, {"sentence": "大军渡过黄河"})]
    (mean,) = choose(ModelScorer(engine), task, data, length=512)
    (whole,) = choose(ModelScorer(engine), Task(**{**vars(task), "score": "sum"}), data, length=512)
    tokens = len(engine.vocabulary.encode("大军渡过黄河"))
    assert whole.losses == pytest.approx({k: v * tokens for k, v in mean.losses.items()})
    assert list(mean.losses) == ["a", "b", "c"]
    assert mean.answer is None
    assert accuracy([mean]) is None


def test_a_long_text_is_cut_to_the_length_less_20_and_to_what_the_prompt_leaves(
    engine: TextEngine, network: TorchModel
) -> None:
    text = "大军渡过黄河，敌将弃城而走。" * 8
    encode = engine.vocabulary.tokenizer.encode
    short = Task("t", "关于{label}：", "{x}", {"a": "军事", "b": "农业"})
    (found,) = choose(ModelScorer(engine), short, [(1, {"x": text})], length=40)
    assert found.losses["a"] == pytest.approx(span_loss(network, encode("关于军事："), encode(text)[:20]), abs=1e-3)
    prompt = "从前有一座山，山上有一座庙，庙里有一个老和尚讲故事，讲的是{label}，"
    longest = max(len(encode(prompt.format(label=w))) for w in ("军事", "农业"))
    assert longest > 20
    (found,) = choose(
        ModelScorer(engine), Task("t", prompt, "{x}", {"a": "军事", "b": "农业"}), [(1, {"x": text})], length=40
    )
    expected = span_loss(network, encode(prompt.format(label="农业")), encode(text)[: 40 - longest])
    assert found.losses["b"] == pytest.approx(expected, abs=1e-3)


def test_the_accuracy_counts_records_with_an_answer() -> None:
    choices = [Choice(n, "a", answer, {"a": 1.0, "b": 2.0}) for n, answer in enumerate(["a", "b", "a", "a", None])]
    found = accuracy(choices)
    assert found is not None
    assert found.value == 0.75
    low, high = found.interval or (0, 0)
    assert 0 <= low < 0.75 < high <= 1


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"sentence1": "a"}, 'line 7: needs "sentence2"'),
        ({"sentence1": "a", "sentence2": 5, "label": "neutral"}, 'line 7: needs "sentence2"'),
        ({"sentence1": "甲", "sentence2": " "}, "line 7: nothing to score: the text is empty"),
        ({"sentence1": "甲", "sentence2": "乙", "label": "yes"}, "line 7: label 'yes' is none of the labels of ocnli"),
        ({"sentence1": "从前有一座山" * 30, "sentence2": "乙"}, "line 7: nothing to score: the prompt has"),
    ],
)
def test_a_record_that_does_not_fit_is_named_by_its_line(engine: TextEngine, record: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        list(choose(ModelScorer(engine), read_task("ocnli"), [(7, record)], length=64))


def test_four_candidates_need_the_right_one(engine: TextEngine) -> None:
    with pytest.raises(InputError, match='line 1: needs "label": with 4 candidates'):
        list(choose(ModelScorer(engine), read_task("tnews"), [(1, {"sentence": "西湖"})], length=64))
    with pytest.raises(ConfigError, match="length must be above 20"):
        list(choose(ModelScorer(engine), read_task("tnews"), [], length=20))


def test_the_shipped_labels_are_clues() -> None:
    assert len(read_task("tnews").labels) == 15
    iflytek = read_task("iflytek")
    assert len(iflytek.labels) == 119
    assert [list(iflytek.labels)[n] for n in (0, 11, 118)] == ["打车", "薅羊毛", "其他"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"labels": ["a", "b"]}, "template is missing"),
        ({"template": "{label}[[x]]", "labels": ["a", "b"], "score": "max"}, "score must be mean or sum"),
        ({"template": "{label}[[x]]", "labels": ["a", "b"], "colour": 1}, "colour is an unknown field"),
        ({"template": "{label}[[x]]", "labels": ["a", "a"]}, "at least two"),
        ({"template": "{label}[[x]]", "labels": ["a", "b"], "candidates": 3}, "candidates must be 0 .* or from 2 to 2"),
        ({"template": "{label}[[x]]", "labels": ["a", "b"], "candidates": 1}, "candidates must be"),
        ({"template": "[[{label}x]]", "labels": ["a", "b"]}, "template must be text, then"),
        ({"template": "{label}x", "labels": ["a", "b"]}, "template must be text, then"),
        ({"template": "{label}[[x]] y", "labels": ["a", "b"]}, "template must be text, then"),
        ({"template": "{label}[[x]] [[y]]", "labels": ["a", "b"]}, "template must be text, then"),
        ({"template": "about [[{label}]]", "labels": ["a", "b"]}, "{label} before the scored span"),
        ({"template": 5, "labels": ["a", "b"]}, "template must be text"),
    ],
)
def test_a_task_file_that_makes_no_sense_is_named(tmp_path: Path, content: dict[str, Any], says: str) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as error:
        read_task(str(file))
    assert "task" in str(error.value)


def test_numbers_are_labels_of_yaml_and_of_records(tmp_path: Path, engine: TextEngine) -> None:
    file = tmp_path / "task.yaml"
    file.write_text('template: "{label}[[{x}]]"\nlabels: {0: 对, 1: 错}\n', encoding="utf-8")
    (found,) = choose(ModelScorer(engine), read_task(str(file)), [(1, {"x": "西湖", "label": 1})], length=64)
    assert (found.answer, list(found.losses)) == ("1", ["0", "1"])
