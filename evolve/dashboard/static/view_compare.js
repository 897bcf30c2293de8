// Compare: two candidates, of one run or of two.

import { diffListing } from "./diff_listing.js";
import { fixed, h, microseconds, panel, percent, table, times, visible } from "./dom.js";
import { plot } from "./plot.js";
import { link, set } from "./state.js";
import { layoutChoice } from "./view_candidate.js";

const SHOWN = 200;

/** The same document that `evosplit report --json compare` prints. */
export async function compareDocument(source, a, b) {
  const sides = await Promise.all(
    [a, b].map(async ({ run, id }) => {
      const [c, o, shapes] = await Promise.all([source.candidate(run, id), source.overview(run), source.shapes(run)]);
      return { c, o, shapes };
    }),
  );
  const [x, y] = sides;
  // Where a run has several tables, a shape is that of the same workload, setting and GPU in the other.
  const whole = sides.some((side) => side.shapes.cards.length > 1);
  const name = (k, { cards }) => {
    if (!whole) return k.id;
    const { workload, setting, gpu, label } = cards[k.table];
    return [workload, setting, gpu, cards.length > 1 ? k.id.slice(label.length + 1) : k.id].join("/");
  };
  const theirs = new Map(y.shapes.cases.map((k, i) => [name(k, y.shapes), [k.id, y.c.outcomes[i]]]));
  const decisions = [];
  let compared = 0;
  x.shapes.cases.forEach((k, i) => {
    const p = x.c.outcomes[i];
    const [shown, q] = theirs.get(name(k, x.shapes)) ?? [];
    if (!p || !q) return;
    compared++;
    if (["num_splits", "blocks_per_split", "pack_gqa", "sm_margin", "variant"].some((f) => p[f] !== q[f]))
      decisions.push({ case: shown, split: k.split, a: p, b: q });
  });
  const side = ({ c, o }) => ({ run: c.run, id: c.node.id, node: c.node, source: c.source, curve: o.curve });
  return {
    view: "compare",
    a: side(x),
    b: side(y),
    config: configChanges(x.o.settings, y.o.settings),
    shapes_compared: compared,
    decisions,
  };
}

/** Keys of two configurations that differ. */
function configChanges(a, b) {
  return [...new Set([...Object.keys(a), ...Object.keys(b)])]
    .sort()
    .filter((key) => a[key] !== b[key])
    .map((key) => ({ key, a: a[key] ?? "", b: b[key] ?? "" }));
}

/** What stands beside a run where nothing is chosen: the winner of the latest other run that has one, or itself. */
async function otherRun(source, run) {
  const { runs } = await source.allRuns();
  return runs.find((line) => line.run !== run && line.winner !== null)?.run ?? run;
}

/**
 * @param {import("./types.js").Place} place
 * @returns {Promise<import("./types.js").Shown>}
 */
export async function compareView({ source, run, values }) {
  const first = values.a ?? run;
  const second = values.b ?? (values.ia === undefined ? await otherRun(source, first) : first);
  const unknown = [first, second].find((name) => !source.runs.includes(name));
  if (unknown) return { root: h("p", { class: "notice", role: "alert" }, `No run ${visible(unknown)} here.`) };
  const lineages = await Promise.all([first, second].map((r) => source.lineage(r)));
  const start = (l) => l.nodes.find((n) => n.kind === "seed")?.id ?? 0;
  const ia = Number(values.ia ?? (first === second ? start(lineages[0]) : (lineages[0].winner ?? 0)));
  const ib = Number(values.ib ?? lineages[1].winner ?? 0);
  const root = h(
    "div",
    { class: "stack" },
    panel(
      "Compare",
      null,
      h(
        "div",
        { class: "row pickers" },
        picker("A", source, first, ia, lineages[0], { run: "a", id: "ia" }),
        picker("B", source, second, ib, lineages[1], { run: "b", id: "ib" }),
        h(
          "button",
          { type: "button", id: "swap", onclick: () => set({ a: second, ia: ib, b: first, ib: ia }) },
          "swap",
        ),
      ),
    ),
  );
  // Only what is known to exist is asked for.
  const missing = [
    [lineages[0], ia, first],
    [lineages[1], ib, second],
  ].find(([lineage, id]) => !lineage.nodes[id]);
  if (missing) {
    const text = `Run ${visible(missing[2])} holds no proposal ${missing[1]}${missing[0].nodes.length ? "" : " yet"}.`;
    root.append(h("p", { class: "notice", role: "alert" }, text));
    return { root };
  }
  const d = await compareDocument(source, { run: first, id: ia }, { run: second, id: ib });
  const two = d.a.run !== d.b.run;
  root.append(
    h(
      "div",
      { class: "columns" },
      h("div", { class: "stack half" }, scores(d), two ? curves(d) : null),
      h("div", { class: "stack half" }, decisions(d), two ? config(d) : null),
    ),
    panel(
      "Source, from A to B",
      null,
      h("div", { class: "row" }, layoutChoice(values)),
      d.a.source && d.b.source
        ? diffListing(d.a.source, d.b.source, "From A to B", { beside: values.layout === "two" })
        : h("p", { class: "quiet" }, "One of the two has no program."),
    ),
  );
  return { root };
}

function picker(name, source, run, id, lineage, keys) {
  return h(
    "fieldset",
    null,
    h("legend", null, name),
    h(
      "select",
      {
        id: `run-${name}`,
        "aria-label": `Run ${name}`,
        onchange: (e) => set({ [keys.run]: e.target.value, [keys.id]: "" }),
      },
      source.runs.map((r) => h("option", { value: r, selected: r === run }, visible(r))),
    ),
    h("input", {
      type: "number",
      id: `id-${name}`,
      min: "0",
      max: String(lineage.nodes.length - 1),
      value: id,
      "aria-label": `Proposal ${name}`,
      onchange: (e) => set({ [keys.id]: e.target.value }),
    }),
  );
}

function scores(d) {
  const rows = ["train", "holdout"].flatMap((split) =>
    [
      ["A", d.a],
      ["B", d.b],
    ].map(([name, side]) => ({ name, side, split, s: side.node[split] })),
  );
  return panel(
    "Scores",
    null,
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Scores of both" },
      table(
        "Scores of both",
        [
          {
            name: "side",
            value: (r) => [
              r.name,
              " ",
              h("a", { href: link("candidate", { run: r.side.run, id: r.side.id }) }, `#${r.side.id}`),
            ],
          },
          { name: "shapes", value: (r) => r.split },
          { name: "score", number: true, value: (r) => fixed(r.s?.score, 4) },
          { name: "speed-up", number: true, value: (r) => times(r.s?.geomean_speedup) },
          { name: "of oracle", number: true, value: (r) => percent(r.s?.oracle_share) },
          { name: "regressions", number: true, value: (r) => String(r.s?.regressions ?? "\u2013") },
          { name: "worst", number: true, value: (r) => times(r.s?.worst_speedup, 3) },
          {
            name: "nodes",
            number: true,
            value: (r) => String(r.side.node.features.complexity ?? "\u2013"),
            title: "size of the syntax tree",
          },
        ],
        rows,
      ),
    ),
  );
}

function curves(d) {
  const sides = [d.a, d.b];
  const title = "Searches";
  if (sides.some((side) => !side.curve.length))
    return panel(title, null, h("p", { class: "quiet" }, "Nothing is scored yet."));
  const places = [...new Set(sides.flatMap((side) => side.curve.map((p) => p.evaluations)))].sort((a, b) => a - b);
  const series = sides.flatMap((side, i) => {
    const at = new Map(side.curve.map((p) => [p.evaluations, p]));
    const name = `${"AB"[i]} ${visible(side.run)}`;
    const colour = ["--accent", "--its"][i];
    const of = (key) => places.map((x) => at.get(x)?.[key] ?? null);
    return [
      { label: `${name}, train`, colour, dash: [5, 3], values: of("train_score") },
      { label: `${name}, holdout`, colour, values: of("holdout_score") },
    ];
  });
  return panel(
    title,
    null,
    plot({
      name: `Best score of ${sides.map((side) => side.run).join(" and ")} against proposals`,
      x: { label: "proposals committed", format: (v) => String(Math.round(v)), values: places },
      y: { label: "best score so far", format: (v) => v.toFixed(4) },
      series,
    }),
  );
}

function decisions(d) {
  const ratio = (r) => (r.a.latency_us && r.b.latency_us ? r.a.latency_us / r.b.latency_us : 1);
  const rows = d.decisions.toSorted((p, q) => Math.abs(Math.log(ratio(q))) - Math.abs(Math.log(ratio(p))));
  const faster = rows.filter((r) => ratio(r) > 1.01).length;
  const slower = rows.filter((r) => ratio(r) < 0.99).length;
  const says = (o) =>
    `${o.num_splits}${o.blocks_per_split ? `/${o.blocks_per_split}` : ""}${o.variant ? ` @${o.variant}` : ""}`;
  return panel(
    "Decisions",
    null,
    h(
      "p",
      { class: "quiet" },
      `${rows.length} of ${d.shapes_compared} shapes decided differently; ` +
        `B faster by more than 1% on ${faster}, slower on ${slower}` +
        (rows.length > SHOWN ? `; the ${SHOWN} farthest apart are shown` : ""),
    ),
    rows.length
      ? h(
          "div",
          { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Decisions that differ" },
          table(
            "Decisions that differ",
            [
              {
                name: "shape",
                value: (r) =>
                  h("a", { href: link("shapes", { run: d.b.run, id: d.b.id, case: r.case }) }, visible(r.case)),
              },
              { name: "part", value: (r) => r.split },
              { name: "A", number: true, value: (r) => says(r.a), title: "splits / blocks per split" },
              { name: "B", number: true, value: (r) => says(r.b), title: "splits / blocks per split" },
              { name: "A \u00b5s", number: true, value: (r) => microseconds(r.a.latency_us) },
              { name: "B \u00b5s", number: true, value: (r) => microseconds(r.b.latency_us) },
              { name: "A / B", number: true, value: (r) => times(ratio(r), 3) },
            ],
            rows.slice(0, SHOWN),
          ),
        )
      : null,
  );
}

function config(d) {
  return panel(
    "Configuration",
    null,
    d.config.length
      ? h(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Keys that differ" },
          table(
            "Keys that differ",
            [
              { name: "key", value: (r) => visible(r.key) },
              { name: "A", value: (r) => visible(r.a || "\u2013") },
              { name: "B", value: (r) => visible(r.b || "\u2013") },
            ],
            d.config,
          ),
        )
      : h("p", { class: "quiet" }, "Both runs have the same configuration."),
  );
}
