"""The rhyme books: known characters, and human verse as the witness of the data."""

import dataclasses
import lzma
import re
import tarfile
from pathlib import Path

import pytest

from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.named import named, patterns
from cpm_gen.text.forms.notation import parse
from cpm_gen.text.forms.readings import read
from cpm_gen.text.forms.rhyme_books import BOTH, final_of, named_groups, rhyme_book


def groups(book, text):
    table = rhyme_book(book)
    return [{g for _, g in table.sounds(c, r)} for c, r in zip(text, read(text), strict=True)]


@pytest.mark.parametrize(
    ("syllable", "final"),
    [
        ("zhong4", "ong"),
        ("zhi1", "-i"),
        ("ji1", "i"),
        ("ju1", "v"),
        ("yuan2", "van"),
        ("yue4", "ve"),
        ("you3", "iu"),
        ("wei4", "uei"),
        ("dui4", "uei"),
        ("weng1", "ueng"),
        ("yong3", "iong"),
        ("er2", "er"),
        ("nv3", "v"),
        ("a1", "a"),
        ("wo3", "uo"),
        ("jiu3", "iu"),
        ("xiong1", "iong"),
        ("yin1", "in"),
        ("ye4", "ie"),
    ],
)
def test_a_syllable_has_its_final(syllable, final):
    assert final_of(syllable) == final


def test_every_reading_of_a_common_character_has_a_group_in_the_books_of_today():
    common = (
        "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所"
        "民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因由其些然前外天政四日"
        "那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想"
        "已通并提直题党程展五果料象员革位入常文总次品式活设及管特件长求老头基资边流路级少图山统接知较将组见计别她手角期根论运农指"
        "几九区强放决西被干做必战先回则任取据处队南给色光门即保治北造百规热领七海口东导器压志世金增争济阶油思术极交受联什认六共权"
        "收证改清己美再采转更单风切打白教速花带安场身车例真务具万每目至达走积示议声报斗完类八离华名确才科张信马节话米整空元况今集"
        "温传土许步群广石记需段研界拉林律叫且究观越织装影算低持音众书布复容儿须际商非验连断深难近矿千周委素技备半办青省列习响约支"
        "般史感劳便团往酸历市克何除消构府称太准精值号率族维划选标写存候毛亲快效斯院查江型眼王按格养易置派层片始却专状育厂京识适属"
        "圆包火住调满县局照参红细引听该铁价严"
    )
    for book in ("中华通韵", "中华新韵", "十三辙"):
        lacking = [c for c, found in zip(common, [groups(book, c)[0] for c in common], strict=True) if found == {""}]
        assert set("".join(lacking)) <= set("的了着们地得么")


@pytest.mark.parametrize(
    ("book", "words"),
    [
        ("平水韵", "东同中空风红"),
        ("平水韵", "冬钟龙松容峰"),
        ("词林正韵", "东冬钟龙风红"),
        ("词林正韵", "余鱼书居初"),
        ("词林正韵", "门村魂真春"),
        ("词林正韵", "言烟天山"),
        ("词林正韵", "来台开才"),
        ("词林正韵", "回杯梅知归"),
        ("中华通韵", "江光霜长"),
        ("十三辙", "东风红情星"),
    ],
)
def test_words_that_rhyme_share_a_group(book, words):
    assert set.intersection(*groups(book, words)) - {""}


@pytest.mark.parametrize(
    ("book", "words"), [("平水韵", "东冬"), ("词林正韵", "门言"), ("中华通韵", "东星"), ("词林正韵", "灰开")]
)
def test_words_that_do_not_rhyme_share_none(book, words):
    assert not set.intersection(*groups(book, words)) - {""}


@pytest.mark.parametrize(
    "text", ["大地\n努力", "天地\n目的", "明了\n来到", "沉着\n生活", "获得\n唱歌", "伟大地\n很努力"]
)
def test_a_particle_rhymes_in_a_word_that_settles_its_tone(text):
    form = parse("韵: 通韵\n2-3a\n2-3a")
    assert check(form, text) == []


@pytest.mark.parametrize("text", ["慢慢地\n很努力", "走着\n生活", "觉得\n唱歌", "好了\n来到", "来的\n唱歌"])
def test_a_particle_by_itself_rhymes_with_nothing(text):
    [fault] = check(parse("韵: 通韵\n2-3a\n2-3a"), text)
    assert (fault.line, fault.kind) == (1, "no_rhyme")


def test_a_word_settles_the_reading_of_its_characters():
    assert read("觉得") == ["jue2", "de5"]
    assert read("睡觉")[1] == "jiao4"
    assert read("重新")[0] == "chong2"


def test_a_group_of_the_thirteen_names_those_of_the_other_books():
    assert named_groups("中华通韵", "江阳") == ("昂",)
    assert set(named_groups("中华通韵", "中东")) == {"英", "雍"}


def poems(reference: Path, name: str) -> list[list[str]]:
    """The poems of a collection, each as its clauses."""
    with tarfile.open(reference / "corpus" / "lyric.tar.xz") as archive:
        member = archive.extractfile(f"lyric/{name}.txt")
        assert member is not None
        text = member.read().decode()
    return [re.split("[，。！？；\n]+", poem.strip().rstrip("。！？；")) for poem in text.split("\n\n")]


def test_the_rhymes_of_human_quatrains_are_right(reference):
    """FORM.md: 94.2 % of the 全唐诗's poems of 7×4 in 平水韵; what is left is 古体, 邻韵 and errors of the text."""
    level = rhyme_book("平水韵")
    quatrains = [p for p in poems(reference, "tangshi") if len(p) == 4 and all(len(c) == 7 for c in p)]
    assert len(quatrains) > 5000
    right = sum(
        bool(
            {g for _, g in level.sounds(p[1][-1], None, lenient=True)}
            & {g for _, g in level.sounds(p[3][-1], None, lenient=True)}
        )
        for p in quatrains
    )
    assert right / len(quatrains) > 0.93


def test_the_patterns_of_human_ci_are_right(reference):
    """Human 浣溪沙 keep to the pattern of the table, read with every reading of a character."""
    [form] = [named("浣溪沙")]
    table = rhyme_book("词林正韵")
    slots = [s for line in form.lines() for part in line.parts for s in part.slots]
    found = ["".join(p) for p in poems(reference, "songci") if [len(c) for c in p] == [7] * 6]
    assert len(found) > 300
    fitting = [
        sum(
            slot.tone == "中" or slot.tone in {t for t, _ in table.sounds(c, None, lenient=True)}
            for c, slot in zip(p, slots, strict=True)
        )
        for p in found
    ]
    assert sum(fitting) / (42 * len(found)) > 0.97
    assert len(patterns()) == 817


@pytest.mark.parametrize(
    ("name", "poem"),
    [
        ("五绝 仄起入韵", "骏马绣障泥，红尘扑四蹄。\n归时何太晚，日照杏花西。"),
        ("七绝 仄起入韵", "暮雨朝云几日归，如丝如雾湿人衣。\n三湘二月春光早，莫逐狂风缭乱飞。"),
        ("七绝 仄起入韵", "避暑昭阳不掷卢，井边含水喷鵶雏。\n内中数日无呼唤，搨得滕王蛱蝶图。"),
        (
            "五律 仄起",
            "旌节临溪口，寒郊斗觉暄。\n红亭移酒席，画鹢逗江村。\n云带歌声飏，风飘舞袖翻。\n花间催秉烛，川上欲黄昏。",
        ),
    ],
)
def test_a_character_that_tang_poets_use_with_either_tone_has_both(name, poem):
    """Read strictly; poems of 全唐诗 whose 障, 缭, 喷 and 飏 have the tone that they do not have today."""
    form = dataclasses.replace(named(name), distinct=False)
    assert check(form, poem) == []


def test_the_characters_with_either_tone_are_listed_with_both():
    listed = rhyme_book("平水韵").listed
    assert listed is not None
    assert [c for c in BOTH if {tone for tone, _ in listed[c]} != {"平", "仄"}] == []


def test_the_data_are_small():
    folder = Path(__file__).parents[3] / "cpm_gen" / "text" / "forms" / "data"
    assert sum(p.stat().st_size for p in folder.glob("*.xz")) < 600_000
    assert all(lzma.decompress(p.read_bytes()).endswith(b"\n") for p in folder.glob("*.xz"))
