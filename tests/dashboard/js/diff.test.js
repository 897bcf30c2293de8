import assert from "node:assert/strict";
import { test } from "node:test";
import { lineDiff } from "../../../evolve/dashboard/static/diff.js";
import { rowsOf, wordsChanged } from "../../../evolve/dashboard/static/diff_listing.js";
import { tokens } from "../../../evolve/dashboard/static/highlight.js";

/** The longest common subsequence, the slow and sure way. */
function common(a, b) {
  const best = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      best[i][j] = a[i] === b[j] ? 1 + best[i + 1][j + 1] : Math.max(best[i + 1][j], best[i][j + 1]);
    }
  }
  return best[0][0];
}

test("a difference rebuilds both sides and keeps as much as can be kept", () => {
  let state = 7;
  const random = (below) => {
    state = (state * 48271) % 2147483647;
    return state % below;
  };
  for (let round = 0; round < 300; round++) {
    const [a, b] = [0, 1].map(() => Array.from({ length: random(12) }, () => "abc"[random(3)]));
    const steps = lineDiff(a, b);
    assert.deepEqual(
      steps.filter(([op]) => op !== "+").map(([, i]) => a[i]),
      a,
    );
    assert.deepEqual(
      steps.filter(([op]) => op !== "-").map(([, , j]) => b[j]),
      b,
    );
    assert.equal(steps.filter(([op]) => op === "=").length, common(a, b));
  }
});

test("changed lines stand beside each other, far equal ones are counted", () => {
  const a = Array.from({ length: 20 }, (_, i) => `line ${i}`);
  const b = a.with(10, "another").concat("more");
  const rows = rowsOf(a, b);
  assert.deepEqual(
    rows.filter((r) => r.gap).map((r) => r.gap),
    [7, 3],
  );
  assert.deepEqual(
    rows.filter((r) => r.equal === false).map((r) => [r.gone, r.come]),
    [
      [10, 10],
      [null, 20],
    ],
  );
});

test("words are marked that differ, and none where lines share next to nothing", () => {
  const [a] = tokens("empty = 0.65 + waves if a else 0.35");
  const [b] = tokens("empty = 0.65 + waves if a else 0.5");
  const [gone, come] = wordsChanged(a, b);
  assert.deepEqual(
    a.filter((_, i) => gone[i]).map(([, text]) => text),
    ["0.35"],
  );
  assert.deepEqual(
    b.filter((_, i) => come[i]).map(([, text]) => text),
    ["0.5"],
  );
  const [c] = tokens("return min(cap, n), None, 0");
  assert.ok(!wordsChanged(a, c).flat().some(Boolean));
});

test("tokens keep every character, and know strings, comments, numbers and names", () => {
  const source = 'def f(x):\n    """Two\n    lines."""\n    return 1.5e-3 + x1 if "a\\"b" else None  # done\n';
  const lines = tokens(source);
  assert.equal(lines.map((line) => line.map(([, text]) => text).join("")).join("\n"), source);
  const kinds = Object.fromEntries(lines.flat().map(([kind, text]) => [text, kind]));
  const known = { def: "key", f: "def", '"""Two': "str", "1.5e-3": "num", '"a\\"b"': "str", "# done": "com", x1: "" };
  for (const [text, kind] of Object.entries(known)) assert.equal(kinds[text], kind, text);
});
