// The shell: which run, which view, keys, theme, and what changes while a run goes on.

import { progressAt } from "./analysis.js";
import { duration, h, plural, same, visible } from "./dom.js";
import { openSource } from "./source.js";
import { go, link, onChange, read } from "./state.js";
import { candidateView } from "./view_candidate.js";
import { compareDocument, compareView } from "./view_compare.js";
import { gridView } from "./view_grid.js";
import { lineageView } from "./view_lineage.js";
import { overviewView } from "./view_overview.js";
import { runsView } from "./view_runs.js";
import { shapesView } from "./view_shapes.js";
import { tableView } from "./view_table.js";

/**
 * A view is a function of where the reader is: ({source, run, values}) to a promise of
 * {root, keys?, says?, ready?, leave?, update?, busy?}.
 *
 * Whenever the journal says something new, the view in sight is brought up to date: by its own `update` where it has
 * one, else by asking for it anew, where what is drawn changes only if the new one looks different. `busy` says that
 * something moves that must not be interrupted just now; it is asked again a moment later.
 */
const VIEWS = {
  overview: { name: "Overview", view: overviewView },
  lineage: { name: "Lineage", view: lineageView },
  table: { name: "Table", view: tableView },
  candidate: { name: "Candidate", view: candidateView },
  shapes: { name: "Shapes", view: shapesView },
  grid: { name: "Grid", view: gridView },
  compare: { name: "Compare", view: compareView },
  runs: { name: "Runs", view: runsView },
};
const KEPT = ["run"];

/** Views that show one candidate, which stays chosen between them. */
const OF_ONE = ["candidate", "shapes"];

/** Views that show several runs, and so whatever happens to any of them. */
const OF_RUNS = ["runs", "compare"];

/** How long until changes are drawn, so that many are drawn at once; views of all runs also look by themselves. */
const DRAW_MS = 300;
const LOOK_AT_RUNS_MS = 1500;

/** How long a view may take before the page says that it loads. */
const LOADING_MS = 250;

const HELP = [
  ["1 \u2026 8", "views"],
  ["j k", "next, previous proposal or commit"],
  ["h l", "parent, child"],
  ["Enter", "open the selected proposal"],
  ["w", "the winner (lineage)"],
  ["+ \u2212 0", "zoom in, out, everything (lineage)"],
  ["[ ]", "previous, next part (candidate)"],
  ["\u2190 \u2191 \u2192 \u2193", "between shapes"],
  ["space", "play (grid)"],
  ["/", "search (lineage, table)"],
  ["t", "light or dark"],
  ["?", "this list"],
];

const stored = {
  get: (k) => {
    try {
      return localStorage.getItem(k);
    } catch {
      return null;
    }
  },
  set: (k, v) => {
    try {
      localStorage.setItem(k, v);
    } catch {
      // Private windows keep nothing.
    }
  },
};

/** Whether the reader has begun to type something that was not taken over yet. */
function beingTyped() {
  const at = document.activeElement;
  return at instanceof HTMLInputElement && at.type !== "range" && at.value !== at.defaultValue && at.closest("main");
}

const sameChildren = (a, b) =>
  a.children.length === b.children.length && [...a.children].every((x, i) => same(x, b.children[i]));

/** What a run is doing, in a few words. */
function stateText(o, { state, silent_s, left_s }) {
  const done = `${o.proposals} of ${o.wanted}`;
  if (state === "running") {
    const left = left_s === null ? "" : `, ${duration(left_s)} left`;
    return `running, ${done}${left}${silent_s > 5 ? `, nothing new for ${duration(silent_s)}` : ""}`;
  }
  if (state === "stalled") return `stalled, ${done}, nothing new for ${duration(silent_s)}`;
  return state === "finished" ? `finished, ${plural(o.proposals, "proposal")}` : `${state}, ${done}`;
}

class Shell {
  constructor(source) {
    this.source = source;
    this.main = h("main", { id: "main", tabindex: "-1" });
    // Where a tab leads depends on what is selected by then.
    const targets = () => this.targets();
    this.tabs = h(
      "nav",
      { "aria-label": "Views", onpointerdown: targets, onfocusin: targets },
      Object.entries(VIEWS).map(([view, { name }], i) =>
        h("a", { id: `tab-${view}`, title: `${name} (${i + 1})` }, name),
      ),
    );
    this.runs = h("select", {
      id: "run",
      "aria-label": "Run",
      onchange: (e) => go(read().view, { run: e.target.value }),
    });
    this.state = h("span", { class: "state", role: "status" });
    this.says = h("p", { class: "sr", "aria-live": "polite" });
    this.help = h(
      "dialog",
      { "aria-label": "Keys" },
      h("h2", null, "Keys"),
      h(
        "dl",
        { class: "facts" },
        HELP.map(([k, v]) => [h("dt", null, h("kbd", null, k)), h("dd", null, v)]),
      ),
      h("form", { method: "dialog" }, h("button", { value: "close" }, "close")),
    );
    document.body.append(
      h(
        "a",
        {
          class: "skip",
          href: "#main",
          onclick: (e) => {
            e.preventDefault();
            this.main.focus();
          },
        },
        "Skip to content",
      ),
      h(
        "header",
        null,
        h("span", { class: "brand" }, "evosplit"),
        this.runs,
        this.tabs,
        this.state,
        h(
          "button",
          { type: "button", id: "theme", "aria-label": "Light or dark (t)", onclick: () => this.theme() },
          "\u25d0",
        ),
        h(
          "button",
          { type: "button", id: "help", "aria-label": "Keys (?)", onclick: () => this.help.showModal() },
          "?",
        ),
      ),
      this.main,
      this.help,
      this.says,
    );
    onChange(() => this.show());
    document.addEventListener("keydown", (e) => this.key(e));
    document.addEventListener("evosplit-pins", () => this.show());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show({ anew: true }));
    if (source.live) {
      setInterval(() => this.status(), 1000);
      setInterval(() => this.lookAtRuns(), LOOK_AT_RUNS_MS);
    }
  }

  theme() {
    const now =
      document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
    stored.set("evosplit-theme", document.documentElement.dataset.theme);
    this.show({ anew: true });
  }

  /** Draw what the address names; `anew` also where it would be the same but for its colours. */
  async show({ anew = false } = {}) {
    const { view, values } = read();
    const name = VIEWS[view] ? view : "overview";
    const run = this.source.runs.includes(values.run) ? values.run : this.source.runs[0];
    this.turn = (this.turn ?? 0) + 1;
    const turn = this.turn;
    if (run !== this.run || !this.following) {
      this.run = run;
      this.following = true;
      this.source.follow(run, (news) => this.heard(news));
    }
    this.chrome(name, run);
    if (run === undefined) {
      const text = "No run yet: evosplit run configs/quickstart.yaml starts one, and this page will show it.";
      this.fill(name, { root: h("p", { class: "notice" }, text) }, anew);
      return;
    }
    if (values.run && values.run !== run) {
      const text = `No run ${visible(values.run)} here.`;
      this.fill(name, { root: h("p", { class: "notice", role: "alert" }, text) }, anew);
      return;
    }
    const loading = setTimeout(() => {
      if (turn === this.turn && (this.shown?.name !== name || this.shown.run !== run)) {
        this.fill(name, { root: h("p", { class: "notice loading" }, "Loading\u2026") }, anew, { drawn: false });
      }
    }, LOADING_MS);
    let shown;
    try {
      shown = await VIEWS[name].view({ source: this.source, run, values });
    } catch (error) {
      const text = visible(error.message ?? error);
      shown = { root: h("p", { class: "notice", role: "alert" }, text), failed: true };
    }
    clearTimeout(loading);
    if (turn === this.turn) this.fill(name, shown, anew);
  }

  fill(name, shown, anew, { drawn = true } = {}) {
    const place = location.hash.split("?")[0];
    const here = this.at === place;
    this.at = place;
    if (!here || anew || !this.shown || this.shown.name !== name || !same(this.shown.root, shown.root)) {
      this.replace(name, shown, here);
    }
    if (drawn)
      document.documentElement.dataset.ready = String((Number(document.documentElement.dataset.ready) || 0) + 1);
  }

  replace(name, shown, here) {
    const focused = document.activeElement?.id;
    const scroll = here ? window.scrollY : 0;
    const kept = here ? this.keep() : () => {};
    this.shown?.leave?.();
    this.shown = { ...shown, name, run: this.run };
    this.main.replaceChildren(h("h1", { class: "sr" }, `${VIEWS[name].name}, ${visible(this.run ?? "")}`), shown.root);
    window.scrollTo(0, scroll);
    shown.ready?.();
    kept();
    if (focused && document.activeElement?.id !== focused) {
      document.getElementById(focused)?.focus({ preventScroll: true });
    }
    if (shown.says) this.says.textContent = shown.says;
    document.title = `${VIEWS[name].name} \u00b7 ${visible(this.run ?? "")} \u00b7 evosplit`;
  }

  /** What a reader has opened and scrolled to, for when the same view is drawn anew. */
  keep() {
    const open = new Set([...this.main.querySelectorAll("details[open] > summary")].map((e) => e.textContent));
    const scrolled = [...this.main.querySelectorAll(".scroll, .code, .prose")]
      .filter((e) => e.scrollTop || e.scrollLeft)
      .map((e) => [e.getAttribute("aria-label"), e.scrollTop, e.scrollLeft]);
    return () => {
      for (const e of this.main.querySelectorAll("details > summary")) e.parentElement.open = open.has(e.textContent);
      for (const [label, top, left] of scrolled) {
        const e = [...this.main.querySelectorAll("[aria-label]")].find((x) => x.getAttribute("aria-label") === label);
        if (e) [e.scrollTop, e.scrollLeft] = [top, left];
      }
    };
  }

  /** Bring the tabs' addresses up to date: a candidate stays chosen between the views that show one. */
  targets() {
    const { values } = read();
    const keep = Object.fromEntries(KEPT.map((k) => [k, values[k]]));
    const id = values.id ?? values.sel;
    const chosen = (view) =>
      id === undefined ? {} : OF_ONE.includes(view) ? { id } : view === "lineage" ? { sel: id } : {};
    for (const tab of this.tabs.children) {
      const view = tab.id.slice("tab-".length);
      tab.setAttribute("href", link(view, { ...keep, ...chosen(view) }));
    }
  }

  chrome(name, run) {
    for (const tab of this.tabs.children) {
      if (tab.id === `tab-${name}`) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    this.targets();
    // On a phone the tabs scroll.
    const current = this.tabs.querySelector("[aria-current]");
    this.tabs.scrollLeft = current.offsetLeft - (this.tabs.clientWidth - current.offsetWidth) / 2;
    const fresh = h(
      "select",
      null,
      this.source.runs.map((r) => h("option", { value: r }, visible(r))),
    );
    if (!sameChildren(this.runs, fresh)) this.runs.replaceChildren(...fresh.children);
    if (run !== undefined) this.runs.value = run;
    this.status();
  }

  /** What the run is doing, and how the page stands to the server where that is not as it should be. */
  async status() {
    const { run, source } = this;
    const words = { connecting: "connecting\u2026", reconnecting: "reconnecting\u2026", lost: "the run is gone" };
    let [state, text] = ["", ""];
    if (run !== undefined) {
      const [o, lineage] = await Promise.all([source.overview(run), source.lineage(run)]).catch(() => [null, null]);
      if (run !== this.run) return;
      if (o) {
        const seconds = Date.now() / 1000 + (source.clockAhead ?? 0) - o.created_at;
        const now = progressAt(o, lineage.nodes, seconds);
        state = now.state;
        text = stateText(o, now);
      }
    }
    if (words[source.connection]) [state, text] = [source.connection, words[source.connection]];
    this.state.textContent = text;
    this.state.dataset.state = state.replace(" ", "-");
  }

  /** The journal, or the list of runs, says something new: what is in sight is brought up to date. */
  heard(news) {
    if (news.run) {
      document.documentElement.dataset.changes = String((Number(document.documentElement.dataset.changes) || 0) + 1);
    }
    if (news.run || news.runs || news.back) this.soon();
    else if (this.shown?.failed && this.source.connection === "live") this.soon(3000);
    else this.status();
  }

  /** Views of several runs change with all of them. */
  async lookAtRuns() {
    if (!OF_RUNS.includes(this.shown?.name) || document.visibilityState !== "visible") return;
    await this.source.allRuns().catch(() => null);
    this.soon();
  }

  soon(wait = DRAW_MS) {
    if (this.waiting) return;
    this.waiting = setTimeout(async () => {
      this.waiting = null;
      if (this.shown?.busy?.() || beingTyped()) {
        this.soon(500);
        return;
      }
      const { view, values } = read();
      const here = this.shown?.update && this.shown.name === view && (values.run ?? this.run) === this.run;
      // The first run of all has appeared, or another view has been chosen meanwhile.
      if (!here || this.run === undefined) {
        this.show();
        return;
      }
      this.chrome(view, this.run);
      await this.shown.update();
    }, wait);
  }

  key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey || this.help.open) return;
    if (e.target.closest?.("input, select, textarea")) {
      if (e.key === "Escape") e.target.blur();
      return;
    }
    const { values } = read();
    if (/^[1-8]$/.test(e.key)) {
      this.targets();
      location.hash = this.tabs.children[Number(e.key) - 1].getAttribute("href");
      e.preventDefault();
      return;
    }
    if (e.key === "t") {
      this.theme();
      return;
    }
    if (e.key === "?") {
      this.help.showModal();
      return;
    }
    if (e.key === "/") {
      e.preventDefault();
      const search = document.getElementById("search");
      if (search) search.focus();
      else go("lineage", { run: values.run });
      return;
    }
    // Enter and space belong to the button or link that has the focus.
    if ((e.key === "Enter" || e.key === " ") && e.target.closest?.("a, button, summary")) return;
    const act = this.shown?.keys?.[e.key];
    if (act) {
      e.preventDefault();
      act();
    }
  }
}

const theme = stored.get("evosplit-theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
try {
  const source = await openSource();
  const shell = new Shell(source);
  // For tests and for the console: the documents that are drawn.
  globalThis.evosplit = { source, compare: (a, b) => compareDocument(source, a, b) };
  await shell.show();
} catch (error) {
  document.body.append(
    h("p", { class: "notice", role: "alert" }, `This page cannot show its data: ${visible(error.message ?? error)}`),
  );
}
