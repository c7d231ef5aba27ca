"""The style sheet of the report: light and dark, for screens of any width, and for paper."""

from __future__ import annotations

STYLE = (
    """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1c2430; --soft: #5a6575; --line: #dfe3ea; --grid: #e9ecf1;
  --accent: #2457d6; --train: #8a6d1f; --other: #0f7b62; --wrong: #c2352b; --warn: #fff6df; --warn-line: #d9a520;
  --code: #eef1f6; --edge: rgb(28 36 48 / 22%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11151b; --card: #1a2029; --ink: #e8ecf2; --soft: #a3aebd; --line: #2d3644; --grid: #28303c;
    --accent: #7ea6ff; --train: #d9b95c; --other: #4fc9a8; --wrong: #ff8378; --warn: #2d2713; --warn-line: #b48a1f;
    --code: #232b36; --edge: rgb(0 0 0 / 60%);
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif;
}
header, main, footer { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 44px; }
h1 {
  font-size: clamp(1.6rem, 5vw, 2.5rem); line-height: 1.15; margin: 0 0 8px; overflow-wrap: anywhere;
  letter-spacing: -0.02em;
}
h2 { font-size: 1.3rem; margin: 0 0 4px; letter-spacing: -0.01em; }
h3 { font-size: 1rem; margin: 20px 0 6px; }
p { margin: 0 0 10px; overflow-wrap: anywhere; }
.eyebrow { color: var(--accent); font-weight: 600; font-size: 0.85rem; letter-spacing: 0.04em; margin-bottom: 6px; }
.about, .note, caption, .remark { color: var(--soft); }
.about { max-width: 72ch; }
.note, caption { font-size: 0.9rem; }
caption { text-align: left; padding-bottom: 8px; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 24px; margin: 20px 0;
}
.headline { font-size: 1.12rem; max-width: 62ch; margin: 16px 0 0; }
nav ul { list-style: none; padding: 0; margin: 22px 0 0; display: flex; flex-wrap: wrap; gap: 4px 18px; }
a { color: var(--accent); }
.callout p { margin: 0; } .callout code { display: block; margin-top: 4px; user-select: all; cursor: copy; }
.callout {
  background: var(--warn); border-left: 4px solid var(--warn-line); border-radius: 6px; padding: 10px 16px;
  margin: 20px 0 0;
}
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 26px 0 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 14px 16px; }
.tiles dt { color: var(--soft); font-size: 0.85rem; }
.tiles dd {
  margin: 0; font-size: 1.6rem; font-weight: 650; line-height: 1.25; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums;
}
.tiles .remark { font-size: 0.8rem; font-weight: 400; letter-spacing: 0; }
.tiles div:first-child { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
.tiles div:first-child dd:not(.remark) { color: var(--accent); }
.charts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 8px 28px;
  margin-top: 14px;
}
.chart { margin: 0; min-width: 0; max-width: 600px; }
.chart > svg { display: block; width: 100%; height: auto; }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 18px; align-items: baseline; padding-left: 4px; }
.legend { display: flex; flex-wrap: wrap; gap: 0 14px; font-size: 0.85rem; color: var(--soft); }
.legend svg { width: 22px; height: 12px; margin-right: 6px; vertical-align: -1px; }
svg text { fill: var(--soft); font-size: 13px; font-family: inherit; }
svg .middle { text-anchor: middle; } svg .end { text-anchor: end; }
svg .axis { font-size: 13.5px; } svg .name { font-size: 8px; fill: var(--ink); }
.grid { stroke: var(--grid); } .best { stroke: var(--soft); stroke-dasharray: 2 3; }
.curve { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.curve.train { stroke: var(--train); stroke-dasharray: 6 4; } .curve.val { stroke: var(--accent); }
.curve.other { stroke: var(--other); }
.curve.diagonal { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 5 4; }
circle.train { fill: var(--train); } circle.val { fill: var(--accent); } circle.other { fill: var(--other); }
.share { fill: var(--accent); } .rail { fill: var(--grid); } .confidence { stroke: var(--ink); stroke-width: 2; }
.count { fill: var(--card); fill-opacity: 0.75; stroke: var(--soft); stroke-width: 0.6; }
.charts .chart .share { fill-opacity: 0.55; }
.scroll {
  overflow-x: auto; max-width: 100%; margin-top: 12px;
  background:
    linear-gradient(to right, var(--card) 40%, transparent) left / 48px 100% no-repeat local,
    linear-gradient(to left, var(--card) 40%, transparent) right / 48px 100% no-repeat local,
    linear-gradient(to right, var(--edge), transparent) left / 16px 100% no-repeat scroll,
    linear-gradient(to left, var(--edge), transparent) right / 16px 100% no-repeat scroll;
}
.scroll.tall { max-height: 640px; overflow-y: auto; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px 6px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; font-size: 0.85rem; }
tbody th { font-weight: 500; }
tbody tr:last-child > * { border-bottom: 0; }
th.number, td.number { text-align: right; white-space: nowrap; }
td svg { vertical-align: 1px; } td svg + span { display: inline-block; min-width: 3.9em; }
.classes tbody th, .pairs td { overflow-wrap: anywhere; min-width: 8rem; }
.pairs th { white-space: nowrap; color: var(--soft); }
td.chosen { font-weight: 650; color: var(--accent); }
.matrix th, .matrix td { padding: 7px 10px; border: 2px solid var(--card); text-align: center; }
.matrix tbody th { text-align: right; max-width: 14rem; overflow-wrap: anywhere; }
.matrix thead th { white-space: nowrap; color: var(--ink); font-size: 0.85rem; }
.matrix td { min-width: 3rem; border-radius: 8px; }
.matrix .corner { color: var(--soft); font-size: 0.8rem; white-space: nowrap; }
.matrix .none { color: var(--soft); opacity: 0.6; }
.field { fill: var(--page); }
.heat svg { max-width: 100%; min-width: 640px; height: auto; }
.frequent td { overflow-wrap: anywhere; min-width: 4.5rem; }
"""
    + "".join(
        f"td.right.s{level} {{ background: color-mix(in srgb, var(--accent) {6 + 5 * level}%, var(--card)); }}\n"
        f"td.wrong.s{level} {{ background: color-mix(in srgb, var(--wrong) {10 + 5 * level}%, var(--card)); }}\n"
        f"rect.right.s{level} {{ fill: color-mix(in srgb, var(--accent) {20 + 8 * level}%, var(--card)); }}\n"
        f"rect.wrong.s{level} {{ fill: color-mix(in srgb, var(--wrong) {30 + 7 * level}%, var(--card)); }}\n"
        for level in range(1, 11)
    )
    + """
.cards {
  list-style: none; margin: 16px 0 0; padding: 0; display: grid;
  grid-template-columns: repeat(auto-fill, minmax(145px, 1fr)); gap: 18px;
}
.cards li { min-width: 0; font-size: 0.9rem; line-height: 1.35; }
.cards p { margin: 2px 0; }
.cards img, .absent {
  width: 100%; height: auto; aspect-ratio: 1; border-radius: 10px; display: block; background: var(--code);
  margin-bottom: 8px;
}
.absent { display: grid; place-items: center; color: var(--soft); font-size: 0.85rem; }
.wrong-name { color: var(--wrong); }
.path { color: var(--soft); font-size: 0.78rem; overflow-wrap: anywhere; }
.warnings li { margin-bottom: 8px; overflow-wrap: anywhere; }
ul { padding-left: 20px; }
code { font: 0.88em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
code.line { display: block; color: var(--soft); }
.commands { margin: 14px 0 0; }
.commands dt { font-size: 0.88rem; color: var(--soft); }
.commands dd { margin: 2px 0 14px; }
.commands code {
  display: block; background: var(--code); border-radius: 8px; padding: 10px 14px; user-select: all;
  cursor: copy;
}
details { margin-top: 14px; } summary { cursor: pointer; color: var(--accent); font-size: 0.92rem; }
footer { color: var(--soft); font-size: 0.85rem; padding-top: 4px; padding-bottom: 44px; }
@media screen and (max-width: 760px) {
  header { padding-top: 26px; } header, main, footer { padding-left: 14px; padding-right: 14px; }
  section { padding: 18px 14px; margin: 14px 0; border-radius: 12px; }
  svg text { font-size: 16px; } svg .axis { font-size: 16px; } svg .name { font-size: 8px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; } .tiles dd { font-size: 1.35rem; }
  .cards { grid-template-columns: 1fr 1fr; gap: 14px; }
}
@media print {
  :root {
    --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; --grid: #e5e5e5; --accent: #2457d6;
    --train: #8a6d1f; --other: #0f7b62; --wrong: #b3261e; --warn: #fff; --code: #f2f2f2;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 10.5pt; }
  section { border: 0; border-radius: 0; padding: 0; margin: 18pt 0; }
  .scroll, .scroll.tall { overflow: visible; max-height: none; }
  .chart, .cards li, .tiles div, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .cards { grid-template-columns: repeat(6, 1fr); }
  .charts { grid-template-columns: 1fr 1fr; }
  details:not([open]), nav { display: none; }
  .commands code { border: 1px solid var(--line); }
}
"""
)
