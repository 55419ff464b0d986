--- How the page looks, by day and by night.

return [==[
:root { color-scheme: light dark; --back: #fff; --panel: #f6f7f9; --text: #1d2733; --soft: #55606c; --line: #dde2e8;
  --mark: #0068a5; --bad: #b3261e; --good: #1a7f37; --warn: #8a5a00;
  REASONS }
@media (prefers-color-scheme: dark) {
  :root { --back: #0f1318; --panel: #181e25; --text: #dfe6ee; --soft: #9aa7b4; --line: #2b343e; --mark: #6cb8f0;
    --bad: #ff8a80; --good: #63d48a; --warn: #f0b95a; --full: #3f9ade; --drain: #a8a8a8; --policy: #26b98f; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1540px; padding: 0 16px 32px; background: var(--back); color: var(--text);
  font: 14px/1.45 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; padding: 12px 0 8px; }
h1 { font-size: 19px; margin: 0; } h2 { font-size: 14px; margin: 0 0 6px; } h3 { font-size: 13px; margin: 8px 0 2px; }
.push { margin-left: auto; } [hidden] { display: none !important; }
#choice { display: flex; gap: 6px; align-items: center; min-width: 0; max-width: 100%; } #batcher { min-width: 0; }
.soft, small { color: var(--soft); font-size: 12.5px; }
.pill { border: 1px solid var(--line); border-radius: 99px; padding: 1px 10px; white-space: nowrap; }
.pill::before { content: ""; display: inline-block; width: 8px; height: 8px; margin-right: 6px; border-radius: 9px;
  background: var(--soft); }
.pill.good::before { background: var(--good); } .pill.warn::before { background: var(--warn); border-radius: 0; }
.pill.bad::before { background: var(--bad); clip-path: polygon(50% 0, 100% 100%, 0 100%); }
#note { margin: 0 0 8px; padding: 6px 10px; border-left: 4px solid var(--warn); background: var(--panel); }
#note:empty { display: none; }
main { display: grid; gap: 12px; grid-template-columns: repeat(12, minmax(0, 1fr)); }
section { grid-column: span 12; background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 12px; min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(92px, 1fr)); gap: 8px 12px; margin: 0; }
.tiles div { display: flex; flex-direction: column-reverse; }
.tiles dt { color: var(--soft); font-size: 12.5px; }
.tiles dd { margin: 0; font-size: 20px; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tiles .bad dd { color: var(--bad); }
.four { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 215px), 1fr)); gap: 12px 16px; }
figure { margin: 0; } figcaption { font-size: 12.5px; color: var(--soft); } figcaption b { color: var(--text); }
canvas { display: block; width: 100%; }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; border-radius: 3px; }
.bar { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; }
select, button { font: inherit; color: inherit; background: var(--back); border: 1px solid var(--line);
  border-radius: 5px; padding: 2px 8px; max-width: 100%; }
button { cursor: pointer; } button[aria-pressed=true] { border-color: var(--mark); color: var(--mark); }
ul.keys { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0 12px; font-size: 12.5px; }
ul.keys i { display: inline-block; width: 10px; height: 10px; margin-right: 5px; }
i.full { background: var(--full); } i.timeout { background: var(--timeout); } i.idle { background: var(--idle); }
i.drain { background: var(--drain); } i.policy { background: var(--policy); }
i.padding { background: repeating-linear-gradient(45deg, var(--soft) 0 1.5px, transparent 1.5px 4px); }
i.failed { background: var(--bad); height: 3px; vertical-align: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 8px 2px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 12.5px; }
th:first-child, td:first-child, th.left, td.left { text-align: left; }
tr:last-child td { border-bottom: 0; } td.words { white-space: normal; overflow-wrap: anywhere; text-align: left; }
td.name { font-family: ui-monospace, monospace; font-size: 12.5px; max-width: 22em; overflow: hidden;
  text-overflow: ellipsis; }
td.share { width: 40%; padding-right: 0; } td.share span { display: block; height: 9px; background: var(--mark);
  border-radius: 2px; min-width: 1px; }
tr.limit td, tr.limit th { border-bottom: 2px dashed var(--bad); }
.none { color: var(--soft); margin: 2px 0; } details summary { cursor: pointer; }
#tip { position: fixed; pointer-events: none; background: var(--text); color: var(--back); padding: 5px 9px;
  border-radius: 5px; font-size: 12.5px; max-width: 300px; white-space: pre-line; display: none; z-index: 2; }
.half { grid-column: span 6; } .third { grid-column: span 4; }
@media (max-width: 1000px) { .third { grid-column: span 6; } }
@media (max-width: 700px) { .half, .third { grid-column: span 12; }
  body { padding: 0 8px 24px; } }
]==]
