"""The style of a report: light and dark, wide and narrow, on screen and on paper."""

_LIGHT = """
  --ink: #1f2933; --muted: #5b6875; --line: #e4e7eb; --axis: #9aa5b1;
  --paper: #ffffff; --back: #f5f7fa; --link: #1d5fbf;
  --good: #1f7a4d; --bad: #b42318; --warn: #8a5200; --live: #1d5fbf;
  --train: #2f6fdb; --val: #d9571d; --other: #2f855a;
  --series-0: #2f6fdb; --series-1: #d9571d; --series-2: #2f855a; --series-3: #9b3fb5;
  --series-4: #c02b4b; --series-5: #0e8a94; --series-6: #8a6d00; --series-7: #5b5bd6;
  --series-8: #7a4a2b; --series-9: #66727f;
"""
_DARK = """
  --ink: #e6eaee; --muted: #9aa7b4; --line: #2c353f; --axis: #5d6975;
  --paper: #171d24; --back: #0f1318; --link: #7db0ff;
  --good: #5fce97; --bad: #ff8a7d; --warn: #f0b357; --live: #7db0ff;
  --train: #6fa5ff; --val: #ff9a66; --other: #68cf9a;
  --series-0: #6fa5ff; --series-1: #ff9a66; --series-2: #68cf9a; --series-3: #d78bee;
  --series-4: #ff7f9b; --series-5: #4ccbd6; --series-6: #dfc14a; --series-7: #a6a6ff;
  --series-8: #cf9c78; --series-9: #a3afbb;
"""

# Splits in the chart of the class balance.
_PARTS = "".join(
    f".part-{k} {{ fill: var(--series-{k}); background: var(--series-{k}); }}\n" for k in range(10)
)

STYLE = (
    f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
"""
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 56px; }
body {
  margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 0 0 16px; font-size: 1.2rem; font-weight: 650; }
h3 { margin: 32px 0 10px; font-size: 1rem; font-weight: 600; }
h2 + h3 { margin-top: 0; }
h3 span { color: var(--muted); font-weight: 400; font-size: .85rem; margin-left: 6px; }
a { color: var(--link); }
header p { margin: 8px 0 0; color: var(--muted); }
.name { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 14px; }
.status {
  padding: 2px 12px; border-radius: 99px; font-size: .85rem; font-weight: 600;
  color: var(--muted); border: 1px solid currentColor;
}
.finished { color: var(--good); } .failed, .killed { color: var(--bad); }
.interrupted { color: var(--warn); } .running { color: var(--live); }
header .reason { color: var(--ink); overflow-wrap: anywhere; }
dl {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 1px;
  margin: 24px 0 0; border: 1px solid var(--line); border-radius: 10px; overflow: hidden;
  background: var(--paper);
}
dl div { padding: 14px 18px; box-shadow: 0 0 0 1px var(--line); }
dt { color: var(--muted); font-size: .85rem; }
dd { margin: 0; color: var(--muted); font-size: .85rem; }
dt + dd {
  color: var(--ink); font-size: 1.5rem; line-height: 1.35; font-weight: 600;
  font-variant-numeric: tabular-nums;
}
nav {
  position: sticky; top: 0; z-index: 1; margin: 20px -24px 0; padding: 0 24px;
  background: var(--back); border-bottom: 1px solid var(--line);
  display: flex; gap: 4px 20px; overflow-x: auto; white-space: nowrap;
}
nav a { padding: 10px 0; color: var(--muted); font-size: .9rem; text-decoration: none; }
nav a:hover, nav a:focus { color: var(--ink); }
section {
  margin-top: 24px; padding: 24px; background: var(--paper);
  border: 1px solid var(--line); border-radius: 10px;
}
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: .95rem; margin-bottom: 6px; }
figcaption span { color: var(--muted); font-weight: 400; font-size: .85rem; margin-left: 6px; }
.two { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 32px; }
.scores { max-width: 640px; }
.wide + .wide { margin-top: 20px; }
.curves { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 28px 32px; }
.curves svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: inherit !important; }
.tip > rect { fill: transparent; }
.tip > g { visibility: hidden; pointer-events: none; }
.tip:hover > g { visibility: visible; }
.tip path { stroke: var(--axis); stroke-width: .8; }
.tip g rect { fill: var(--paper); stroke: var(--line); }
.tip text { font-size: 8.5px; fill: var(--ink); font-variant-numeric: tabular-nums; }
.matrix, .balance { display: block; width: 100%; height: auto; }
.field { fill: var(--back); }
.matrix .right { fill: var(--train); } .matrix .missed { fill: var(--bad); }
.cell:hover rect { stroke: var(--ink); stroke-width: 1.5; }
.matrix text, .balance text { fill: var(--ink); }
.matrix .name, .balance .name { fill: var(--muted); }
.matrix .on { fill: var(--paper); }
.axis { stroke: var(--axis); }
.balance g:hover { opacity: .7; }
"""
    + _PARTS
    + """
.key { list-style: none; margin: 0 0 12px; padding: 0; display: flex; flex-wrap: wrap;
  gap: 4px 18px; font-size: .9rem; }
.key i, .dot {
  display: inline-block; width: .8em; height: .8em; margin-right: .5em; border-radius: 2px;
}
section > figure + figure, figure + .note { margin-top: 28px; }
img { display: block; max-width: 100%; height: auto; }
.image img { background: #fff; }
.images { display: flex; flex-wrap: wrap; gap: 8px; }
.small { image-rendering: pixelated; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(96px, 1fr));
  gap: 16px 14px; }
.maps { grid-template-columns: repeat(auto-fill, minmax(212px, 1fr)); }
.tile { font-size: .85rem; line-height: 1.4; }
.tile img { border-radius: 4px; }
.tile figcaption { font-weight: 400; font-size: inherit; margin: 6px 0 0; overflow-wrap: anywhere; }
.tile figcaption span { margin: 0; }
.pair { display: flex; gap: 4px; }
b.right { color: var(--good); } b.missed { color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 0 6px 16px; border-bottom: 1px solid var(--line); text-align: right; }
th {
  padding-left: 0; text-align: left; font-weight: 400; overflow-wrap: anywhere; min-width: 6em;
  position: sticky; left: 0; background: var(--paper);
}
thead th, thead td { color: var(--muted); font-size: .85rem; }
tbody tr:last-child > * { border-bottom: 0; }
td { white-space: nowrap; }
.text { text-align: left; }
.checkpoints th { min-width: 3.5em; }
.checkpoints td:last-child { text-align: left; white-space: normal; }
.facts th { width: 11em; color: var(--muted); vertical-align: top; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
.layers { font-size: .85rem; }
.runs thead td { white-space: normal; }
.runs .best { font-weight: 650; color: var(--good); }
.differences > * > * > * { vertical-align: top; }
.differences td {
  text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 10em;
}
.bar {
  display: inline-block; width: 54px; height: 6px; margin-left: 8px; border-radius: 3px;
  background: var(--line); vertical-align: middle; overflow: hidden;
}
.bar i { display: block; height: 100%; background: var(--train); }
pre {
  margin: 0; padding: 14px 16px; overflow-x: auto; background: var(--back); border-radius: 6px;
  font: .8rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
summary { cursor: pointer; color: var(--link); padding: 6px 0; }
details pre { margin-top: 12px; }
.note { margin: 12px 0 0; color: var(--muted); font-size: .9rem; }
@media screen and (max-width: 720px) {
  main { padding: 24px 12px 40px; }
  nav { margin: 16px -12px 0; padding: 0 12px; }
  section { padding: 18px 14px; }
  h1 { font-size: 1.5rem; }
  .curves, .two { grid-template-columns: minmax(0, 1fr); }
  dl { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  dl div { padding: 12px 14px; }
  table { font-size: .9rem; }
  thead td { white-space: normal; }
  td { padding-left: 10px; }
  .facts th { width: 7em; }
  .bar { display: none; }
}
@media print {
  :root { color-scheme: light; }
  table { font-size: 9pt; }
  th { position: static; }
  .layers { font-size: 7.5pt; }
  .classes .bar { display: none; }
  .matrix, .balance { min-width: 0 !important; }
  .curves { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  body { background: none; font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  section { border: 0; padding: 0; margin-top: 20pt; }
  h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; }
  figure, tr, dl { break-inside: avoid; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .wide { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
)
