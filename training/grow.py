"""Make a larger network of a trained one, which predicts the same at first, to be trained on with ``cpm-gen finetune --model``.

    python training/grow.py MODEL SIZE OUT_DIR --vocabulary VOCABULARY_DIR [--seed N]

``MODEL`` is a folder of any format. ``SIZE`` is LAYERSxHIDDENxHEADSxPOSITIONS, with as many layers and with heads as large as those of
``MODEL``. ``OUT_DIR`` becomes a Hugging Face folder with the vocabulary of ``VOCABULARY_DIR``.

New units begin with random weights where they read and with zeros where they write (Chen et al. 2016, Net2Net), so they add nothing until
they are trained. The layer norms see more units, of which the new ones are zero; their gains are scaled for that. New positions begin as
copies of the later half of the old ones. A piece that the old vocabulary lacks begins as the mean of the old pieces in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor

from cpm_gen.checkpoints.locate import model_folder, open_checkpoint
from cpm_gen.errors import CpmGenError
from cpm_gen.finetuning.gpt2 import load_network, new_network, parse_size
from cpm_gen.finetuning.language_model import LanguageModel
from cpm_gen.text.cpm_tokenizer import VOCABULARY_FILE
from cpm_gen.text.make_vocabulary import NAMES_FILE


def larger(values: Tensor, *shape: int, random: bool) -> Tensor:
    """``values`` in the first places of a tensor of this shape; the others are zeros, or random with the deviation of ``values``."""
    new = torch.randn(shape) * values.std() if random else torch.zeros(shape)
    new[tuple(slice(size) for size in values.shape)] = values
    return new


def grow(old: LanguageModel, new: LanguageModel, pieces: Tensor) -> None:
    """Give ``new`` the function of ``old``. pieces: ``[vocabulary of new, hidden size of old]``, the vectors of the new pieces."""
    was, now = old.config, new.config
    size = was.n_embd // was.n_head
    if was.n_layer != now.n_layer or size * now.n_head != now.n_embd or now.n_positions < was.n_positions:
        sys.exit(f"grow.py: needs {was.n_layer} layers, heads of {size} and at least {was.n_positions} positions")
    hidden, heads = now.n_embd, now.n_head
    old_values, grown = old.state_dict(), {}
    for name, values in old_values.items():
        part = name.rsplit(".", 2)[-2]
        if part in ("wte", "lm_head"):
            grown[name] = larger(pieces, now.vocab_size, hidden, random=False)
        elif part == "wpe":
            half = was.n_positions // 2
            rows = [*range(was.n_positions), *(half + n % half for n in range(now.n_positions - was.n_positions))]
            grown[name] = larger(centred(values[rows]), now.n_positions, hidden, random=False)
        elif part.startswith("ln_"):
            scaled = values * (was.n_embd / hidden) ** 0.5 if name.endswith("weight") else values
            grown[name] = larger(scaled, hidden, random=False)
            if name.endswith("weight"):
                grown[name][was.n_embd :] = scaled.mean()
        elif part == "c_attn":
            apart = values.unflatten(-1, (3, was.n_head, size))
            matrix = apart.dim() == 4
            shape = (hidden, 3, heads, size) if matrix else (3, heads, size)
            grown[name] = larger(apart, *shape, random=matrix).flatten(-3)
        elif part == "c_fc":
            shape = (hidden, 4 * hidden) if values.dim() == 2 else (4 * hidden,)
            grown[name] = larger(values, *shape, random=values.dim() == 2)
        else:  # c_proj, of attention and of the network behind it
            rows_in = hidden if ".attn." in name else 4 * hidden
            shape = (rows_in, hidden) if values.dim() == 2 else (hidden,)
            grown[name] = larger(centred(values), *shape, random=False)
    new.load_state_dict(grown)


def centred(values: Tensor) -> Tensor:
    """What is added to the hidden state, less its mean, which every layer norm takes off; so the scale of the gains is exact."""
    return values - values.mean(-1, keepdim=True)


def vectors(old: Tensor, before: dict[str, int], after: dict[str, int]) -> Tensor:
    """A vector for every piece of the vocabulary ``after``, float32 ``[pieces, hidden]``, from those of ``before``."""
    rows = []
    for piece, _ in sorted(after.items(), key=lambda item: item[1]):
        inner = [before[c] for c in piece if c in before]
        rows.append(old[before[piece]] if piece in before else old[inner].mean(0) if inner else old.mean(0))
    return torch.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("size")
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = model_folder(args.model)
    before, after = (json.loads((path / NAMES_FILE).read_text(encoding="utf-8")) for path in (folder, args.vocabulary))
    old = load_network(open_checkpoint(folder), None, 0.0)
    new = new_network(parse_size(args.size, len(after)), 0.0, args.seed)
    grow(old, new, vectors(old.get_input_embeddings().weight.detach(), before, after))
    new.save_pretrained(args.out)
    config = args.out / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**content, "architectures": ["GPT2LMHeadModel"]}, indent=2), encoding="utf-8")
    for name in (VOCABULARY_FILE, NAMES_FILE):
        shutil.copyfile(args.vocabulary / name, args.out / name)


if __name__ == "__main__":
    try:
        main()
    except (CpmGenError, OSError) as error:
        sys.exit(f"grow.py: {error}")
