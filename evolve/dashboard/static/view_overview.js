// Overview: how good, how it came about, against what budget, what became of every proposal and what paid.

import { editOf, failureCauses, GROUPINGS, spending, whatPays } from "./analysis.js";
import { choice, dollars, duration, fixed, h, panel, percent, plural, table, times, visible } from "./dom.js";
import { progress } from "./overview_progress.js";
import { plot } from "./plot.js";
import { GROUPS, groupOf } from "./scales.js";
import { link, set } from "./state.js";

/** Rows of a table of causes or kinds; the rest is counted. */
const MOST_ROWS = 12;

/**
 * @param {import("./types.js").Place} place
 * @returns {Promise<import("./types.js").Shown>}
 */
export async function overviewView({ source, run, values }) {
  const [o, lineage, story] = await Promise.all([source.overview(run), source.lineage(run), source.story(run)]);
  const nodes = new Map(lineage.nodes.map((n) => [n.id, n]));
  const root = h(
    "div",
    { class: "columns overview" },
    h("div", { class: "stack" }, scores(o, nodes), progress(o, lineage, values), winnersStory(o, story, nodes)),
    h("div", { class: "stack" }, budget(o, source.timeline?.(run)), outcomes(o), judgedOn(o)),
    failures(o, lineage.nodes),
    pays(o, lineage.nodes, values),
    spent(o, lineage.nodes),
  );
  return { root };
}

const candidateLink = (o, id) => h("a", { href: link("candidate", { run: o.run, id }) }, `#${id}`);

const scrolling = (label, ...children) =>
  h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": `Table: ${label}` }, children);

function scores(o, nodes) {
  const rows = [];
  const both = o.winner === o.leader;
  for (const [name, id] of [
    [both ? "winner and leader" : "winner", o.winner],
    ["leader", both ? null : o.leader],
  ]) {
    const node = nodes.get(id);
    if (!node) continue;
    for (const split of ["train", "holdout"]) if (node[split]) rows.push({ name, id, split, score: node[split] });
  }
  if (!rows.length) return panel("Result", null, h("p", { class: "quiet" }, "Nothing is scored yet."));
  return panel(
    "Result",
    { class: "result" },
    headline(nodes.get(o.winner)),
    scrolling(
      "Scores of winner and leader",
      table(
        "Scores of winner and leader",
        [
          { name: "program", value: (r) => [r.name, " ", candidateLink(o, r.id)] },
          { name: "shapes", value: (r) => r.split },
          { name: "score", number: true, value: (r) => fixed(r.score.score, 4), title: "speed-up less penalties" },
          { name: "speed-up", number: true, value: (r) => times(r.score.geomean_speedup) },
          { name: "of oracle", number: true, value: (r) => percent(r.score.oracle_share) },
          { name: "regressions", number: true, value: (r) => `${r.score.regressions} of ${r.score.shapes}` },
          { name: "worst", number: true, value: (r) => times(r.score.worst_speedup, 3) },
        ],
        rows,
        { class: "full" },
      ),
    ),
    h(
      "p",
      { class: "quiet" },
      "The winner is best on the holdout, which the search never sees, of the programs that were among the best two ",
      "of their island on the training shapes; the leader is best on the training shapes.",
    ),
  );
}

function headline(winner) {
  if (winner.kind === "seed") {
    return h("p", { class: "headline" }, `No proposal beats the seed #${winner.id} so far.`);
  }
  const held = winner.holdout ?? winner.train;
  return h(
    "p",
    { class: "headline" },
    h("strong", null, times(held.geomean_speedup)),
    ` on the ${winner.holdout ? "holdout" : "training"} shapes, `,
    h("strong", null, percent(held.oracle_share)),
    " of the oracle\u2019s gain, ",
    held.regressions ? plural(held.regressions, "regression") : "no regression",
  );
}

const signed = (x) => (x === null ? "\u2013" : `${x < 0 ? "\u2212" : "+"}${Math.abs(x).toFixed(4)}`);

/** Each program on the way from a seed to the winner: what was changed, and what that gained. */
function winnersStory(o, story, nodes) {
  const steps = story.steps.map((step, i) => ({ ...step, node: nodes.get(step.id), before: story.steps[i - 1] }));
  const gained = (s, split) => {
    const before = s.before && nodes.get(s.before.id)[split];
    return before && s.node[split] ? s.node[split].score - before.score : null;
  };
  const changed = (s) => {
    if (!s.before) return "\u2013";
    if (s.constants.length) return s.constants.map((c) => `${c.before} \u2192 ${c.after}`).join(", ");
    return `+${s.added} \u2212${s.removed} lines`;
  };
  const title = "How the winner came about";
  if (steps.length < 2 || steps.some((s) => !s.node)) {
    return panel(
      title,
      { class: "wide" },
      h("p", { class: "quiet" }, "The winner so far is a seed, or nothing is scored."),
    );
  }
  return panel(
    title,
    { class: "wide" },
    scrolling(
      title,
      table(
        title,
        [
          { name: "#", number: true, value: (s) => candidateLink(o, s.id) },
          { name: "edit", wrap: true, value: (s) => visible(editOf(s.node)) || "\u2013" },
          {
            name: "changed",
            value: (s) =>
              s.before
                ? h("a", { href: link("candidate", { run: o.run, id: s.id, tab: "diff" }) }, visible(changed(s)))
                : "\u2013",
          },
          {
            name: "train",
            number: true,
            value: (s) => signed(gained(s, "train")),
            title: "gain in score over its parent",
          },
          {
            name: "holdout",
            number: true,
            value: (s) => signed(gained(s, "holdout")),
            title: "gain in score over its parent",
          },
          {
            name: "score",
            number: true,
            value: (s) => fixed((s.node.holdout ?? s.node.train)?.score, 4),
            title: "on holdout",
          },
          { name: "of oracle", number: true, value: (s) => percent((s.node.holdout ?? s.node.train)?.oracle_share) },
        ],
        steps,
        { class: "full" },
      ),
    ),
    h(
      "p",
      { class: "quiet" },
      h(
        "a",
        { href: link("compare", { run: o.run, a: o.run, ia: steps[0].id, b: o.run, ib: steps.at(-1).id }) },
        "seed and winner side by side",
      ),
      "; gains over the parent, score and share on the holdout where there is one",
    ),
  );
}

function outcomes(o) {
  const rows = Object.entries(o.statuses).sort((a, b) => b[1] - a[1]);
  const most = Math.max(1, ...rows.map((r) => r[1]));
  const bar = ([status, count]) => {
    const group = groupOf(status);
    return h(
      "li",
      null,
      h(
        "a",
        {
          href: link("lineage", { run: o.run, status }),
          "aria-label": `${plural(count, "proposal")} ended as ${status}`,
        },
        h("span", { class: `mark g-${group.key}`, "aria-hidden": "true" }, group.mark),
        h("span", { class: "bar-name" }, status),
        h(
          "span",
          { class: "bar-room", "aria-hidden": "true" },
          h("span", { class: `bar b-${group.key}`, style: { width: `${(100 * count) / most}%` } }),
        ),
        h("span", { class: "num" }, String(count)),
      ),
    );
  };
  const seen = GROUPS.filter((g) => rows.some(([status]) => groupOf(status) === g));
  const key = (g) => h("li", null, h("span", { class: `mark g-${g.key}`, "aria-hidden": "true" }, g.mark), g.name);
  return panel(
    "Outcomes",
    null,
    h("ul", { class: "bars" }, rows.map(bar)),
    h("ul", { class: "legend" }, seen.map(key)),
    expeditions(o.expeditions),
  );
}

/** How an agent's expeditions ended; blind ones are a fault of the harness or the operator, so they stand out. */
function expeditions(counts) {
  const known = Object.entries(counts);
  if (!known.length) return null;
  const what = { submitted: "with a child", dead: "dead", blind: "blind (never evaluated a draft)" };
  const chip = ([name, count]) =>
    h("li", null, h("span", { class: name === "blind" ? "chip bad" : "chip" }, `${count} ${what[name] ?? name}`));
  return [h("h3", null, "Expeditions"), h("ul", { class: "legend" }, known.map(chip))];
}

function failures(o, nodes) {
  const causes = failureCauses(nodes);
  const title = "Failures by cause";
  if (!causes.length) return panel(title, { class: "half" }, h("p", { class: "quiet" }, "Nothing failed."));
  const rest = causes.slice(MOST_ROWS).reduce((sum, c) => sum + c.count, 0);
  return panel(
    title,
    { class: "half" },
    scrolling(
      title,
      table(
        title,
        [
          { name: "count", number: true, value: (c) => String(c.count) },
          {
            name: "status",
            value: (c) => h("a", { href: link("lineage", { run: o.run, status: c.status }) }, c.status),
          },
          { name: "cause", wrap: true, value: (c) => visible(c.cause) || "\u2013", title: "numbers and names masked" },
          { name: "example", value: (c) => candidateLink(o, c.example.id) },
          { name: "by", wrap: true, value: (c) => visible(c.models.join(", ")) || "\u2013" },
          { name: "island", value: (c) => c.islands.join(", ") },
        ],
        causes.slice(0, MOST_ROWS),
        { class: "full" },
      ),
    ),
    rest
      ? h(
          "p",
          { class: "quiet" },
          `and ${plural(rest, "failure")} of ${plural(causes.length - MOST_ROWS, "more cause")}`,
        )
      : null,
  );
}

function pays(o, nodes, values) {
  const by = GROUPINGS[values.by] ? values.by : "edit";
  const rows = whatPays(nodes, by);
  const title = "What pays";
  return panel(
    title,
    { class: "half" },
    choice(
      "by",
      Object.entries(GROUPINGS).map(([key, grouping]) => [key, grouping.name]),
      by,
      (key) => set({ by: key === "edit" ? "" : key }),
    ),
    rows.length
      ? scrolling(
          title,
          table(
            title,
            [
              {
                name: GROUPINGS[by].name,
                wrap: true,
                value: (r) => (by === "parent" && r.parent !== null ? candidateLink(o, r.parent) : visible(r.name)),
              },
              { name: "tried", number: true, value: (r) => String(r.tried) },
              { name: "scored", number: true, value: (r) => percent(r.scored / r.tried, 0) },
              {
                name: "better",
                number: true,
                value: (r) => percent(r.better / r.tried, 0),
                title: "beat their parent on train",
              },
              {
                name: "mean gain",
                number: true,
                value: (r) => signed(r.mean),
                title: "in score on train over the parent",
              },
              {
                name: "best gain",
                number: true,
                value: (r) => signed(r.best),
                title: "in score on train over the parent",
              },
              { name: "tokens", number: true, value: (r) => r.tokens.toLocaleString("en") },
              { name: "dollars", number: true, value: (r) => dollars(r.cost_usd) },
            ],
            rows.slice(0, MOST_ROWS),
            { class: "full" },
          ),
        )
      : h("p", { class: "quiet" }, "Nothing is committed yet."),
    rows.length > MOST_ROWS
      ? h("p", { class: "quiet" }, `and ${plural(rows.length - MOST_ROWS, "more kind")}; the rest is in the table`)
      : null,
  );
}

/** Tokens and dollars over time; nothing for a run that spends neither. */
function spent(o, nodes) {
  if (!o.tokens_in && !o.tokens_out && !o.cost_usd) return null;
  const points = spending(nodes);
  const chart = (label, of, format) =>
    plot({
      name: `${label} of ${o.run} over time`,
      height: 170,
      x: { label: "time since the start", format: duration, values: points.map((p) => p.seconds) },
      y: { label, format, low: 0 },
      series: [{ label, colour: "--accent", values: points.map(of) }],
    });
  return panel(
    "Spending",
    { class: "whole" },
    h(
      "div",
      { class: "two" },
      chart(
        "tokens",
        (p) => p.tokens,
        (v) => Math.round(v).toLocaleString("en"),
      ),
      o.cost_usd
        ? chart("US dollars", (p) => p.usd, dollars)
        : h("p", { class: "quiet" }, "No prices are set: dollars are unknown."),
    ),
  );
}

function budget(o, timeline) {
  const meter = (name, used, all, text) => [
    h("dt", null, name),
    h(
      "dd",
      null,
      text,
      all ? h("progress", { value: Math.min(used, all), max: all, "aria-label": `${name}: ${text}` }) : null,
    ),
  ];
  const of = (limit, format) => (limit ? ` of ${format(limit)}` : "");
  const count = (v) => v.toLocaleString("en");
  const tokens = `${count(o.tokens_in)} in, ${count(o.tokens_out)} out${of(o.limits.tokens, count)}`;
  const models = Object.entries(o.models).map(([name, number]) => `${visible(name)} (${number})`);
  const under = o.under_way ? `, ${o.under_way} under way` : "";
  return panel(
    "Budget",
    null,
    h(
      "dl",
      { class: "facts" },
      meter("proposals", o.proposals, o.wanted, `${o.proposals} of ${o.wanted}${under}`),
      meter(
        "last event",
        o.last_event_s,
        o.wall_s,
        `${duration(o.last_event_s)} after the start${of(o.wall_s, duration)}`,
      ),
      h("dt", null, "pace"),
      h("dd", null, o.seconds > 0 ? `${fixed((60 * o.proposals) / o.seconds, 1)} proposals a minute` : "\u2013"),
      meter("dollars", o.cost_usd, o.limits.usd, dollars(o.cost_usd) + of(o.limits.usd, dollars)),
      meter("tokens", o.tokens_in + o.tokens_out, o.limits.tokens, tokens),
      o.gpu_s || o.limits.gpu_s
        ? meter("GPU", o.gpu_s, o.limits.gpu_s, `${duration(o.gpu_s)}${of(o.limits.gpu_s, duration)} of measuring`)
        : null,
      h("dt", null, "answered by"),
      h("dd", null, models.join(", ") || "\u2013"),
      timeline
        ? [
            h("dt", null, "timeline"),
            h(
              "dd",
              null,
              h("a", { href: timeline, download: `${o.run}-timeline.json` }, "timeline.json"),
              " for ui.perfetto.dev",
            ),
          ]
        : null,
    ),
  );
}

function judgedOn(o) {
  const oracle = Object.entries(o.oracle_speedup).map(([split, v]) => `${times(v)} on ${split}`);
  const started = o.created_at ? new Date(1000 * o.created_at).toISOString().replace("T", " ").slice(0, 19) : null;
  const rows = [
    ["started", started ? `${started} UTC` : "\u2013"],
    ...Object.entries(o.meta).map(([k, v]) =>
      k === "table_sha256" ? ["table sha256", `${v.slice(0, 12)}\u2026`] : [k, v],
    ),
    ["oracle", oracle.join(", ") || "\u2013"],
  ];
  return panel(
    "Judged on",
    null,
    h(
      "dl",
      { class: "facts" },
      rows.map(([k, v]) => [h("dt", null, k), h("dd", { class: "breakable" }, visible(v))]),
    ),
    h(
      "details",
      null,
      h("summary", null, "configuration"),
      h("pre", { tabindex: "0", "aria-label": "Configuration" }, visible(o.config)),
    ),
  );
}
