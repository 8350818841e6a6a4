"""A page in one self-contained HTML file: light or dark as the reader's system is, readable on a phone."""

from __future__ import annotations

from html import escape

_PAGE = """<!DOCTYPE html>
<html lang="{lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""

_STYLE = """
:root { --ink: #1d2730; --faint: #5d6b78; --line: #dde3e8; --back: #fff; --box: #f6f8fa;
        --trained: #d3f2d9; --edge: #1f8a3b; --bar: #3b82c4; --warn: #fff3cd; --warn-edge: #b58100; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe6ec; --faint: #93a1ae; --line: #33404b; --back: #14191e; --box: #1c232a;
          --trained: #17432a; --edge: #4fc272; --bar: #5aa2e0; --warn: #3d3213; --warn-edge: #e0b13a; } }
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", "Microsoft YaHei", sans-serif; color: var(--ink);
       background: var(--back); max-width: 1000px; margin: 0 auto; padding: 24px 20px 60px; }
h1, h2, h3, .faint { overflow-wrap: anywhere; }
h1 { font-size: 24px; } h2 { font-size: 18px; margin: 36px 0 4px; }
h3 { font-size: 15px; margin: 26px 0 8px; }
.faint { color: var(--faint); font-size: 13px; }
.counts { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px;
          margin: 14px 0; }
.counts div { border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px; }
.counts b { display: block; font-size: 18px; font-variant-numeric: tabular-nums; }
.counts span { color: var(--faint); font-size: 13px; }
.warning { background: var(--warn); border-left: 4px solid var(--warn-edge); padding: 8px 12px;
           margin: 8px 0; border-radius: 4px; overflow-wrap: anywhere; }
pre, .sample { background: var(--box); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px;
      margin: 8px 0; font: 13px/1.65 ui-monospace, Consolas, "Noto Sans Mono CJK SC", monospace;
      white-space: pre-wrap; overflow-wrap: anywhere; }
.sample { color: var(--faint); }
mark { background: var(--trained); color: var(--ink); border-bottom: 2px solid var(--edge);
       border-radius: 3px; padding: 1px 0; -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.end { opacity: 0.55; }
summary { cursor: pointer; color: var(--faint); }
svg { width: 100%; height: auto; } svg rect { fill: var(--bar); } svg line { stroke: var(--line); }
svg text { fill: var(--faint); font-size: 12px; font-family: inherit; }
.question.right { border-left: 4px solid var(--edge); }
.question.wrong { border-left: 4px solid var(--warn-edge); }
.question i { display: inline-block; width: 1.5em; font-style: normal; }
.question { padding-left: 12px; margin: 18px 0; content-visibility: auto; }
.scores { display: block; overflow-x: auto; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scores td, .scores th { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); text-align: left; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 14px;
            margin-top: 22px; }
.card { border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.card img { display: block; width: 100%; aspect-ratio: 1; }
dl { margin: 0; padding: 8px 12px 10px; font-size: 14px; overflow-wrap: anywhere; }
dt { color: var(--faint); font-size: 13px; margin-top: 4px; }
dd { margin: 0; } dd.after { font-weight: 600; } dd.before { color: var(--faint); font-style: italic; }
span.right { color: var(--edge); } span.wrong { color: var(--warn-edge); }
"""


def html_page(title: str, body: str, lang: str, style: str = "") -> str:
    """The page with `body`, which is HTML; `style` is added to that of all pages."""
    return _PAGE.format(
        lang="zh-CN" if lang == "zh" else "en",
        title=escape(title),
        style=_STYLE.strip() + style,
        body=body,
    )
