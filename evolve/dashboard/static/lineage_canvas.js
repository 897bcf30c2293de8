// The lineage's picture: a lane per island, proposals from left to right, scores upwards, failures in a strip below.

import { clamp } from "./dom.js";
import { cssColour, dark, groupOf, ticks } from "./scales.js";

const STRIP = 26;
const LEFT = 54;
const RIGHT = 12;
const TOP = 14;
const GAP = 18;
const BOTTOM = 22;

/** Where everything lies; `zoom` is {x0, x1, y0, y1} in proposals and scores. */
export function layout(lineage, zoom, width, height) {
  const lane = (height - TOP - BOTTOM - GAP * (lineage.islands - 1)) / lineage.islands;
  const x = (id) => LEFT + ((id - zoom.x0) / (zoom.x1 - zoom.x0)) * (width - LEFT - RIGHT);
  const top = (island) => TOP + island * (lane + GAP);
  const place = (n) => {
    const y0 = top(n.island);
    if (!n.train) return [x(n.id), y0 + lane - STRIP / 2];
    const share = (n.train.score - zoom.y0) / (zoom.y1 - zoom.y0);
    return [x(n.id), y0 + (lane - STRIP - 4) * (1 - clamp(share, 0, 1))];
  };
  const back = (px) => zoom.x0 + ((px - LEFT) / (width - LEFT - RIGHT)) * (zoom.x1 - zoom.x0);
  const score = (py) => {
    const island = clamp(Math.floor((py - TOP) / (lane + GAP)), 0, lineage.islands - 1);
    return zoom.y1 - ((py - top(island)) / (lane - STRIP - 4)) * (zoom.y1 - zoom.y0);
  };
  return { x, top, lane, place, back, score, width, height };
}

/** The whole of a run: all proposals, and scores from a little below stock (or the weakest) to the best. */
export function wholeOf(lineage) {
  const scores = lineage.nodes.filter((n) => n.train).map((n) => n.train.score).sort((a, b) => a - b);
  const best = scores.at(-1) ?? 1;
  const low = Math.max(scores[0] ?? 0.9, Math.min(1, best) - Math.max(0.004, 0.35 * (best - 1)));
  const room = Math.max(1e-4, 0.05 * (best - low));
  return { x0: -1, x1: Math.max(10, lineage.nodes.length), y0: low - room, y1: best + room };
}

export function draw(canvas, lineage, where, { shown, selected, edges = true }) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = where.width * ratio;
  canvas.height = where.height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const ink = cssColour("--ink");
  const quiet = cssColour("--quiet");
  const line = cssColour("--line");
  pen.font = "11px " + cssColour("--sans");
  lanes(pen, lineage, where, { quiet, line });
  pen.save();
  pen.beginPath();
  pen.rect(LEFT - 6, 0, where.width - LEFT - RIGHT + 14, where.height);
  pen.clip();
  const nodes = lineage.nodes;
  if (edges) family(pen, nodes, where, shown);
  migrations(pen, lineage, where);
  way(pen, lineage, where);
  if (selected !== null && nodes[selected]) relatives(pen, nodes, where, nodes[selected], ink);
  marks(pen, seeds(lineage), where, shown);
  if (lineage.winner !== null) star(pen, ...where.place(nodes[lineage.winner]), cssColour("--good"), cssColour("--panel"));
  if (selected !== null && nodes[selected]) {
    const [x, y] = where.place(nodes[selected]);
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(x, y, 8, 0, 7);
    pen.stroke();
  }
  pen.restore();
}

function lanes(pen, lineage, where, { quiet, line }) {
  for (let island = 0; island < lineage.islands; island++) {
    const top = where.top(island);
    const foot = top + where.lane;
    pen.fillStyle = dark() ? "rgb(255 255 255 / 3%)" : "rgb(0 0 0 / 2.5%)";
    pen.fillRect(LEFT - 6, foot - STRIP, where.width - LEFT - RIGHT + 12, STRIP);
    pen.fillStyle = quiet;
    pen.textAlign = "right";
    const [a, b] = [where.score(foot - STRIP - 4), where.score(top)];
    for (const t of ticks(a, b, Math.max(2, where.lane / 46))) {
      const y = top + (where.lane - STRIP - 4) * (1 - (t - a) / (b - a));
      pen.fillText(t.toFixed(b - a < 0.01 ? 4 : 3), LEFT - 10, y + 4);
      pen.fillStyle = line;
      pen.fillRect(LEFT - 6, Math.round(y), where.width - LEFT - RIGHT + 12, 1);
      pen.fillStyle = quiet;
    }
    pen.fillText("no score", LEFT - 10, foot - STRIP / 2 + 4);
    if (lineage.islands > 1) {
      pen.textAlign = "left";
      pen.fillText(`island ${island}`, LEFT, top + 2);
    }
  }
  pen.textAlign = "center";
  const first = Math.max(0, where.back(LEFT));
  for (const t of ticks(first, where.back(where.width - RIGHT), where.width / 90)) {
    if (Number.isInteger(t)) pen.fillText(String(t), where.x(t), where.height - 6);
  }
}

/** Where a parent is drawn for a child: seeds stand on every island. */
const origin = (parent, child) => (parent.kind === "seed" ? { ...parent, island: child.island } : parent);

function family(pen, nodes, where, shown) {
  pen.strokeStyle = dark() ? "rgb(150 175 200 / 22%)" : "rgb(60 90 120 / 17%)";
  pen.lineWidth = 0.8;
  const join = nodes.length > MANY ? straight : curve;
  pen.beginPath();
  let open = 0;
  for (const n of nodes) {
    if (n.parent === null || !shown.has(n.id)) continue;
    const [a, b] = [where.place(origin(nodes[n.parent], n)), where.place(n)];
    if (b[0] < LEFT - 8 || a[0] > where.width) continue;
    join(pen, a, b);
    // Short paths: the cost of a stroke grows faster than its length.
    if (++open % 100 === 0) { pen.stroke(); pen.beginPath(); }
  }
  pen.stroke();
}

/** Proposals above which parents are joined by straight lines, which cost less. */
const MANY = 600;

function straight(pen, a, b) {
  pen.moveTo(...a);
  pen.lineTo(...b);
}

function curve(pen, [x0, y0], [x1, y1]) {
  const middle = (x0 + x1) / 2;
  pen.moveTo(x0, y0);
  pen.bezierCurveTo(middle, y0, middle, y1, x1, y1);
}

function migrations(pen, lineage, where) {
  pen.strokeStyle = cssColour("--g-launch");
  pen.lineWidth = 1;
  pen.setLineDash([3, 3]);
  pen.beginPath();
  for (const m of lineage.migrations) {
    const n = lineage.nodes[m.id];
    const [, y0] = where.place({ ...n, island: m.source });
    const [, y1] = where.place({ ...n, island: m.target });
    pen.moveTo(where.x(m.at), y0);
    pen.lineTo(where.x(m.at), y1);
  }
  pen.stroke();
  pen.setLineDash([]);
}

function way(pen, lineage, where) {
  pen.strokeStyle = cssColour("--good");
  pen.lineWidth = 2.2;
  pen.beginPath();
  for (let i = 1; i < lineage.path.length; i++) {
    const n = lineage.nodes[lineage.path[i]];
    curve(pen, where.place(origin(lineage.nodes[lineage.path[i - 1]], n)), where.place(n));
  }
  pen.stroke();
}

function relatives(pen, nodes, where, n, ink) {
  pen.strokeStyle = ink;
  pen.lineWidth = 1.4;
  pen.beginPath();
  if (n.parent !== null) curve(pen, where.place(origin(nodes[n.parent], n)), where.place(n));
  for (const child of nodes) if (child.parent === n.id) curve(pen, where.place(origin(n, child)), where.place(child));
  pen.stroke();
  pen.setLineDash([2, 3]);
  pen.beginPath();
  for (const id of n.inspirations) curve(pen, where.place(origin(nodes[id], n)), where.place(n));
  pen.stroke();
  pen.setLineDash([]);
}

/** All nodes, and seeds again on the islands that they were put on. */
function seeds(lineage) {
  const others = Array.from({ length: lineage.islands }, (_, island) => island);
  return lineage.nodes.flatMap((n) => (n.kind === "seed" ? others.map((island) => ({ ...n, island })) : [n]));
}

function marks(pen, nodes, where, shown) {
  const size = clamp((where.width - LEFT) / nodes.length, 2.2, 4);
  // One path per kind of mark: thousands of single fills would not keep up with a wheel.
  const batches = new Map();
  const gone = displaced(nodes);
  for (const n of nodes) {
    const [x, y] = where.place(n);
    if (x < LEFT - 8 || x > where.width) continue;
    const group = groupOf(n.status).key;
    const hollow = HOLLOW.has(group) || gone.has(n.id);
    const key = group + hollow + shown.has(n.id);
    if (!batches.has(key)) batches.set(key, { group, hollow, dim: !shown.has(n.id), path: new Path2D() });
    const { path } = batches.get(key);
    shape(path, group, x, y, size);
    if (n.kind === "seed") path.rect(x - size - 2, y - size - 2, 2 * size + 4, 2 * size + 4);
  }
  for (const { group, hollow, dim, path } of batches.values()) {
    pen.globalAlpha = dim ? 0.08 : 0.9;
    pen.fillStyle = pen.strokeStyle = cssColour("--g-" + group);
    pen.lineWidth = 1.3;
    if (hollow) pen.stroke(path);
    else pen.fill(path);
  }
  pen.globalAlpha = 1;
}

/** Proposals that lost their grid cell to a later one. Seeds hold a cell on every island, and are never hollow. */
function displaced(nodes) {
  const found = new Set(nodes.flatMap((n) => n.displaced));
  for (const n of nodes) if (n.kind === "seed") found.delete(n.id);
  return found;
}

const HOLLOW = new Set(["duplicate", "open", "none"]);

function shape(path, key, x, y, r) {
  if (key === "ok" || key === "duplicate" || key === "open") { path.moveTo(x + r, y); path.arc(x, y, r, 0, 7); }
  else if (key === "refused") { path.moveTo(x, y - r); path.lineTo(x + r, y + r); path.lineTo(x - r, y + r); path.closePath(); }
  else if (key === "broke") path.rect(x - r, y - r, 2 * r, 2 * r);
  else if (key === "launch") { path.moveTo(x, y - r * 1.3); path.lineTo(x + r * 1.3, y); path.lineTo(x, y + r * 1.3); path.lineTo(x - r * 1.3, y); path.closePath(); }
  else { path.moveTo(x - r, y - r); path.lineTo(x + r, y + r); path.moveTo(x + r, y - r); path.lineTo(x - r, y + r); }
}

function star(pen, x, y, colour, edge) {
  pen.beginPath();
  for (let i = 0; i < 10; i++) {
    const r = i % 2 ? 4 : 9;
    const turn = (Math.PI * i) / 5 - Math.PI / 2;
    pen.lineTo(x + r * Math.cos(turn), y + r * Math.sin(turn));
  }
  pen.closePath();
  pen.fillStyle = colour;
  pen.strokeStyle = edge;
  pen.lineWidth = 1.5;
  pen.fill();
  pen.stroke();
}
