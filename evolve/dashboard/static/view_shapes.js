// Shapes: where a program is faster, what it decides, and what it leaves; a heat map per head count.

import { latencyCurve } from "./curve.js";
import { choice, h, microseconds, panel, percent, plural, times, visible } from "./dom.js";
import { leftColour, speedupColour, splitsColour } from "./scales.js";
import { link, read, set } from "./state.js";

const METRICS = {
  speedup: {
    name: "speed-up",
    of: (o) => o.speedup,
    colour: speedupColour,
    text: (v) => v.toFixed(2),
    plain: (v) => Math.abs(v - 1) < 0.005,
    ends: [0.8, 0.9, 1, 1.1, 1.25],
    format: (v) => `${v === 0.8 ? "\u2264" : v === 1.25 ? "\u2265" : ""}${v}\u00d7`,
    says: "stock latency / its latency",
  },
  decision: {
    name: "decision",
    of: (o) => o.live_splits,
    colour: splitsColour,
    text: (v) => (v >= 10 || Number.isInteger(v) ? v.toFixed(0) : v.toFixed(1)),
    ends: [1, 4, 16, 64, 128],
    format: String,
    says: "splits that run, mean over the sequences",
  },
  left: {
    name: "oracle gap",
    of: (o) => o.left,
    colour: leftColour,
    text: (v) => v.toFixed(2),
    plain: (v) => v < 1.005,
    ends: [1, 1.05, 1.1, 1.2, 1.25],
    format: (v) => `${v === 1.25 ? "\u2265" : ""}${v}\u00d7`,
    says: "what the best launch known would add; its median flatters it",
  },
};

/** Where the detail stands below the maps instead of beside them; as in style.css. */
const NARROW = "(max-width: 1100px)";

/**
 * @param {import("./types.js").Place} place
 * @returns {Promise<import("./types.js").Shown>}
 */
export async function shapesView({ source, run, values }) {
  const [lineage, shapes] = await Promise.all([source.lineage(run), source.shapes(run)]);
  if (!shapes.cases.length)
    return { root: h("p", { class: "notice", role: "alert" }, `No latencies to show: ${visible(shapes.missing)}`) };
  const id = Number(values.id ?? lineage.winner ?? 0);
  const c = lineage.nodes[id] ? await source.candidate(run, id) : null;
  const key = METRICS[values.metric] ? values.metric : "speedup";
  const root = h("div", { class: "stack" });
  if (!c?.outcomes.length) {
    root.append(
      panel(
        "Shapes",
        null,
        picker(lineage, run, id, key),
        h("p", { class: "quiet", role: "alert" }, `Proposal ${visible(values.id ?? id)} has no decisions of its own.`),
      ),
    );
    return { root };
  }
  const every = shapes.cases.map((k, i) => ({ k, o: c.outcomes[i] }));
  const linked = every.find((r) => r.k.id === values.case);
  const wanted = Number(values.table ?? linked?.k.table ?? 0);
  const table = shapes.cards[wanted] ? wanted : 0;
  const rows = every.filter((r) => r.k.table === table);
  const card = shapes.cards[table];
  const detail = h("div", { id: "shape-detail" });
  const grids = maps(rows, key, (row) => {
    set({ case: row.k.id }, { quiet: true });
    show(detail, row, c);
    markOpen(root, row.k.id);
  });
  const open = rows.find((r) => r === linked) ?? rows.reduce((a, b) => ((b.o.left ?? 1) > (a.o.left ?? 1) ? b : a));
  show(detail, open, c);
  root.append(
    panel(
      "Shapes",
      null,
      picker(lineage, run, id, key),
      tables(shapes, table),
      summary(rows, c, card),
      scale(METRICS[key], card),
    ),
    h("div", { class: "shapes" }, h("div", { class: "maps" }, grids), panel("One shape", { class: "sticky" }, detail)),
  );
  markOpen(root, open.k.id);
  const ready = () => {
    set({ id }, { quiet: true });
    if (!linked) return;
    const cell = root.querySelector(".cell.open");
    const { top, bottom } = cell.getBoundingClientRect();
    if (top < 0 || bottom > window.innerHeight) cell.scrollIntoView({ block: "center" });
  };
  return { root, keys: arrows(root), ready };
}

function picker(lineage, run, id, key) {
  return h(
    "div",
    { class: "row" },
    h("label", { for: "shape-id" }, "proposal "),
    h("input", {
      type: "number",
      id: "shape-id",
      min: "0",
      max: String(lineage.nodes.length - 1),
      value: id,
      onchange: (e) => set({ id: e.target.value }),
    }),
    lineage.winner !== null
      ? h("a", { href: link("shapes", { ...read().values, run, id: lineage.winner }) }, `winner #${lineage.winner}`)
      : null,
    lineage.leader !== null
      ? h("a", { href: link("shapes", { ...read().values, run, id: lineage.leader }) }, `leader #${lineage.leader}`)
      : null,
    choice(
      "colour by",
      Object.entries(METRICS).map(([k, m]) => [k, m.name]),
      key,
      (v) => set({ metric: v === "speedup" ? "" : v }),
    ),
  );
}

/** A choice of tables, where the run was judged on several. */
function tables(shapes, table) {
  if (shapes.cards.length < 2) return null;
  return h(
    "div",
    { class: "row" },
    h("span", { class: "quiet" }, "measured on"),
    choice(
      "table",
      shapes.cards.map((card, i) => [String(i), visible(card.label), visible(`${card.gpu}, ${card.build}`)]),
      String(table),
      (v) => set({ table: v, case: "" }),
    ),
  );
}

function summary(rows, c, card) {
  const regressions = rows.filter((r) => r.o.regression).length;
  const changed = rows.filter((r) => r.o.changed).length;
  const { id, holdout } = c.node;
  const held = holdout
    ? `: ${times(holdout.geomean_speedup)} on holdout, ${percent(holdout.oracle_share)} of the oracle; `
    : ": ";
  const decided =
    `decides ${changed} of ${rows.length} shapes unlike stock, ` +
    `${regressions} slower by more than max(1%, 3 standard errors). `;
  const where = `${visible(card.setting)}, ${visible(card.build)} on ${visible(card.gpu)}`;
  const live =
    card.measured === "live"
      ? `, measured live: of each shape only the launches that some program decided, ${card.launches} in all`
      : "";
  const lacking = live && card.unmeasured !== "0" ? `; ${card.unmeasured} shapes are not measured yet` : "";
  return h("p", { class: "quiet" }, `#${id}${held}${decided}${where}${live}${lacking}.`);
}

function scale(metric, card) {
  const swatch = (v) => h("span", { class: "swatch", style: metric.colour(v) }, metric.format(v));
  return h(
    "div",
    { class: "legend" },
    metric.ends.map(swatch),
    h("span", { class: "quiet" }, metric.says),
    h("span", null, h("span", { class: "swatch dotted" }, "\u2022"), " holdout"),
    h("span", null, h("span", { class: "swatch outlined" }, "\u00a0"), " regression"),
    h(
      "span",
      { class: "quiet" },
      card.unmeasured === "0" ? "blank: sealed test shapes" : "blank: sealed test shapes, and shapes not measured yet",
    ),
  );
}

function maps(rows, key, pick) {
  const heads = [...new Set(rows.map((r) => `${r.k.num_heads_q}x${r.k.num_heads_kv}`))];
  const found = [];
  for (const ragged of [false, true]) {
    for (const pair of heads) {
      const mine = rows.filter((r) => `${r.k.num_heads_q}x${r.k.num_heads_kv}` === pair && Boolean(r.k.mix) === ragged);
      if (mine.length) found.push(map(mine, pair, ragged, METRICS[key], pick));
    }
  }
  return found;
}

const lengthOf = (mix) => Number(/\d+/.exec(mix)?.[0] ?? Infinity);
const byLength = (a, b) => lengthOf(a) - lengthOf(b) || (a < b ? -1 : 1);

function map(rows, pair, ragged, metric, pick) {
  const [q, kv] = pair.split("x");
  const of = ragged ? (k) => k.mix : (k) => k.seqlen_k;
  const across = [...new Set(rows.map((r) => of(r.k)))];
  // In the same order on every map, whichever shapes a head count has.
  across.sort(ragged ? byLength : (a, b) => a - b);
  const batches = [...new Set(rows.map((r) => r.k.batch))].sort((a, b) => a - b);
  const at = new Map(rows.map((r) => [`${r.k.batch}/${of(r.k)}`, r]));
  const title = `${q} query, ${kv} KV heads, ${ragged ? "ragged" : "uniform"}`;
  return h(
    "section",
    { class: "panel map", "aria-label": title },
    h("h3", null, title),
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        { class: "heat" },
        h("caption", { class: "sr" }, `${metric.name} by batch and ${ragged ? "mix of lengths" : "keys"}, ${title}`),
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            h("th", { scope: "col" }, "batch"),
            across.map((x) => h("th", { scope: "col", class: "upright" }, h("span", null, String(x)))),
          ),
        ),
        h(
          "tbody",
          null,
          batches.map((b) =>
            h(
              "tr",
              null,
              h("th", { scope: "row" }, String(b)),
              across.map((x) => cell(at.get(`${b}/${x}`), metric, pick)),
            ),
          ),
        ),
      ),
    ),
  );
}

/** Mark the cell of the shape that is shown in detail. */
function markOpen(root, id) {
  for (const cell of root.querySelectorAll(".cell")) cell.classList.toggle("open", cell.dataset.case === id);
}

function cell(row, metric, pick) {
  if (!row) return h("td", { class: "sealed" });
  const { k, o } = row;
  const v = o.latency_us === null ? null : metric.of(o);
  const value = v === null ? "unknown" : metric.text(v);
  const label = `${k.id}, ${k.split}: ${metric.name} ${value}${o.regression ? ", regression" : ""}`;
  return h(
    "td",
    null,
    h(
      "button",
      {
        type: "button",
        tabindex: "-1",
        id: `cell-${k.id}`,
        "data-case": k.id,
        "aria-label": label,
        title: label,
        class: `cell${k.split === "holdout" ? " held" : ""}${o.regression ? " lost" : ""}`,
        style: v === null ? {} : metric.colour(v),
        onclick: () => {
          pick(row);
          if (matchMedia(NARROW).matches) document.getElementById("shape-detail").scrollIntoView({ block: "center" });
        },
        onfocus: () => pick(row),
      },
      v === null ? "?" : metric.plain?.(v) ? "\u00b7" : metric.text(v),
    ),
  );
}

/** Arrow keys move between cells; one cell of each map is in the tab order. */
function arrows(root) {
  const cells = [...root.querySelectorAll(".cell")];
  for (const map of root.querySelectorAll(".heat")) {
    const first = map.querySelector(".cell");
    if (first) first.tabIndex = 0;
  }
  const move = (dx, dy) => {
    /** @type {HTMLElement | null} */
    const now = document.activeElement?.closest(".cell");
    if (!now) {
      cells[0]?.focus();
      return;
    }
    const td = now.closest("td");
    let row = td.closest("tr");
    let index = td.cellIndex;
    for (;;) {
      index += dx;
      if (dy)
        row = /** @type {HTMLTableRowElement | null} */ (dy > 0 ? row.nextElementSibling : row.previousElementSibling);
      if (!row?.cells[index]) return;
      /** @type {HTMLElement | null} */
      const next = row.cells[index].querySelector(".cell");
      if (next) {
        now.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
        return;
      }
    }
  };
  return {
    ArrowLeft: () => move(-1, 0),
    ArrowRight: () => move(1, 0),
    ArrowUp: () => move(0, -1),
    ArrowDown: () => move(0, 1),
  };
}

/** What was decided on a shape, in words. */
function decisionText(o) {
  const parts = [
    plural(o.num_splits, "split"),
    o.blocks_per_split ? `${plural(o.blocks_per_split, "block")} each` : null,
    `${o.live_splits} live`,
    o.pack_gqa === null ? null : `pack_gqa ${o.pack_gqa}`,
    o.variant || null,
  ];
  return parts.filter(Boolean).join(", ") + (o.changed ? "" : " (as stock)");
}

const gridText = (g) => `${g.ctas} CTAs (${g.waves.toFixed(2)} waves), longest ${plural(g.longest_blocks, "block")}`;

function show(detail, { k, o }, c) {
  const lengths = k.live_seqlens;
  const mean = lengths.reduce((a, b) => a + b, 0) / lengths.length;
  const stock = microseconds(k.cells.median_us[0]);
  const latency = microseconds(o.latency_us);
  const heads = `${k.num_heads_q} query and ${k.num_heads_kv} KV heads of ${k.head_dim}`;
  const between = o.interpolated ? ", interpolated between two measured launches" : "";
  const facts = [
    ["shape", `batch ${k.batch}, ${k.seqlen_k} keys, ${heads}`],
    ["part", k.split],
    ["weight", percent(k.weight, 3)],
    lengths.length
      ? ["live keys", `${Math.min(...lengths)}\u2013${Math.max(...lengths)}, mean ${mean.toFixed(0)}`]
      : null,
    ["decided", decisionText(o)],
    ["runs", gridText(o.grid)],
    ["stock runs", gridText(k.stock_grid)],
    ["latency", o.latency_us === null ? "not measured" : `${latency} \u00b5s${between}; stock ${stock} \u00b5s`],
    ["speed-up", times(o.speedup, 3) + (o.regression ? " (regression)" : "")],
    ["oracle", `${times(k.oracle_speedup, 3)} cross-fitted; best launch would add ${times(o.left, 3)}`],
  ];
  const label = `Latency over splits on ${k.id}: chosen ${latency} microseconds, stock ${stock}`;
  detail.replaceChildren(
    h("h3", null, visible(k.id)),
    latencyCurve(k, o, label),
    h(
      "dl",
      { class: "facts" },
      facts.filter(Boolean).map(([name, v]) => [h("dt", null, name), h("dd", null, v)]),
    ),
    h(
      "p",
      null,
      h("a", { href: link("candidate", { run: c.run, id: c.node.id, tab: "shapes" }) }, `all shapes of #${c.node.id}`),
    ),
  );
}
