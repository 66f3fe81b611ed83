"""Random valid forms, as their notation."""

from hypothesis import strategies as st

BOOKS = ["平水韵", "词林正韵", "中华新韵", "中华通韵", "十三辙"]
TODAY = BOOKS[2:]  # their groups have both tones, and are also known by the names of 十三辙
TONES = st.text("平仄中", min_size=1, max_size=9)
HEADS = "春江花夜"
# Words that share characters with what is given, with each other and with required words. None of them is given as a whole, whatever
# the other choices: heads stand before 月 of 「明月」 and before 叠, and no ban ends a head with one of these.
BANS = [
    "死",
    "寂寞",
    "月明",
    "月春",
    "的月",
    "明明",
    "人人",
    "相思",
    "思相",
    "黄的",
    "昏月",
    "下回分解",
    "月下回",
    "明月明月",
    "夜的的",
]
REQUIRED = ["黄昏", "月下", "人", "明"]  # words whose tones no neighbour settles otherwise: 相 before 公 is oblique


@st.composite
def forms(draw: st.DrawFn, settings: bool = True) -> str:
    """Sections of lines in every kind of part; each label is used twice or more, in one tone."""
    lines: list[str] = []
    count = draw(st.integers(1, 8))
    labels = draw(st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=count, max_size=count))
    tone = {label: draw(st.sampled_from("平仄")) for label in "abc"}
    begun = set()
    for label in labels:
        own = label if label and labels.count(label) > 1 else ""
        again = "*" if own in begun and draw(st.booleans()) else ""
        begun.add(own or "none")
        rhyme = own + again
        kinds = ["number", "tones", "two", "words", "range", "given", "echo", "echo word", "echo before", "short"]
        kind = draw(st.sampled_from(kinds))
        size = draw(st.integers(2, 12))
        if kind == "number":
            lines.append(f"{size}{rhyme}")
        elif kind == "tones":
            lines.append(draw(TONES) + tone[own] + rhyme if own else draw(TONES))
        elif kind == "two":
            lines.append(f"{draw(st.integers(1, 7))}{draw(st.sampled_from('，、；'))}{size}{rhyme}。")
        elif kind == "words":
            lines.append(f"2+{draw(st.integers(1, 3))}+{size}{rhyme}")
        elif kind == "range":
            lines.append(f"{size}-{size + draw(st.integers(1, 4))}{rhyme}")
        elif kind == "given":
            lines.append(f"「明月」{size}{rhyme}" if draw(st.booleans()) else f"{size}「的」2{rhyme}")
        elif kind == "echo":
            lines.append(f"{size}，叠{draw(st.integers(1, size))}，2{rhyme}")
        elif kind == "echo word":
            lines.append(f"{size}+叠{draw(st.integers(1, size))}+「的」+{draw(st.integers(1, 2))}{rhyme}")
        elif kind == "echo before":
            lines.append(f"{size}，叠{draw(st.integers(1, size))}+「明」1{rhyme}")
        else:
            lines.append(f"1+「相」1{rhyme}" if draw(st.booleans()) else f"1+叠1，1{rhyme}")
    required = draw(st.lists(st.sampled_from(REQUIRED), max_size=2, unique=True)) if settings else []
    if required:
        lines.append("12")  # room for them, whatever the other lines are
    heads = draw(st.integers(0, len(lines))) if settings else 0
    if heads and any(line.startswith("1+") for line in lines):
        heads = 0  # 春 as the only character of what 叠 repeats, or before what is given
    text = "\n".join(lines)
    if draw(st.booleans()):
        text = f"[主歌]\n{text}\n[主歌二] 同 主歌{', a=换' if 'a' in labels else ''}\n[主歌] 重复"
    if settings:
        book = draw(st.sampled_from(BOOKS))
        chosen = ", a=江阳" * (book in TODAY and labels.count("a") > 1 and draw(st.booleans()))
        text = f"韵: {book}{chosen}\n" + text
        text += draw(st.sampled_from(["", "\n重字: 不可", "\n轻声: 可", "\n读音: 宽"]))
        text += "\n藏头: " + "".join(HEADS[at % len(HEADS)] for at in range(heads)) if heads else ""
        text += f"\n必含: {', '.join(required)}" if required else ""
        bans = draw(st.lists(st.sampled_from(BANS), max_size=6, unique=True))
        bans = [ban for ban in bans if not any(ban in word for word in required)]
        text += f"\n禁用: {', '.join(bans)}" if bans else ""
    return text
