// Candidates: all proposals as a table that sorts, filters and exports, and what they gain against what they cost.

import { csv, editOf, lineOf, paretoFront, rolesOf, sorted } from "./analysis.js";
import { choice, dollars, duration, fixed, h, panel, percent, plural, table, times, visible } from "./dom.js";
import { pinsOf } from "./pins.js";
import { plot } from "./plot.js";
import { groupOf } from "./scales.js";
import { go, link, read, set } from "./state.js";

const PAGE = 100;

const tokens = (n) => n.tokens_in + n.tokens_out;
const COLUMNS = {
  id: { name: "#", of: (n) => n.id, number: true },
  status: { name: "status", of: (n) => n.status },
  train: { name: "train", of: (n) => n.train?.score ?? null, text: (v) => fixed(v, 4), number: true, title: "score" },
  holdout: {
    name: "holdout",
    of: (n) => n.holdout?.score ?? null,
    text: (v) => fixed(v, 4),
    number: true,
    title: "score",
  },
  share: {
    name: "of oracle",
    of: (n) => (n.holdout ?? n.train)?.oracle_share ?? null,
    text: (v) => percent(v),
    number: true,
    title: "share of the oracle\u2019s gain on the holdout, or on train where there is none",
  },
  regressions: {
    name: "regr.",
    of: (n) => (n.train ? n.train.regressions + (n.holdout?.regressions ?? 0) : null),
    number: true,
    title: "regressions on train and holdout",
  },
  worst: {
    name: "worst",
    of: (n) => (n.train ? Math.min(n.train.worst_speedup, n.holdout?.worst_speedup ?? Infinity) : null),
    text: (v) => fixed(v, 3),
    number: true,
    title: "least speed-up on any shape of train or holdout",
  },
  complexity: {
    name: "nodes",
    of: (n) => n.features.complexity ?? null,
    number: true,
    title: "size of the syntax tree",
  },
  island: { name: "island", of: (n) => n.island, number: true },
  parent: { name: "parent", of: (n) => n.parent, number: true },
  model: { name: "model", of: (n) => n.model },
  tokens: { name: "tokens", of: tokens, number: true },
  cost: { name: "dollars", of: (n) => n.cost_usd, text: dollars, number: true },
  took: { name: "took", of: (n) => n.elapsed_s, text: duration, number: true },
  edit: { name: "edit or message", of: lineOf, wrap: true },
};

const FILTERS = [
  ["all", "all"],
  ["scored", "scored"],
  ["failed", "failed"],
  ["path", "winner\u2019s path"],
  ["pinned", "pinned"],
];

const AGAINST = {
  complexity: { name: "syntax nodes", of: COLUMNS.complexity.of },
  regressions: { name: "regressions", of: COLUMNS.regressions.of },
};

/**
 * @param {import("./types.js").Place} place
 * @returns {Promise<import("./types.js").Shown>}
 */
export async function tableView({ source, run, values }) {
  const lineage = await source.lineage(run);
  if (!lineage.nodes.length) return { root: h("p", { class: "notice" }, "Nothing has been asked yet.") };
  const pins = pinsOf(run);
  const only = values.only ?? "all";
  const text = values.q ?? "";
  const inside = text.trim().length > 1 ? new Set(await source.search(run, text.trim()).catch(() => [])) : new Set();
  const key = COLUMNS[values.sort] ? values.sort : "id";
  const descending = values.up !== "1";
  const rows = sorted(
    lineage.nodes.filter((n) => chosen(n, only, lineage, pins) && holds(n, text, inside, pins)),
    COLUMNS[key].of,
    descending,
  );
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  const page = Math.min(pages - 1, Math.max(0, Number(values.page) || 0));
  const root = h(
    "div",
    { class: "stack" },
    pareto(run, lineage, values),
    panel(
      "Candidates",
      null,
      controls(run, { text, only, rows, page, pages, pins }),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "All candidates" },
        table(
          "All candidates",
          columns(run, lineage, pins, key, descending),
          rows.slice(page * PAGE, (page + 1) * PAGE),
          {
            class: "full",
          },
        ),
      ),
    ),
  );
  return { root };
}

function chosen(n, only, lineage, pins) {
  if (only === "scored") return n.status === "ok";
  if (only === "failed") return n.committed_at_s !== null && n.status !== "ok" && n.status !== "duplicate";
  if (only === "path") return lineage.path.includes(n.id);
  if (only === "pinned") return pins.has(n.id);
  return true;
}

function holds(n, text, inside, pins) {
  if (!text.trim() || inside.has(n.id)) return true;
  const said = `#${n.id} ${n.status} ${n.model} ${editOf(n)} ${n.message} ${pins.get(n.id) ?? ""}`.toLowerCase();
  return text
    .toLowerCase()
    .split(/\s+/)
    .filter(Boolean)
    .every((word) => said.includes(word));
}

function controls(run, { text, only, rows, page, pages, pins }) {
  let timer = null;
  return h(
    "div",
    { class: "row" },
    h("input", {
      type: "search",
      id: "search",
      value: text,
      placeholder: "number, status, edit, program, answer\u2026 (/)",
      "aria-label": "Search candidates, their programs and answers",
      oninput: (e) => {
        clearTimeout(timer);
        timer = setTimeout(() => set({ q: e.target.value, page: "" }), 300);
      },
    }),
    choice("only", FILTERS, only, (v) => set({ only: v === "all" ? "" : v, page: "" })),
    h("span", { class: "quiet" }, plural(rows.length, "candidate")),
    pages > 1
      ? [
          h(
            "button",
            { type: "button", id: "page-before", disabled: page === 0, onclick: () => set({ page: page - 1 || "" }) },
            "\u2039",
          ),
          h("span", { class: "quiet" }, `page ${page + 1} of ${pages}`),
          h(
            "button",
            { type: "button", id: "page-after", disabled: page === pages - 1, onclick: () => set({ page: page + 1 }) },
            "\u203a",
          ),
        ]
      : null,
    h(
      "span",
      { class: "push" },
      h("button", { type: "button", id: "csv", onclick: () => download(run, rows, pins) }, "save as CSV"),
    ),
  );
}

function columns(run, lineage, pins, key, descending) {
  const cell = (name, column) => (n) => {
    const value = column.of(n);
    if (name === "id") return identity(run, n, lineage, pins);
    if (name === "status") return statusOf(n);
    if (name === "parent" && value !== null)
      return h("a", { href: link("candidate", { run, id: value }) }, `#${value}`);
    if (name === "edit" && pins.get(n.id)) return [h("em", null, visible(pins.get(n.id))), " ", visible(value)];
    if (value === null) return "\u2013";
    return column.text ? column.text(value) : visible(value);
  };
  return Object.entries(COLUMNS).map(([name, column]) => ({
    ...column,
    value: cell(name, column),
    sort: {
      on: name === key,
      descending,
      pick: () => set({ sort: name, up: name === key && descending ? "1" : "", page: "" }),
    },
  }));
}

function identity(run, n, lineage, pins) {
  const roles = rolesOf(n.id, lineage);
  const mark =
    (pins.has(n.id) ? "\u2691 " : "") +
    (roles.includes("winner") ? "\u2605 " : roles.includes("path") ? "\u2191 " : "");
  const title = [...roles, pins.has(n.id) ? "pinned" : ""].filter(Boolean).join(", ");
  return [
    h("span", { "aria-hidden": "true" }, mark),
    h("a", { href: link("candidate", { run, id: n.id }), title: title || null }, `#${n.id}`),
  ];
}

function statusOf(n) {
  const group = groupOf(n.status);
  return [h("span", { class: `mark g-${group.key}`, "aria-hidden": "true" }, group.mark), ` ${n.status}`];
}

/** What is shown, in its order, as a file; written by the browser alone. */
function download(run, rows, pins) {
  const names = Object.keys(COLUMNS);
  const lines = rows.map((n) => [...names.map((name) => COLUMNS[name].of(n)), pins.get(n.id) ?? ""]);
  const file = new Blob([csv([...names, "note"], lines)], { type: "text/csv" });
  const url = URL.createObjectURL(file);
  h("a", { href: url, download: `${run.replace(/[^\w.-]+/g, "-")}-candidates.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Gain against complexity or regressions; the line joins those that no other candidate beats on both. */
function pareto(run, lineage, values) {
  const against = AGAINST[values.against] ? values.against : "complexity";
  const { name, of } = AGAINST[against];
  const points = lineage.nodes
    .filter((n) => n.status === "ok" && n.train)
    .map((n) => ({ n, x: of(n), y: (n.holdout ?? n.train).geomean_speedup }))
    .filter((p) => p.x !== null && p.x !== undefined)
    .sort((a, b) => a.x - b.x);
  const title = "Gain against cost";
  if (!points.length) return panel(title, null, h("p", { class: "quiet" }, "Nothing is scored yet."));
  const front = new Set(paretoFront(points));
  const special = (p) => (p.n.id === lineage.winner ? p.y : null);
  return panel(
    title,
    null,
    choice(
      "against",
      Object.entries(AGAINST).map(([key, a]) => [key, a.name]),
      against,
      (key) => set({ against: key === "complexity" ? "" : key }),
    ),
    plot({
      name: `Speed-up of the candidates of ${run} against ${name}`,
      x: { label: name, format: (v) => String(Math.round(v)), values: points.map((p) => p.x) },
      y: { label: "speed-up", format: (v) => v.toFixed(4) },
      levels: [{ y: 1, text: "stock" }],
      series: [
        { label: "candidates", colour: "--cloud", kind: "dots", size: 6, values: points.map((p) => p.y) },
        {
          label: "not beaten on both",
          colour: "--its",
          kind: "dots",
          size: 7,
          values: points.map((p) => (front.has(p) ? p.y : null)),
        },
        { label: "winner", colour: "--good", kind: "dots", size: 11, values: points.map(special) },
      ],
      describe: (i) =>
        visible(
          `#${points[i].n.id}, ${times(points[i].y)}, ${points[i].x} ${name}\n${lineOf(points[i].n).slice(0, 99)}`,
        ),
      open: (i) => go("candidate", { run: read().values.run, id: points[i].n.id }),
    }),
    h(
      "p",
      { class: "quiet" },
      "Speed-up on the holdout, or on train where there is none; a click opens the candidate.",
    ),
  );
}
