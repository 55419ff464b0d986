--- The page's script, first part: its data, and what is drawn of it in several places (see base/canvas_js.lua).

return [==[
const data = JSON.parse(byId("data").textContent);

const COLOURS = data.colours;
const colourOf = i => COLOURS[i % COLOURS.length];
// Where there are more runs than colours: dotted lines, striped swatches.
const dashOf = i => i < COLOURS.length ? [] : [2, 1 + 2 * Math.floor(i / COLOURS.length)];
const fillOf = i => i < COLOURS.length ? colourOf(i)
  : `repeating-linear-gradient(90deg, ${colourOf(i)} 0 3px, transparent 3px 5px)`;

// Powers of ten, and their halves where there are few.
function logTicks(from, to) {
  const out = [], few = Math.log10(to / from) < 3;
  for (let e = Math.floor(Math.log10(from)); e <= Math.log10(to); e++) {
    for (const k of few ? [1, 2, 5] : [1]) {
      const value = Number((k * Math.pow(10, e)).toPrecision(6));
      if (value >= from && value <= to) out.push(value);
    }
  }
  return out;
}
]==]
