r"""Captions without what the web hangs on to them, as PixArt was told them in training: addresses, markup, sizes, numbers of wares.

The rules are DeepFloyd IF's (github.com/deep-floyd/IF, deepfloyd_if/modules/t5.py, `clean_caption`), in its order, and it applies
them twice: what one takes away may bring together what another looks for. A network understands what it was trained with, so their
quirks stay: Chinese characters and every "download" go. Needs beautifulsoup4, which reads
markup, and ftfy, which mends text that was decoded wrongly (extra `captions`).
"""

import html
import re
import warnings
from difflib import SequenceMatcher
from importlib.util import find_spec
from itertools import groupby
from urllib.parse import unquote_plus

from unnoise.core.errors import InputError
from unnoise.modalities.words.syntax import Said, Span

_SITE = r"[a-z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DASHES = "-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
_MARKS = r"#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*"

Rules = tuple[tuple[str, str], ...]
"""What to look for, and what to put there."""
_ADDRESSES: Rules = (
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{_SITE})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{_SITE})", ""),
)
_SIGNS: Rules = (
    (r"@\w+\b", ""),
    ("[\u31c0-\u9fff]+", ""),  # CJK strokes, phonetic extensions, enclosed letters, compatibility, hexagrams, ideographs
    (f"[{_DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_FILES})", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (f"[{_MARKS}]+", " "),
    (r"\s+\.\s+", " "),
)
_WARES: Rules = (
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILES})(\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # 1024x768; the second is Cyrillic
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def available() -> bool:
    """Whether what `clean` needs is installed."""
    return find_spec("bs4") is not None and find_spec("ftfy") is not None


def clean(caption: str) -> str:
    """In lower case, and cleaned twice.

    ImportError without beautifulsoup4 and ftfy; InputError for a marked section ("<![") that is none of markup's.
    """
    return _once(_once(caption.encode(errors="replace").decode()))  # half a surrogate pair is no character


def cleaned(said: Said) -> Said:
    """Every chunk cleaned as one text; what stays of it keeps its weight."""
    return Said(tuple(_cleaned(chunk) for chunk in said.chunks))


def _once(caption: str) -> str:
    import bs4
    import ftfy

    text = _by(_ADDRESSES, unquote_plus(caption).strip().lower())
    with warnings.catch_warnings():  # a caption that looks like a file's name or an address is still a caption
        warnings.simplefilter("ignore", bs4.MarkupResemblesLocatorWarning)
        try:
            text = bs4.BeautifulSoup(text, features="html.parser").text
        except bs4.builder.ParserRejectedMarkup as e:
            raise InputError(f'prompt {caption!r}: "<![" begins markup that cannot be read; write it without') from e
    text = _by(_SIGNS, text)
    if len(re.findall("[-_]", text)) > 3:  # this-is-my-cute-cat
        text = re.sub("[-_]", " ", text)
    return _by(_WARES, html.unescape(html.unescape(ftfy.fix_text(text)))).strip()


def _by(rules: Rules, text: str) -> str:
    for found, put in rules:
        text = re.sub(found, put, text)
    return text


def _cleaned(chunk: tuple[Span, ...]) -> tuple[Span, ...]:
    text = clean("".join(text for text, _ in chunk))
    if len(chunk) == 1 or not text:
        return ((text, chunk[0][1]),)
    before = [(c, weight) for words, weight in chunk for c in words.lower()]
    at = [0] * len(text)  # where each character was, or where one before it was that has not come anew
    for i, j, n in SequenceMatcher(None, [c for c, _ in before], text, autojunk=False).get_matching_blocks():
        at[j:] = [i + min(k, n - 1) for k in range(len(text) - j)]
    alike = groupby(zip(text, at), lambda pair: before[pair[1]][1])
    return tuple(("".join(c for c, _ in some), weight) for weight, some in alike)
