// Colours for the heuristic language, a subset of Python. Tokens become spans with text, nothing else.

import { h, visible } from "./dom.js";

const KEYWORDS = new Set(
  (
    "and as assert break continue def elif else False for from if import in is lambda None not or " +
    "pass raise return True while with"
  ).split(" "),
);
const BUILTINS = new Set(
  "abs all any ceil enumerate float float32 floor int len list math max min range round sorted sum tuple zip".split(
    " ",
  ),
);
const TRIPLE = String.raw`"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)`;
const QUOTED = String.raw`"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?`;
const NUMBER = String.raw`\b\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?\b`;
const TOKEN = new RegExp(String.raw`(${TRIPLE}|${QUOTED})|(#[^\n]*)|(${NUMBER})|([A-Za-z_]\w*)|(\s+|.)`, "gy");

/** Tokens of each line: [[class, text], ...]. */
export function tokens(source) {
  const lines = [[]];
  const add = (kind, text) =>
    text.split("\n").forEach((part, i) => {
      if (i) lines.push([]);
      if (part) lines.at(-1).push([kind, part]);
    });
  TOKEN.lastIndex = 0;
  let afterDef = false;
  for (let match = TOKEN.exec(source); match?.[0]; match = TOKEN.exec(source)) {
    const [text, string, comment, number, name] = match;
    if (string) add("str", text);
    else if (comment) add("com", text);
    else if (number) add("num", text);
    else if (name) {
      add(afterDef ? "def" : KEYWORDS.has(name) ? "key" : BUILTINS.has(name) ? "fun" : "", text);
      afterDef = name === "def";
      continue;
    } else add("", text);
    if (text.trim()) afterDef = false;
  }
  return lines;
}

/** A line's tokens as text and spans; `marked` says which of them stand out. */
export function coloured(line, marked = []) {
  return line.map(([kind, text], i) => {
    const names = [kind ? `tok-${kind}` : "", marked[i] ? "word" : ""].filter(Boolean).join(" ");
    return names ? h("span", { class: names }, visible(text)) : visible(text);
  });
}

/** A listing with line numbers. */
export function listing(source, label) {
  const lines = tokens(source.replace(/\n$/, ""));
  return h(
    "div",
    { class: "code", tabindex: "0", role: "region", "aria-label": label },
    h(
      "ol",
      null,
      lines.map((line) => h("li", null, h("code", null, coloured(line)))),
    ),
  );
}
