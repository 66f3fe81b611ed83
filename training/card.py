"""Install a trained model in the package: shards, vocabulary, heads, training record, and a model card with samples.

    python training/card.py TRAINED_DIR VOCAB_DIR cpm_gen/embedded

``TRAINED_DIR`` is the output of ``train.py``. The card's samples are generated here with fixed seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import cpm_gen
from cpm_gen.checkpoints.formats.megatron_layout import TRACKER
from cpm_gen.config.files import shipped
from cpm_gen.config.resolve import resolve

SAMPLES = [
    ("lyric", "明月几时有，把酒问青天。", 1, 120),
    ("lyric", "春江潮水连海平，海上明月共潮生。", 2, 120),
    ("lyric", "小楼昨夜又东风，", 3, 120),
    ("novel", "话说宝玉听了这话，", 1, 160),
    ("novel", "那一日，宋江正在寨中饮酒，", 2, 160),
    ("novel", "且说行者纵起筋斗云，", 3, 160),
]

CARD = """# The embedded model

A CPM-architecture network (GPT-2, pre-LN, learned positions, tied head) of {parameters:,} parameters: {layers} layers, hidden size
{hidden}, {heads} heads, {vocabulary:,} tokens, {positions} positions. It is included so that cpm-gen writes as soon as it is
installed, and so that every part of it can be tested on Chinese text. It is not CPM-1: it imitates the sound of verse and of the classical
novels, but makes little sense.

## Data

The training texts are in the public domain, in simplified characters:

- verse, {verse:,} tokens: 全唐诗, 宋词, 元曲, 诗经, 楚辞, 五代词, 曹操, 纳兰性德, from the collection `chinese-poetry` 2.0.1 (MIT)
- prose, {prose:,} tokens: 43 vernacular novels of the Ming and Qing (三国演义, 水浒传, 西游记, 红楼梦, 儒林外史, 镜花缘, 三言二拍, …), from
  the collection `chinese-novel` (MIT)

One record in {held_out} (a poem, a chapter) was held out. Licences of the collections: see NOTICE. The weights are under this
project's licence, MIT.

## Vocabulary

SentencePiece unigram in CPM-1's convention and with its special ids. The normaliser drops the space that joins jieba's words, so
a token is a little more than one character on average. Half-width `,` `;` `:` `!` `?` become full-width. Characters outside the
vocabulary become `<unk>`, which the model does not write.

## Training

`training/train.py` on two CPU cores: bf16 autocast, Muon for the matrices, AdamW for the rest; {minutes:.0f} minutes beside other programs:
{steps:,} steps, {tokens_trained:,} tokens (shares: {shares}), learning rate {learning_rate}, seed {seed}, torch {torch}.

Held-out loss in nats per token, in windows of {positions}: {losses}.

## Limits

The model writes classical and early vernacular Chinese only, and knows few modern words. It often repeats names and phrases of
the training books. The training texts reflect the views of their time about people. Nothing the model writes is a fact.

## Samples

With the settings of `configs/lyric.yaml` and `configs/novel.yaml`, in float32 on a CPU. They were not selected from several.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("vocab", type=Path)
    parser.add_argument("package", type=Path)
    args = parser.parse_args()

    facts = json.loads((args.trained / "training.json").read_text(encoding="utf-8"))
    iteration = (args.trained / TRACKER).read_text().strip()
    fresh = args.package.with_name(args.package.name + ".new")
    fresh.mkdir(parents=True)
    shutil.copytree(args.trained / iteration, fresh / iteration)
    for source in (args.trained / TRACKER, args.trained / "training.json"):
        shutil.copy(source, fresh)
    for name in ("chinese_vocab.model", "vocab.json"):
        shutil.copy(args.vocab / name, fresh)
    (fresh / "config.json").write_text(json.dumps({"heads": facts["heads"]}) + "\n", encoding="utf-8")

    corpus = facts["corpus_tokens"]
    names = {"tang": "Tang verse", "ci": "other verse", "prose": "prose"}
    losses = ", ".join(f"{names[k]} {v:.2f}" for k, v in facts["held_out_nats_per_token"].items())
    shares = ", ".join(f"{names[k]} {v:.0%}" for k, v in facts["shares"].items())
    verse = corpus["tang"] + corpus["ci"]
    card = CARD.format(
        **{k: v for k, v in facts.items() if k != "shares"},
        verse=verse,
        prose=corpus["prose"],
        losses=losses,
        shares=shares,
    )
    with cpm_gen.load(fresh) as llm:
        for style, prompt, seed, count in SAMPLES:
            preset = dataclasses.asdict(resolve(files=[shipped(f"{style}.yaml")]).sampling)
            text = llm.generate(prompt, style=style, seed=seed, max_new_tokens=count, **preset).text.rstrip("\n")
            card += f"\n`cpm-gen {style} {prompt} --seed {seed} --max-new-tokens {count}`\n\n```text\n{text}\n```\n"
    (fresh / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    if args.package.is_symlink():
        args.package.unlink()
    elif args.package.exists():
        shutil.rmtree(args.package)
    fresh.rename(args.package)
    print(card)


if __name__ == "__main__":
    main()
