import assert from "node:assert/strict";
import { test } from "node:test";
import { searchCandidates, unpackCandidates } from "../../../evolve/dashboard/static/unpack.js";

const packed = {
  texts: ["source", "answer", "message", "error"],
  lines: ["def f():", "  return 1", "Because.", ""],
  documents: [[0, 1], [2], [3]],
  outcome_fields: ["num_splits", "speedup"],
  outcomes: [
    [
      [1, 1.0],
      [2, 1.1],
    ],
    [
      [1, 1.0],
      [4, 0.9],
    ],
  ],
  candidates: [
    [0, [0, 2, 2, 2], null, [0, 0], []],
    [1, [0, 1, 2, 2], 0, [1, 1], []],
    [2, [2, 2, 2, 2], 1, [0, 1], []],
  ],
  expeditions: { 2: { outcome: "submitted" } },
};

test("a candidate is put together from what differs from its parent", () => {
  const find = unpackCandidates("run", packed, new Map([[2, { id: 2 }]]));
  assert.equal(find(0).source, "def f():\n  return 1");
  assert.deepEqual(find(2).outcomes, [
    { num_splits: 2, speedup: 1.1 },
    { num_splits: 4, speedup: 0.9 },
  ]);
  assert.equal(find(9), null);
  assert.equal(find(0).expedition, null);
  assert.equal(find(2).expedition.outcome, "submitted");
});

test("a search finds texts across lines and whatever their case", () => {
  assert.deepEqual(searchCandidates(packed, "F():\n  RETURN"), [0, 1]);
  assert.deepEqual(searchCandidates(packed, "because"), [1]);
  assert.deepEqual(searchCandidates(packed, "nothing"), []);
});
