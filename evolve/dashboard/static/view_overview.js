// Overview: how good, against what budget, and what became of every proposal.

import { chart, dots, legend, roomIn, steps } from "./chart.js";
import { choice, dollars, duration, fixed, h, panel, percent, table, times, visible } from "./dom.js";
import { GROUPS, groupOf } from "./scales.js";
import { link, set } from "./state.js";

const AXES = {
  evaluations: { label: "proposals committed", of: (p) => p.evaluations, node: (n, k) => k, format: String },
  seconds: { label: "time since the start", of: (p) => p.seconds, node: (n) => n.committed_at_s, format: duration },
  dollars: { label: "US dollars", of: (p) => p.cost_usd, node: (n, k, cost) => cost, format: dollars },
};

export async function overviewView({ source, run, values }) {
  const [o, lineage] = await Promise.all([source.overview(run), source.lineage(run)]);
  const nodes = new Map(lineage.nodes.map((n) => [n.id, n]));
  const root = h("div", { class: "columns overview" });
  root.append(h("div", { class: "stack" }, scores(o, nodes), progress(o, lineage, values), improvements(o, nodes)),
    h("div", { class: "stack" }, budget(o, source.timeline?.(run)), outcomes(o), facts(o)));
  return { root };
}

const candidateLink = (o, id) => h("a", { href: link("candidate", { run: o.run, id }) }, "#" + id);

function scores(o, nodes) {
  const rows = [];
  for (const [name, id] of [["winner", o.winner], ["leader", o.leader]]) {
    const node = nodes.get(id);
    if (!node) continue;
    for (const split of ["train", "holdout"]) if (node[split]) rows.push({ name, id, split, score: node[split] });
  }
  if (!rows.length) return panel("Result", null, h("p", { class: "quiet" }, "Nothing is scored yet."));
  const top = nodes.get(o.winner);
  const held = top.holdout ?? top.train;
  return panel("Result", { class: "result" },
    h("p", { class: "headline" }, h("strong", null, times(held.geomean_speedup)),
      ` on the ${top.holdout ? "holdout" : "training"} shapes, `, h("strong", null, percent(held.oracle_share)),
      " of the oracle\u2019s gain", held.regressions ? `, ${held.regressions} regressions` : ", no regression"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Scores of winner and leader" }, table("Scores of winner and leader", [
      { name: "program", value: (r) => [r.name, " ", candidateLink(o, r.id)] },
      { name: "shapes", value: (r) => r.split },
      { name: "score", number: true, value: (r) => fixed(r.score.score, 4) },
      { name: "speed-up", number: true, value: (r) => times(r.score.geomean_speedup) },
      { name: "of oracle", number: true, value: (r) => percent(r.score.oracle_share) },
      { name: "regressions", number: true, value: (r) => String(r.score.regressions) },
      { name: "worst", number: true, value: (r) => times(r.score.worst_speedup, 3) },
      { name: "of", number: true, value: (r) => String(r.score.shapes), title: "shapes" },
    ], rows)),
    h("p", { class: "quiet" }, "The winner is best on the holdout, which the search never sees, of those that led their island on the training shapes; the leader is best on the training shapes."));
}

function progress(o, lineage, values) {
  const key = AXES[values.x] ? values.x : "evaluations";
  const axis = AXES[key];
  const holder = h("div", { class: "drawing" });
  const part = panel("Share of the oracle\u2019s gain, best so far", { class: "wide" },
    choice("against", [["evaluations", "proposals"], ["seconds", "time"], ["dollars", "dollars"]], key,
      (x) => set({ x: x === "evaluations" ? "" : x })),
    holder,
    legend([["line train", "best on train"], ["line its", "the same program on holdout"], ["line held", "best on holdout"],
      ["dot", "every scored proposal, on train"]]));
  const points = o.curve;
  if (!points.length || (key === "dollars" && !o.cost_usd)) {
    holder.append(h("p", { class: "quiet" }, points.length ? "This run cost nothing." : "Nothing is scored yet."));
    return part;
  }
  const cloud = [];
  let [count, cost] = [0, 0];
  for (const n of lineage.nodes) {
    cost += n.cost_usd;
    if (n.committed_at_s === null) continue;
    count += n.kind === "seed" ? 0 : 1;
    if (n.train) cloud.push([axis.node(n, count, cost), n.train.oracle_share]);
  }
  requestAnimationFrame(() => {
    const shares = points.flatMap((p) => [p.train_share, p.its_holdout_share, p.holdout_share]).filter((v) => v !== null);
    const end = key === "evaluations" ? Math.max(o.proposals, 1) : axis.of(points.at(-1));
    const low = Math.max(-0.25, Math.min(0, ...shares));
    const c = chart({
      width: roomIn(holder), height: 280, label: `Best share of the oracle so far: ${percent(points.at(-1).train_share)} on train, ` +
        `${percent(points.at(-1).holdout_share)} on holdout after ${o.proposals} proposals`,
      x: { low: 0, high: end || 1, label: axis.label, format: axis.format },
      y: { low, high: Math.max(1, ...shares), label: "share of oracle", format: (v) => percent(v, 0) },
    });
    dots(c, cloud.filter(([, y]) => y >= low), { class: "cloud" });
    const line = (of, name) => steps(c, points.filter((p) => of(p) !== null).map((p) => [axis.of(p), of(p)]), end, { class: "step " + name });
    line((p) => p.its_holdout_share, "its");
    line((p) => p.holdout_share, "held");
    line((p) => p.train_share, "train");
    holder.replaceChildren(c.root);
  });
  return part;
}

function outcomes(o) {
  const rows = Object.entries(o.statuses).sort((a, b) => b[1] - a[1]);
  const most = Math.max(1, ...rows.map((r) => r[1]));
  return panel("Outcomes", null, h("ul", { class: "bars" }, rows.map(([status, count]) => {
    const group = groupOf(status);
    return h("li", null, h("a", { href: link("lineage", { run: o.run, status }), "aria-label": `${count} proposals ended as ${status}` },
      h("span", { class: "mark g-" + group.key, "aria-hidden": "true" }, group.mark), h("span", { class: "bar-name" }, status),
      h("span", { class: "bar-room", "aria-hidden": "true" },
        h("span", { class: "bar b-" + group.key, style: { width: (100 * count) / most + "%" } })),
      h("span", { class: "num" }, String(count))));
  })), h("ul", { class: "legend" }, GROUPS.filter((g) => rows.some(([status]) => groupOf(status) === g)).map((g) =>
    h("li", null, h("span", { class: "mark g-" + g.key, "aria-hidden": "true" }, g.mark), g.name))));
}

function budget(o, timeline) {
  const meter = (name, used, all, text) => [h("dt", null, name), h("dd", null, text,
    all ? h("progress", { value: used, max: all, "aria-label": `${name}: ${text}` }) : null)];
  const models = Object.entries(o.models).map(([name, count]) => `${visible(name)} (${count})`).join(", ");
  return panel("Budget", null, h("dl", { class: "facts" },
    meter("proposals", o.proposals, o.wanted, `${o.proposals} of ${o.wanted}` + (o.under_way ? `, ${o.under_way} under way` : "")),
    meter("time", o.seconds, o.wall_s, duration(o.seconds) + (o.wall_s ? ` of ${duration(o.wall_s)}` : "")),
    h("dt", null, "pace"), h("dd", null, o.seconds > 0 ? `${fixed(o.proposals / o.seconds, 2)} proposals a second` : "\u2013"),
    meter("dollars", o.cost_usd, o.limits.usd, dollars(o.cost_usd) + (o.limits.usd ? ` of ${dollars(o.limits.usd)}` : "")),
    meter("tokens", o.tokens_in + o.tokens_out, o.limits.tokens, `${o.tokens_in.toLocaleString("en")} in, ${o.tokens_out.toLocaleString("en")} out` +
      (o.limits.tokens ? ` of ${o.limits.tokens.toLocaleString("en")}` : "")),
    o.gpu_s || o.limits.gpu_s ? meter("GPU", o.gpu_s, o.limits.gpu_s, duration(o.gpu_s) + (o.limits.gpu_s ? ` of ${duration(o.limits.gpu_s)}` : "") + " of measuring") : null,
    h("dt", null, "answered by"), h("dd", null, models || "\u2013"),
    timeline ? [h("dt", null, "timeline"), h("dd", null, h("a", { href: timeline, download: `${o.run}-timeline.json` }, "timeline.json"), " for ui.perfetto.dev")] : null));
}

function improvements(o, nodes) {
  const rows = [];
  let best = -Infinity;
  for (const p of o.curve) {
    if (p.train_score > best && nodes.get(p.id)?.train?.score === p.train_score) rows.push(p);
    best = Math.max(best, p.train_score);
  }
  return panel("Steps to the leader", { class: "wide" }, h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Improvements" },
    table("Commits that improved the best training score", [
      { name: "#", number: true, value: (p) => candidateLink(o, p.id) },
      { name: "after", number: true, value: (p) => duration(p.seconds) },
      { name: "train score", number: true, value: (p) => fixed(p.train_score, 4) },
      { name: "of oracle", number: true, value: (p) => percent(p.train_share) },
      { name: "on holdout", number: true, value: (p) => percent(p.its_holdout_share) },
      { name: "edit", value: (p) => visible(nodes.get(p.id)?.note || (nodes.get(p.id)?.kind === "seed" ? "seed" : "")) },
    ], rows.reverse())));
}

function facts(o) {
  const oracle = Object.entries(o.oracle_speedup).map(([split, v]) => `${times(v)} on ${split}`).join(", ");
  const rows = [["started", o.created_at ? new Date(1000 * o.created_at).toISOString().replace("T", " ").slice(0, 19) + " UTC" : "\u2013"],
    ...Object.entries(o.meta), ["oracle", oracle || "\u2013"]];
  return panel("Judged on", null, h("dl", { class: "facts" }, rows.map(([k, v]) => [h("dt", null, k), h("dd", { class: "breakable" }, visible(v))])),
    h("details", null, h("summary", null, "configuration"), h("pre", { tabindex: "0", "aria-label": "Configuration" }, visible(o.config))));
}
