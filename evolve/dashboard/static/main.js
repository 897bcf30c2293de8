// The shell: which run, which view, keys, theme, and what changes while a run goes on.

import { h, visible } from "./dom.js";
import { openSource } from "./source.js";
import { go, link, onChange, read } from "./state.js";
import { candidateView } from "./view_candidate.js";
import { compareDocument, compareView } from "./view_compare.js";
import { gridView } from "./view_grid.js";
import { lineageView } from "./view_lineage.js";
import { overviewView } from "./view_overview.js";
import { shapesView } from "./view_shapes.js";

const VIEWS = { overview: overviewView, lineage: lineageView, candidate: candidateView, shapes: shapesView, grid: gridView, compare: compareView };
const NAMES = { overview: "Overview", lineage: "Lineage", candidate: "Candidate", shapes: "Shapes", grid: "Grid", compare: "Compare" };
const KEPT = ["run"];
const HELP = [["1 \u2026 6", "views"], ["j k", "next, previous proposal or commit"], ["h l", "parent, child"], ["Enter", "open the selected proposal"],
  ["w", "the winner (lineage)"], ["+ \u2212 0", "zoom in, out, everything (lineage)"], ["[ ]", "previous, next part (candidate)"], ["\u2190 \u2191 \u2192 \u2193", "between shapes"],
  ["space", "play (grid)"], ["/", "search (lineage)"], ["t", "light or dark"], ["?", "this list"]];

const stored = { get: (k) => { try { return localStorage.getItem(k); } catch { return null; } }, set: (k, v) => { try { localStorage.setItem(k, v); } catch { /* private */ } } };

class Shell {
  constructor(source) {
    this.source = source;
    this.main = h("main", { id: "main", tabindex: "-1" });
    // Where a tab leads depends on what is selected by then.
    const targets = () => this.targets();
    this.tabs = h("nav", { "aria-label": "Views", onpointerdown: targets, onfocusin: targets });
    this.runs = h("select", { id: "run", "aria-label": "Run", onchange: (e) => go(read().view, { run: e.target.value }) });
    this.state = h("span", { class: "state", role: "status" });
    this.says = h("p", { class: "sr", "aria-live": "polite" });
    this.help = h("dialog", { "aria-label": "Keys" }, h("h2", null, "Keys"), h("dl", { class: "facts" }, HELP.map(([k, v]) => [h("dt", null, h("kbd", null, k)), h("dd", null, v)])),
      h("form", { method: "dialog" }, h("button", { value: "close" }, "close")));
    document.body.append(h("a", { class: "skip", href: "#main", onclick: (e) => { e.preventDefault(); this.main.focus(); } }, "Skip to content"),
      h("header", null, h("span", { class: "brand" }, "evosplit"), this.runs, this.tabs, this.state,
        h("button", { type: "button", id: "theme", "aria-label": "Light or dark (t)", onclick: () => this.theme() }, "\u25d0"),
        h("button", { type: "button", id: "help", "aria-label": "Keys (?)", onclick: () => this.help.showModal() }, "?")),
      this.main, this.help, this.says);
    onChange(() => this.show());
    document.addEventListener("keydown", (e) => this.key(e));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
  }

  theme() {
    const now = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
    stored.set("evosplit-theme", document.documentElement.dataset.theme);
    this.show();
  }

  async show() {
    const { view, values } = read();
    const name = VIEWS[view] ? view : "overview";
    const run = this.source.runs.includes(values.run) ? values.run : this.source.runs[0];
    const turn = (this.turn = (this.turn ?? 0) + 1);
    if (run !== this.run) { this.run = run; this.source.follow(run, (change) => this.changed(change)); }
    this.chrome(name, run);
    if (values.run && values.run !== run) { this.fill(name, { root: h("p", { class: "notice", role: "alert" }, `No run ${visible(values.run)} here.`) }); return; }
    let shown;
    try {
      shown = await VIEWS[name]({ source: this.source, run, values });
    } catch (error) {
      shown = { root: h("p", { class: "notice", role: "alert" }, visible(error.message ?? error)) };
    }
    if (turn !== this.turn) return;
    this.fill(name, shown);
  }

  fill(name, shown) {
    const focused = document.activeElement?.id;
    const same = this.at === location.hash.split("?")[0];
    const scroll = same ? window.scrollY : 0;
    const kept = same ? this.keep() : () => {};
    this.at = location.hash.split("?")[0];
    this.shown?.leave?.();
    this.shown = { name, ...shown };
    this.main.replaceChildren(h("h1", { class: "sr" }, `${NAMES[name]}, ${visible(this.run ?? "")}`), shown.root);
    shown.ready?.();
    kept();
    if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
    window.scrollTo(0, scroll);
    if (shown.says) this.says.textContent = shown.says;
    document.title = `${NAMES[name]} \u00b7 ${visible(this.run ?? "")} \u00b7 evosplit`;
    document.documentElement.dataset.ready = String((Number(document.documentElement.dataset.ready) || 0) + 1);
  }

  /** What a reader has opened and scrolled to, for when the same view is drawn anew. */
  keep() {
    const open = new Set([...this.main.querySelectorAll("details[open] > summary")].map((e) => e.textContent));
    const scrolled = [...this.main.querySelectorAll(".scroll, .code, .prose")].filter((e) => e.scrollTop || e.scrollLeft)
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
    const chosen = (view) => (id === undefined ? {} : ["candidate", "shapes"].includes(view) ? { id } : view === "lineage" ? { sel: id } : {});
    for (const tab of this.tabs.children) {
      const view = tab.id.slice("tab-".length);
      tab.setAttribute("href", link(view, { ...keep, ...chosen(view) }));
    }
  }

  chrome(name, run) {
    this.tabs.replaceChildren(...Object.keys(VIEWS).map((view, i) =>
      h("a", { id: "tab-" + view, "aria-current": view === name ? "page" : null, title: `${NAMES[view]} (${i + 1})` }, NAMES[view])));
    this.targets();
    // On a phone the tabs scroll.
    const current = this.tabs.querySelector("[aria-current]");
    this.tabs.scrollLeft = current.offsetLeft - (this.tabs.clientWidth - current.offsetWidth) / 2;
    this.runs.replaceChildren(...this.source.runs.map((r) => h("option", { value: r, selected: r === run }, visible(r))));
    this.status();
  }

  status() {
    const words = { report: "report", live: "live", connecting: "connecting\u2026", reconnecting: "reconnecting\u2026", lost: "connection lost" };
    this.state.textContent = words[this.source.state];
    this.state.dataset.state = this.source.state;
  }

  /** A change of the run: redraw what shows it, and leave what the reader reads. */
  changed(change) {
    this.status();
    if (!change) return;
    document.documentElement.dataset.changes = String((Number(document.documentElement.dataset.changes) || 0) + 1);
    // A view that had nothing to show is drawn anew; others are brought up to date in place.
    if (change.anew || this.shown?.waits) this.soon();
    else if (this.shown?.update) this.shown.update(change);
    else if (this.shown?.name === "overview" || (this.shown?.name === "grid" && read().values.t === undefined)) this.soon();
  }

  soon() {
    if (this.waiting) return;
    this.waiting = setTimeout(() => { this.waiting = null; this.show(); }, 400);
  }

  key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey || this.help.open) return;
    if (e.target.closest?.("input, select, textarea")) { if (e.key === "Escape") e.target.blur(); return; }
    const { values } = read();
    if (/^[1-6]$/.test(e.key)) { this.targets(); location.hash = this.tabs.children[Number(e.key) - 1].getAttribute("href"); e.preventDefault(); return; }
    if (e.key === "t") { this.theme(); return; }
    if (e.key === "?") { this.help.showModal(); return; }
    if (e.key === "/") {
      e.preventDefault();
      if (this.shown?.name === "lineage") document.getElementById("search")?.focus();
      else go("lineage", { run: values.run });
      return;
    }
    // Enter and space belong to the button or link that has the focus.
    if ((e.key === "Enter" || e.key === " ") && e.target.closest?.("a, button, summary")) return;
    const act = this.shown?.keys?.[e.key];
    if (act) { e.preventDefault(); act(); }
  }
}

const theme = stored.get("evosplit-theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
try {
  const source = await openSource();
  const shell = new Shell(source);
  // For tests and for the console: the documents that are drawn.
  window.evosplit = { source, compare: (a, b) => compareDocument(source, a, b) };
  if (source.runs.length) await shell.show();
  else shell.fill("overview", { root: h("p", { class: "notice" }, "No run yet: evosplit run configs/quickstart.yaml starts one.") });
} catch (error) {
  document.body.append(h("p", { class: "notice", role: "alert" }, `This page cannot show its data: ${visible(error.message ?? error)}`));
}
