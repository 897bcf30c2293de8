// MAP-Elites grid over time: who owned each cell after any commit.

import { choice, fixed, h, panel, percent, visible } from "./dom.js";
import { shareColour } from "./scales.js";
import { go, link, set } from "./state.js";

/** The best owner of each cell on the islands shown after commit `at`. */
function ownersAt(events, at, island, nodes) {
  const islands = new Map();
  for (const e of events) {
    if (e.at > at) break;
    if (island !== "all" && island !== String(e.island)) continue;
    if (!islands.has(e.island)) islands.set(e.island, new Map());
    islands.get(e.island).set(e.key, e.id);
  }
  const cells = new Map();
  for (const owners of islands.values()) {
    for (const [key, id] of owners) {
      const best = cells.get(key);
      if (best === undefined || nodes[id].train.score > nodes[best].train.score) cells.set(key, id);
    }
  }
  return cells;
}

export async function gridView({ source, run, values }) {
  const [grid, lineage] = await Promise.all([source.grid(run), source.lineage(run)]);
  if (!grid.events.length) return { root: h("p", { class: "notice" }, "No grid: nothing is scored yet, or the run's configuration is of another version.") };
  const last = lineage.nodes.length - 1;
  const nodes = lineage.nodes;
  const island = values.island ?? "all";
  let at = values.t === undefined ? last : Math.min(last, Math.max(0, Number(values.t) || 0));
  const best = Math.max(...nodes.filter((n) => n.train).map((n) => n.train.oracle_share));
  const floor = Math.min(0, best - 0.01);
  const colour = (n) => shareColour((n.train.oracle_share - floor) / (best - floor));
  const board = h("div", { class: "facets" });
  const text = h("p", { class: "quiet", "aria-live": "polite" });
  const slider = h("input", { type: "range", id: "time", min: "0", max: String(last), value: at, "aria-label": "After proposal",
    oninput: (e) => { stop(); move(Number(e.target.value)); } });
  const play = h("button", { type: "button", id: "play", onclick: () => (timer ? stop() : start()) }, "\u25b6 play");
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "\u25b6 play"; };
  const start = () => {
    if (at >= last) move(0);
    play.textContent = "\u275a\u275a pause";
    timer = setInterval(() => { if (!board.isConnected || at >= last) stop(); else move(at + Math.max(1, Math.round(last / 200))); }, 60);
  };
  const move = (to) => {
    at = Math.min(last, Math.max(0, to));
    slider.value = at;
    slider.setAttribute("aria-valuetext", `after proposal ${at}`);
    set({ t: at === last ? "" : at }, { quiet: true });
    render();
  };
  const [fx, fy, fz] = grid.features;
  const events = grid.events.map((e) => ({ ...e, key: e.cell.join("-") }));
  const places = new Map();
  board.replaceChildren(...Array.from({ length: grid.bins }, (_, z) => facet(grid, z, { fx, fy, fz }, places)));
  const owned = new Map();
  const render = () => {
    const cells = ownersAt(events, at, island, nodes);
    const held = [...cells.values()].map((id) => nodes[id].train.oracle_share);
    text.textContent = `after proposal ${at}: ${cells.size} of ${grid.bins ** grid.features.length} cells held, best ${percent(Math.max(...held))} of the oracle on train` +
      (grid.islands > 1 ? (island === "all" ? "; the best of all islands in each cell" : `; island ${island}`) : "");
    // Only cells that changed: a reader drags the slider over thousands of commits.
    for (const [key, place] of places) {
      const id = cells.get(key);
      const now = id === undefined ? "" : id === at ? `${id} now` : String(id);
      if (now === (owned.get(key) ?? "")) continue;
      owned.set(key, now);
      const [x, y, z] = key.split("-");
      const where = `${fx} bin ${x}, ${fy} bin ${y}, ${fz} bin ${z}`;
      place.className = now ? "" : "free";
      place.replaceChildren(...(now ? [owner(nodes[id], where, { run, at, style: colour(nodes[id]) })] : []));
    }
  };
  render();
  const range = (f) => `${f} ${grid.ranges[f].map((v) => (Number.isInteger(v) ? v : v.toFixed(2))).join(" to ")}`;
  const root = h("div", { class: "stack" }, panel("MAP-Elites grid", null,
    h("div", { class: "row" }, play, h("label", { for: "time", class: "sr" }, "After proposal"), slider,
      grid.islands > 1 ? choice("island", [["all", "all islands"], ...Array.from({ length: grid.islands }, (_, i) => [String(i), String(i)])], island, (v) => set({ island: v === "all" ? "" : v })) : null),
    text, h("div", { class: "legend" }, [0, 0.25, 0.5, 0.75, 1].map((v) => h("span", { class: "swatch", style: shareColour(v) }, percent(floor + v * (best - floor), 0))),
      h("span", { class: "quiet" }, "share of the oracle on train; outlined: entered at this commit")),
    h("p", { class: "quiet" }, `Bins of what had been seen when a program entered. Values so far: ${grid.features.map(range).join("; ")}.`)), board);
  const keys = { j: () => { stop(); move(at + 1); }, k: () => { stop(); move(at - 1); }, " ": () => (timer ? stop() : start()) };
  return { root, keys, leave: stop };
}

function owner(n, where, { run, at, style }) {
  const label = `#${n.id}, ${where}, score ${fixed(n.train.score, 4)}`;
  const open = (e) => { if (!e.ctrlKey && !e.metaKey) { e.preventDefault(); go("candidate", { run, id: n.id }); } };
  return h("a", { class: "cell" + (n.id === at ? " fresh" : ""), style, href: link("candidate", { run, id: n.id }), "aria-label": label,
    title: `${label}\n${visible(n.note)}`, onclick: open }, String(n.id));
}

/** One slice of the grid; its empty places are noted by cell. */
function facet(grid, z, { fx, fy, fz }, places) {
  const bins = Array.from({ length: grid.bins }, (_, i) => i);
  const name = `${fz} bin ${z}`;
  const place = (x, y) => {
    const td = h("td", { class: "free" });
    places.set(`${x}-${y}-${z}`, td);
    return td;
  };
  return h("section", { class: "panel map", "aria-label": name }, h("h3", null, name), h("p", { class: "axis-name quiet" }, `${fx} to the right, ${fy} upwards`),
    h("table", { class: "heat square" }, h("caption", { class: "sr" }, `${fy} by ${fx}, ${name}`),
      h("thead", null, h("tr", null, h("td", null), bins.map((x) => h("th", { scope: "col" }, String(x))))),
      h("tbody", null, bins.toReversed().map((y) => h("tr", null, h("th", { scope: "row" }, String(y)), bins.map((x) => place(x, y)))))));
}
