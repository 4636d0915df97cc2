"""The style sheet of the results page: system fonts, light and dark, print, and one column on a phone."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fcfbf8; --card: #ffffff; --ink: #1d2126; --soft: #5b6470; --line: #e2dfd7; --accent: #1f5fa8;
  --tint: #f3f1ea;
  --good: #1a7a43; --bad: #c02f2f; --open: #8f5b00; --none: #667080; --zone: #1a7a4322;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1b1f25; --ink: #e7e5df; --soft: #a2a9b3; --line: #30363e; --accent: #86b7f0;
    --tint: #20252c;
    --good: #5ecb8b; --bad: #ff8a80; --open: #e5b454; --none: #98a2b0; --zone: #5ecb8b26;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--sans);
  overflow-wrap: break-word; }
.page { max-width: 1180px; margin: 0 auto; padding: 3rem 1.75rem 4rem; }
a { color: var(--accent); text-underline-offset: .18em; text-decoration-thickness: .07em; }
a:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 2px; }
h1, h2 { font-weight: 680; line-height: 1.18; letter-spacing: -.014em; text-wrap: balance; margin: 0; }
h1 { font-size: clamp(1.9rem, 1.3rem + 2.6vw, 2.9rem); letter-spacing: -.022em; }
h2 { font-size: clamp(1.35rem, 1.1rem + 1vw, 1.7rem); }
h3 { font-size: .95rem; font-weight: 650; margin: 2rem 0 .75rem; }
p { margin: .5rem 0; max-width: 46rem; }
code, pre { font-family: var(--mono); font-size: .84em; }
.eyebrow, .meta { color: var(--soft); font-size: .9rem; }
.eyebrow { margin: 0 0 .5rem; letter-spacing: .02em; }
.meta { margin: .4rem 0 0; max-width: none; }
.meta span:not(:last-child)::after, .meta a:not(:last-child)::after { content: "·"; color: var(--soft);
  margin: 0 .5rem; display: inline-block; }
.good { color: var(--good); } .bad { color: var(--bad); } .open { color: var(--open); } .none { color: var(--none); }

.tally { margin: 2rem 0 0; }
.bar { display: flex; gap: 3px; height: 14px; margin: 0 0 .9rem; }
.bar span { min-width: 6px; background: currentColor; border-radius: 3px; }
.bar span.none { opacity: .55; }
.counts { display: flex; flex-wrap: wrap; gap: .5rem 2.25rem; margin: 0; padding: 0; list-style: none; }
.counts b { font: 680 1.7rem/1.1 var(--sans); letter-spacing: -.02em;
  font-variant-numeric: tabular-nums lining-nums; margin-right: .4rem; }
.counts li { display: flex; align-items: baseline; }
.counts li.good b, .counts li.bad b, .counts li.open b, .counts li.none b { color: inherit; }

.problems { margin: 2.5rem 0 0; }
.problem { border: 1px solid var(--line); border-left: 4px solid var(--bad); border-radius: 6px;
  background: var(--card);
  padding: .9rem 1.15rem; margin: .9rem 0 0; }
.problem h3 { margin: 0; font-size: 1rem; }
.problem .state { color: var(--bad); font-weight: 650; }
.problem pre { margin: .6rem 0 .1rem; padding: .7rem .85rem; background: var(--tint); border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.45; }

nav { margin: 2.5rem 0 0; border-top: 1px solid var(--line); }
nav ol { list-style: none; margin: 0; padding: 0; }
nav li { display: flex; justify-content: space-between; gap: .25rem 1.5rem; flex-wrap: wrap; padding: .55rem 0;
  border-bottom: 1px solid var(--line); }
nav a { text-decoration: none; font-weight: 550; min-width: 0; }
nav a:hover { text-decoration: underline; }
nav .strip { font-weight: 700; letter-spacing: .2em; min-width: 0; overflow-wrap: anywhere; }

section.job { margin: 4rem 0 0; scroll-margin-top: 1.5rem; }
table { width: 100%; border-collapse: collapse; margin: 1.25rem 0 0; font-size: .925rem; }
caption { text-align: left; color: var(--soft); font-size: .86rem; padding: 0 0 .5rem; }
th { text-align: left; font-size: .8rem; font-weight: 600; color: var(--soft); padding: .4rem 1rem .4rem 0;
  white-space: nowrap; }
thead th { border-bottom: 1.5px solid var(--ink); vertical-align: bottom; }
td, tbody th { vertical-align: top; padding: .85rem 1.1rem .85rem 0; border-bottom: 1px solid var(--line); }
td:last-child, th:last-child { padding-right: 0; }
tbody th { white-space: normal; font-weight: 400; font-size: inherit; color: var(--ink); min-width: 15rem;
  line-height: 1.45; overflow-wrap: anywhere; }
tbody th b { font-weight: 700; margin-right: .25rem; }
.number { font-variant-numeric: tabular-nums lining-nums; white-space: nowrap; }
.verdict { font-weight: 650; white-space: nowrap; }
.small { display: block; color: var(--soft); font-size: .82rem; line-height: 1.4; margin-top: .15rem; }
td .small { max-width: 190px; }
td code { white-space: nowrap; color: var(--soft); }
.legend, details { color: var(--soft); font-size: .86rem; margin-top: .9rem; }
.legend p { margin: .2rem 0; }
summary { cursor: pointer; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 2px; }
details ul { margin: .4rem 0 0; padding-left: 1.2rem; max-width: 46rem; }
.interval { display: block; width: 190px; max-width: 100%; height: auto; margin: .1rem 0 .25rem; overflow: visible; }
.interval .axis { stroke: var(--line); stroke-width: 1; }
.interval .zone { fill: var(--zone); }
.interval .bound { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 3 2.5; }
.interval .span { stroke: currentColor; stroke-width: 4; stroke-linecap: round; }
.interval .point { fill: currentColor; stroke: var(--paper); stroke-width: 1.5; }
.interval text { fill: var(--soft); font: 10px var(--sans); }

.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1.5rem;
  margin: 1.5rem 0 0; align-items: start; }
figure { margin: 0; }
figure.wide { grid-column: 1 / -1; }
figure img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; padding: .5rem; }
figcaption { color: var(--soft); font-size: .86rem; margin-top: .5rem; }

dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.5rem; margin: 1rem 0 0; font-size: .925rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }

@media (max-width: 860px) {
  .page { padding: 1.75rem 1.1rem 3rem; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, caption, tbody, tr, tbody th { display: block; }
  tr { border: 1px solid var(--line); border-radius: 8px; background: var(--card); padding: .9rem 1rem;
    margin: 0 0 .8rem; }
  tbody th, td { border: 0; padding: 0; min-width: 0; }
  tbody th { padding-bottom: .6rem; }
  td { display: grid; grid-template-columns: 6.5rem minmax(0, 1fr); padding: .28rem 0; }
  td::before { content: attr(data-label); color: var(--soft); font-size: .86rem; }
  td .small { max-width: none; }
  td code { white-space: normal; }
  .interval .point { stroke: var(--card); }
  section.job { margin-top: 3rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --tint: #f2f2f2; --accent: #000;
    --good: #14602f; --bad: #a02020; --open: #6d4500; --none: #444; --zone: #14602f22; }
  body { font-size: 10pt; }
  .page { max-width: none; padding: 0; }
  nav { display: none; }
  tr, figure, .problem { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
"""
