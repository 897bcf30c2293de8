import assert from "node:assert/strict";
import { test } from "node:test";
import {
  boundsOf,
  layout,
  wholeOf,
  within,
  zoomFrom,
  zoomText,
} from "../../../evolve/dashboard/static/lineage_layout.js";
import { decimals, ticks } from "../../../evolve/dashboard/static/scales.js";
import { failed, node } from "./runs.js";

const lineage = {
  islands: 2,
  nodes: [
    node(0, { train: 1 }),
    node(1, { train: 1.02 }),
    node(2, { train: 1.03, island: 1 }),
    node(3, { train: 0.3 }),
    failed(4, "raised", "boom"),
  ],
};

test("every point in sight is drawn at its score, every other one is marked as beyond", () => {
  for (const zoom of [wholeOf(lineage), { x0: 0, x1: 5, y0: 1.015, y1: 1.025 }, { x0: 0, x1: 5, y0: 0.2, y1: 0.4 }]) {
    const where = layout(lineage, zoom, 900, 600);
    for (const n of lineage.nodes.filter((one) => one.train)) {
      const [x, y, beyond] = where.place(n);
      assert.ok(Math.abs(where.back(x) - n.id) < 1e-9);
      if (beyond === 0) assert.ok(Math.abs(where.score(y) - n.train.score) < 1e-9, `#${n.id} is at ${where.score(y)}`);
      else assert.ok(beyond < 0 ? n.train.score < zoom.y0 : n.train.score > zoom.y1);
    }
  }
});

test("what has no score lies in its lane's strip, below every score", () => {
  const where = layout(lineage, wholeOf(lineage), 900, 600);
  const [, strip] = where.place(lineage.nodes[4]);
  assert.ok(strip > where.top(0) + where.tall && strip < where.top(1));
});

test("a reader cannot look where nothing is", () => {
  const bounds = boundsOf(lineage);
  assert.ok(bounds.y0 < 0.3);
  const far = within({ x0: -900, x1: -800, y0: 5, y1: 6 }, bounds);
  assert.ok(far.x0 >= bounds.x0 && far.x1 <= bounds.x1 && far.y0 >= bounds.y0 && far.y1 <= bounds.y1);
  const wide = within({ x0: -900, x1: 900, y0: -5, y1: 6 }, bounds);
  assert.deepEqual([wide.x0, wide.x1], [bounds.x0, bounds.x1]);
});

test("a zoom survives the address", () => {
  const zoom = { x0: 0.5, x1: 4.5, y0: 1.01, y1: 1.02 };
  assert.deepEqual(zoomFrom(zoomText(zoom), lineage), zoom);
  assert.deepEqual(zoomFrom("nonsense", lineage), wholeOf(lineage));
});

test("no two ticks read the same", () => {
  for (const [low, high] of [
    [0.99993, 1.00012],
    [0, 1],
    [1, 1.0001],
    [0.9, 1.05],
    [-3, 12],
    [1.00001, 1.00003],
  ]) {
    const found = ticks(low, high, 5);
    const texts = found.map((t) => t.toFixed(decimals(found)));
    assert.equal(new Set(texts).size, texts.length, texts.join(" "));
  }
});
