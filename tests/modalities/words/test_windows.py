"""How prompts are cut, by hand: a letter is a token, as long as its window takes five of them."""

from unnoise.modalities.words.windows import BACK, windows

COMMA = ord(",")


def cut(text: str, room: int = 5, comma: int | None = COMMA) -> list[str]:
    """Windows of a text whose letters are tokens; a number is a learnt word of so many vectors."""
    pieces = [((ord(c),) * (int(c) if c.isdecimal() else 1), 1.0) for c in text]
    return ["".join(chr(i) for i, _ in window) for window in windows(pieces, room, comma)]


def test_a_full_window_ends_behind_its_last_comma() -> None:
    assert cut("") == [""]
    assert cut("abcde") == ["abcde"]
    assert cut("abcdefg") == ["abcde", "fg"]
    assert cut("ab,cd") == ["ab,cd"]
    assert cut("ab,cde") == ["ab,", "cde"]
    assert cut("a,b,cde") == ["a,b,", "cde"]
    assert cut("abcd,e") == ["abcd,", "e"]
    assert cut("ab,cdefgh") == ["ab,", "cdefg", "h"], "a comma serves once"
    assert cut("ab,cde", comma=None) == ["ab,cd", "e"]


def test_a_comma_that_does_not_fit_starts_the_next_window() -> None:
    assert cut("abcde,f") == ["abcde", ",f"]
    assert cut("a,cde,f") == ["a,cde", ",f"], "what follows is the comma itself: nothing is parted"


def test_only_a_comma_near_the_end_counts() -> None:
    room = BACK + 5
    for behind in range(1, room + 1):
        text = "a" * (behind - 1) + "," + "b" * (room - behind)
        near = room - behind < BACK
        assert cut(text + "c", room) == ([text[:behind], text[behind:] + "c"] if near else [text, "c"])


def test_learnt_words_stay_whole() -> None:
    assert cut("abc3d") == ["abc", "333d"]
    assert cut("ab3c") == ["ab333", "c"]
    assert cut("a,b3c") == ["a,b", "333c"], "the window was not full"
    assert cut("a,bcd3") == ["a,", "bcd", "333"], "full: from the comma on, and then the word has no room"
    assert cut("a7b") == ["a", "77777", "77b"], "no window could hold it"


def test_weights_stay_with_their_words() -> None:
    assert windows([((1,), 0.5), ((2, 3), 2.0), ((4,), 1.5)], 2, None) == [[(1, 0.5)], [(2, 2.0), (3, 2.0)], [(4, 1.5)]]
