import assert from "node:assert/strict";
import { test } from "node:test";
import {
  csv,
  failureCauses,
  lineOf,
  masked,
  paretoFront,
  progressAt,
  rolesOf,
  sorted,
  spending,
  whatPays,
} from "../../../evolve/dashboard/static/analysis.js";
import { failed, node } from "./runs.js";

test("what differs in numbers and names alone falls together", () => {
  assert.equal(masked("line 12: name 'foo' is not defined"), "line #: name \u2026 is not defined");
  assert.equal(masked("r-b2-h16x2-onelong: num_splits 3"), masked("u-b64-h8x1-k704: num_splits 128"));
  assert.notEqual(masked("took 2 s"), masked("took 2 s of 3"));
});

test("failures are grouped by status and cause, the most frequent first", () => {
  const nodes = [
    node(0),
    failed(1, "raised", "line 3: division by zero", { model: "b" }),
    failed(2, "timeout", "2 s"),
    failed(3, "raised", "line 9: division by zero\nmore", { model: "a", island: 1 }),
    failed(4, "duplicate", "same as 1"),
    failed(5, "asked", "", { committed_at_s: null }),
  ];
  const causes = failureCauses(nodes);
  assert.deepEqual(
    causes.map((c) => [c.status, c.cause, c.count, c.example.id]),
    [
      ["raised", "line #: division by zero", 2, 1],
      ["timeout", "# s", 1, 2],
    ],
  );
  assert.deepEqual(
    [causes[0].models, causes[0].islands],
    [
      ["a", "b"],
      [0, 1],
    ],
  );
});

test("what pays is counted against the parent's score on train", () => {
  const nodes = [
    node(0, { train: 1 }),
    node(1, { train: 1.02, note: "constant 3", tokens_in: 5, tokens_out: 7, cost_usd: 0.5 }),
    node(2, { train: 1.01, note: "constant 4", parent: 1 }),
    failed(3, "syntax", "line 1", { note: "constant 5", cost_usd: 0.25 }),
    node(4, { train: 1.03, note: "swap", committed_at_s: null }),
  ];
  const [row, ...others] = whatPays(nodes, "edit");
  assert.deepEqual(others, []);
  assert.deepEqual([row.name, row.tried, row.scored, row.better, row.tokens], ["constant #", 3, 2, 1, 12]);
  assert.ok(Math.abs(row.mean - 0.005) < 1e-12 && Math.abs(row.best - 0.02) < 1e-12 && row.cost_usd === 0.75);
  assert.deepEqual(
    whatPays(nodes, "parent").map((r) => [r.name, r.tried]),
    [
      ["#0", 2],
      ["#1", 1],
    ],
  );
});

test("spending grows in order of commits", () => {
  const nodes = [
    node(0),
    node(1, { committed_at_s: 9, tokens_in: 1, cost_usd: 0.5 }),
    node(2, { committed_at_s: 4, tokens_out: 2 }),
    node(3, { committed_at_s: null, tokens_in: 100 }),
  ];
  assert.deepEqual(spending(nodes), [
    { seconds: 1, tokens: 0, usd: 0 },
    { seconds: 4, tokens: 2, usd: 0 },
    { seconds: 9, tokens: 3, usd: 0.5 },
  ]);
});

test("the front holds what nothing beats on both axes", () => {
  const points = [
    [3, 5],
    [1, 1],
    [2, 4],
    [2, 3],
    [4, 5],
    [5, 6],
  ].map(([x, y]) => ({ x, y }));
  assert.deepEqual(
    paretoFront(points).map((p) => [p.x, p.y]),
    [
      [1, 1],
      [2, 4],
      [3, 5],
      [5, 6],
    ],
  );
  for (const p of points) assert.ok(paretoFront(points).some((q) => q.x <= p.x && q.y >= p.y));
});

test("what is missing comes last, whichever way is sorted", () => {
  const rows = [{ v: null }, { v: 2 }, { v: 3 }, { v: 1 }];
  assert.deepEqual(
    sorted(rows, (r) => r.v, false).map((r) => r.v),
    [1, 2, 3, null],
  );
  assert.deepEqual(
    sorted(rows, (r) => r.v, true).map((r) => r.v),
    [3, 2, 1, null],
  );
});

test("comma-separated values survive quotes and lines, and start no formula", () => {
  const text = csv(
    ["a", "b"],
    [
      [1.5, 'say "x",\nthen y'],
      [null, "=1+1"],
      [-2, "-x"],
    ],
  );
  assert.equal(text, 'a,b\r\n1.5,"say ""x"",\nthen y"\r\n,\'=1+1\r\n-2,\'-x\r\n');
});

test("a run that says nothing for long is stalled, and the time left is that of its last commits", () => {
  const nodes = Array.from({ length: 11 }, (_, i) => node(i, { committed_at_s: 10 * i }));
  const overview = { state: "running", proposals: 10, wanted: 20, wall_s: null, last_event_s: 100 };
  assert.deepEqual(progressAt(overview, nodes, 103), { state: "running", silent_s: 3, left_s: 97 });
  assert.equal(progressAt({ ...overview, wall_s: 110 }, nodes, 103).left_s, 7);
  assert.equal(progressAt(overview, nodes, 170).state, "stalled");
  assert.equal(progressAt(overview, nodes.slice(0, 2), 103).left_s, null);
  assert.equal(progressAt({ ...overview, state: "interrupted" }, nodes, 1e6).state, "interrupted");
});

test("a list says what a program changes, and why there is none", () => {
  assert.equal(lineOf(node(1, { note: "swap" })), "swap");
  assert.equal(lineOf(node(1, { rationale: "Short rows first." })), "Short rows first.");
  assert.equal(lineOf(failed(1, "raised", "line 3: boom\nat f", { note: "swap" })), "line 3: boom");
  assert.deepEqual(rolesOf(3, { winner: 3, leader: 3, path: [0, 3] }), ["winner", "leader"]);
  assert.deepEqual(rolesOf(0, { winner: 3, leader: 3, path: [0, 3] }), ["path"]);
});
