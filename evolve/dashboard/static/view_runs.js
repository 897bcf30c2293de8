// Runs: all of them with state, winner and cost, and their curves over each other.

import { sorted } from "./analysis.js";
import { choice, dollars, duration, fixed, h, panel, percent, table, times, visible } from "./dom.js";
import { plot } from "./plot.js";
import { link, set } from "./state.js";

/** Curves that can be told apart in one picture. */
const MOST_CURVES = 8;
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7b61c4", "#7b858e"];
const DASHES = [undefined, [6, 3], [2, 3]];

const held = (line) => line.holdout ?? line.train;

const COLUMNS = {
  run: { name: "run", of: (l) => l.run },
  state: { name: "state", of: (l) => l.state },
  started: { name: "started (UTC)", of: (l) => l.created_at },
  proposals: { name: "proposals", of: (l) => l.proposals },
  score: { name: "score", of: (l) => held(l)?.score ?? null },
  speedup: { name: "speed-up", of: (l) => held(l)?.geomean_speedup ?? null },
  share: { name: "of oracle", of: (l) => held(l)?.oracle_share ?? null },
  regressions: { name: "regressions", of: (l) => held(l)?.regressions ?? null },
  cost: { name: "dollars", of: (l) => l.cost_usd },
  tokens: { name: "tokens", of: (l) => l.tokens },
  took: { name: "took", of: (l) => l.seconds },
};
const TEXTS = {
  run: (l) => h("a", { href: link("overview", { run: l.run }) }, visible(l.run)),
  state: (l) => h("span", { class: `run-state ${l.state.replace(" ", "-")}`, title: visible(l.ended) }, l.state),
  started: (l) =>
    l.created_at ? new Date(1000 * l.created_at).toISOString().replace("T", " ").slice(0, 16) : "\u2013",
  proposals: (l) => `${l.proposals} of ${l.wanted}`,
  score: (l) => fixed(held(l)?.score, 4),
  speedup: (l) => times(held(l)?.geomean_speedup),
  share: (l) => percent(held(l)?.oracle_share),
  regressions: (l) => String(held(l)?.regressions ?? "\u2013"),
  cost: (l) => dollars(l.cost_usd),
  tokens: (l) => l.tokens.toLocaleString("en"),
  took: (l) => duration(l.seconds),
};
const PLAIN = ["run", "state", "started"];

/**
 * @param {import("./types.js").Place} place
 * @returns {Promise<import("./types.js").Shown>}
 */
export async function runsView({ source, values }) {
  const { runs } = await source.allRuns();
  const [key, descending] = [COLUMNS[values.sort] ? values.sort : "started", values.up !== "1"];
  const rows = sorted(runs, COLUMNS[key].of, descending);
  const columns = Object.entries(COLUMNS).map(([name, column]) => ({
    name: column.name,
    number: !PLAIN.includes(name),
    value: TEXTS[name],
    sort: { on: name === key, descending, pick: () => set({ sort: name, up: name === key && descending ? "1" : "" }) },
  }));
  const root = h(
    "div",
    { class: "stack" },
    panel(
      "Runs",
      null,
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "All runs" },
        table("All runs", columns, rows, { class: "full" }),
      ),
      h("p", { class: "quiet" }, "Scores are the winner\u2019s on the holdout, or on train where there is none."),
    ),
    curves(rows, values),
  );
  return { root };
}

function curves(rows, values) {
  const split = values.split === "train" ? "train" : "holdout";
  const shown = rows.filter((l) => l.curve.length).slice(0, MOST_CURVES);
  const title = "Best score so far, by run";
  if (!shown.length) return panel(title, null, h("p", { class: "quiet" }, "Nothing is scored yet."));
  const places = [...new Set(shown.flatMap((l) => l.curve.map((p) => p.evaluations)))].sort((a, b) => a - b);
  const series = shown.map((line, i) => {
    const at = new Map(line.curve.map((p) => [p.evaluations, split === "train" ? p.train_score : p.holdout_score]));
    return {
      label: visible(line.run),
      colour: COLOURS[i % COLOURS.length],
      dash: DASHES[i % DASHES.length],
      values: places.map((x) => at.get(x) ?? null),
    };
  });
  const where = new Set(rows.map((l) => `${l.workload}, ${l.setting}`));
  return panel(
    title,
    null,
    choice(
      "shapes",
      [
        ["holdout", "holdout"],
        ["train", "train"],
      ],
      split,
      (v) => set({ split: v === "holdout" ? "" : v }),
    ),
    plot({
      name: `Best score on ${split} of ${shown.length} runs, against proposals committed`,
      height: 300,
      x: { label: "proposals committed", format: (v) => String(Math.round(v)), values: places },
      y: { label: "score", format: (v) => v.toFixed(4) },
      series,
    }),
    where.size > 1
      ? h(
          "p",
          { class: "quiet" },
          "These runs were judged on different workloads or settings: their scores do not compare.",
        )
      : null,
    rows.length > MOST_CURVES
      ? h("p", { class: "quiet" }, `The first ${MOST_CURVES} of the table above are drawn.`)
      : null,
  );
}
