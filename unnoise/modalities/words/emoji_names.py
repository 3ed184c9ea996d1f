"""Emoji as their English names of Unicode's CLDR: what a vocabulary of words, and a font of letters, know of them."""


def named_emoji(text: str, around: str = " ") -> str:
    """Each emoji as its name, with a space, or what `around` says, on either side; text without any as it is."""
    if text.isascii():
        return text
    import emoji  # its table takes longer to read than a prompt to draw a step

    def named(characters: str, about: dict[str, str]) -> str:
        flag = "flag: " if "\U0001f1e6" <= characters[0] <= "\U0001f1ff" else ""
        return f"{around}{flag}{about['en'].strip(':').replace('_', ' ')}{around}"

    return emoji.replace_emoji(text, named)
