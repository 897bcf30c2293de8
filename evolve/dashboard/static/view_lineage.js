// Lineage: every proposal and where it came from; picture, filters and list show the same selection.

import { clamp, duration, fixed, h, panel, percent, visible } from "./dom.js";
import { draw, drawSelection, known, layout, palette, wholeOf } from "./lineage_canvas.js";
import { GROUPS, groupOf } from "./scales.js";
import { go, link, set } from "./state.js";
import { statusChip } from "./view_candidate.js";

const ROW = 26;

/** How long the view rests before what was left out while it moved is drawn again. */
const REST_MS = 120;

export async function lineageView({ source, run, values }) {
  const lineage = await source.lineage(run);
  if (!lineage.nodes.length) return { root: h("p", { class: "notice" }, "Nothing has been asked yet."), waits: true };
  const view = new Lineage(lineage, run, values);
  return { root: view.root, keys: view.keys, leave: () => view.leave(), ready: () => { view.resize(); view.reveal(); }, update: () => view.refresh() };
}

const zoomText = (z) => [z.x0, z.x1].map((v) => v.toFixed(1)).join("_") + "_" + [z.y0, z.y1].map((v) => v.toFixed(5)).join("_");

function zoomFrom(text, whole) {
  const [x0, x1, y0, y1] = (text ?? "").split("_").map(Number);
  return x1 > x0 && y1 > y0 ? { x0, x1, y0, y1 } : whole;
}

class Lineage {
  constructor(lineage, run, values) {
    this.lineage = lineage;
    this.run = run;
    this.hidden = new Set((values.hide ?? "").split(",").filter(Boolean));
    this.text = values.q ?? "";
    this.status = values.status ?? "";
    this.zoom = zoomFrom(values.z, wholeOf(lineage));
    this.zoomed = Boolean(values.z);
    this.selected = values.sel !== undefined && lineage.nodes[values.sel] ? Number(values.sel) : lineage.winner;
    this.canvas = h("canvas", { tabindex: "0", role: "img", class: "tree", "aria-describedby": "lineage-says" });
    this.says = h("p", { id: "lineage-says", class: "sr", "aria-live": "polite" });
    this.above = h("canvas", { class: "tree above", "aria-hidden": "true" });
    this.holder = h("div", { class: "drawing" }, this.canvas, this.above, this.says);
    this.detail = h("div", { class: "detail" });
    this.count = h("span", { class: "quiet" });
    this.rows = h("div", { class: "rows" });
    this.list = h("div", { class: "list", tabindex: "0", role: "region", "aria-label": "List of proposals", onscroll: () => this.drawList() }, this.rows);
    this.root = h("div", { class: "lineage" },
      panel("Lineage", { class: "picture" }, this.controls(), this.holder, this.key()),
      h("div", { class: "side" }, panel("Selected", null, this.detail), panel("Proposals", { class: "grow" }, this.head(), this.list)));
    this.keys = {
      j: () => this.step(1), k: () => this.step(-1), h: () => this.pick(this.node?.parent), l: () => this.child(),
      Enter: () => this.open(), "+": () => this.scale(0.7), "=": () => this.scale(0.7), "-": () => this.scale(1 / 0.7), 0: () => this.reset(),
      w: () => this.pick(this.lineage.winner),
    };
    this.colours = palette();
    this.facts = known(lineage);
    this.listen();
    this.filter();
  }

  get node() { return this.lineage.nodes[this.selected]; }

  controls() {
    const counts = new Map();
    for (const n of this.lineage.nodes) counts.set(groupOf(n.status).key, (counts.get(groupOf(n.status).key) ?? 0) + 1);
    const search = h("input", { type: "search", id: "search", value: this.text, placeholder: "number, status, edit, message\u2026 (/)", "aria-label": "Search proposals",
      oninput: (e) => { this.text = e.target.value; set({ q: this.text }, { quiet: true }); this.filter(); } });
    this.search = search;
    return h("div", { class: "row" }, search, h("div", { class: "choice", role: "group", "aria-label": "Outcomes shown" },
      GROUPS.filter((g) => counts.has(g.key)).map((g) => h("button", {
        type: "button", "aria-pressed": String(!this.hidden.has(g.key)), title: g.statuses.join(", "),
        onclick: (e) => {
          if (!this.hidden.delete(g.key)) this.hidden.add(g.key);
          e.currentTarget.setAttribute("aria-pressed", String(!this.hidden.has(g.key)));
          set({ hide: [...this.hidden].join(",") }, { quiet: true });
          this.filter();
        },
      }, h("span", { class: "mark g-" + g.key, "aria-hidden": "true" }, g.mark), ` ${g.name} ${counts.get(g.key)}`))),
    this.status ? h("button", { type: "button", class: "chip", "aria-label": `Show all statuses, not only ${this.status}`,
      onclick: () => set({ status: "" }) }, `only ${visible(this.status)} \u2715`) : null,
    h("span", { class: "push" }, h("button", { type: "button", "aria-label": "Zoom in", onclick: () => this.scale(0.7) }, "+"),
      h("button", { type: "button", "aria-label": "Zoom out", onclick: () => this.scale(1 / 0.7) }, "\u2212"),
      h("button", { type: "button", "aria-label": "Show everything", onclick: () => this.reset() }, "all")));
  }

  key() {
    return h("ul", { class: "legend" }, h("li", null, h("span", { class: "key line way", "aria-hidden": "true" }), "path to the winner \u2605"),
      h("li", null, h("span", { class: "mark g-ok", "aria-hidden": "true" }, "\u25a0"), " seed"), h("li", null, h("span", { class: "mark g-ok", "aria-hidden": "true" }, "\u25cb"), " displaced from its cell"), h("li", null, h("span", { class: "key line parent", "aria-hidden": "true" }), "parent \u2192 child"),
      this.lineage.migrations.length ? h("li", null, h("span", { class: "key line migration", "aria-hidden": "true" }), "migration") : null,
      h("li", { class: "quiet" }, "training score upwards; drag to move, wheel to zoom, \u21e7 wheel for scores alone"));
  }

  head() { return h("div", { class: "row" }, this.count); }

  listen() {
    let drag = null;
    const c = this.canvas;
    c.addEventListener("pointerdown", (e) => { drag = { x: e.offsetX, y: e.offsetY, zoom: { ...this.zoom }, moved: false }; c.setPointerCapture(e.pointerId); });
    c.addEventListener("pointermove", (e) => {
      if (!drag) return;
      const dx = ((e.offsetX - drag.x) / this.where.width) * (drag.zoom.x1 - drag.zoom.x0);
      const dy = ((e.offsetY - drag.y) / this.where.lane) * (drag.zoom.y1 - drag.zoom.y0);
      if (Math.hypot(e.offsetX - drag.x, e.offsetY - drag.y) > 4) drag.moved = true;
      if (drag.moved) this.look({ x0: drag.zoom.x0 - dx, x1: drag.zoom.x1 - dx, y0: drag.zoom.y0 + dy, y1: drag.zoom.y1 + dy });
    });
    c.addEventListener("pointerup", (e) => { if (drag && !drag.moved) this.pick(this.nearest(e.offsetX, e.offsetY)); drag = null; });
    c.addEventListener("dblclick", () => this.open());
    c.addEventListener("wheel", (e) => { e.preventDefault(); this.scale(Math.exp(clamp(e.deltaY || e.deltaX, -120, 120) / 300), e); }, { passive: false });
    new ResizeObserver(() => this.resize()).observe(this.holder);
  }

  look(zoom) {
    this.zoom = zoom;
    this.zoomed = true;
    this.moving = true;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => { this.moving = false; this.draw(); }, REST_MS);
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = null; this.draw(); });
    clearTimeout(this.later);
    this.later = setTimeout(() => this.canvas.isConnected && set({ z: zoomText(this.zoom) }, { quiet: true }), 250);
  }

  /** Stop what is still due when another view is shown. */
  leave() {
    clearTimeout(this.rest);
    clearTimeout(this.later);
    cancelAnimationFrame(this.frame);
  }

  scale(factor, at) {
    const z = this.zoom;
    const cx = at ? this.where.back(at.offsetX) : (z.x0 + z.x1) / 2;
    const cy = at ? clamp(this.where.score(at.offsetY), z.y0, z.y1) : (z.y0 + z.y1) / 2;
    const sx = at?.shiftKey ? 1 : factor;
    if ((z.x1 - z.x0) * sx < 4 || (z.x1 - z.x0) * sx > 20 * this.lineage.nodes.length + 40) return;
    this.look({ x0: cx - (cx - z.x0) * sx, x1: cx + (z.x1 - cx) * sx, y0: cy - (cy - z.y0) * factor, y1: cy + (z.y1 - cy) * factor });
  }

  reset() {
    this.zoom = wholeOf(this.lineage);
    this.zoomed = false;
    clearTimeout(this.later);
    set({ z: "" }, { quiet: true });
    this.draw();
  }

  nearest(x, y) {
    let [best, least] = [null, 24 ** 2];
    for (const id of this.shown) {
      const [px, py] = this.where.place(this.lineage.nodes[id]);
      const far = (px - x) ** 2 + (py - y) ** 2;
      if (far < least) [best, least] = [id, far];
    }
    return best ?? this.selected;
  }

  filter() {
    const words = this.text.toLowerCase().split(/\s+/).filter(Boolean);
    const hit = (n) => {
      if (this.hidden.has(groupOf(n.status).key) || (this.status && n.status !== this.status)) return false;
      if (!words.length) return true;
      const text = `#${n.id} ${n.kind} ${n.status} ${n.note} ${n.message} ${n.model} island${n.island}`.toLowerCase();
      return words.every((w) => text.includes(w));
    };
    this.shown = new Set(this.lineage.nodes.filter(hit).map((n) => n.id));
    this.order = [...this.shown];
    this.count.textContent = `${this.order.length} of ${this.lineage.nodes.length}`;
    this.rows.style.setProperty("height", this.order.length * ROW + "px");
    this.draw();
    this.drawList();
    this.tell();
  }

  refresh() {
    if (!this.zoomed) this.zoom = wholeOf(this.lineage);
    this.facts = known(this.lineage);
    this.filter();
  }

  pick(id) {
    if (id === null || id === undefined || id === this.selected) return;
    this.selected = id;
    set({ sel: id }, { quiet: true });
    const [x] = this.where.place(this.node);
    if (x < 54 || x > this.where.width) {
      const half = (this.zoom.x1 - this.zoom.x0) / 2;
      this.look({ ...this.zoom, x0: id - half, x1: id + half });
    } else {
      this.drawSelected();
    }
    this.tell();
    this.reveal();
  }

  /** Bring the selected proposal into the list's sight. */
  reveal() {
    const at = this.order.indexOf(this.selected) * ROW;
    if (at >= 0 && (at < this.list.scrollTop || at > this.list.scrollTop + this.list.clientHeight - ROW)) {
      this.list.scrollTop = at - this.list.clientHeight / 2;
    }
    this.drawList();
  }

  step(by) {
    const at = this.order.indexOf(this.selected);
    this.pick(at < 0 ? this.order[0] : this.order[clamp(at + by, 0, this.order.length - 1)]);
  }

  child() {
    const found = this.lineage.nodes.filter((n) => n.parent === this.selected);
    const best = found.reduce((a, b) => ((b.train?.score ?? -1) > (a?.train?.score ?? -1) ? b : a), null);
    this.pick(found.find((n) => this.lineage.path.includes(n.id))?.id ?? best?.id ?? found[0]?.id);
  }

  open() { if (this.node) go("candidate", { run: this.run, id: this.selected }); }

  resize() {
    const width = this.holder.clientWidth;
    if (!width || !this.canvas.isConnected) return;
    this.width = width;
    this.height = clamp(window.innerHeight - 230, 180 * Math.min(2, this.lineage.islands), 330 * this.lineage.islands + 60);
    this.draw();
    this.drawList();
  }

  draw() {
    if (!this.width) return;
    this.where = layout(this.lineage, this.zoom, this.width, this.height);
    for (const canvas of [this.canvas, this.above]) canvas.style.setProperty("height", this.height + "px");
    const { shown, facts, colours, moving } = this;
    draw(this.canvas, this.lineage, this.where, { shown, facts, colours, moving });
    this.drawSelected();
    this.canvas.setAttribute("aria-label", `${this.lineage.nodes.length} proposals on ${this.lineage.islands} islands, ${this.shown.size} shown; j and k step, h to the parent, l to a child, Enter opens`);
  }

  drawSelected() {
    if (this.width) drawSelection(this.above, this.lineage, this.where, { selected: this.selected, colours: this.colours });
  }

  drawList() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW) - 8);
    const last = Math.min(this.order.length, first + Math.ceil((this.list.clientHeight || 400) / ROW) + 16);
    this.rows.replaceChildren(...this.order.slice(first, last).map((id, k) => {
      const n = this.lineage.nodes[id];
      const group = groupOf(n.status);
      const row = h("a", { href: link("candidate", { run: this.run, id }), class: "entry" + (id === this.selected ? " on" : ""), tabindex: "-1",
        "aria-label": `proposal ${id}, ${n.status}${n.train ? ", score " + n.train.score.toFixed(4) : ""}`,
        onclick: (e) => { if (!e.ctrlKey && !e.metaKey && id !== this.selected) { e.preventDefault(); this.pick(id); } } },
      h("span", { class: "num" }, "#" + id), h("span", { class: "mark g-" + group.key, "aria-hidden": "true" }, group.mark),
      h("span", { class: "num" }, n.train ? fixed(n.train.score, 4) : ""), h("span", { class: "note" }, visible(n.note || n.kind)));
      row.style.setProperty("top", (first + k) * ROW + "px");
      return row;
    }));
  }

  tell() {
    const n = this.node;
    if (!n) return;
    const ref = (id) => h("button", { type: "button", class: "ref", onclick: () => this.pick(id) }, "#" + id);
    const children = this.lineage.nodes.filter((x) => x.parent === n.id);
    this.says.textContent = `proposal ${n.id}, ${n.status}${n.train ? ", score " + n.train.score.toFixed(4) : ""}`;
    const facts = [["parent", n.parent === null ? "none" : ref(n.parent)], ["children", String(children.length)],
      ["train", n.train ? `${fixed(n.train.score, 4)}, ${percent(n.train.oracle_share)} of oracle` : "\u2013"],
      ["holdout", n.holdout ? `${fixed(n.holdout.score, 4)}, ${percent(n.holdout.oracle_share)}` : "\u2013"],
      ["edit", visible(n.note) || "\u2013"], ["island", String(n.island)], ["in all", duration(n.elapsed_s)]];
    if (n.duplicate_of !== null) facts.push(["repeats", ref(n.duplicate_of)]);
    if (n.displaced.length) facts.push(["displaced", n.displaced.map(ref)]);
    const heirs = this.lineage.nodes.filter((x) => x.island === n.island && x.displaced.includes(n.id));
    if (heirs.length) facts.push(["displaced by", heirs.map((x) => ref(x.id))]);
    this.detail.replaceChildren(h("div", { class: "row" }, h("a", { class: "big", href: link("candidate", { ...{ run: this.run }, id: n.id }) }, `#${n.id}`), statusChip(n.status),
      n.id === this.lineage.winner ? h("span", { class: "chip good" }, "winner") : null),
    n.message ? h("p", { class: "message" }, visible(n.message)) : "",
    h("dl", { class: "facts" }, facts.map(([k, v]) => [h("dt", null, k), h("dd", null, v)])));
  }
}

