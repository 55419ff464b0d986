--- How the page of --report looks.

return [==[
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2em auto; max-width: 1140px; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.1em; margin-top: 2em; }
table { border-collapse: collapse; margin: .6em 0 1.4em; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { font-weight: 600; color: #555; } th:first-child, td:first-child, td.words { text-align: left; }
td.best { font-weight: 700; background: #e8f4ea; } .wide { overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content auto; gap: .2em 1.2em; } dt { color: #666; }
dd { margin: 0; overflow-wrap: anywhere; }
p.note { color: #555; font-size: .92em; }
canvas { display: block; width: 100%; border-radius: 3px; } canvas:focus { outline: 2px solid #9ac; }
#lab { border-top: 1px solid #ddd; margin-top: 2em; }
.bar { position: sticky; top: 0; background: #fffe; padding: .6em 0; z-index: 1;
  display: flex; flex-wrap: wrap; gap: .4em 1em; align-items: center; }
select, button { font: inherit; max-width: 26em; } figure { margin: .4em 0 1em; position: relative; }
figcaption { font-weight: 600; } .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1em; }
.keys { list-style: none; margin: .3em 0; padding: 0; font-size: .9em;
  display: flex; flex-wrap: wrap; gap: .1em 1.2em; }
.keys button { border: 0; background: none; padding: 0; cursor: pointer; text-align: left; }
.keys i { display: inline-block; width: .9em; height: .9em; margin-right: .4em; vertical-align: -.1em; }
.keys .chosen { font-weight: 700; }
#tip { position: fixed; pointer-events: none; background: #222; color: #fff; padding: .3em .6em; border-radius: 4px;
  font-size: .88em; max-width: 30em; white-space: pre-line; display: none; z-index: 2; }
td.better { background: #e8f4ea; } td.worse { background: #fbeceb; }
@media (max-width: 800px) { .pair { grid-template-columns: 1fr; } }
]==]
