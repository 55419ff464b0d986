--- The page's script, third part: pictures.

return [==[
const HEIGHT = 236, LEFT = 46, ROOM = { top: 20, bottom: 36 };
const view = { span: 30, frozen: null, hovered: null };
const ink = {};

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["back", "text", "soft", "line", "mark", "bad", "full", "timeout", "idle", "drain", "policy"]) {
    ink[name] = style.getPropertyValue("--" + name).trim();
  }
  Object.assign(INK, { text: ink.soft, grid: ink.line, line: ink.soft });
  const tile = document.createElement("canvas"), g = tile.getContext("2d");
  tile.width = tile.height = 6;
  g.strokeStyle = ink.back;
  g.lineWidth = 1.6;
  for (const k of [-6, 0, 6]) { g.moveTo(k, 6); g.lineTo(k + 6, 0); }
  g.stroke();
  ink.hatch = tile;
}

// A vertical line where options were changed; `named`: with what was changed, on the side where there is room.
function drawChanges(g, changes, x, box, named) {
  const texts = new Map();
  for (const { at, text } of changes) texts.set(at, texts.has(at) ? texts.get(at) + ", " + text : text);
  g.lineWidth = 1;
  g.textBaseline = "top";
  g.textAlign = "left";
  [...texts].forEach(([time, text], i) => {
    const at = Math.round(x(time)) + 0.5;
    if (at < box.left || at > box.right) return;
    g.strokeStyle = ink.mark;
    g.setLineDash([4, 3]);
    g.beginPath();
    g.moveTo(at, box.top);
    g.lineTo(at, box.bottom);
    g.stroke();
    g.setLineDash([]);
    if (!named) return;
    const isRight = at > (box.left + box.right) / 2, room = Math.abs((isRight ? box.left : box.right) - at) - 8;
    const width = Math.min(g.measureText(text).width, room), left = isRight ? at - width - 5 : at + 5;
    const top = box.top + 2 + (i % 3) * 17;
    g.fillStyle = ink.back;
    g.globalAlpha = 0.88;
    g.fillRect(left - 3, top - 1, width + 6, 16);
    g.globalAlpha = 1;
    g.fillStyle = ink.mark;
    g.fillText(text, left, top, width);
  });
}

// A level over two minutes. limit: a number or null; text: how a value reads.
function drawLevel(id, list, limit, about, text) {
  const [g, width] = begin(byId("c-" + id), 96), history = chosen().it.history;
  const box = { left: LEFT, right: width - 6, top: 8, bottom: 78 }, last = list.length ? list[list.length - 1] : 0;
  const most = Math.max(...list, 0), shows = limit !== null && limit <= most * 4;
  const top = Math.max(most, shows ? limit : 0) * 1.08 || 1;
  const x = s => box.right + s / 120 * (box.right - box.left), y = v => box.bottom - v / top * (box.bottom - box.top);
  const marks = ticks(0, top, 3);
  box.left = Math.max(LEFT, ...marks.map(value => g.measureText(short(value)).width + 8));
  axis(g, "y", marks, y, box, "");
  g.textBaseline = "top";
  [[-120, "left"], [-60, "center"], [0, "right"]].forEach(([s, side]) => {
    g.textAlign = side;
    g.fillText(s ? s + " s" : "now", x(s), box.bottom + 4);
  });
  g.beginPath();
  list.forEach((value, i) => {
    const at = (i - list.length) * history.step_s, from = Math.max(box.left, x(at)), to = x(at + history.step_s);
    if (!i) g.moveTo(from, box.bottom);
    g.lineTo(from, y(value));
    g.lineTo(Math.max(from, to), y(value));
  });
  g.strokeStyle = g.fillStyle = ink.mark;
  g.lineWidth = 1.5;
  g.stroke();
  g.lineTo(box.right, box.bottom);
  g.globalAlpha = 0.18;
  g.fill();
  g.globalAlpha = 1;
  if (shows) {
    g.strokeStyle = ink.bad;
    g.setLineDash([6, 3]);
    g.beginPath();
    g.moveTo(box.left, y(limit));
    g.lineTo(box.right, y(limit));
    g.stroke();
    g.setLineDash([]);
  }
  const end = (history.last + 1) * history.step_s;
  drawChanges(g, chosen().it.changes, t => x(t - end), box, false);
  const words = [about + " ", text(last), limit === null ? "" : " of " + text(limit), "; most " + text(most)];
  const caption = byId("cap-" + id), strong = document.createElement("b");
  strong.textContent = words[1];
  caption.replaceChildren(words[0], strong, words[2] + words[3]);
  byId("c-" + id).setAttribute("aria-label", words.join("") + ", over two minutes");
}

function drawLevels() {
  const { history, limits } = chosen().it, or = value => value === undefined ? null : value;
  drawLevel("queue", history.queue, or(limits.queue), "Records:", short);
  drawLevel("cost", history.cost, or(limits.queue_cost), "Tokens:", short);
  const perS = history.completed.map(n => n / history.step_s);
  if (perS.length > 1) perS[perS.length - 1] = perS[perS.length - 2]; // a step that is not over yet
  drawLevel("completed", perS, null, "Answers a second:", short);
  drawLevel("oldest", history.oldest_us.map(us => us / 1e6), or(limits.oldest_s), "Oldest:", time);
}

const count = (n, what) => short(n) + " " + what + (n === 1 ? "" : "s");

// --- batches -----------------------------------------------------------------
const all = () => chosen().batches.concat(chosen().running);
const viewEnd = () => view.frozen === null ? now() - 0.4 : view.frozen;

function scene() {
  const width = byId("c-batches").clientWidth, to = viewEnd(), from = to - view.span;
  const box = { left: LEFT, right: width - 6, top: ROOM.top, bottom: HEIGHT - ROOM.bottom };
  const shown = all().filter(b => b.end >= from && b.at <= to);
  let lanes = 1, most = 1;
  for (const b of shown) { lanes = Math.max(lanes, b.lane + 1); most = Math.max(most, b.size); }
  lanes = Math.min(lanes, 24);
  const x = t => box.left + (t - from) / view.span * (box.right - box.left), row = (box.bottom - box.top) / lanes;
  const place = b => {
    const left = Math.max(box.left, x(b.at)), right = Math.min(box.right, x(Math.min(b.end, to)));
    const bottom = box.bottom - (b.lane % lanes) * row;
    const height = Math.max(2, (lanes > 1 ? 0.9 : 1) * row * b.size / most);
    return { left, width: Math.max(1.5, right - left), top: bottom - height, height, bottom, row };
  };
  return { box, shown, lanes, most, from, to, x, place };
}

function drawBatches() {
  const { box, shown, lanes, most, to, x, place } = scene(), [g] = begin(byId("c-batches"), HEIGHT);
  const title = lanes > 1 ? "batches at once; highest: " + count(most, "record") : "records";
  const up = box.bottom - box.top;
  if (lanes > 1) axis(g, "y", [...Array(lanes + 1).keys()], n => box.bottom - n / lanes * up, box, title);
  else axis(g, "y", ticks(0, most, 5), n => box.bottom - n / most * up, box, title);
  g.textBaseline = "top";
  const step = { 10: 2, 30: 5, 120: 20 }[view.span];
  for (let s = 0; s <= view.span; s += step) {
    g.textAlign = s ? "center" : "right";
    g.fillText(s ? "-" + s + " s" : view.frozen === null ? "now" : clock(to), Math.max(x(to - s), box.left + 12),
      box.bottom + 5);
  }
  g.save();
  g.beginPath();
  g.rect(box.left, box.top - 1, box.right - box.left, up + 2);
  g.clip();
  const hatch = g.createPattern(ink.hatch, "repeat");
  for (const b of shown) {
    const at = place(b), padded = at.height * b.padding;
    g.globalAlpha = b.end === Infinity ? 0.4 : 0.92;
    g.fillStyle = ink[b.reason] || ink.soft;
    g.fillRect(at.left, at.top, at.width, at.height);
    if (padded > 1 && at.width > 2) {
      g.fillStyle = hatch;
      g.fillRect(at.left, at.top, at.width, padded);
    }
    g.globalAlpha = 1;
    if (b.failed) {
      g.fillStyle = ink.bad;
      g.fillRect(at.left, at.top, at.width, 3);
    }
    if (at.width > 3) {
      g.strokeStyle = ink.back;
      g.lineWidth = 0.7;
      g.strokeRect(at.left, at.top, at.width, at.height);
    }
    if (b === view.hovered) {
      g.strokeStyle = ink.text;
      g.lineWidth = 2;
      g.strokeRect(at.left, at.top, at.width, at.height);
    }
  }
  g.lineWidth = 1;
  drawChanges(g, chosen().it.changes, x, box, true);
  g.restore();
  if (!shown.length) {
    g.fillStyle = ink.soft;
    g.textAlign = "center";
    g.fillText("no batch in these " + view.span + " seconds", (box.left + box.right) / 2, (box.top + box.bottom) / 2);
  }
}

function batchAt(px, py) {
  const { shown, place } = scene();
  let found = null;
  for (const b of shown) {
    const at = place(b);
    if (px < at.left - 2 || px > at.left + at.width + 2 || py > at.bottom || py < at.bottom - at.row) continue;
    if (!found || b.at > found.at) found = b;
  }
  return found;
}

function aboutBatch(b) {
  const lines = [count(b.size, "record") + ", " + count(b.cost, "token")];
  if (b.end === Infinity) {
    lines.unshift("A batch that runs, worker " + b.worker);
    return lines.concat("went: " + b.reason, "since " + clock(b.at) + ", call " + b.calls).join("\n");
  }
  lines.unshift("Batch " + b.n + ", worker " + b.worker + " (id " + b.id + ")");
  lines[1] += ", " + (100 * b.padding).toFixed(1) + " % padding";
  lines.push("went: " + b.reason + ", by " + b.policy, "took " + time(b.s) + ", until " + clock(b.end),
    count(b.calls, "call") + (b.depth ? ", halved " + b.depth + " deep" : ""));
  if (b.failed) lines.push(b.failed + " failed: " + b.code);
  if (b.keys > 0) lines.push(count(b.keys, "key"));
  if (b.group) lines.push("group " + b.group);
  return lines.join("\n");
}
]==]
