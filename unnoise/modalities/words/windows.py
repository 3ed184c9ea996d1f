"""A prompt that is longer than its encoder's window, cut as AUTOMATIC1111's web UI cuts (sd_hijack_clip.py, `tokenize_line`).

A window that is full ends behind its last comma, where that is among the last 20 of its tokens, so that what stands between two
commas is read together; else where it is full. A learnt word of several vectors is not parted, unless no window could hold it.
"""

from collections.abc import Iterable

BACK = 20
"""How far behind the end a comma may lie."""

Piece = tuple[tuple[int, ...], float]
"""What one token of the prompt stands for: an id, or those of a learnt word; and its weight."""
Ids = list[tuple[int, float]]
"""Ids with their weights."""


def windows(pieces: Iterable[Piece], room: int, comma: int | None) -> list[Ids]:
    """At least one. room: ids that a window takes, at least 1. comma: its id; None where none is looked for."""
    out: list[Ids] = []
    now: Ids = []
    behind = 0  # the last comma of this window; 0 where it has none
    for ids, weight in pieces:
        if ids == (comma,):
            behind = len(now) + 1
        elif behind and len(now) == room < behind + BACK:
            out.append(now[:behind])
            now, behind = now[behind:], 0
        if now and len(now) + len(ids) > room:
            out.append(now)
            now, behind = [], 0
        now += [(i, weight) for i in ids]
        while len(now) > room:
            out.append(now[:room])
            now = now[room:]
    return [*out, now] if now or not out else out
