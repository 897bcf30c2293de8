// Candidate: one proposal in full.

import { editOf } from "./analysis.js";
import { diffListing } from "./diff_listing.js";
import { choice, duration, fixed, h, microseconds, panel, percent, table, times, visible } from "./dom.js";
import { expeditionFacts, expeditionPart } from "./expedition.js";
import { listing } from "./highlight.js";
import { pin, pinsOf } from "./pins.js";
import { groupOf } from "./scales.js";
import { go, link, read, set } from "./state.js";

const TABS = [
  ["source", "Source"],
  ["diff", "Diff"],
  ["shapes", "Shapes"],
  ["prompt", "Prompt"],
  ["answer", "Answer"],
  ["feedback", "Feedback"],
];
const EXPEDITION = ["expedition", "Expedition"];
/** Tabs of a candidate: an agent's has one more. */
const tabsOf = (c) => (c.expedition ? [...TABS, EXPEDITION] : TABS);

export function statusChip(status) {
  const group = groupOf(status);
  return h(
    "span",
    { class: "chip" },
    h("span", { class: `mark g-${group.key}`, "aria-hidden": "true" }, group.mark),
    visible(status),
  );
}

/**
 * @param {import("./types.js").Place} place
 * @returns {Promise<import("./types.js").Shown>}
 */
export async function candidateView({ source, run, values }) {
  const lineage = await source.lineage(run);
  const id = Number(values.id ?? lineage.winner ?? lineage.nodes.at(-1)?.id ?? 0);
  // Only what is known to exist is asked for.
  const c = lineage.nodes[id] ? await source.candidate(run, id) : null;
  if (!c) {
    const text =
      values.id === undefined ? "Nothing has been asked yet." : `This run holds no proposal ${visible(values.id)}.`;
    return { root: h("p", { class: "notice", role: "alert" }, text) };
  }
  const root = h("div", { class: "stack" });
  // From where the address is by now: the next one may still be on its way when a key is pressed again.
  const around = (step) => {
    const now = Number(read().values.id ?? id);
    go("candidate", { ...read().values, run, id: Math.min(lineage.nodes.length - 1, Math.max(0, now + step)) });
  };
  root.append(head(c, lineage, around), await body(c, lineage, { source, run, values }));
  const keys = {
    j: () => around(1),
    k: () => around(-1),
    h: () => c.node.parent !== null && go("candidate", { ...values, run, id: c.node.parent }),
    l: () => {
      const child = lineage.nodes.find((n) => n.parent === id);
      if (child) go("candidate", { ...values, run, id: child.id });
    },
    "[": () => tab(c, values, -1),
    "]": () => tab(c, values, 1),
  };
  // The reader goes on reading this one when another one wins.
  const ready = () => set({ id }, { quiet: true });
  return { root, keys, ready, says: `proposal ${id}, ${c.node.status}` };
}

function tab(c, values, step) {
  const tabs = tabsOf(c);
  const at = Math.max(
    0,
    tabs.findIndex(([key]) => key === (values.tab ?? "source")),
  );
  set({ tab: tabs[(at + step + tabs.length) % tabs.length][0] });
}

function head(c, lineage, around) {
  const n = c.node;
  const ref = (id) => h("a", { href: link("candidate", { run: c.run, id }) }, `#${id}`);
  const list = (ids) => ids.flatMap((id, i) => [i ? ", " : "", ref(id)]);
  const children = lineage.nodes.filter((x) => x.parent === n.id).map((x) => x.id);
  const taken = lineage.nodes.filter((x) => x.displaced.includes(n.id) && x.island === n.island).map((x) => x.id);
  const scores = ["train", "holdout"].filter((split) => n[split]).map((split) => ({ split, ...n[split] }));
  const roles = [
    n.id === lineage.winner ? "winner" : "",
    n.id === lineage.leader ? "leader on train" : "",
    n.id !== lineage.winner && lineage.path.includes(n.id) ? "on the path to the winner" : "",
  ].filter(Boolean);
  const facts = [
    [
      "origin",
      [
        n.kind === "seed" ? "seed" : n.kind,
        n.parent === null ? "" : [" from ", ref(n.parent)],
        n.inspirations.length ? [", inspired by ", list(n.inspirations)] : "",
      ],
    ],
    ["island", String(n.island)],
    ["edit", visible(editOf(n)) || "\u2013"],
    ["model", visible(n.model) || "\u2013"],
    ["repeats", n.duplicate_of === null ? null : ref(n.duplicate_of)],
    ["took the cell of", n.displaced.length ? list(n.displaced) : null],
    ["lost its cell to", taken.length ? list(taken) : null],
    [
      "children",
      children.length
        ? [`${String(children.length)}: `, list(children.slice(0, 12)), children.length > 12 ? ", \u2026" : ""]
        : "none",
    ],
    [
      "features",
      Object.entries(n.features)
        .map(([k, v]) => `${k} ${Number.isInteger(v) ? v : v.toFixed(3)}`)
        .join(", ") || null,
    ],
    [
      "constants moved",
      c.constants.length ? c.constants.map((k) => `line ${k.line}: ${k.before} \u2192 ${k.after}`).join("; ") : null,
    ],
    [
      "asked",
      `${duration(n.asked_at_s)} into the run; answer ${duration(n.answer_s)}, in all ${duration(n.elapsed_s)}`,
    ],
    ...expeditionFacts(c.expedition),
    ["cost", n.tokens_in + n.tokens_out ? `${n.tokens_in} + ${n.tokens_out} tokens, $${n.cost_usd.toFixed(4)}` : null],
  ].filter(([, v]) => v !== null);
  return panel(
    `Proposal ${n.id}`,
    { class: "head" },
    h(
      "div",
      { class: "row" },
      statusChip(n.status),
      roles.map((r) => h("span", { class: "chip good" }, r)),
      pinning(c.run, n.id),
      h(
        "span",
        { class: "push" },
        h("a", { class: "button", href: link("compare", { run: c.run, a: c.run, ia: n.id }) }, "compare with\u2026"),
        h(
          "button",
          { type: "button", id: "previous", onclick: () => around(-1), "aria-label": "Previous proposal (k)" },
          "\u2039 previous",
        ),
        h(
          "button",
          { type: "button", id: "next", onclick: () => around(1), "aria-label": "Next proposal (j)" },
          "next \u203a",
        ),
      ),
    ),
    c.message || c.error
      ? h("pre", { class: "message", tabindex: "0", "aria-label": "Message" }, visible(c.message || c.error))
      : null,
    scores.length
      ? h(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Scores" },
          table(
            "Scores",
            [
              { name: "shapes", value: (s) => s.split },
              { name: "score", number: true, value: (s) => fixed(s.score, 4) },
              { name: "speed-up", number: true, value: (s) => times(s.geomean_speedup) },
              { name: "of oracle", number: true, value: (s) => percent(s.oracle_share) },
              { name: "regressions", number: true, value: (s) => String(s.regressions) },
              { name: "worst", number: true, value: (s) => times(s.worst_speedup, 3) },
              { name: "interpolated", number: true, value: (s) => String(s.interpolated) },
              { name: "workspace", number: true, value: (s) => `${(s.workspace_bytes / 2 ** 20).toFixed(1)} MiB` },
            ],
            scores,
            { class: "full" },
          ),
        )
      : null,
    h(
      "dl",
      { class: "facts two" },
      facts.map(([k, v]) => [h("dt", null, k), h("dd", null, v)]),
    ),
  );
}

/** A pin with a note; both stay in this browser. */
function pinning(run, id) {
  const note = pinsOf(run).get(id);
  const keep = (text) => {
    if (!pin(run, id, text)) return;
    document.dispatchEvent(new Event("evosplit-pins"));
  };
  return [
    h(
      "button",
      {
        type: "button",
        id: "pin",
        "aria-pressed": String(note !== undefined),
        title: "Pins and their notes stay in this browser",
        onclick: () => keep(note === undefined ? "" : null),
      },
      note === undefined ? "pin" : "\u2691 pinned",
    ),
    note === undefined
      ? null
      : h("input", {
          type: "text",
          id: "note",
          value: note,
          placeholder: "note",
          "aria-label": "Note",
          onchange: (e) => keep(e.target.value),
        }),
  ];
}

async function body(c, lineage, { source, run, values }) {
  const tabs = tabsOf(c);
  const open = tabs.some(([key]) => key === values.tab) ? values.tab : "source";
  const part = h(
    "section",
    { class: "panel", "aria-label": "Details" },
    choice("show", tabs, open, (key) => set({ tab: key === "source" ? "" : key })),
  );
  const none = (what) => h("p", { class: "quiet" }, what);
  if (open === "source")
    part.append(
      c.source ? listing(c.source, `Source of proposal ${c.node.id}`) : none("No program came of this proposal."),
    );
  if (open === "diff") part.append(await diff(c, lineage, { source, run, values }));
  if (open === "prompt") {
    part.append(
      c.user || c.system
        ? h(
            "div",
            null,
            h("h3", null, "system"),
            prose(c.system, "System prompt"),
            h("h3", null, "user"),
            prose(c.user, "User prompt"),
          )
        : none("Seeds are not asked for."),
    );
  }
  if (open === "answer") part.append(c.answer ? prose(c.answer, "Answer") : none(visible(c.error) || "No answer."));
  if (open === "feedback")
    part.append(
      c.feedback ? prose(c.feedback, "Feedback to the next proposal") : none("Only scored programs have feedback."),
    );
  if (open === "expedition") part.append(expeditionPart(c.expedition, c.node.id));
  if (open === "shapes") part.append(await shapeTable(c, { source, run, values }));
  return part;
}

const prose = (text, label) => h("pre", { class: "prose", tabindex: "0", "aria-label": label }, visible(text));

async function diff(c, lineage, { source, run, values }) {
  const seed = lineage.nodes.find((n) => n.kind === "seed")?.id ?? 0;
  const wanted = values.vs ?? "parent";
  const other = wanted === "parent" ? c.node.parent : wanted === "seed" ? seed : Number(wanted);
  const box = h("input", {
    type: "number",
    id: "vs",
    min: "0",
    max: String(lineage.nodes.length - 1),
    value: Number.isInteger(other) ? other : "",
    "aria-label": "Compare with proposal number",
    onchange: (e) => set({ vs: e.target.value }),
  });
  const controls = h(
    "div",
    { class: "row" },
    choice(
      "against",
      [
        ["parent", `parent${c.node.parent === null ? "" : ` #${c.node.parent}`}`],
        ["seed", `seed #${seed}`],
      ],
      wanted,
      (vs) => set({ vs: vs === "parent" ? "" : vs }),
    ),
    h("label", { for: "vs" }, "any other "),
    box,
    layoutChoice(values),
  );
  if (other === null || !Number.isInteger(other))
    return h("div", null, controls, h("p", { class: "quiet" }, "A seed has no parent."));
  const found = lineage.nodes[other] ? await source.candidate(run, other) : null;
  if (!found?.source || !c.source)
    return h("div", null, controls, h("p", { class: "quiet" }, "One of the two has no program."));
  return h(
    "div",
    null,
    controls,
    diffListing(found.source, c.source, `From proposal ${other} to proposal ${c.node.id}`, {
      beside: values.layout === "two",
    }),
  );
}

/** A difference in one column or in two. */
export function layoutChoice(values) {
  return choice(
    "layout",
    [
      ["one", "one column"],
      ["two", "side by side"],
    ],
    values.layout === "two" ? "two" : "one",
    (v) => set({ layout: v === "two" ? v : "" }),
  );
}

const SORTS = {
  case: (r) => r.k.id,
  speedup: (r) => r.o.speedup ?? 0,
  left: (r) => -(r.o.left ?? 0),
  batch: (r) => r.k.batch,
  keys: (r) => r.k.seqlen_k,
};
const PAGE = 100;

async function shapeTable(c, { source, run, values }) {
  const shapes = await source.shapes(run);
  if (!c.outcomes.length)
    return h("p", { class: "quiet" }, visible(shapes.missing) || "This proposal has no decisions of its own.");
  const by = SORTS[values.by] ? values.by : "speedup";
  const only = values.only ?? "all";
  const tests = {
    all: () => true,
    changed: (r) => r.o.changed,
    regressions: (r) => r.o.regression,
    holdout: (r) => r.k.split === "holdout",
  };
  const rows = shapes.cases.map((k, i) => ({ k, o: c.outcomes[i] })).filter(tests[only] ?? tests.all);
  rows.sort((a, b) => (SORTS[by](a) < SORTS[by](b) ? -1 : SORTS[by](a) > SORTS[by](b) ? 1 : 0));
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  const page = Math.min(pages - 1, Math.max(0, Number(values.page ?? 0) || 0));
  const shown = rows.slice(page * PAGE, (page + 1) * PAGE);
  return h(
    "div",
    null,
    h(
      "div",
      { class: "row" },
      choice(
        "only",
        [
          ["all", "all"],
          ["changed", "changed"],
          ["regressions", "regressions"],
          ["holdout", "holdout"],
        ],
        only,
        (v) => set({ only: v === "all" ? "" : v, page: "" }),
      ),
      choice(
        "sort by",
        [
          ["speedup", "slowest"],
          ["left", "most left"],
          ["case", "name"],
          ["batch", "batch"],
          ["keys", "keys"],
        ],
        by,
        (v) => set({ by: v, page: "" }),
      ),
      h("span", { class: "quiet" }, `${rows.length} shapes`),
      pages > 1
        ? choice(
            "page",
            Array.from({ length: pages }, (_, i) => [String(i), String(i + 1)]),
            String(page),
            (v) => set({ page: v }),
          )
        : null,
    ),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Shapes" },
      table(
        "Outcome on every shape",
        [
          {
            name: "shape",
            value: (r) => h("a", { href: link("shapes", { run, id: c.node.id, case: r.k.id }) }, visible(r.k.id)),
          },
          { name: "part", value: (r) => r.k.split },
          {
            name: "splits",
            number: true,
            value: (r) => String(r.o.num_splits),
            title: "num_splits decided, with the kernel's own choice filled in",
          },
          ...(rows.some((r) => r.o.variant)
            ? [{ name: "variant", value: (r) => r.o.variant, title: "block_n/num_warps/num_stages" }]
            : []),
          {
            name: "blocks",
            number: true,
            value: (r) => (r.o.blocks_per_split ? String(r.o.blocks_per_split) : "\u2013"),
            title: "KV blocks per split",
          },
          {
            name: "live",
            number: true,
            value: (r) => fixed(r.o.live_splits, r.k.mix ? 2 : 0),
            title: "splits that run, mean over the sequences",
          },
          { name: "\u00b5s", number: true, value: (r) => microseconds(r.o.latency_us) },
          { name: "speed-up", number: true, value: (r) => times(r.o.speedup, 3) },
          {
            name: "left",
            number: true,
            value: (r) => times(r.o.left, 3),
            title: "what the best recorded launch would add",
          },
          {
            name: "remark",
            value: (r) =>
              [
                r.o.regression ? "\u25bc regression " : "",
                r.o.interpolated ? "interpolated " : "",
                r.o.changed ? "" : "as stock",
              ].join(""),
          },
        ],
        shown,
      ),
    ),
  );
}
