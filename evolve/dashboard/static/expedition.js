// An agent's expedition under its candidate: every turn, draft and cost.

import { dollars, duration, fixed, h, plural, table, visible } from "./dom.js";

const MARKS = { submitted: "good", dead: "quiet", blind: "bad" };

/** Facts of a candidate's head. */
export function expeditionFacts(expedition) {
  if (!expedition) return [];
  const e = expedition;
  const by = e.by === "harness" ? ", by the harness" : "";
  const chip = h("span", { class: `chip ${MARKS[e.outcome] ?? ""}` }, e.outcome);
  const spent = `${plural(e.answers, "turn")}, ${plural(e.drafts, "draft")}, ${plural(e.evaluations, "evaluation")}`;
  return [
    ["expedition", [chip, ` ${spent}${by}`]],
    ["hypothesis", visible(e.hypothesis) || null],
  ];
}

/** What happened, turn by turn; long texts are folded. */
export function expeditionPart(e, id) {
  const scored = e.turns.filter((t) => t.draft !== null);
  const cost = e.tokens ? `, ${e.tokens} tokens, ${dollars(e.cost_usd)}` : "";
  return h(
    "div",
    { class: "stack" },
    h("p", null, `${e.outcome}: ${visible(e.reason)}; ${duration(e.seconds)}${cost}`),
    scored.length
      ? h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Drafts" }, drafts(e, scored))
      : null,
    h(
      "ol",
      { class: "turns", "aria-label": `Turns of the expedition of proposal ${id}` },
      e.turns.map((t) => h("li", { value: String(t.step + 1) }, turn(t))),
    ),
  );
}

function drafts(e, scored) {
  return table(
    "Drafts",
    [
      { name: "draft", value: (t) => `${t.draft}${t.draft === e.child ? " (submitted)" : ""}` },
      { name: "turn", number: true, value: (t) => String(t.turn) },
      { name: "by", value: (t) => t.name },
      { name: "status", value: (t) => t.status },
      { name: "score", number: true, value: (t) => fixed(t.score, 4) },
      { name: "cost", value: (t) => (t.charged ? "1 evaluation" : "none") },
    ],
    scored,
    { class: "full" },
  );
}

function turn(t) {
  const spent = [t.tokens ? `${t.tokens} tokens` : "", t.cost_usd ? dollars(t.cost_usd) : "", duration(t.elapsed_s)];
  const score = t.draft === null ? "" : `, draft ${t.draft}: ${t.score === null ? t.status : fixed(t.score, 4)}`;
  const refused = t.draft === null && t.status === "refused" ? ", refused" : "";
  const title = `${t.kind} ${visible(t.name)}${score}${refused} (${spent.filter(Boolean).join(", ")})`;
  const texts = [
    ["asked", t.asked === "{}" ? "" : t.asked],
    ["said", t.text],
    ["calls", t.calls.join("\n\n")],
  ].filter(([, text]) => text);
  return h(
    "details",
    null,
    h("summary", null, title),
    texts.map(([label, text]) => [
      h("h3", null, label),
      h("pre", { class: "prose", tabindex: "0", "aria-label": `${label}, step ${t.step + 1}` }, unescaped(text)),
    ]),
  );
}

/** Arguments are JSON, in which programs are one line; shown as the lines that they stand for. */
function unescaped(text) {
  return visible(text.replace(/\\n/g, "\n").replace(/\\"/g, '"'));
}
