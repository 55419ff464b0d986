--- The page's script, second part: the queue and the batches of a run over time, as zoomed.

return [==[
// Batches are lists of numbers in columns: from, to, size, reason, cost, lane.
const QUEUE_HEIGHT = 110, BATCH_HEIGHT = 150, GAP = 34, LEFT = 56, RIGHT = 12, TOP = 22;
const HEIGHT = TOP + QUEUE_HEIGHT + GAP + BATCH_HEIGHT + 38;

function boxes(width) {
  const queue = { left: LEFT, right: width - RIGHT, top: TOP, bottom: TOP + QUEUE_HEIGHT };
  const top = queue.bottom + GAP, batches = { left: LEFT, right: width - RIGHT, top, bottom: top + BATCH_HEIGHT };
  return { queue, batches };
}

function placeX(box, view) {
  return t => box.left + (t - view.from) / (view.to - view.from) * (box.right - box.left);
}

// The last index whose time is at or before t; -1 if there is none.
function lastAtOrBefore(times, t) {
  let low = -1, high = times.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (times[middle] <= t) low = middle; else high = middle - 1;
  }
  return low;
}

function queuedAt(run, t) {
  const i = lastAtOrBefore(run.depth_at, t);
  return i < 0 ? 0 : run.depth[i];
}

function drawQueue(g, box, run, view, most) {
  const x = placeX(box, view), y = n => box.bottom - n / most * (box.bottom - box.top);
  const of = run.depth_bin ? " (most in " + short(run.depth_bin) + " s)" : "";
  axis(g, "y", ticks(0, most, 4), y, box, "records queued" + of);
  g.save();
  g.beginPath();
  g.rect(box.left, box.top, box.right - box.left, box.bottom - box.top + 1);
  g.clip();
  g.fillStyle = "#8a8a8a";
  const at = run.depth_at, first = Math.max(0, lastAtOrBefore(at, view.from));
  let column = -1, height = 0;
  for (let i = first; i < at.length && at[i] <= view.to; i++) {
    const until = i + 1 < at.length ? at[i + 1] : run.to;
    const from = x(Math.max(at[i], view.from)), to = x(Math.min(until, view.to));
    if (to - from >= 1) {
      const pixel = Math.floor(from); // whole ones: else seams show between the pieces
      g.fillRect(pixel, y(run.depth[i]), Math.ceil(to) - pixel, box.bottom - y(run.depth[i]));
      continue;
    }
    const pixel = Math.floor(from); // of many in one pixel the most counts
    height = pixel === column ? Math.max(height, run.depth[i]) : run.depth[i];
    column = pixel;
    g.fillRect(pixel, y(height), 1, box.bottom - y(height));
  }
  g.restore();
}

// Where a batch is drawn: {x, y, width, height}.
function barOf(run, i, box, view, most) {
  const x = placeX(box, view), b = run.batches;
  const from = x(b.from[i]), width = Math.max(0.8, x(b.to[i]) - from);
  const row = (box.bottom - box.top) / (run.lanes > 1 ? run.lanes : 1);
  const bottom = run.lanes > 1 ? box.bottom - (b.lane[i] - 1) * row : box.bottom;
  const height = (run.lanes > 1 ? 0.92 : 1) * row * b.size[i] / most;
  return { x: from, y: bottom - height, width, height, top: bottom - row, bottom };
}

function drawBatches(g, box, run, view, most, chosen) {
  const what = run.batch_bin ? "largest batch in " + short(run.batch_bin) + " s" :
    run.lanes > 1 ? "slots" + (most > 1 ? "; bars up to " + short(most) + " records high" : "") : "batch size, records";
  if (run.lanes > 1) {
    const place = n => box.bottom - n / run.lanes * (box.bottom - box.top);
    axis(g, "y", ticks(0, run.lanes, Math.min(8, run.lanes)).filter(Number.isInteger), place, box, what);
  } else {
    axis(g, "y", ticks(0, most, 5), n => box.bottom - n / most * (box.bottom - box.top), box, what);
  }
  g.save();
  g.beginPath();
  g.rect(box.left, box.top, box.right - box.left, box.bottom - box.top + 1);
  g.clip();
  const b = run.batches;
  for (let i = 0; i < b.from.length; i++) {
    if (b.to[i] < view.from || b.from[i] > view.to) continue;
    const bar = barOf(run, i, box, view, most);
    g.fillStyle = data.reason_colours[b.reason[i] - 1];
    g.globalAlpha = i === chosen ? 1 : 0.85;
    g.fillRect(bar.x, bar.y, bar.width, bar.height);
    if (bar.width <= 3 && i !== chosen) continue;
    g.globalAlpha = 1;
    g.strokeStyle = i === chosen ? "#000" : "#fff";
    g.lineWidth = i === chosen ? 1.5 : 0.6;
    g.strokeRect(bar.x, bar.y, bar.width, bar.height);
  }
  g.restore();
  axis(g, "x", ticks(view.from, view.to, 10), placeX(box, view), box, "seconds");
}

// The batch under a point of the canvas, or -1. Of several the one that began last.
function batchAt(run, box, view, px, py) {
  if (px < box.left || px > box.right || py < box.top || py > box.bottom + 2) return -1;
  const b = run.batches, slack = (view.to - view.from) / (box.right - box.left);
  const t = view.from + (px - box.left) * slack;
  let found = -1;
  for (let i = 0; i < b.from.length; i++) {
    if (b.from[i] - slack > t || b.to[i] + slack < t) continue;
    const bar = barOf(run, i, box, view, 1);
    if (run.lanes > 1 && (py < bar.top || py > bar.bottom)) continue;
    if (found < 0 || b.from[i] <= t && b.from[i] >= b.from[found]) found = i;
  }
  return found;
}

function aboutBatch(run, i) {
  const b = run.batches, reason = data.reasons[b.reason[i] - 1];
  if (run.batch_bin) {
    return "largest batch (" + reason + ") of " + short(b.from[i]) + " to " + short(b.to[i]) + " s: " +
      short(b.size[i]) + " records";
  }
  const records = short(b.size[i]) + (b.size[i] === 1 ? " record, " : " records, ");
  return "batch " + (i + 1) + ": " + records + short(b.cost[i]) + " tokens\n" +
    "went: " + reason + (run.lanes > 1 ? ", slot " + b.lane[i] : "") + "\n" +
    b.from[i].toFixed(3) + " s to " + b.to[i].toFixed(3) + " s: took " + short(b.to[i] - b.from[i]) + " s\n" +
    "left in the queue: " + short(queuedAt(run, b.from[i]));
}
]==]
