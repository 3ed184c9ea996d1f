"""The prompt language against the web UI's own documented examples (the doctests of its modules/prompt_parser.py)."""

import random
from contextlib import suppress

import pytest

from unnoise.core.errors import InputError
from unnoise.modalities.words.syntax import Said, escaped, read, stages

ATTENTION = [  # parse_prompt_attention's docstring, but for its two unbalanced examples, which are refused here
    ("normal text", [("normal text", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    (r"\(literal\]", [("(literal]", 1.0)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).)",
        [("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641),
         (".", 1.1)],
    ),
    ("(a) and [b]", [("a", 1.1), (" and ", 1.0), ("b", 1 / 1.1)]),
    ("(word: 1.3 )", [("word", 1.3)]),
    ("(word:.5)", [("word", 0.5)]),
    ("(word:-1)", [("word", -1.0)]),
    ("keycap: # | 3", [("keycap: # | 3", 1.0)]),
    ("(a:b)", [("a:b", 1.1)]),
    (r"\\ \: \| \x", [(r"\ : | x", 1.0)]),
    (r"hatsune\_miku, a\b\c" + "\\", [("hatsune_miku, abc", 1.0)]),
    ("", [("", 1.0)]),
]  # fmt: skip

SCHEDULES = [  # get_learned_conditioning_prompt_schedules' docstring, 10 steps: (last step, prompt)
    ("test", [(10, "test")]),
    ("a [b:3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3]", [(3, "a "), (10, "a b")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a b")]),
    ("[(a:2):3]", [(3, ""), (10, "a")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
    ("a [b::0.4]", [(4, "a b"), (10, "a ")]),
    ("a [b:0] [c:1.0] [d:10]", [(10, "a b  ")]),
]


@pytest.mark.parametrize(("prompt", "expected"), ATTENTION)
def test_weights_as_documented(prompt: str, expected: list[tuple[str, float]]) -> None:
    (spans,) = read(prompt).at(0, 10).chunks
    assert [t for t, _ in spans] == [t for t, _ in expected]
    assert [w for _, w in spans] == pytest.approx([w for _, w in expected])


@pytest.mark.parametrize(("prompt", "expected"), SCHEDULES)
def test_schedules_as_documented(prompt: str, expected: list[tuple[int, str]]) -> None:
    found = [(first, "" if said[0] is None else said[0].text) for first, said in stages([prompt], 10)]
    starts = [0, *(last for last, _ in expected[:-1])]
    assert found == [(start, text) for start, (_, text) in zip(starts, expected)]


def test_turns_as_documented() -> None:
    """[a|(b:1.1)] and [fe|]male: one a step."""
    assert [read("[a|(b:1.1)]").at(k, 10).chunks for k in range(3)] == [((("a", 1.0),),), ((("b", 1.1),),), ((("a", 1.0),),)]
    assert [read("[fe|]male").at(k, 10).text for k in range(3)] == ["female", "male", "female"]


def test_break_starts_a_chunk() -> None:
    said = read("a red (cat BREAK in:1.2) a hat BREAK").at(0, 1)
    assert said.chunks == ((("a red ", 1.0), ("cat", 1.2)), (("in", 1.2), (" a hat", 1.0)))
    nothing, cat = (("", 1.0),), (("cat", 1.0),)
    for prompt, chunks in (("BREAK cat", (nothing, cat)), ("cat BREAK BREAK cat", (cat, nothing, cat)), ("BREAK", (nothing,))):
        assert read(prompt).at(0, 1).chunks == chunks
    assert read("BREAKFAST at a lakeBREAK").at(0, 1) == Said.plain("BREAKFAST at a lakeBREAK")


def test_prompts_of_one_batch_change_at_their_own_steps() -> None:
    told = stages(["[a:b:0.5]", None, "c [d:0.25]"], 4)
    assert [(k, [s and s.text for s in said]) for k, said in told] == [
        (0, ["a", None, "c "]), (1, ["a", None, "c d"]), (2, ["b", None, "c d"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a cat <lora:style:0.8>", r"character 7 .*'<lora:style:0.8>' names a file, which the options do: --lora FILE:0.8"),
        ("(unbalanced", r"character 1 \(near '\(unbalanced'\): '\(' is never closed by '\)'"),
        ("a red) cat", r"character 6 .*'\)' closes nothing"),
        ("a [b:c:0.5", "character 3 .*never closed"),
        ("(a]", r"character 1 .*'\(' is never closed"),
        ("(a [b:0.5)]", r"character 4 .*'\[' is never closed"),
        ("(word:1e9)", "character 1 .*a weight beyond 10; 0.5 to 1.5 are usual"),
        ("(word:-30)", "a weight beyond 10"),
        ("((((big:5)):2):2)", "character 2 .*a weight beyond 10"),
        ("(word:1.2.3)", "character 7 .*'1.2.3' is no number"),
        ("[a:b:1.5]", "character 6 .*1.5: a change comes at 0 to 1 of the steps"),
        ("[a:b:-2]", "-2: a change comes at 0 to 1"),
        ("[a:b:c:0.5]", r"a change is \[a:b:0.4\]"),
        ("[a|b:0.5]", r"mix ':' and '\|'"),
        ("(" * 10_000, "character 51 .*more than 50 brackets"),
        ("x" * 5_000 + ")", "character 5,001"),
    ],
)
def test_mistakes_are_named_with_their_place(prompt: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as e:
        read(prompt)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 200


def test_any_text_says_itself_when_escaped() -> None:
    assert read(escaped("BREAK a (BREAK) BREAKFAST")).at(0, 5) == Said.plain("BREAK a (BREAK) BREAKFAST")
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice("ab ()[]:|\\.1é🍎\n") for _ in range(rng.randrange(30)))
        assert read(escaped(text)).at(0, 5) == Said.plain(text)


def test_text_without_the_seven_characters_says_itself() -> None:
    rng = random.Random(1)
    for _ in range(100):
        text = "".join(rng.choice('ab, "!1é🍎-') for _ in range(rng.randrange(40)))
        assert read(text).at(0, 5) == Said.plain(text)


def test_random_trees_are_read_back() -> None:
    """Prompts written from random nested weights and changes say, at every step, what a direct evaluation says."""
    rng = random.Random(2)

    def tree(depth: int) -> tuple[str, list]:
        """(prompt, for each of 8 steps the list of (character, weight))."""
        kind = rng.randrange(5) if depth else 0
        if kind == 0:
            word = "".join(rng.choice("abcdefgh ") for _ in range(rng.randrange(1, 5)))
            return word, [[(c, 1.0) for c in word]] * 8
        parts = [tree(depth - 1) for _ in range(2)]
        both = [a + b for a, b in zip(parts[0][1], parts[1][1])]
        text = parts[0][0] + parts[1][0]
        if kind in (1, 2, 3):
            weight = (1.1, 1 / 1.1, rng.choice([0.5, 1.3]))[kind - 1]
            form = ("({})", "[{}]", f"({{}}:{weight})")[kind - 1]
            return form.format(text), [[(c, w * weight) for c, w in row] for row in both]
        when = rng.choice([0.25, 0.5, 0.75])
        row = [(parts[0] if k < 8 * when else parts[1])[1][k] for k in range(8)]
        return f"[{parts[0][0]}:{parts[1][0]}:{when}]", row

    for _ in range(200):
        prompt, rows = tree(4)
        for k, row in enumerate(rows):
            found = [(c, w) for spans in read(prompt).at(k, 8).chunks for text, w in spans for c in text]
            assert [c for c, _ in found] == [c for c, _ in row], prompt
            assert [w for _, w in found] == pytest.approx([w for _, w in row])


def test_noise_is_read_or_refused() -> None:
    rng = random.Random(3)
    for _ in range(500):
        text = "".join(rng.choice("ab()[]:|\\.15 ") for _ in range(rng.randrange(25)))
        with suppress(InputError):
            assert set(read(text).at(0, 4).text) <= set(text)
