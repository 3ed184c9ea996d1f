"""A report of sections: one self-contained HTML file, one JSON file, a table for the terminal. Files appear whole or not at all."""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from unnoise.core.files import atomically
from unnoise.core.measure import Measure
from unnoise.evaluation.section import Section

_STYLE = """
:root { --ink: #1d2330; --soft: #667085; --line: #e3e7ee; --paper: #ffffff; --band: #f6f8fb; --mark: #2f6fed; --floor: #98a2b3 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2b3340; --paper: #12161d; --band: #1a202a; --mark: #6ea0ff; --floor: #667085 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .3rem } h2 { margin-top: 2.2rem; font-size: 1.15rem; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; color: var(--soft); font-size: .82rem } td.n { text-align: right; white-space: nowrap }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem } dt { color: var(--soft) } dd { margin: 0 }
.note { color: var(--soft); font-size: .9rem } figure { margin: 1.2rem 0 } img { max-width: 100%; background: #fff }
figcaption { color: var(--soft); font-size: .9rem }
"""


def write_report(sections: Sequence[Section], out: Path, title: str, facts: Mapping[str, str]) -> list[Path]:
    """out/report.html and out/report.json; `out` is made. facts: what was measured and how, name -> sentence."""
    out.mkdir(parents=True, exist_ok=True)
    document = {"title": title, "facts": dict(facts), "sections": [_plain(s) for s in sections]}
    files = [out / "report.html", out / "report.json"]
    texts = [to_html(sections, title, facts), json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"]
    for file, text in zip(files, texts):
        with atomically(file) as half:
            half.write_text(text, encoding="utf-8")
    return files


def to_html(sections: Sequence[Section], title: str, facts: Mapping[str, str]) -> str:
    """One page that needs nothing else: style and pictures are inside."""
    told = "".join(f"<dt>{_e(k)}</dt><dd>{_e(v)}</dd>" for k, v in facts.items())
    body = "\n".join(_section(s) for s in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{_e(title)}</title><style>{_STYLE}</style></head>\n<body><h1>{_e(title)}</h1><dl>{told}</dl>\n{body}\n</body></html>\n"
    )


def _section(s: Section) -> str:
    rows = ""
    for m in s.measures:
        cells = (number(m.value), interval(m), number(m.floor), p_value(m.p_value), best(m))
        numbers = "".join(f'<td class="n">{c}</td>' for c in cells)
        rows += f'<tr><td>{_e(m.name)}</td>{numbers}<td class="note">{_e(m.note)}</td></tr>'
    heads = "".join(f"<th>{h}</th>" for h in ("", "made", "95 % interval", "real", "p", "best", ""))
    table = f'<div class="wide"><table><tr>{heads}</tr>{rows}</table></div>' if rows else ""
    notes = "".join(f'<p class="note">{_e(n)}</p>' for n in s.notes)
    drawings = "".join(
        f'<figure><img alt="{_e(d.title)}" src="data:image/png;base64,{base64.b64encode(d.png).decode()}">'
        f"<figcaption><b>{_e(d.title)}</b>{'. ' + _e(d.about) if d.about else ''}</figcaption></figure>"
        for d in s.drawings
    )
    return f"<h2>{_e(s.title)}</h2>{table}{notes}{drawings}"


def to_text(sections: Sequence[Section]) -> str:
    """For the terminal: a line a measure, the notes below."""
    lines = []
    for s in sections:
        width = max([len(m.name) for m in s.measures], default=0)
        head = f"{'':<{width}} {'made':>9}  {'95 % interval':<20} {'real':>9} {'p':>8} {'best':>6}" if s.measures else ""
        lines += ["", s.title, "-" * len(s.title), *([head] if head else [])]
        for m in s.measures:
            line = f"{m.name:<{width}} {number(m.value):>9}  {interval(m):<20} {number(m.floor):>9}"
            lines.append(f"{line} {p_value(m.p_value):>8} {best(m):>6}".rstrip())
        lines += [f"  {n}" for n in s.notes]
    return "\n".join(lines).lstrip("\n")


def number(x: float | None) -> str:
    """Four significant digits; empty for None, 0 for what no figure of a report can tell from it."""
    if x is None:
        return ""
    x = 0.0 if abs(x) < 1e-12 else x
    if not math.isfinite(x):
        return str(x)
    return f"{x:.4g}" if x == 0 or 1e-3 <= abs(x) < 1e5 else f"{x:.2e}"


def interval(m: Measure) -> str:
    return "" if m.low is None or m.high is None else f"{number(m.low)} ... {number(m.high)}"


def p_value(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 1e-3 else f"{p:.3f}"


def best(m: Measure) -> str:
    return m.best if isinstance(m.best, str) else number(m.best)


def _plain(s: Section) -> dict[str, object]:
    """As JSON can hold it: drawings by title only, numbers that are none as text."""
    measures = [{k: _json(v) for k, v in vars(m).items() if v is not None and v != ""} for m in s.measures]
    return {"title": s.title, "measures": measures, "notes": list(s.notes), "drawings": [d.title for d in s.drawings]}


def _json(v: object) -> object:
    return str(v) if isinstance(v, float) and not math.isfinite(v) else v


def _e(text: str) -> str:
    return html.escape(text)
