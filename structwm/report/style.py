"""Colours and the page's style sheet. The palette is that of Okabe and Ito (2008), told apart by readers with any colour vision."""

from __future__ import annotations

INK = "#1b2733"
GREY = "#8a949e"
PALE = "#dfe4e8"
BLUE = "#0072b2"
SKY = "#56b4e9"
GREEN = "#009e73"
ORANGE = "#e69f00"
VERMILLION = "#d55e00"
PURPLE = "#cc79a7"

PAGE = """
:root { --ink: #1b2733; --soft: #5a6772; --line: #dfe4e8; --ground: #f5f7f9; --card: #ffffff; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 24px 60px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 21px; margin: 0 0 10px; }
h3 { font-size: 16px; margin: 18px 0 6px; }
p { max-width: 78ch; margin: 0 0 12px; }
.lead { font-size: 18px; color: var(--soft); }
.small, figcaption, caption { font-size: 14px; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px; margin-top: 22px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin: 20px 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-top: 3px solid var(--accent); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { font-size: 14px; color: var(--soft); }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; }
caption { text-align: left; padding-bottom: 6px; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--line); padding: 6px 10px; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); padding: 6px 10px; font-variant-numeric: tabular-nums; }
td.short { white-space: nowrap; }
td.number { text-align: right; white-space: nowrap; }
th.number { text-align: right; }
tr.strong td { background: #e8f3fa; font-weight: 600; }
figure { margin: 14px 0; }
figure img { display: block; width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
figcaption { margin-top: 6px; max-width: 90ch; }
.loops { display: grid; grid-template-columns: repeat(auto-fill, minmax(178px, 1fr)); gap: 12px; margin: 10px 0 16px; }
.loop { margin: 0; }
.loop svg { display: block; width: 100%; height: auto; background: #fbfcfd; border: 1px solid var(--line); border-radius: 8px; }
.loop figcaption { font-size: 13px; text-align: center; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 5px 0 14px; vertical-align: -1px; }
footer { margin-top: 26px; font-size: 13px; color: var(--soft); }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebef; --soft: #a3aeb8; --line: #34404b; --ground: #12181e; --card: #1a222a; --accent: #56b4e9; }
  tr.strong td { background: #1d3444; }
  .loop svg { background: #f5f7f9; }
}
@media print { body { background: #ffffff; } section { break-inside: avoid; } }
"""
