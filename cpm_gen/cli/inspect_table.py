"""The table that ``cpm-gen inspect`` prints, in the language of the locale."""

from __future__ import annotations

from typing import Any

from cpm_gen.cli.wide_text import pad, pad_left
from cpm_gen.config.arguments import bytes_text
from cpm_gen.config.model_sizes import NetworkVariant
from cpm_gen.translation import localized


def to_text(description: dict[str, Any]) -> str:
    """A description as a table for a terminal."""
    d = description
    heads = d["heads"] if d["heads"] is not None else "not known; give --heads"
    rows = [
        (localized("checkpoint"), d["path"]),
        (localized("format"), d["format"]),
        (localized("iteration"), d["iteration"]),
        (localized("saved for"), f"{d['degree']} rank{'s' if d['degree'] > 1 else ''}, {d['dtype']}"),
        *([] if d["parameters"] is None else [(localized("parameters"), f"{d['parameters']:,}")]),
        (localized("layers"), d["layers"]),
        (localized("hidden"), d["hidden"]),
        (localized("heads"), heads),
        (localized("vocabulary"), f"{d['vocabulary']:,}"),
        (localized("positions"), f"{d['positions']:,}"),
        *([] if d["network"] is None else [(localized("network"), _network(d["network"], d["hidden"]))]),
        (localized("can run on"), f"{', '.join(map(str, d['possible_degrees']))} ranks"),
    ]
    checksums = d["checksums"]
    if checksums["verified"]:
        rows.append((localized("checksums"), f"{checksums['stored']:,} records are as they were saved"))
    elif not checksums["stored"]:
        rows.append((localized("checksums"), "none in the files"))
    if d["dropped"]:
        rows.append((localized("dropped"), f"{', '.join(d['dropped'])} (named in the files, never loaded)"))
    text = "".join(row(name, localized(str(value))) for name, value in rows)
    if d["memory"]:
        text += "\n" + localized("memory per rank (weights + one window of keys and values)") + "\n"
        text += f"{pad_left(localized('ranks'), 7)}{'float32':>22}{'float16 / bfloat16':>22}{'int8':>22}\n"
    for degree, need in d["memory"].items():
        if need is None:
            text += f"{degree:>7}{pad_left(localized('cannot be cut so'), 22)}\n"
        else:
            cells = (f"{bytes_text(n['weights_bytes'])} + {bytes_text(n['window_bytes'])}" for n in need.values())
            text += f"{degree:>7}" + "".join(f"{cell:>22}" for cell in cells) + "\n"
    if d["sources"]:
        text += "\n" + localized("where the values come from") + "\n"
        text += "".join(f"  {name:<16}{localized(source)}\n" for name, source in d["sources"].items())
    return text


def row(name: str, value: str) -> str:
    """A line of the table."""
    return pad(name, 12) + value + "\n"


def _network(network: dict[str, Any], hidden: int) -> str:
    """How the network differs from CPM-1's, in words."""
    inner = None if network["inner"] == 4 * hidden else network["inner"]
    words = {
        "inner": f"an MLP {inner or 0:,} wide",
        "gelu": "GELU in its erf form",
        "epsilon": f"layer norms with epsilon {network['epsilon']:g}",
        "tied_head": "an output head of its own",
        "scale_by_layer": "attention scores divided by the layer's number",
    }
    found = ", ".join(localized(words[name]) for name in NetworkVariant(**network | {"inner": inner}).differences())
    return localized(f"GPT-2 as CPM-1, but {found}" if found else "GPT-2 as CPM-1")
