"""Random valid forms, as their notation."""

from hypothesis import strategies as st

BOOKS = ["平水韵", "词林正韵", "中华新韵", "中华通韵", "十三辙"]
TONES = st.text("平仄中", min_size=1, max_size=9)


@st.composite
def forms(draw: st.DrawFn, settings: bool = True) -> str:
    """Sections of lines in every kind of part; each label is used twice or more, in one tone."""
    lines: list[str] = []
    count = draw(st.integers(1, 8))
    labels = draw(st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=count, max_size=count))
    for label in labels:
        own = label if label and labels.count(label) > 1 else ""
        kind = draw(st.sampled_from(["number", "tones", "two", "words", "range", "given", "echo"]))
        size = draw(st.integers(2, 12))
        if kind == "number":
            lines.append(f"{size}{own}")
        elif kind == "tones":
            lines.append(draw(TONES) + "平" + own if own else draw(TONES))
        elif kind == "two":
            lines.append(f"{draw(st.integers(1, 7))}{draw(st.sampled_from('，、；'))}{size}{own}。")
        elif kind == "words":
            lines.append(f"2+{draw(st.integers(1, 3))}+{size}{own}")
        elif kind == "range":
            lines.append(f"{size}-{size + draw(st.integers(1, 4))}{own}")
        elif kind == "given":
            lines.append(f"「明月」{size}{own}" if draw(st.booleans()) else f"{size}「的」2{own}")
        else:
            lines.append(f"{size}，叠{draw(st.integers(1, size))}，2{own}")
    text = "\n".join(lines)
    if draw(st.booleans()):
        text = f"[主歌]\n{text}\n[主歌二] 同 主歌{', a=换' if 'a' in labels else ''}\n[主歌] 重复"
    if settings:
        text = f"韵: {draw(st.sampled_from(BOOKS))}\n" + text
        text += draw(st.sampled_from(["", "\n重字: 不可", "\n轻声: 可", "\n读音: 宽"]))
        text += draw(st.sampled_from(["", "\n禁用: 死, 恨, 寂寞"]))
    return text
