"""Name the encoding of bytes that are not UTF-8, where one clearly fits; a wrong name would turn the file to garbage.

Many encodings read any bytes as some text. So each candidate is judged by the text that it gives: how much of it is in
the script of the encoding, and how much of that is the script's most common characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from expectations.reading.rows import BLANK

_SAMPLE_BYTES = 1 << 16
_LEAST_FIT = 0.6
_LEAST_LEAD = 0.15  # over the second best
_LEAST_LETTERS = 4

_HAN = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成"
    "方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使"
    "情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老"
    "给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目"
    "太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王"
    "象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运吗呢吧请谁哪号钟答案"
)
_HAN_TRADITIONAL = frozenset(
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然家種事成"
    "方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只從想實日軍者意無力它與長把機十民第公此已工使"
    "情明性知全三又關點正業外將兩高間由問很最重並物手應戰向頭文體政美相見被利什二等產或新己制身果加西斯月話合回特代內信表化老"
    "給世位次度門任常先海通教兒原東聲提立及比員解水名真論處走義各入幾口認條平系氣題活爾更別打女變四神總何電數安少報才結反受目"
    "太量再感建務做接必場件計管期市直德資命山金指克許統區保至隊形社便空決治展馬科司五基眼書非則聽白卻界達光放強即像難且權思王"
    "象完設式色路記南品住告類求據程北邊死張該交規萬取拉格望覺術領共確傳師觀清今切院讓識候帶導爭運嗎呢吧請誰哪號鐘答案"
)
_HANGUL = frozenset(
    "이다는을에의가고하은를지한로사기도어나자리인시서아해수부정그있대라일전니습요까적으만여주장보원성구상공제스과들게동것유소안연"
    "면우비조신경선세관국문계방와중개모물내오용않했었된될할및등년월없위더때말미바데래네마또생였합입분무야심약야음번차화"
)
_CYRILLIC = frozenset("оеаинтсрвл")
_CHINESE_SIGNS = frozenset("，。？！：；、（）《》“”‘’…—·　「」")
_WESTERN_LETTERS = frozenset("äöüÄÖÜßéèêëàâçîïôûùœæøåñáíóúãõìòÉÈÊÀÂÇÎÔÅØÆÑÁÍÓÚÃ")
_WORDS = frozenset("àÀèÈéÉêóÓ")
_WESTERN_SIGNS = frozenset("€‘’“”„–—…«»°§£²½·¿¡\xa0")


class Encoding(NamedTuple):
    """An encoding that clearly fits."""

    name: str
    """As `iconv -f` takes it."""
    language: str


def name_encoding(lines: Iterable[bytes]) -> Encoding | None:
    """Return the encoding of lines that are not UTF-8, or None where no one clearly fits."""
    data = b"\n".join(lines)[:_SAMPLE_BYTES]
    cut = data.rpartition(b"\n")[0] if len(data) == _SAMPLE_BYTES else data  # not in the middle of a character
    fits = sorted(
        ((_fit(cut or data, codec, judge), n) for n, (_, codec, judge) in enumerate(_CANDIDATES)), reverse=True
    )
    (best, number), (second, _) = fits[:2]
    if best < _LEAST_FIT or best - second < _LEAST_LEAD:
        return None
    return _CANDIDATES[number][0]


_MARKS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


def name_wide_encoding(start: bytes) -> str | None:
    """Return UTF-16 or UTF-32, if the first bytes of a file are in it; with and without a byte order mark."""
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    pairs = start[:64]
    if len(pairs) < 4 or b"\0" not in pairs[:4]:
        return None
    if pairs[1:4] == b"\0\0\0" or pairs[:3] == b"\0\0\0":
        return "UTF-32LE" if pairs[0] else "UTF-32BE"
    # JSON and tables begin with ASCII, of which one byte of two is zero
    zeros = [sum(byte == 0 for byte in pairs[side::2]) for side in (0, 1)]
    for side, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if pairs[side] == 0 and pairs[1 - side] and zeros[side] >= max(2, 2 * zeros[1 - side], len(pairs) // 8):
            return name
    return None


def is_damaged_utf8(data: bytes) -> bool:
    """Return whether bytes are UTF-8 but for a few: a character that was cut, or a byte that was changed."""
    text = data.decode("utf-8", "replace")
    wrong = text.count("\ufffd")
    return sum(character > "\x7f" for character in text) - wrong > 2 * wrong


def not_utf8_lines(data: bytes) -> tuple[list[bytes], bool]:
    """Return (lines that are not UTF-8, whether another line is UTF-8 beyond ASCII)."""
    wrong: list[bytes] = []
    others = False
    for line in data.split(b"\n"):
        if line.isascii():
            continue
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            wrong.append(line.strip(BLANK))
        else:
            others = True
    return wrong, others


def _fit(data: bytes, codec: str, judge: Callable[[str], float]) -> float:
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return 0.0
    return judge(text)


def _beyond_ascii(text: str) -> list[str]:
    return [character for character in text if character > "\x7f"]


def _share(characters: list[str], known: Callable[[str], bool]) -> float:
    return sum(map(known, characters)) / len(characters) if characters else 0.0


def _simplified(text: str) -> float:
    """Judge Chinese: how much is in the first level of GB 2312, and how much of that is common."""
    characters = _beyond_ascii(text)
    return _share(characters, _is_first_level) * min(1.0, 2 * _share(characters, (_HAN | _CHINESE_SIGNS).__contains__))


def _is_first_level(character: str) -> bool:
    if character in _CHINESE_SIGNS or 0xFF00 < ord(character) < 0xFF60:
        return True
    try:
        return 0xB0 <= character.encode("gb2312")[0] <= 0xD7
    except UnicodeEncodeError:
        return False


def _traditional(text: str) -> float:
    characters = _beyond_ascii(text)
    known = _HAN_TRADITIONAL | _CHINESE_SIGNS
    return _share(characters, _is_first_level_of_big5) * min(1.0, 2 * _share(characters, known.__contains__))


def _is_first_level_of_big5(character: str) -> bool:
    try:
        return 0xA1 <= character.encode("big5")[0] <= 0xC6
    except UnicodeEncodeError:
        return False


def _korean(text: str) -> float:
    characters = _beyond_ascii(text)
    hangul = _share(characters, lambda character: "가" <= character <= "힣" or character in _CHINESE_SIGNS)
    return hangul * min(1.0, 2.5 * _share(characters, _HANGUL.__contains__))


def _japanese(text: str) -> float:
    characters = _beyond_ascii(text)
    usual = _share(characters, lambda c: "\u3000" <= c <= "\u30ff" or "\u4e00" <= c <= "\u9fff" or "！" <= c <= "～")
    return usual * min(1.0, 2.5 * _share(characters, lambda character: "ぁ" <= character <= "ん"))


def _russian(text: str) -> float:
    """Judge Russian: words of Cyrillic letters alone, capitals only where a word begins, and common letters."""
    padded = f" {text} "
    letters = [n for n, character in enumerate(padded) if "А" <= character <= "я" or character in "ёЁ"]
    if len(letters) < _LEAST_LETTERS:
        return 0.0
    good = sum(_fits_word(*padded[n - 1 : n + 2]) for n in letters) / len(_beyond_ascii(text))
    common = sum(padded[n].lower() in _CYRILLIC for n in letters) / len(letters)
    return min(1.0, good) * min(1.0, max(0.0, common - 0.3) / 0.2)


def _fits_word(before: str, letter: str, after: str) -> bool:
    if (before.isascii() and before.isalpha()) or (after.isascii() and after.isalpha()):
        return False
    return not (letter.isupper() and before.isalpha())


def _western(text: str) -> float:
    """Judge Western European text: single letters with an accent in words of ASCII letters."""
    padded = f" {text} "
    places = [n for n, character in enumerate(padded) if character > "\x7f"]
    good = 0
    for n in places:
        before, character, after = padded[n - 1 : n + 2]
        if character in _WESTERN_SIGNS:
            good += 1
        elif character in _WESTERN_LETTERS:
            near = before.isascii() or after.isascii()
            alone = not (before.isalpha() or after.isalpha())
            good += near and (character in _WORDS if alone else True) and (character != "õ" or after == "e")
    share = good / len(places) if places else 0.0
    return share if share > 0.85 else share / 2


_CANDIDATES: tuple[tuple[Encoding, str, Callable[[str], float]], ...] = (
    (Encoding("GB18030", "Chinese"), "gb18030", _simplified),
    (Encoding("BIG5", "traditional Chinese"), "big5hkscs", _traditional),
    (Encoding("CP949", "Korean, EUC-KR"), "cp949", _korean),
    (Encoding("SHIFT_JIS", "Japanese"), "cp932", _japanese),
    (Encoding("EUC-JP", "Japanese"), "euc_jp", _japanese),
    (Encoding("CP1251", "Russian"), "cp1251", _russian),
    (Encoding("KOI8-R", "Russian"), "koi8_r", _russian),
    (Encoding("CP866", "Russian"), "cp866", _russian),
    (Encoding("CP1252", "Western European, Latin-1"), "cp1252", _western),
)
