import assert from "node:assert/strict";
import { test } from "node:test";
import { expeditionFacts, expeditionPart } from "../../../evolve/dashboard/static/expedition.js";

/** As much of a document as text needs. */
class Element {
  constructor(tag) {
    this.tag = tag;
    this.attributes = {};
    this.children = [];
  }
  setAttribute(name, value) {
    this.attributes[name] = value;
  }
  append(...children) {
    this.children.push(...children);
  }
  get text() {
    return this.children.map((c) => (c instanceof Element ? c.text : String(c))).join(" ");
  }
  all(tag) {
    const below = this.children.filter((c) => c instanceof Element).flatMap((c) => c.all(tag));
    return this.tag === tag ? [this, ...below] : below;
  }
}

globalThis.document = /** @type {any} */ ({ createElement: (tag) => new Element(tag) });

const turn = { asked: "", text: "", calls: [], draft: null, status: "", score: null, charged: false, elapsed_s: 1 };
const found = /** @type {any} */ ({
  outcome: "submitted",
  reason: "submitted",
  by: "agent",
  child: 1,
  hypothesis: "short rows\u202e gain",
  answers: 2,
  evaluations: 1,
  drafts: 1,
  tokens: 240,
  cost_usd: 0.02,
  seconds: 3,
  turns: [
    {
      ...turn,
      step: 0,
      turn: 1,
      kind: "model",
      name: "m",
      text: "Look.",
      calls: ["curve({})"],
      tokens: 120,
      cost_usd: 0.01,
    },
    {
      ...turn,
      step: 1,
      turn: 1,
      kind: "tool",
      name: "evaluate",
      asked: '{"draft": "a\\nb"}',
      text: "better",
      draft: 1,
      status: "ok",
      score: 1.03174,
      charged: true,
      tokens: 0,
      cost_usd: 0,
    },
  ],
});

test("an expedition shows its turns, drafts, costs and its hypothesis", () => {
  const facts = expeditionFacts(found);
  assert.deepEqual(
    facts.map(([name]) => name),
    ["expedition", "hypothesis"],
  );
  assert.match(facts[0][1][1], /2 turns, 1 draft, 1 evaluation/);
  assert.equal(facts[1][1], "short rows\\u202e gain");
  const part = /** @type {any} */ (expeditionPart(found, 7));
  assert.deepEqual(
    part.all("summary").map((s) => s.text),
    ["model m (120 tokens, $0.0100, 1.0 s)", "tool evaluate, draft 1: 1.0317 (1.0 s)"],
  );
  assert.match(part.all("table")[0].text, /1 \(submitted\).*1\.0317.*1 evaluation/);
  assert.match(part.all("pre").at(-2).text, /a\nb/);
  assert.match(part.text, /240 tokens, \$0\.0200/);
});

test("a proposal that no agent made has none", () => {
  assert.deepEqual(expeditionFacts(null), []);
});
