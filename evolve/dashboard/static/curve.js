// Measured latency over splits on one shape, with the noise of the rounds and the launch that was chosen.

import { drawing, h, legend, microseconds, s, table, times } from "./dom.js";
import { powers, ticks } from "./scales.js";

const bucketOf = (n) => (n <= 1 ? 0 : [32, 64, 128, 256].find((b) => n <= b));

/** What belongs together on one line: launches of the same variant or combine kernel, or the same cap on a ragged batch. */
function seriesOf(shape) {
  const c = shape.cells;
  const groups = new Map();
  c.median_us.forEach((_us, i) => {
    const name = c.variant.length
      ? (shape.mix && c.num_splits[i] > 1 ? `cap ${c.num_splits[i]}, ` : "") + c.variant[i]
      : c.num_splits[i] === 1
        ? c.pack_gqa[i] === false
          ? "unsplit, not packed"
          : "unsplit"
        : shape.mix
          ? `cap ${c.num_splits[i]}`
          : `cap up to ${bucketOf(c.num_splits[i])}`;
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(i);
  });
  return groups;
}

export function latencyCurve(shape, outcome, label) {
  const names = [...seriesOf(shape).keys()];
  const split = names.filter((n) => !n.startsWith("unsplit"));
  const colours = new Map(
    names.map((n) => [n, `s${split.includes(n) ? 1 + (split.indexOf(n) % 6) : n === "unsplit" ? 0 : 7}`]),
  );
  const c = shape.cells;
  const stock = c.median_us[0];
  const noise = Math.max(0.01, 3 * (outcome?.error ?? 0));
  // A launch far above the others would press them flat: it is drawn at the upper edge.
  const most = 1.5 * Math.max(stock, outcome?.latency_us ?? 0);
  const holder = drawing({ shape: shape.id, cells: c.median_us, outcome }, (element, width) => {
    const lows = [...c.low_us, outcome?.latency_us ?? Infinity];
    const highs = [...c.high_us.map((v) => Math.min(v, most)), stock * (1 + noise)];
    const [low, high] = [Math.min(...lows, stock * (1 - noise)), Math.max(...highs)];
    const room = 0.06 * (high - low);
    const p = chart({
      width: Math.min(900, width),
      height: 260,
      label,
      x: {
        low: 0.8,
        high: Math.max(2, ...c.live_splits) * 1.25,
        log: true,
        label: "live splits, mean over sequences",
        format: String,
      },
      y: { low: low - room, high: high + room, label: "\u00b5s", format: (v) => String(+v.toFixed(1)) },
    });
    p.body.append(
      s("rect", {
        x: p.margin.left,
        width: p.inner.w,
        y: p.py(stock * (1 + noise)),
        height: p.py(stock * (1 - noise)) - p.py(stock * (1 + noise)),
        class: "band",
      }),
      s("line", { x1: p.margin.left, x2: p.margin.left + p.inner.w, y1: p.py(stock), y2: p.py(stock), class: "stock" }),
    );
    const y = (us) => p.py(Math.min(us, high));
    for (const [name, cells] of seriesOf(shape)) {
      const order = cells.toSorted((a, b) => c.live_splits[a] - c.live_splits[b]);
      const kind = `series ${colours.get(name)}`;
      p.body.append(
        s("polyline", {
          points: order
            .filter((i) => c.median_us[i] <= high)
            .map((i) => `${p.px(c.live_splits[i])},${y(c.median_us[i])}`)
            .join(" "),
          class: kind,
          fill: "none",
        }),
      );
      for (const i of order) {
        p.body.append(
          s("line", {
            x1: p.px(c.live_splits[i]),
            x2: p.px(c.live_splits[i]),
            y1: y(c.low_us[i]),
            y2: y(c.high_us[i]),
            class: kind,
          }),
          s(
            "circle",
            {
              cx: p.px(c.live_splits[i]),
              cy: y(c.median_us[i]),
              r: c.median_us[i] > high ? 4 : 2.6,
              class: kind + (c.median_us[i] > high ? "" : " full"),
              fill: "none",
            },
            s(
              "title",
              null,
              `${name}: ${c.num_splits[i]} splits, ${c.blocks_per_split[i]} blocks each, ` +
                `${microseconds(c.median_us[i])} \u00b5s`,
            ),
          ),
        );
      }
    }
    const ring = (x, y, kind) => p.body.append(s("circle", { cx: p.px(x), cy: p.py(y), r: 7, class: kind }));
    ring(c.live_splits[shape.best], c.median_us[shape.best], "ring best");
    p.body.append(
      s("rect", { x: p.px(c.live_splits[0]) - 6, y: p.py(stock) - 6, width: 12, height: 12, class: "ring stock-mark" }),
    );
    if (outcome?.latency_us) {
      const [cx, cy] = [p.px(outcome.live_splits), p.py(outcome.latency_us)];
      p.body.append(
        s("path", { d: `M${cx},${cy - 9}l5,-9h-10z`, class: "pointer" }),
        s("circle", { cx, cy, r: 4, class: "chosen" }),
      );
    }
    element.replaceChildren(p.root);
  });
  return h(
    "div",
    null,
    holder,
    legend([
      ["pointer", "chosen"],
      ["square", "stock"],
      ["ring", "best median"],
      ["band", `noise of the chosen launch, \u00b1${(100 * noise).toFixed(1)}%`],
      ["whisker", "lowest to highest round"],
      ...(c.median_us.some((us) => us > most) ? [["beyond", "above this scale"]] : []),
      ...names.map((n) => [`line ${colours.get(n)}`, n]),
    ]),
    h(
      "details",
      null,
      h("summary", null, `${c.median_us.length} measured ${c.median_us.length === 1 ? "launch" : "launches"}`),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Measured launches" },
        table(
          "Measured launches",
          [
            { name: "splits", number: true, value: (i) => String(c.num_splits[i]) },
            { name: "blocks", number: true, value: (i) => String(c.blocks_per_split[i] || "\u2013") },
            c.variant.length
              ? { name: "variant", value: (i) => c.variant[i] }
              : { name: "pack", value: (i) => (c.pack_gqa[i] === null ? "auto" : String(c.pack_gqa[i])) },
            { name: "live", number: true, value: (i) => String(c.live_splits[i]) },
            { name: "\u00b5s", number: true, value: (i) => microseconds(c.median_us[i]) },
            {
              name: "rounds",
              number: true,
              value: (i) => `${microseconds(c.low_us[i])}\u2013${microseconds(c.high_us[i])}`,
            },
            { name: "speed-up", number: true, value: (i) => times(c.speedup[i], 3) },
          ],
          c.median_us.map((_, i) => i),
        ),
      ),
    ),
  );
}

/**
 * Draw into an SVG of a given size.
 * @param {any} o width, height, x and y ({low, high, log, label, format}), label (accessible name)
 */
function chart(o) {
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
    viewBox: `0 0 ${o.width} ${o.height}`,
    width: o.width,
    height: o.height,
    class: "chart",
    role: "img",
    "aria-label": o.label,
  });
  const base = margin.top + inner.h;
  const axis = s("g", { class: "axis", "aria-hidden": "true" });
  for (const t of o.y.log
    ? powers(o.y.low, o.y.high)
    : ticks(o.y.low, o.y.high, Math.max(2, Math.round(inner.h / 42)))) {
    axis.append(
      s("line", { x1: margin.left, x2: margin.left + inner.w, y1: py(t), y2: py(t), class: "gridline" }),
      s("text", { x: margin.left - 7, y: py(t) + 3.5, "text-anchor": "end" }, o.y.format(t)),
    );
  }
  for (const t of o.x.log
    ? powers(o.x.low, o.x.high)
    : ticks(o.x.low, o.x.high, Math.max(2, Math.round(inner.w / 78)))) {
    axis.append(
      s("line", { x1: px(t), x2: px(t), y1: base, y2: base + 4, class: "tick" }),
      s("text", { x: px(t), y: base + 16, "text-anchor": "middle" }, o.x.format(t)),
    );
  }
  axis.append(
    s("line", { x1: margin.left, x2: margin.left + inner.w, y1: base, y2: base, class: "tick" }),
    s("text", { x: margin.left + inner.w, y: base + 32, "text-anchor": "end", class: "axis-name" }, o.x.label),
    s("text", { x: 2, y: 11, class: "axis-name" }, o.y.label),
  );
  const body = s("g");
  root.append(axis, body);
  return { root, body, px, py, inner, margin, base };
}
