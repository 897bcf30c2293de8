// MAP-Elites grid over time: who owned each cell after any commit.

import { editOf, rolesOf } from "./analysis.js";
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

/**
 * @param {import("./types.js").Place} place
 * @returns {Promise<import("./types.js").Shown>}
 */
export async function gridView({ source, run, values }) {
  const [grid, lineage] = await Promise.all([source.grid(run), source.lineage(run)]);
  if (!grid.events.length)
    return {
      root: h(
        "p",
        { class: "notice" },
        "No grid: nothing is scored yet, or the run's configuration is of another version.",
      ),
    };
  const last = lineage.nodes.length - 1;
  const nodes = lineage.nodes;
  const island = values.island ?? "all";
  let at = values.t === undefined ? last : Math.min(last, Math.max(0, Number(values.t) || 0));
  // From the tenth percentile of all that ever held a cell: a few bad programs would make all others look the same.
  const shares = grid.events.map((e) => nodes[e.id].train.oracle_share).sort((a, b) => a - b);
  const best = shares.at(-1);
  const floor = Math.min(shares[Math.floor(shares.length / 10)], best - 0.01);
  const colour = (n) => shareColour((n.train.oracle_share - floor) / (best - floor));
  const board = h("div", { class: "facets" });
  const text = h("p", { class: "quiet", "aria-live": "polite" });
  const slider = h("input", {
    type: "range",
    id: "time",
    min: "0",
    max: String(last),
    value: at,
    "aria-label": "After proposal",
    oninput: (e) => {
      stop();
      move(Number(e.target.value));
    },
  });
  const play = h("button", { type: "button", id: "play", onclick: () => (timer ? stop() : start()) }, "\u25b6 play");
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "\u25b6 play";
  };
  const start = () => {
    if (at >= last) move(0);
    play.textContent = "\u275a\u275a pause";
    timer = setInterval(() => {
      if (!board.isConnected || at >= last) stop();
      else move(at + Math.max(1, Math.round(last / 200)));
    }, 60);
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
  const binValues = valuesOfBins(grid, nodes);
  const slices = [...new Set(grid.events.map((e) => e.cell[2]))].sort((a, b) => a - b);
  board.replaceChildren(...slices.map((z) => facet(grid, z, { fx, fy, fz }, places, binValues)));
  const owned = new Map();
  const render = () => {
    const cells = ownersAt(events, at, island, nodes);
    const held = [...cells.values()].map((id) => nodes[id].train.oracle_share);
    text.textContent =
      `after proposal ${at}: ${cells.size} of ${grid.bins ** grid.features.length} cells held, ` +
      `best ${percent(Math.max(...held))} of the oracle on train` +
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
      place.replaceChildren(
        ...(now ? [owner(nodes[id], where, { run, at, style: colour(nodes[id]), roles: rolesOf(id, lineage) })] : []),
      );
    }
  };
  render();
  const range = (f) => `${f} ${grid.ranges[f].map((v) => (Number.isInteger(v) ? v : v.toFixed(2))).join(" to ")}`;
  const root = h(
    "div",
    { class: "stack" },
    panel(
      "MAP-Elites grid",
      null,
      h(
        "div",
        { class: "row" },
        play,
        h("label", { for: "time", class: "sr" }, "After proposal"),
        slider,
        grid.islands > 1
          ? choice(
              "island",
              [["all", "all islands"], ...Array.from({ length: grid.islands }, (_, i) => [String(i), String(i)])],
              island,
              (v) => set({ island: v === "all" ? "" : v }),
            )
          : null,
      ),
      text,
      h(
        "div",
        { class: "legend" },
        [0, 0.25, 0.5, 0.75, 1].map((v) =>
          h(
            "span",
            { class: "swatch", style: shareColour(v) },
            (v ? "" : "\u2264") + percent(floor + v * (best - floor), best - floor < 0.04 ? 1 : 0),
          ),
        ),
        h(
          "span",
          { class: "quiet" },
          "share of the oracle on train; outlined: entered at this commit; \u2605 winner, \u25a1 leader",
        ),
      ),
      h(
        "p",
        { class: "quiet" },
        `Bins of what had been seen when a program entered. Values so far: ${grid.features.map(range).join("; ")}. ` +
          `Point at the number of a bin for the values of its programs; slices that never held one are left out.`,
      ),
    ),
    board,
  );
  const keys = {
    j: () => {
      stop();
      move(at + 1);
    },
    k: () => {
      stop();
      move(at - 1);
    },
    " ": () => (timer ? stop() : start()),
  };
  return { root, keys, leave: stop, busy: () => timer !== null };
}

/** Lowest and highest value of each feature among the programs that ever held a cell of a bin, as text. */
function valuesOfBins(grid, nodes) {
  const ends = new Map();
  for (const e of grid.events) {
    e.cell.forEach((bin, i) => {
      const v = nodes[e.id].features[grid.features[i]];
      if (v === undefined) return;
      const [low, high] = ends.get(`${i} ${bin}`) ?? [v, v];
      ends.set(`${i} ${bin}`, [Math.min(low, v), Math.max(high, v)]);
    });
  }
  const text = (v) => (Number.isInteger(v) ? String(v) : v.toFixed(2));
  return (feature, bin) => {
    const found = ends.get(`${grid.features.indexOf(feature)} ${bin}`);
    if (!found) return "none yet";
    return found[0] === found[1] ? text(found[0]) : `${text(found[0])} to ${text(found[1])}`;
  };
}

function owner(n, where, { run, at, style, roles }) {
  const said = roles.map((role) => (role === "path" ? "on the winner\u2019s path" : role));
  const label = [`#${n.id}`, where, `score ${fixed(n.train.score, 4)}`, ...said].join(", ");
  const open = (e) => {
    if (!e.ctrlKey && !e.metaKey) {
      e.preventDefault();
      go("candidate", { run, id: n.id });
    }
  };
  return h(
    "a",
    {
      class: `cell${n.id === at ? " fresh" : ""}`,
      style,
      href: link("candidate", { run, id: n.id }),
      "aria-label": label,
      title: `${label}\n${visible(editOf(n))}`,
      onclick: open,
    },
    (roles.includes("winner") ? "\u2605" : roles.includes("leader") ? "\u25a1" : "") + n.id,
  );
}

/** One slice of the grid; its empty places are noted by cell. */
function facet(grid, z, { fx, fy, fz }, places, valuesOf) {
  const bins = Array.from({ length: grid.bins }, (_, i) => i);
  const name = `${fz} bin ${z}`;
  const place = (x, y) => {
    const td = h("td", { class: "free" });
    places.set(`${x}-${y}-${z}`, td);
    return td;
  };
  return h(
    "section",
    { class: "panel map", "aria-label": name },
    h("h3", null, `${name}: ${valuesOf(fz, z)}`),
    h("p", { class: "axis-name quiet" }, `${fx} to the right, ${fy} upwards`),
    h(
      "table",
      { class: "heat square" },
      h("caption", { class: "sr" }, `${fy} by ${fx}, ${name}`),
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          h("td", null),
          bins.map((x) => h("th", { scope: "col", title: `${fx} ${valuesOf(fx, x)}` }, String(x))),
        ),
      ),
      h(
        "tbody",
        null,
        bins.toReversed().map((y) =>
          h(
            "tr",
            null,
            h("th", { scope: "row", title: `${fy} ${valuesOf(fy, y)}` }, String(y)),
            bins.map((x) => place(x, y)),
          ),
        ),
      ),
    ),
  );
}
