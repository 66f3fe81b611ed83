"""lm-evaluation-harness against /v1/completions: the same numbers as ``cpm-gen score``. Needs ``pip install 'lm_eval[api]'``."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

import cpm_gen
from tests.service_process import WINDOW

PAIRS = [
    ("床前明月光，", "疑是地上霜。"),
    ("春江潮水连海平，海上明月", "共潮生。"),
    ("话说天下大势，", "分久必合，合久必分。"),
    ("从前有一座山，山里有一座庙，", "庙里有一个老和尚。"),
    ("明月几时有，把酒问青天。不知天上宫阙，", "今夕是何年。"),
    ("白日依山尽，", "黄河入海流。<eod>"),
]
TASK = """
task: couplets
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{continuation}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed"),
]


def run(*words, given="", **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith("CPM_GEN_")} | environment
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=900, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def each_line(command, lines):
    given = "".join(json.dumps(line) + "\n" for line in lines)
    return list(map(json.loads, run("cpm_gen", command, "--json-lines", given=given).splitlines()))


def test_loglikelihoods_are_those_of_cpm_gen_score(server, tmp_path):
    with cpm_gen.load(window_limit=WINDOW) as llm:
        likely = ("春江潮水连海平，", llm.generate("春江潮水连海平，", temperature=0.0, max_new_tokens=4).text)
    pairs = [*PAIRS, likely]
    data = tmp_path / "couplets.jsonl"
    data.write_text("".join(json.dumps({"context": a, "continuation": b}) + "\n" for a, b in pairs))
    (tmp_path / "couplets.yaml").write_text(TASK.format(data=data))
    run(
        "lm_eval", "--model", "local-completions", "--tasks", "couplets", "--include_path", str(tmp_path),
        "--model_args", f"model=cpm-embedded,base_url={server.url}/v1/completions,max_length={WINDOW},num_concurrent=2",
        "--log_samples", "--output_path", str(tmp_path / "out"),
        HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"),
    )  # fmt: skip
    [file] = (tmp_path / "out").rglob("samples_*.jsonl")
    samples = sorted(map(json.loads, file.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    assert len(samples) == len(pairs)
    texts = [text for context, continuation in pairs for text in (context, context + continuation)]
    tokenized = each_line("tokenize", [{"text": text} for text in texts])
    scored = each_line("score", [{"ids": line["ids"]} for line in tokenized])
    for at, sample in enumerate(samples):
        before = len(tokenized[2 * at]["ids"])
        [[loglikelihood, greedy]] = sample["filtered_resps"]
        assert float(loglikelihood) == pytest.approx(sum(scored[2 * at + 1]["logprobs"][before:]), abs=1e-3)
        assert greedy == str(at == len(PAIRS))
