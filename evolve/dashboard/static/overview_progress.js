// The best score of a run against proposals, time or dollars, with every commit as a dot.

import { editOf } from "./analysis.js";
import { choice, dollars, duration, fixed, h, panel, percent, plural, visible } from "./dom.js";
import { plot } from "./plot.js";
import { go, set } from "./state.js";

const AXES = {
  evaluations: { label: "proposals committed", of: (p) => p.evaluations, format: (v) => String(Math.round(v)) },
  seconds: { label: "time since the start", of: (p) => p.seconds, format: duration },
  dollars: { label: "US dollars", of: (p) => p.cost_usd, format: dollars },
};

/**
 * Panel with the curves.
 *
 * @param {import("./documents.js").Overview} o
 * @param {import("./documents.js").Lineage} lineage
 * @param {Record<string, string>} values
 */
export function progress(o, lineage, values) {
  const key = AXES[values.x] ? values.x : "evaluations";
  const axis = AXES[key];
  const part = panel(
    "Best score so far",
    { class: "wide" },
    choice(
      "against",
      [
        ["evaluations", "proposals"],
        ["seconds", "time"],
        ["dollars", "dollars"],
      ],
      key,
      (x) => set({ x: x === "evaluations" ? "" : x }),
    ),
  );
  if (!o.curve.length || (key === "dollars" && !o.cost_usd)) {
    part.append(h("p", { class: "quiet" }, o.curve.length ? "This run cost nothing." : "Nothing is scored yet."));
    return part;
  }
  const places = commits(lineage.nodes, o.curve, axis);
  const low = Math.min(...o.curve.map((p) => Math.min(p.train_score, p.its_holdout_score ?? p.train_score)));
  // Programs far below would press the curves flat; the lineage shows them all.
  const floor = Math.min(low, 1) - 0.15 * (o.curve.at(-1).train_score - Math.min(low, 1));
  part.append(
    plot({
      name: `Best score of ${o.run}, train ${fixed(o.curve.at(-1).train_score, 4)}, against ${axis.label}`,
      x: { label: axis.label, format: axis.format, values: places.map((p) => p.x) },
      y: { label: "score", format: (v) => v.toFixed(4) },
      levels: levels(o),
      series: [
        {
          label: "scored",
          colour: "--cloud",
          kind: "dots",
          values: places.map((p) => (p.node?.train && p.node.train.score >= floor ? p.node.train.score : null)),
        },
        {
          label: "its score on holdout",
          colour: "--its",
          dash: [5, 3],
          values: places.map((p) => p.point?.its_holdout_score ?? null),
        },
        { label: "best on holdout", colour: "--good", values: places.map((p) => p.point?.holdout_score ?? null) },
        { label: "best on train", colour: "--accent", values: places.map((p) => p.point?.train_score ?? null) },
      ],
      describe: (i) => describeCommit(places[i], o),
      open: (i) => places[i].node && go("candidate", { run: o.run, id: places[i].node.id }),
    }),
    h(
      "p",
      { class: "quiet" },
      "A score is the speed-up over stock less penalties for regressions. ",
      "Where the leader\u2019s score on the holdout parts from its score on train, ",
      "the search learns the training shapes by heart.",
    ),
  );
  return part;
}

/** Every commit in order of the axis, each with the state of the search at that place. */
function commits(nodes, curve, axis) {
  const points = new Map(curve.map((p) => [p.id, p]));
  const found = [];
  let [count, cost, point] = [0, 0, null];
  for (const node of nodes) {
    cost += node.cost_usd;
    if (node.committed_at_s === null) continue;
    if (node.kind !== "seed") count++;
    point = points.get(node.id) ?? point;
    found.push({ x: axis.of({ evaluations: count, seconds: node.committed_at_s, cost_usd: cost }), node, point });
  }
  return found.sort((a, b) => a.x - b.x);
}

/** Stock, and what the oracle gains on the shapes of one table. */
function levels(o) {
  const found = [{ y: 1, text: "stock" }];
  for (const [split, y] of Object.entries(o.oracle_speedup)) {
    if (split === "train" || split === "holdout") found.push({ y, text: `oracle on ${split}` });
  }
  return found;
}

function describeCommit({ node, point }, o) {
  const lines = [
    `#${node.id} ${node.status}${node.train ? ` ${fixed(node.train.score, 4)}` : ""}`,
    editOf(node).slice(0, 80),
  ];
  if (point) {
    const since = o.curve.findLast((p) => p.id <= node.id);
    lines.push(`best on train ${fixed(point.train_score, 4)}, ${percent(point.train_share)} of oracle`);
    if (since && since.id !== node.id) lines.push(`no better for ${plural(node.id - since.id, "proposal")}`);
  }
  return visible(lines.filter(Boolean).join("\n"));
}
