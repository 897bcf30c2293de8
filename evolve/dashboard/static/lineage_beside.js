// What stands beside the lineage's picture: the legend, the tip at the pointer, a line of the list, the facts of the
// selected proposal.

import { editOf, lineOf, rolesOf } from "./analysis.js";
import { duration, fixed, h, percent, visible } from "./dom.js";
import { groupOf } from "./scales.js";
import { link } from "./state.js";
import { statusChip } from "./view_candidate.js";

/**
 * Entries of the legend, for what there is in this lineage.
 * @param {import("./documents.js").Lineage} lineage
 */
export function legend(lineage) {
  const key = (kind, mark) => h("span", { class: kind, "aria-hidden": "true" }, mark);
  const entry = (...children) => h("li", null, children);
  return [
    entry(key("key line way"), "path to the winner \u2605"),
    lineage.leader !== lineage.winner ? entry(key("key box"), "leader on train") : "",
    entry(key("mark g-ok", "\u25a3"), " seed"),
    entry(key("mark g-ok", "\u25cb"), " displaced from its cell"),
    entry(key("mark g-ok", "\u2303"), " beyond the scale"),
    entry(key("key line parent"), "parent \u2192 child"),
    lineage.migrations.length ? entry(key("key line migration"), "migration") : "",
    h("li", { class: "quiet" }, "training score upwards; drag to move; wheel with Ctrl, or after a click, to zoom"),
  ];
}

/**
 * What is said beside the pointer.
 * @param {import("./documents.js").Lineage} lineage
 * @param {number} id
 */
export function tipText(lineage, id) {
  const n = lineage.nodes[id];
  const held = n.holdout ? `, holdout ${fixed(n.holdout.score, 4)}` : "";
  const score = n.train ? `train ${fixed(n.train.score, 4)}${held}` : n.status;
  const roles = rolesOf(id, lineage).map((role) => `, ${role === "path" ? "on the winner\u2019s path" : role}`);
  return visible(`#${id}${roles.join("")}\n${score}\n${lineOf(n).slice(0, 160)}`);
}

/**
 * A line of the list; `on` for the selected proposal, `top` in pixels.
 * @param {import("./documents.js").Lineage} lineage
 * @param {number} id
 * @param {{run: string, on: boolean, top: number, onclick: (e: MouseEvent) => void}} about
 */
export function listEntry(lineage, id, { run, on, top, onclick }) {
  const n = lineage.nodes[id];
  const group = groupOf(n.status);
  const roles = rolesOf(id, lineage);
  const mark = roles.includes("winner") ? "\u2605 " : roles.includes("path") ? "\u2191 " : "";
  const score = n.train ? `, score ${n.train.score.toFixed(4)}` : "";
  const entry = h(
    "a",
    {
      href: link("candidate", { run, id }),
      class: `entry${on ? " on" : ""}${roles.length ? " role" : ""}`,
      tabindex: "-1",
      "aria-label": `proposal ${id}, ${[n.status, ...roles].join(", ")}${score}`,
      onclick,
    },
    h("span", { class: "num" }, `#${id}`),
    h("span", { class: `mark g-${group.key}`, "aria-hidden": "true" }, group.mark),
    h("span", { class: "num" }, n.train ? fixed(n.train.score, 4) : ""),
    h("span", { class: "note" }, mark + (roles.includes("leader") ? "\u25a1 " : "") + visible(lineOf(n))),
  );
  entry.style.setProperty("top", `${top}px`);
  return entry;
}

/**
 * Head, message and facts of a proposal; `pick` selects another one.
 * @param {import("./documents.js").Lineage} lineage
 * @param {import("./documents.js").Lineage["nodes"][number]} n
 * @param {{run: string, pick: (id: number) => void}} about
 */
export function detail(lineage, n, { run, pick }) {
  const ref = (id) => h("button", { type: "button", class: "ref", onclick: () => pick(id) }, `#${id}`);
  const children = lineage.nodes.filter((x) => x.parent === n.id);
  const heirs = lineage.nodes.filter((x) => x.island === n.island && x.displaced.includes(n.id));
  const scored = (s) => (s ? `${fixed(s.score, 4)}, ${percent(s.oracle_share)} of oracle` : "\u2013");
  const facts = [
    ["parent", n.parent === null ? "none" : ref(n.parent)],
    ["children", String(children.length)],
    ["train", scored(n.train)],
    ["holdout", scored(n.holdout)],
    ["edit", visible(editOf(n)) || "\u2013"],
    ["island", String(n.island)],
    ["in all", duration(n.elapsed_s)],
    n.duplicate_of === null ? null : ["repeats", ref(n.duplicate_of)],
    n.displaced.length ? ["displaced", n.displaced.map(ref)] : null,
    heirs.length ? ["displaced by", heirs.map((x) => ref(x.id))] : null,
  ];
  return [
    h(
      "div",
      { class: "row" },
      h("a", { class: "big", href: link("candidate", { run, id: n.id }) }, `#${n.id}`),
      statusChip(n.status),
      rolesOf(n.id, lineage).map((role) => h("span", { class: "chip good" }, role)),
    ),
    n.message ? h("p", { class: "message" }, visible(n.message)) : "",
    h(
      "dl",
      { class: "facts" },
      facts.filter(Boolean).map(([k, v]) => [h("dt", null, k), h("dd", null, v)]),
    ),
  ];
}
