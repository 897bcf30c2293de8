// A small chart: steps, dots, whiskers and bands over two axes. One picture with a name; its numbers stand in a table.

import { h, s } from "./dom.js";
import { powers, ticks } from "./scales.js";

/**
 * Draw into an SVG of a given size.
 * @param {object} o width, height, x and y ({low, high, log, label, format}), label (accessible name)
 */
export function chart(o) {
  const margin = { left: 52, right: 14, top: 24, bottom: 38, ...o.margin };
  const inner = { w: o.width - margin.left - margin.right, h: o.height - margin.top - margin.bottom };
  const scale = (axis, from, to) => {
    const f = axis.log ? Math.log2 : (v) => v;
    const [a, b] = [f(axis.low), f(axis.high)];
    return (v) => from + (b > a ? (f(v) - a) / (b - a) : 0.5) * (to - from);
  };
  const px = scale(o.x, margin.left, margin.left + inner.w);
  const py = scale(o.y, margin.top + inner.h, margin.top);
  const root = s("svg", {
    viewBox: `0 0 ${o.width} ${o.height}`, width: o.width, height: o.height, class: "chart", role: "img", "aria-label": o.label,
  });
  const base = margin.top + inner.h;
  const axis = s("g", { class: "axis", "aria-hidden": "true" });
  for (const t of o.y.log ? powers(o.y.low, o.y.high) : ticks(o.y.low, o.y.high, Math.max(2, Math.round(inner.h / 42)))) {
    axis.append(s("line", { x1: margin.left, x2: margin.left + inner.w, y1: py(t), y2: py(t), class: "gridline" }),
      s("text", { x: margin.left - 7, y: py(t) + 3.5, "text-anchor": "end" }, o.y.format(t)));
  }
  for (const t of o.x.log ? powers(o.x.low, o.x.high) : ticks(o.x.low, o.x.high, Math.max(2, Math.round(inner.w / 78)))) {
    axis.append(s("line", { x1: px(t), x2: px(t), y1: base, y2: base + 4, class: "tick" }),
      s("text", { x: px(t), y: base + 16, "text-anchor": "middle" }, o.x.format(t)));
  }
  axis.append(
    s("line", { x1: margin.left, x2: margin.left + inner.w, y1: base, y2: base, class: "tick" }),
    s("text", { x: margin.left + inner.w, y: base + 32, "text-anchor": "end", class: "axis-name" }, o.x.label),
    s("text", { x: 2, y: 11, class: "axis-name" }, o.y.label));
  const body = s("g");
  root.append(axis, body);
  return { root, body, px, py, inner, margin, base };
}

/** A path that holds each value until the next point. */
export function steps(c, points, end, attributes) {
  if (!points.length) return;
  let d = "";
  points.forEach(([x, y], i) => { d += i ? `H${c.px(x)}V${c.py(y)}` : `M${c.px(x)},${c.py(y)}`; });
  c.body.append(s("path", { d: d + `H${c.px(end)}`, fill: "none", ...attributes }));
}

export function dots(c, points, attributes) {
  const d = points.map(([x, y]) => `M${c.px(x).toFixed(1)},${c.py(y).toFixed(1)}h0`).join("");
  if (d) c.body.append(s("path", { d, "stroke-linecap": "round", fill: "none", ...attributes }));
}

/** A legend from [mark element class, text] pairs. */
export function legend(entries) {
  return h("ul", { class: "legend" }, entries.map(([kind, text]) =>
    h("li", null, h("span", { class: "key " + kind, "aria-hidden": "true" }), text)));
}

/** Width that a container offers to a drawing. */
export const roomIn = (container, most = 2000) => Math.max(280, Math.min(most, container.clientWidth || 320));
