"""Self-contained HTML pages: pictures inside the file, no scripts, no network, readable on a phone and on paper."""

import base64
import html
from collections.abc import Iterable, Sequence

from rankcell.wording import one_line, visible

_STYLE = """
:root { color-scheme: light; --ink: #1b2733; --soft: #5b6975; --line: #d9e0e6; --paper: #fff; --tint: #f4f7f9; --accent: #2b6ca3; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p, li { max-width: 46rem; }
.lead { color: var(--soft); font-size: 1.05rem; }
figure { margin: 1.2rem 0; }
img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem; margin-top: .4rem; }
.scroll { overflow-x: auto; }
.scroll img { min-width: 38rem; }
table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .8rem .28rem 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
td.n, th.n { text-align: right; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; overflow-x: auto; font-size: .86rem; line-height: 1.5; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .9em; overflow-wrap: anywhere; }
pre code { overflow-wrap: normal; font-size: 1em; }
.note { background: var(--tint); border-left: 3px solid var(--accent); padding: .6rem 1rem; margin: 1rem 0; max-width: 46rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 0 2rem; }
footer { color: var(--soft); font-size: .85rem; margin-top: 3rem; }
"""


def text(sentence: object) -> str:
    """Plain text made safe for HTML; `code` between backticks."""
    parts = html.escape(one_line(str(sentence))).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))


def paragraph(sentence: str, *, kind: str = "") -> str:
    return f'<p class="{kind}">{text(sentence)}</p>' if kind else f"<p>{text(sentence)}</p>"


def note(sentence: str) -> str:
    return f'<div class="note">{text(sentence)}</div>'


def bullets(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(s)}</li>" for s in sentences) + "</ul>"


def commands(lines: Sequence[str]) -> str:
    return f"<pre><code>{html.escape(chr(10).join(map(visible, lines)))}</code></pre>"


def picture(png: bytes, *, alt: str, caption: str, width: float | None = None) -> str:
    """An image inside the page, with its caption; `width`: in inches, where it is not to be as wide as the page."""
    style = "" if width is None else f' style="max-width: {6.25 * width:.0f}rem; min-width: min(38rem, {6.25 * width:.0f}rem)"'
    data = base64.b64encode(png).decode()
    image = f'<div class="scroll"><img{style} alt="{html.escape(one_line(alt))}" src="data:image/png;base64,{data}"></div>'
    return f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers stand to the right."""
    rows = [list(r) for r in rows]
    numeric = [bool(rows) and all(_is_number(r[i]) for r in rows) for i in range(len(columns))]

    def line(tag: str, cells: Sequence[object]) -> str:
        return "<tr>" + "".join(f"<{tag}{' class=n' if n else ''}>{text(c)}</{tag}>" for c, n in zip(cells, numeric, strict=True)) + "</tr>"

    body = "".join(line("td", r) for r in rows)
    return f'<div class="scroll"><table><thead>{line("th", columns)}</thead><tbody>{body}</tbody></table></div>'


def _is_number(value: object) -> bool:
    try:
        float(str(value).replace(",", "").replace("%", "").replace("\u2212", "-"))
    except ValueError:
        return False
    return True


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{text(title)}</h2>{''.join(parts)}</section>"


def beside(*parts: str) -> str:
    """Blocks side by side where the window is wide enough."""
    return '<div class="two">' + "".join(f"<div>{p}</div>" for p in parts) + "</div>"


def page(title: str, lead: str, *sections: str, footer: str = "", first: str = "") -> str:
    """A whole document; `first`: HTML above the title."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(one_line(title))}</title><style>{_STYLE}</style></head><body><main>{first}<header><h1>{text(title)}</h1>"
        f"{paragraph(lead, kind='lead')}</header>{''.join(sections)}<footer>{text(footer)}</footer></main></body></html>\n"
    )
