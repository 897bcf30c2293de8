// A difference of two programs as a listing: one column or two, with the words marked that differ.

import { lineDiff } from "./diff.js";
import { h } from "./dom.js";
import { coloured, tokens } from "./highlight.js";

const CONTEXT = 3;

/** Lines longer than this are not compared word by word. */
const MOST_WORDS = 400;

/** Rows of a difference: equal lines, gaps of them, and changed lines in pairs where both sides have one. */
export function rowsOf(a, b) {
  const steps = lineDiff(a, b);
  const near = new Array(steps.length).fill(false);
  steps.forEach(([op], i) => {
    if (op === "=") return;
    for (let j = Math.max(0, i - CONTEXT); j <= Math.min(steps.length - 1, i + CONTEXT); j++) near[j] = true;
  });
  const rows = [];
  let hidden = 0;
  for (let at = 0; at < steps.length; ) {
    if (steps[at][0] === "=") {
      if (near[at]) {
        if (hidden) rows.push({ gap: hidden });
        hidden = 0;
        rows.push({ gone: steps[at][1], come: steps[at][2], equal: true });
      } else hidden++;
      at++;
      continue;
    }
    if (hidden) rows.push({ gap: hidden });
    hidden = 0;
    const [gone, come] = [[], []];
    for (; at < steps.length && steps[at][0] !== "="; at++) {
      if (steps[at][0] === "-") gone.push(steps[at][1]);
      else come.push(steps[at][2]);
    }
    for (let i = 0; i < Math.max(gone.length, come.length); i++) {
      rows.push({ gone: gone[i] ?? null, come: come[i] ?? null, equal: false });
    }
  }
  if (hidden) rows.push({ gap: hidden });
  return rows;
}

/** Which tokens of two lines differ: two arrays of booleans. Nothing is marked where hardly anything is shared. */
export function wordsChanged(before, after) {
  const texts = [before, after].map((line) => line.map(([, text]) => text));
  const marks = texts.map((t) => new Array(t.length).fill(false));
  if (texts.some((t) => t.length > MOST_WORDS)) return marks;
  let shared = 0;
  for (const [op, i, j] of lineDiff(texts[0], texts[1])) {
    if (op === "-") marks[0][i] = true;
    else if (op === "+") marks[1][j] = true;
    else if (texts[0][i].trim()) shared++;
  }
  const most = Math.max(...texts.map((t) => t.filter((text) => text.trim()).length));
  return shared * 3 < most ? texts.map((t) => new Array(t.length).fill(false)) : marks;
}

/** A diff with `CONTEXT` lines around changes; `beside` puts both sides next to each other. */
export function diffListing(before, after, label, { beside = false } = {}) {
  const texts = [before, after].map((t) => t.replace(/\n$/, ""));
  const [a, b] = texts.map((t) => t.split("\n"));
  const [ta, tb] = texts.map(tokens);
  const rows = rowsOf(a, b);
  const changed = rows.filter((r) => r.equal === false);
  const [gone, come] = ["gone", "come"].map((side) => changed.filter((r) => r[side] !== null).length);
  if (!changed.length) return h("p", { class: "quiet" }, "no difference");
  const line = (list, i, words) => h("code", null, i === null ? "" : coloured(list[i], words));
  const number = (i) => h("td", { class: "ln" }, i === null ? "" : String(i + 1));
  const parts = [];
  let block = [];
  /** In one column, what went stands above what came. */
  const flush = () => {
    for (const r of block) if (r.gone !== null) parts.push(one("gone", "-", r));
    for (const r of block) if (r.come !== null) parts.push(one("come", "+", r));
    block = [];
  };
  const one = (side, op, r) =>
    h(
      "tr",
      { class: side },
      number(side === "gone" ? r.gone : null),
      number(side === "come" ? r.come : null),
      h("td", { class: "op" }, op),
      h("td", null, side === "gone" ? line(ta, r.gone, r.words[0]) : line(tb, r.come, r.words[1])),
    );
  for (const r of rows) {
    if (r.gap) {
      flush();
      const equal = `${r.gap} equal line${r.gap === 1 ? "" : "s"}`;
      parts.push(h("tr", { class: "gap" }, h("td", { colspan: "4" }, equal)));
      continue;
    }
    const pair = !r.equal && r.gone !== null && r.come !== null;
    r.words = pair ? wordsChanged(ta[r.gone], tb[r.come]) : [];
    if (beside) {
      const side = (list, i, kind, words) => [
        number(i),
        h("td", { class: r.equal || i === null ? null : kind }, line(list, i, words)),
      ];
      parts.push(h("tr", null, side(ta, r.gone, "gone", r.words[0]), side(tb, r.come, "come", r.words[1])));
    } else if (r.equal) {
      flush();
      parts.push(
        h("tr", null, number(r.gone), number(r.come), h("td", { class: "op" }, " "), h("td", null, line(ta, r.gone))),
      );
    } else block.push(r);
  }
  flush();
  return h(
    "div",
    null,
    h("p", { class: "quiet" }, `${come} ${come === 1 ? "line" : "lines"} added, ${gone} removed`),
    h(
      "div",
      { class: "code", tabindex: "0", role: "region", "aria-label": label },
      h(
        "table",
        { class: beside ? "diff beside" : "diff" },
        h("caption", { class: "sr" }, label),
        beside
          ? h(
              "colgroup",
              null,
              ["ln", "", "ln", ""].map((kind) => h("col", { class: kind || null })),
            )
          : null,
        h("tbody", null, parts),
      ),
    ),
  );
}
