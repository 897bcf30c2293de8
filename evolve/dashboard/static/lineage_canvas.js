// The lineage's picture: a lane per island, proposals from left to right, scores upwards, failures in a strip below.

import { clamp } from "./dom.js";
import { LEFT, RIGHT, STRIP } from "./lineage_layout.js";
import { cssColour, dark, decimals, GROUPS, groupOf, ticks } from "./scales.js";

/** What follows from the data alone, and is not worked out again for each frame. */
export function known(lineage) {
  const nodes = lineage.nodes;
  const gone = displaced(nodes);
  const every = Array.from({ length: lineage.islands }, (_, island) => island);
  // Seeds stand on every island.
  const marks = nodes.flatMap((n) => {
    const group = groupOf(n.status).key;
    const mark = { id: n.id, group, hollow: HOLLOW.has(group) || gone.has(n.id), seed: n.kind === "seed" };
    return (mark.seed ? every : [n.island]).map((island) => ({ ...mark, at: { ...n, island } }));
  });
  const groups = GROUPS.map((g) => [g.key, marks.filter((mark) => mark.group === g.key)]);
  return { marks, groups };
}

/** Colours of the theme in force; looking one up makes the browser settle all styles, so that it is done once. */
export function palette() {
  const names = ["ink", "quiet", "line", "sans", "panel", "good", "its", ...GROUPS.map((g) => `g-${g.key}`)];
  return Object.fromEntries(names.map((name) => [name, cssColour(`--${name}`)]));
}

function penOf(canvas, where) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(where.width * ratio), Math.round(where.height * ratio)];
  // Setting a size, also the same one, makes a new bitmap.
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, where.width, where.height);
  return pen;
}

function clipped(pen, where, drawing) {
  pen.save();
  pen.beginPath();
  pen.rect(LEFT - 6, 0, where.width - LEFT - RIGHT + 14, where.height);
  pen.clip();
  drawing();
  pen.restore();
}

/** Everything but the selection. While the reader moves, many parents' lines would not keep up, and are left out. */
export function draw(canvas, lineage, where, { shown, facts, colours, moving }) {
  const pen = penOf(canvas, where);
  pen.font = `11px ${colours.sans}`;
  clipped(pen, where, () => {
    if (!moving || lineage.nodes.length <= MANY) family(pen, lineage.nodes, where, shown);
  });
  lanes(pen, lineage, where, colours);
  clipped(pen, where, () => {
    migrations(pen, lineage, where, colours, moving && lineage.nodes.length > MANY);
    way(pen, lineage, where, colours);
    if (moving && lineage.nodes.length > MANY) dots(pen, facts.groups, where, shown, colours, lineage.nodes.length);
    else marks(pen, facts.marks, where, shown, colours, lineage.nodes.length);
    stars(pen, lineage, where, colours);
  });
}

/** The selected proposal and its relatives, on a canvas of their own above the others. */
export function drawSelection(canvas, lineage, where, { selected, colours }) {
  const pen = penOf(canvas, where);
  const node = lineage.nodes[selected];
  if (!node) return;
  clipped(pen, where, () => {
    relatives(pen, lineage.nodes, where, node, colours.ink);
    const [x, y] = where.place(node);
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(x, y, 8, 0, 7);
    pen.stroke();
  });
}

function lanes(pen, lineage, where, { quiet, line, panel }) {
  for (let island = 0; island < lineage.islands; island++) {
    const top = where.top(island);
    const foot = top + where.lane;
    pen.fillStyle = dark() ? "rgb(255 255 255 / 3%)" : "rgb(0 0 0 / 2.5%)";
    pen.fillRect(LEFT - 6, foot - STRIP, where.width - LEFT - RIGHT + 12, STRIP);
    pen.fillStyle = quiet;
    pen.textAlign = "right";
    const [a, b] = [where.score(foot - STRIP - 4), where.score(top)];
    const found = ticks(a, b, Math.max(2, where.lane / 46));
    const digits = decimals(found);
    for (const t of found) {
      const y = top + (where.lane - STRIP - 4) * (1 - (t - a) / (b - a));
      pen.fillText(t.toFixed(digits), LEFT - 10, y + 4);
      pen.fillStyle = line;
      pen.fillRect(LEFT - 6, Math.round(y), where.width - LEFT - RIGHT + 12, 1);
      pen.fillStyle = quiet;
    }
    pen.fillText("no score", LEFT - 10, foot - STRIP / 2 + 4);
    if (lineage.islands > 1) {
      pen.textAlign = "left";
      const label = `island ${island}`;
      pen.fillStyle = panel;
      pen.fillRect(LEFT - 3, top - 8, pen.measureText(label).width + 6, 14);
      pen.fillStyle = quiet;
      pen.fillText(label, LEFT, top + 2);
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
    // Failures hang on their parents only where they are selected: their lines would hide those of programs.
    if (n.parent === null || !n.train || !shown.has(n.id)) continue;
    const [a, b] = [where.place(origin(nodes[n.parent], n)), where.place(n)];
    if (b[0] < LEFT - 8 || a[0] > where.width || outside(a, b)) continue;
    join(pen, a, b);
    // Short paths: the cost of a stroke grows faster than its length.
    if (++open % 100 === 0) {
      pen.stroke();
      pen.beginPath();
    }
  }
  pen.stroke();
}

/** Proposals above which parents are joined by straight lines, which cost less, and by none while the view moves. */
const MANY = 600;

/** Whether both ends lie beyond the same edge: a line between them would run along it as if it were a score. */
const outside = (a, b) => a[2] !== 0 && a[2] === b[2];

function straight(pen, [x0, y0], [x1, y1]) {
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
}

function curve(pen, [x0, y0], [x1, y1]) {
  const middle = (x0 + x1) / 2;
  pen.moveTo(x0, y0);
  pen.bezierCurveTo(middle, y0, middle, y1, x1, y1);
}

function migrations(pen, lineage, where, colours, moving) {
  pen.strokeStyle = colours["g-launch"];
  pen.lineWidth = 1;
  const inSight = lineage.migrations.filter((m) => where.x(m.at) >= LEFT - 8 && where.x(m.at) <= where.width);
  // Many of them would be a wall.
  pen.globalAlpha = clamp(60 / inSight.length, 0.12, 1);
  // Hundreds of dashed lines are thousands of short ones, too many for every frame.
  if (!moving) pen.setLineDash([3, 3]);
  pen.beginPath();
  for (const m of inSight) {
    const x = where.x(m.at);
    const n = lineage.nodes[m.id];
    const [, y0] = where.place({ ...n, island: m.source });
    const [, y1] = where.place({ ...n, island: m.target });
    pen.moveTo(x, y0);
    pen.lineTo(x, y1);
  }
  pen.stroke();
  pen.setLineDash([]);
  pen.globalAlpha = 1;
}

function way(pen, lineage, where, colours) {
  pen.strokeStyle = colours.good;
  pen.lineWidth = 2.2;
  pen.beginPath();
  for (let i = 1; i < lineage.path.length; i++) {
    const n = lineage.nodes[lineage.path[i]];
    const [a, b] = [where.place(origin(lineage.nodes[lineage.path[i - 1]], n)), where.place(n)];
    if (!outside(a, b)) curve(pen, a, b);
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

/** While the view moves: squares on whole pixels, colour by colour, which cost a fraction of true marks. */
function dots(pen, groups, where, shown, colours, count) {
  const side = Math.round(2 * clamp((where.width - LEFT) / count, 2, 4)) - 1;
  for (const [key, found] of groups) {
    pen.fillStyle = colours[`g-${key}`];
    for (const mark of found) {
      if (!shown.has(mark.id)) continue;
      const [x, y, beyond] = where.place(mark.at);
      if (!beyond && x >= LEFT - 8 && x <= where.width)
        pen.fillRect(Math.round(x - side / 2), Math.round(y - side / 2), side, side);
    }
  }
}

function marks(pen, found, where, shown, colours, count) {
  const size = clamp((where.width - LEFT) / count, 2.2, 4);
  const stamps = new Map();
  const ratio = window.devicePixelRatio || 1;
  for (const mark of found) {
    const [x, y, beyond] = where.place(mark.at);
    if (x < LEFT - 8 || x > where.width) continue;
    const dim = !shown.has(mark.id);
    const key = `${mark.group} ${mark.hollow} ${dim} ${mark.seed} ${beyond}`;
    if (!stamps.has(key)) stamps.set(key, stamp(mark, { dim, beyond }, size, ratio, colours));
    const { picture, half } = stamps.get(key);
    // On whole pixels of the screen: between them a stamp would be blurred.
    pen.drawImage(
      picture,
      Math.round((x - half) * ratio) / ratio,
      Math.round((y - half) * ratio) / ratio,
      2 * half,
      2 * half,
    );
  }
}

/** A mark drawn once and stamped many times, which is far cheaper than thousands of paths. */
function stamp(mark, { dim, beyond }, size, ratio, colours) {
  const half = Math.ceil(size) + 4;
  const picture = document.createElement("canvas");
  picture.width = picture.height = Math.ceil(2 * half * ratio);
  const pen = picture.getContext("2d");
  pen.scale(ratio, ratio);
  const path = new Path2D();
  if (beyond) arrow(path, half, half, size, beyond);
  else shape(path, mark.group, half, half, size);
  if (mark.seed && !beyond) path.rect(half - size - 2, half - size - 2, 2 * size + 4, 2 * size + 4);
  pen.globalAlpha = dim ? 0.08 : 0.9;
  pen.fillStyle = pen.strokeStyle = colours[`g-${mark.group}`];
  pen.lineWidth = 1.3;
  if (mark.hollow || beyond) pen.stroke(path);
  else pen.fill(path);
  return { picture, half };
}

/** Proposals that lost their grid cell to a later one. Seeds hold a cell on every island, and are never hollow. */
function displaced(nodes) {
  const found = new Set(nodes.flatMap((n) => n.displaced));
  for (const n of nodes) if (n.kind === "seed") found.delete(n.id);
  return found;
}

/** Points out of the picture, where the score lies that cannot be drawn. */
function arrow(path, x, y, r, beyond) {
  path.moveTo(x - r, y + 0.4 * beyond * r);
  path.lineTo(x, y - beyond * r);
  path.lineTo(x + r, y + 0.4 * beyond * r);
}

const HOLLOW = new Set(["duplicate", "open", "none"]);

function shape(path, key, x, y, r) {
  if (key === "ok" || key === "duplicate" || key === "open") {
    path.moveTo(x + r, y);
    path.arc(x, y, r, 0, 7);
  } else if (key === "refused") {
    path.moveTo(x, y - r);
    path.lineTo(x + r, y + r);
    path.lineTo(x - r, y + r);
    path.closePath();
  } else if (key === "broke") path.rect(x - r, y - r, 2 * r, 2 * r);
  else if (key === "launch") {
    path.moveTo(x, y - r * 1.3);
    path.lineTo(x + r * 1.3, y);
    path.lineTo(x, y + r * 1.3);
    path.lineTo(x - r * 1.3, y);
    path.closePath();
  } else {
    path.moveTo(x - r, y - r);
    path.lineTo(x + r, y + r);
    path.moveTo(x + r, y - r);
    path.lineTo(x - r, y + r);
  }
}

/** The winner's star and a square around the leader, where they are in sight. */
function stars(pen, lineage, where, colours) {
  const at = (id) => (id === null ? [0, 0, 1] : where.place(lineage.nodes[id]));
  const [x, y, beyond] = at(lineage.leader);
  if (!beyond && lineage.leader !== lineage.winner) {
    pen.strokeStyle = colours.its;
    pen.lineWidth = 2;
    pen.strokeRect(x - 7, y - 7, 14, 14);
  }
  const [wx, wy, out] = at(lineage.winner);
  if (!out) star(pen, wx, wy, colours.good, colours.panel);
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
