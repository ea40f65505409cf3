"""The HTML template of a report, and its style."""

from string import Template

STYLE = """
:root {
  --ink: #1f2933; --muted: #616e7c; --line: #e4e7eb; --paper: #ffffff; --back: #f5f7fa;
  --good: #1f7a4d; --bad: #b42318; --warn: #9a5b00; --live: #1d5fbf;
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1040px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 0 0 16px; font-size: 1.15rem; font-weight: 650; }
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
  background: var(--line);
}
dl div { background: var(--paper); padding: 14px 18px; }
dt { color: var(--muted); font-size: .85rem; }
dd { margin: 0; color: var(--muted); font-size: .85rem; }
dt + dd {
  color: var(--ink); font-size: 1.5rem; line-height: 1.35; font-weight: 600;
  font-variant-numeric: tabular-nums;
}
section {
  margin-top: 24px; padding: 24px; background: var(--paper);
  border: 1px solid var(--line); border-radius: 10px;
}
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: .95rem; margin-bottom: 6px; }
figcaption span { color: var(--muted); font-weight: 400; font-size: .85rem; margin-left: 6px; }
.curves { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 28px 32px; }
.curves svg { display: block; width: 100%; height: auto; }
.curves svg text { font-family: inherit !important; }
section > figure + figure, figure + .note { margin-top: 28px; }
img { display: block; max-width: 100%; height: auto; }
.images { display: flex; flex-wrap: wrap; gap: 8px; }
.small { image-rendering: pixelated; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 0 6px 16px; border-bottom: 1px solid var(--line); text-align: right; }
th { padding-left: 0; text-align: left; font-weight: 400; overflow-wrap: anywhere; }
thead th, thead td { color: var(--muted); font-size: .85rem; }
tbody tr:last-child > * { border-bottom: 0; }
.environment th { width: 11em; color: var(--muted); vertical-align: top; }
td { white-space: nowrap; }
.environment td { white-space: normal; text-align: left; overflow-wrap: anywhere; }
pre {
  margin: 0; padding: 14px 16px; overflow-x: auto; background: var(--back); border-radius: 6px;
  font: .8rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
summary { cursor: pointer; color: var(--live); }
details pre { margin-top: 12px; }
.note { margin: 0; color: var(--muted); }
@media screen and (max-width: 720px) {
  main { padding: 24px 12px 40px; }
  section { padding: 18px 14px; }
  h1 { font-size: 1.5rem; }
  .curves { grid-template-columns: minmax(0, 1fr); }
  dl { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  dl div { padding: 12px 14px; }
  table { font-size: .9rem; }
  td { padding-left: 10px; }
  .environment th { width: 8em; }
}
@media print {
  body { background: none; font-size: 11pt; }
  main { max-width: none; padding: 0; }
  section { border: 0; padding: 0; margin-top: 20pt; }
  h2 { break-after: avoid; }
  details::details-content { content-visibility: visible; }
  figure, tr, dl { break-inside: avoid; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
}
"""

# The policy prevents the browser from loading anything from outside the page.
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<header>
<div class="name"><h1>$title</h1><span class="status $status_class">$status</span></div>
<p>$period</p>
$reason
<dl>$tiles</dl>
</header>
$sections
</main>
</body>
</html>
""")
