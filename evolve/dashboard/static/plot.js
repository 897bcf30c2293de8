// Charts with a read-out under the pointer and a zoom, by uPlot. Their numbers also stand in tables or in the read-out.

import { drawing, h } from "./dom.js";
import { cssColour, dark } from "./scales.js";
import { uPlot } from "./uplot.js";

/** Zooms by the name of the chart, so that one survives when its chart is drawn anew. */
const zooms = new Map();

/** Pixels within which a point counts as pointed at. */
const NEAR = 24;

/**
 * A chart that fills its container.
 * @param {object} o
 * @param {string} o.name what it shows, for screen readers and to tell its zoom from others
 * @param {{label: string, format: (v: number) => string, values: (number | null)[]}} o.x values in rising order
 * @param {{label: string, format: (v: number) => string, low?: number, high?: number}} o.y
 * @param {{label: string, colour: string, values: (number | null)[], dash?: number[], kind?: "steps" | "dots" | "line",
 *   size?: number, width?: number}[]} o.series colours by the name of a CSS variable or as they are
 * @param {{y: number, text: string}[]} [o.levels] horizontal lines with a name
 * @param {number} [o.height]
 * @param {(i: number) => string} [o.describe] text beside the pointed-at place in the values
 * @param {(i: number) => void} [o.open] what a click on it does
 */
export function plot(o) {
  const { describe, open, ...data } = o;
  return drawing({ ...data, dark: dark() }, (holder, width) => {
    holder.plot?.destroy();
    const u = make(o, width, describe, open);
    holder.plot = u;
    holder.replaceChildren(u.root, h("p", { class: "quiet hint" }, "drag to zoom, double click for everything"));
    const canvas = u.root.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", o.name);
  });
}

function make(o, width, describe, open) {
  const [quiet, line, sans] = ["--quiet", "--line", "--sans"].map(cssColour);
  const colour = (c) => (c.startsWith("--") ? cssColour(c) : c);
  const font = `11px ${sans}`;
  const axis = (side) => ({
    stroke: quiet,
    font,
    labelFont: `italic ${font}`,
    grid: { stroke: line, width: 1 },
    ticks: { stroke: line, width: 1, size: 4 },
    label: side.label,
    labelSize: 18,
    values: (_u, values) => distinct(values, side.format),
  });
  const scattered = o.series.every((one) => one.kind === "dots");
  const saved = zooms.get(o.name);
  const tip = h("div", { class: "tip", hidden: true });
  const pointed = (u) => (scattered ? u.cursor.idxs.slice(1).find((i) => i !== null && i !== undefined) : u.cursor.idx);
  const point = (u) => {
    const i = pointed(u);
    tip.hidden = i === null || i === undefined;
    if (tip.hidden) return;
    tip.textContent = describe(i);
    const right = u.cursor.left > u.over.clientWidth / 2;
    tip.style.setProperty("left", right ? "auto" : `${u.cursor.left + 14}px`);
    tip.style.setProperty("right", right ? `${u.over.clientWidth - u.cursor.left + 14}px` : "auto");
    tip.style.setProperty("top", `${Math.max(0, Math.min(u.cursor.top, u.over.clientHeight - 60))}px`);
  };
  const u = new uPlot(
    {
      width,
      height: o.height ?? 250,
      scales: {
        x: { time: false, range: (_u, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) },
        y: { range: (_u, low, high) => rangeOf(o, low, high) },
      },
      axes: [
        { ...axis(o.x), size: 30 },
        { ...axis(o.y), size: 58 },
      ],
      series: [
        { label: o.x.label, value: (_u, v) => (v === null ? "\u2013" : o.x.format(v)) },
        ...o.series.map((one) => ({
          label: one.label,
          stroke: colour(one.colour),
          width: one.width ?? 2,
          dash: one.dash,
          spanGaps: true,
          value: (_u, v) => (v === null || v === undefined ? "\u2013" : o.y.format(v)),
          ...(one.kind === "dots"
            ? { paths: () => null, points: { show: true, size: one.size ?? 5, fill: colour(one.colour), width: 0 } }
            : {
                points: { show: one.values.filter((v) => v !== null).length === 1 },
                paths: one.kind === "line" ? undefined : uPlot.paths.stepped({ align: 1 }),
              }),
        })),
      ],
      cursor: {
        points: { size: 7 },
        drag: { x: true, y: false },
        ...(scattered ? { dataIdx: nearest } : {}),
      },
      hooks: {
        draw: [(self) => drawLevels(self, o.levels ?? [], { quiet, font })],
        setScale: [(self, key) => key === "x" && keepZoom(self, o)],
        setCursor: describe ? [point] : [],
      },
    },
    [o.x.values, ...o.series.map((one) => one.values)],
  );
  if (saved) u.setScale("x", saved);
  if (describe) u.over.append(tip);
  if (open) {
    u.over.addEventListener("click", () => {
      const i = pointed(u);
      if (u.select.width < 3 && i !== null && i !== undefined) open(i);
    });
  }
  return u;
}

/** Texts for ticks, of which none is shown twice. */
export function distinct(values, format) {
  let before = null;
  return values.map((v) => {
    const text = v === null ? "" : format(v);
    const shown = text === before ? "" : text;
    before = text || before;
    return shown;
  });
}

function rangeOf(o, low, high) {
  const level = (o.levels ?? []).map((one) => one.y);
  // Nothing in sight: what there is in all.
  const [from, to] = [Math.min(low ?? Infinity, ...level), Math.max(high ?? -Infinity, ...level)];
  const [a, b] = from > to ? [0, 1] : [o.y.low ?? from, o.y.high ?? to];
  const room = b > a ? 0.05 * (b - a) : Math.max(1e-4, Math.abs(a) * 1e-3);
  return [o.y.low ?? a - room, b + room];
}

function keepZoom(u, o) {
  const { min, max } = u.scales.x;
  const values = o.x.values;
  if (min === null || !values.length) return;
  if (min <= values[0] && max >= values.at(-1)) zooms.delete(o.name);
  else zooms.set(o.name, { min, max });
}

function drawLevels(u, levels, { quiet, font }) {
  const { ctx: pen, bbox } = u;
  const ratio = window.devicePixelRatio || 1;
  pen.save();
  pen.strokeStyle = pen.fillStyle = quiet;
  pen.font = font.replace("11px", `${11 * ratio}px`);
  pen.textAlign = "left";
  pen.lineWidth = ratio;
  for (const [i, level] of levels.entries()) {
    const y = Math.round(u.valToPos(level.y, "y", true));
    if (y < bbox.top || y > bbox.top + bbox.height) continue;
    pen.setLineDash([2 * ratio, 3 * ratio]);
    pen.beginPath();
    pen.moveTo(bbox.left, y);
    pen.lineTo(bbox.left + bbox.width, y);
    pen.stroke();
    // Side by side, since levels may lie close to each other; where there is no room, below the line.
    const x = bbox.left + (4 + 110 * i) * ratio;
    const fits = x + pen.measureText(level.text).width <= bbox.left + bbox.width;
    if (fits) pen.fillText(level.text, x, y - 4 * ratio);
    else pen.fillText(level.text, bbox.left + (4 + 55 * i) * ratio, y + 12 * ratio);
  }
  pen.restore();
}

/** The point of a scatter that is next to the pointer on both axes; uPlot's own choice looks along x alone. */
function nearest(u, series, closest) {
  if (series === 0) return closest;
  const { left, top } = u.cursor;
  const [xs, ys] = [u.data[0], u.data[series]];
  let [best, least] = [null, NEAR ** 2];
  for (let i = 0; i < xs.length; i++) {
    if (ys[i] === null || ys[i] === undefined) continue;
    const far = (u.valToPos(xs[i], "x") - left) ** 2 + (u.valToPos(ys[i], "y") - top) ** 2;
    if (far < least) [best, least] = [i, far];
  }
  return best;
}
