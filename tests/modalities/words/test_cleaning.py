"""Captions as PixArt was told them, against the cleaning of diffusers' pipeline; and which words keep which weight."""

import random
import sys
import warnings
from dataclasses import dataclass

import pytest
import torch
from diffusers import PixArtAlphaPipeline
from diffusers.utils.import_utils import is_bs4_available, is_ftfy_available

from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.words import cleaning
from unnoise.modalities.words.cleaning import clean, cleaned
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.joined import CleanedConfig
from unnoise.modalities.words.syntax import Said, read

CAPTIONS = [
    "", " ", ".", "A Red Cat", "  a cat,\n\ta hat  ", "a cat.", "a cat...and a dog", "'a cat'", '"A cat"', '"""SOLD OUT"""',
    "see https://example.com/a/b_c?d=1 now", "http://example.org", "www.shop.co.uk/cats a cat", "www:/x.com", "a.b.ru!",
    "me@site.com", "a cat by @nick_name99", "e-mail cat@home.net please", "<person> with <b>a bold</b> hat<br/>",
    "<script>x()</script> cat", "<!-- hidden --> cat &lt;b&gt; &amp; dog", "&quot;cat&quot; &quotdog", "&amp;amp; cat &ampx",
    "cat &#65;&#x42; &hearts; &nbsp;x", "cat%20and%20dog+hat", "100% cotton", "cat — dog – hat − x ‐ y 〜 z ー", "тире — кошка",
    "«кошка» “cat” ´x` ‘y’ ¨z", "一只红色的猫 a cat 猫", "㈱ ㌔ ䷀ ㇰ ㇀ 㐀 cat カタカナ ひらがな 한국어",
    "server 192.168.0.1 down", "part 12:34 ",
    "a\\nb", "#1 cat #1234 dog #12345 hat", "order 1234567 of 12345", "cat_photo.JPG by me", "my.file.png, and more.webp",
    "***SALE*** #SALE", "(a cat) [a dog] {a hat} a|b a\\b a/b", "wait . what", "this-is-my-cute-cat_photo", "a-b_c",
    "jc6640 jc6640vc 6640vc231 j2d1a2a", "Free Shipping worldwide", "worldwide  free shipping of cats", "free download free",
    "downloads", "click on me, click for more", "png images of cats, a jpg image", "on page 12 of it", "1024x768 cat",
    "12.5x7 cm, 10х15 (cyrillic), 3×4", "cat : dog :hat", "a,b.c/d", "sch\u00c3\u00b6n caf\u00e9 \ufb01sh \uff21",
    "ÄÖÜ ß İstanbul ǅ", "a 🐱 cat 👩‍👩‍👧 ™ © ½", "-a cat-", "_,a cat+", ".hidden", "it's o'clock", "\u200ba\u00a0cat\ufeff",
    "a <3 b <![CDATA[ x ]]>", "x" * 300 + "1" * 20, "{{cat}}::1.2, --ar 16:9", "8k, 4K, f/1.8, 35mm, iso100, h2o, b2b",
]  # fmt: skip


@pytest.fixture(scope="module")
def theirs() -> PixArtAlphaPipeline:
    assert is_bs4_available(), "pip install -e '.[dev]'"
    assert is_ftfy_available(), "pip install -e '.[dev]'"
    return PixArtAlphaPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=None, scheduler=None)


@pytest.mark.filterwarnings("ignore::bs4.MarkupResemblesLocatorWarning")
def test_clean_as_diffusers_does(theirs: PixArtAlphaPipeline) -> None:
    expected = theirs._text_preprocessing(CAPTIONS, clean_caption=True)
    assert [clean(c) for c in CAPTIONS] == expected
    assert sum(e != c.lower().strip() for e, c in zip(expected, CAPTIONS)) > 50


@pytest.mark.filterwarnings("ignore::bs4.MarkupResemblesLocatorWarning")
def test_clean_pieces_of_them_in_any_order(theirs: PixArtAlphaPipeline) -> None:
    """Rules meet each other's leavings: pieces of a few characters, drawn and joined."""
    rng, whole = random.Random(3), " ".join(c for c in CAPTIONS if "<![" not in c)
    for _ in range(300):
        starts = [rng.randrange(len(whole)) for _ in range(8)]
        caption = "".join(whole[s : s + rng.randrange(1, 14)] + rng.choice(("", " ")) for s in starts)
        assert clean(caption) == theirs._text_preprocessing(caption, clean_caption=True)[0], repr(caption)


def test_what_looks_like_a_file_or_an_address_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clean("cat.txt") == "cat. txt"


def test_half_a_character() -> None:
    assert clean("a cat\ud83d") == "a cat?"


def test_markup_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(InputError, match=r"prompt 'a <!\[cat\]>': \"<!\[\" begins markup that cannot be read"):
        clean("a <![cat]>")


def said(prompt: str) -> Said:
    return read(prompt).at(0, 1)


@pytest.mark.parametrize(
    ("prompt", "chunks"),
    [
        ("A cat, (Red:1.5) Hat", ((("a cat, ", 1.0), ("red", 1.5), (" hat", 1.0)),)),
        ("(free shipping:2) a (cat:1.5), 1024x768", ((("a ", 1.0), ("cat", 1.5)),)),
        ("see https://x.com (Now:1.5)!", ((("see ", 1.0), ("now", 1.5), ("!", 1.0)),)),
        ("A cat, BREAK (a Dog:0.5).jpg.", ((("a cat", 1.0),), (("a ", 0.5), (".", 1.0)))),
        ("(猫:2)(猫:0.5)", ((("", 2.0),),)),
    ],
)
def test_what_stays_keeps_its_weight(prompt: str, chunks: tuple) -> None:
    assert cleaned(said(prompt)).chunks == chunks


@dataclass(frozen=True)
class HeardConfig(EmphaticConfig):
    def build(self) -> "Heard":
        return Heard()


class Heard(Emphatic):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Said | None] = []

    def prepare_said(self, said: list[Said | None]) -> Cond:
        self.heard += said
        return {"tokens": torch.zeros(len(said), 1, 1)}

    def forward(self, prepared: Cond) -> Cond:
        return prepared


def test_prompts_and_negative_prompts_are_cleaned() -> None:
    conditioner = CleanedConfig(HeardConfig()).build()
    conditioner.prepare(["A Cat, 1024x768", None])
    conditioner.prepare_away([Said.plain("Free Shipping of dogs"), None])
    assert conditioner.part.heard == [Said.plain("a cat"), None, Said.plain("of dogs"), None]


@pytest.mark.parametrize("lacking", ["bs4", "ftfy"])
def test_without_the_packages_in_lower_case_alone_and_it_is_said(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As diffusers without them."""
    monkeypatch.setitem(sys.modules, lacking, None)
    assert not cleaning.available()
    with pytest.warns(UserWarning, match=r'only put into lower case here: pip install "unnoise\[captions\]"') as told:
        conditioner = CleanedConfig(HeardConfig()).build()
    assert len(told) == 1
    conditioner.prepare([" A Cat, 1024x768 "])
    assert conditioner.part.heard == [Said.plain("a cat, 1024x768")]
