// Lineage: every proposal and where it came from; picture, filters and list show the same selection.

import { clamp, h, panel, visible } from "./dom.js";
import { detail, legend, listEntry, tipText } from "./lineage_beside.js";
import { draw, drawSelection, known, palette } from "./lineage_canvas.js";
import { boundsOf, LEFT, layout, RIGHT, wholeOf, within, zoomFrom, zoomText } from "./lineage_layout.js";
import { GROUPS, groupOf } from "./scales.js";
import { go, set } from "./state.js";

const ROW = 26;

/** How long the view rests before what was left out while it moved is drawn again. */
const REST_MS = 120;

/** How long typing rests before programs and answers are searched, which takes the server or this page a moment. */
const SEARCH_MS = 250;

/**
 * @param {import("./types.js").Place} place
 * @returns {Promise<import("./types.js").Shown>}
 */
export async function lineageView({ source, run, values }) {
  const lineage = await source.lineage(run);
  if (!lineage.nodes.length) return { root: h("p", { class: "notice" }, "Nothing has been asked yet.") };
  const view = new Lineage(source, lineage, run, values);
  return {
    root: view.root,
    keys: view.keys,
    leave: () => view.leave(),
    ready: () => {
      view.resize();
      view.reveal();
    },
    update: async () => view.refresh(await source.lineage(run)),
  };
}

class Lineage {
  constructor(source, lineage, run, values) {
    this.source = source;
    this.lineage = lineage;
    this.run = run;
    this.hidden = new Set((values.hide ?? "").split(",").filter(Boolean));
    this.text = values.q ?? "";
    this.status = values.status ?? "";
    this.within = new Set();
    this.zoom = zoomFrom(values.z, lineage);
    this.zoomed = Boolean(values.z);
    // Until the reader picks one, the winner, whichever that is by then.
    this.picked = values.sel !== undefined && lineage.nodes[values.sel] !== undefined;
    this.selected = this.picked ? Number(values.sel) : lineage.winner;
    this.canvas = h("canvas", { tabindex: "0", role: "img", class: "tree", "aria-describedby": "lineage-says" });
    this.says = h("p", { id: "lineage-says", class: "sr", "aria-live": "polite" });
    this.above = h("canvas", { class: "tree above", "aria-hidden": "true" });
    this.tip = h("div", { class: "tip", hidden: true });
    this.holder = h("div", { class: "drawing" }, this.canvas, this.above, this.tip, this.says);
    this.detail = h("div", { class: "detail" });
    this.count = h("span", { class: "quiet" });
    this.rows = h("div", { class: "rows" });
    this.list = h(
      "div",
      {
        class: "list",
        tabindex: "0",
        role: "region",
        "aria-label": "List of proposals",
        onscroll: () => this.drawList(),
      },
      this.rows,
    );
    this.outcomes = h("div", { class: "choice", role: "group", "aria-label": "Outcomes shown" });
    this.legend = h("ul", { class: "legend" });
    this.root = h(
      "div",
      { class: "lineage" },
      panel("Lineage", { class: "picture" }, this.controls(), this.holder, this.legend),
      h(
        "div",
        { class: "side" },
        panel("Selected", null, this.detail),
        panel("Proposals", { class: "grow" }, h("div", { class: "row" }, this.count), this.list),
      ),
    );
    this.keys = {
      j: () => this.step(1),
      k: () => this.step(-1),
      h: () => this.pick(this.node?.parent),
      l: () => this.child(),
      Enter: () => this.open(),
      "+": () => this.scale(0.7),
      "=": () => this.scale(0.7),
      "-": () => this.scale(1 / 0.7),
      0: () => this.reset(),
      w: () => this.pick(this.lineage.winner),
      Escape: () => this.canvas.blur(),
    };
    this.colours = palette();
    this.listen();
    this.refresh(lineage);
    this.searchInside();
  }

  get node() {
    return this.lineage.nodes[this.selected];
  }

  controls() {
    const search = h("input", {
      type: "search",
      id: "search",
      value: this.text,
      placeholder: "number, status, edit, program, answer\u2026 (/)",
      "aria-label": "Search proposals, their programs and answers",
      oninput: (e) => {
        this.text = e.target.value;
        set({ q: this.text }, { quiet: true });
        this.within = new Set();
        this.filter();
        clearTimeout(this.searching);
        this.searching = setTimeout(() => this.searchInside(), SEARCH_MS);
      },
    });
    return h(
      "div",
      { class: "row" },
      search,
      this.outcomes,
      this.status
        ? h(
            "button",
            {
              type: "button",
              class: "chip",
              "aria-label": `Show all statuses, not only ${this.status}`,
              onclick: () => set({ status: "" }),
            },
            `only ${visible(this.status)} \u2715`,
          )
        : null,
      h(
        "span",
        { class: "push" },
        h("button", { type: "button", "aria-label": "Zoom in", onclick: () => this.scale(0.7) }, "+"),
        h("button", { type: "button", "aria-label": "Zoom out", onclick: () => this.scale(1 / 0.7) }, "\u2212"),
        h("button", { type: "button", "aria-label": "Show everything", onclick: () => this.reset() }, "all"),
      ),
    );
  }

  /** The buttons of the outcomes, with how many there are by now. */
  drawOutcomes() {
    const counts = new Map();
    for (const n of this.lineage.nodes) counts.set(groupOf(n.status).key, (counts.get(groupOf(n.status).key) ?? 0) + 1);
    const button = (g) =>
      h(
        "button",
        {
          type: "button",
          id: `outcome-${g.key}`,
          "aria-pressed": String(!this.hidden.has(g.key)),
          title: g.statuses.join(", "),
          onclick: () => {
            if (!this.hidden.delete(g.key)) this.hidden.add(g.key);
            set({ hide: [...this.hidden].join(",") }, { quiet: true });
            this.drawOutcomes();
            this.filter();
          },
        },
        h("span", { class: `mark g-${g.key}`, "aria-hidden": "true" }, g.mark),
        ` ${g.name} ${counts.get(g.key)}`,
      );
    const focused = this.outcomes.contains(document.activeElement) ? document.activeElement.id : null;
    this.outcomes.replaceChildren(...GROUPS.filter((g) => counts.has(g.key)).map(button));
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }

  listen() {
    const c = this.canvas;
    let drag = null;
    const touches = new Map();
    c.addEventListener("pointerdown", (e) => {
      touches.set(e.pointerId, [e.offsetX, e.offsetY]);
      drag = touches.size > 1 ? null : { x: e.offsetX, y: e.offsetY, zoom: { ...this.zoom }, moved: false };
      c.setPointerCapture(e.pointerId);
    });
    c.addEventListener("pointermove", (e) => {
      if (touches.size === 2 && touches.has(e.pointerId)) this.pinch(touches, e);
      else if (drag) this.dragged(drag, e);
      else this.point(e);
    });
    c.addEventListener("pointerup", (e) => {
      if (drag && !drag.moved) this.pick(this.nearest(e.offsetX, e.offsetY) ?? this.selected);
      touches.delete(e.pointerId);
      drag = null;
    });
    c.addEventListener("pointercancel", (e) => {
      touches.delete(e.pointerId);
      drag = null;
    });
    c.addEventListener("pointerleave", () => {
      this.tip.hidden = true;
    });
    c.addEventListener("dblclick", () => this.open());
    // The picture fills the screen: a wheel that always zoomed would keep readers from what lies below.
    c.addEventListener(
      "wheel",
      (e) => {
        if (!(e.ctrlKey || e.metaKey || document.activeElement === c)) return;
        e.preventDefault();
        this.scale(Math.exp(clamp(e.deltaY || e.deltaX, -120, 120) / 300), e);
      },
      { passive: false },
    );
    new ResizeObserver(() => this.resize()).observe(this.holder);
  }

  dragged(drag, e) {
    if (Math.hypot(e.offsetX - drag.x, e.offsetY - drag.y) > 4) drag.moved = true;
    if (!drag.moved) return;
    const { x0, x1, y0, y1 } = drag.zoom;
    const dx = ((e.offsetX - drag.x) / (this.where.width - LEFT - RIGHT)) * (x1 - x0);
    const dy = ((e.offsetY - drag.y) / this.where.tall) * (y1 - y0);
    this.look({ x0: x0 - dx, x1: x1 - dx, y0: y0 + dy, y1: y1 + dy });
  }

  pinch(touches, e) {
    const spread = () => {
      const [[ax, ay], [bx, by]] = [...touches.values()];
      return { far: Math.hypot(ax - bx, ay - by), offsetX: (ax + bx) / 2, offsetY: (ay + by) / 2 };
    };
    const before = spread();
    touches.set(e.pointerId, [e.offsetX, e.offsetY]);
    const now = spread();
    if (before.far > 0 && now.far > 0) this.scale(before.far / now.far, now);
  }

  /** Say beside the pointer what lies under it. */
  point(e) {
    const id = this.nearest(e.offsetX, e.offsetY);
    this.tip.hidden = id === null;
    if (id === null) return;
    this.tip.textContent = tipText(this.lineage, id);
    const right = e.offsetX > this.where.width / 2;
    this.tip.style.setProperty("left", right ? "auto" : `${e.offsetX + 14}px`);
    this.tip.style.setProperty("right", right ? `${this.where.width - e.offsetX + 14}px` : "auto");
    this.tip.style.setProperty("top", `${e.offsetY + 12}px`);
  }

  look(zoom) {
    this.zoom = within(zoom, boundsOf(this.lineage));
    this.zoomed = true;
    this.moving = true;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      this.moving = false;
      this.draw();
    }, REST_MS);
    if (!this.frame) {
      this.frame = requestAnimationFrame(() => {
        this.frame = null;
        this.draw();
      });
    }
    clearTimeout(this.later);
    this.later = setTimeout(() => this.canvas.isConnected && set({ z: zoomText(this.zoom) }, { quiet: true }), 250);
  }

  /** Stop what is still due when another view is shown. */
  leave() {
    clearTimeout(this.rest);
    clearTimeout(this.later);
    clearTimeout(this.searching);
    cancelAnimationFrame(this.frame);
  }

  scale(factor, at) {
    const z = this.zoom;
    const cx = at ? this.where.back(at.offsetX) : (z.x0 + z.x1) / 2;
    const cy = at ? clamp(this.where.score(at.offsetY), z.y0, z.y1) : (z.y0 + z.y1) / 2;
    const sx = at?.shiftKey ? 1 : factor;
    if ((z.x1 - z.x0) * sx < 4 && factor < 1) return;
    this.look({
      x0: cx - (cx - z.x0) * sx,
      x1: cx + (z.x1 - cx) * sx,
      y0: cy - (cy - z.y0) * factor,
      y1: cy + (z.y1 - cy) * factor,
    });
  }

  reset() {
    this.zoom = wholeOf(this.lineage);
    this.zoomed = false;
    clearTimeout(this.later);
    set({ z: "" }, { quiet: true });
    this.draw();
  }

  /** The proposal under a place of the picture, if there is one. */
  nearest(x, y) {
    let [best, least] = [null, 24 ** 2];
    for (const id of this.shown) {
      const [px, py] = this.where.place(this.lineage.nodes[id]);
      const far = (px - x) ** 2 + (py - y) ** 2;
      if (far < least) [best, least] = [id, far];
    }
    return best;
  }

  /** Look for the text in programs and answers as well. */
  async searchInside() {
    const text = this.text.trim();
    if (text.length < 2) return;
    const found = await this.source.search(this.run, text).catch(() => []);
    if (text !== this.text.trim() || !this.root.isConnected) return;
    this.within = new Set(found);
    this.filter();
  }

  filter() {
    const words = this.text.toLowerCase().split(/\s+/).filter(Boolean);
    const hit = (n) => {
      if (this.hidden.has(groupOf(n.status).key) || (this.status && n.status !== this.status)) return false;
      if (!words.length || this.within.has(n.id)) return true;
      const said = `${n.note} ${n.rationale} ${n.message}`;
      const text = `#${n.id} ${n.kind} ${n.status} ${said} ${n.model} island${n.island}`.toLowerCase();
      return words.every((w) => text.includes(w));
    };
    this.shown = new Set(this.lineage.nodes.filter(hit).map((n) => n.id));
    this.order = [...this.shown];
    this.count.textContent = `${this.order.length} of ${this.lineage.nodes.length}`;
    this.rows.style.setProperty("height", `${this.order.length * ROW}px`);
    this.draw();
    this.drawList();
    this.tell();
  }

  /** Show what the run holds by now. */
  refresh(lineage) {
    this.lineage = lineage;
    if (!this.zoomed) this.zoom = wholeOf(lineage);
    if (!this.picked) this.selected = lineage.winner;
    this.facts = known(lineage);
    this.drawOutcomes();
    this.legend.replaceChildren(...legend(lineage));
    this.filter();
  }

  pick(id) {
    if (id === null || id === undefined || id === this.selected) return;
    this.selected = id;
    this.picked = true;
    set({ sel: id }, { quiet: true });
    const [x] = this.where.place(this.node);
    if (x < LEFT || x > this.where.width - RIGHT) {
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

  /** To the next or previous one shown; from one that is filtered out, to its neighbour among those. */
  step(by) {
    const at = this.order.indexOf(this.selected);
    if (at >= 0) {
      this.pick(this.order[clamp(at + by, 0, this.order.length - 1)]);
      return;
    }
    const beside =
      by > 0 ? this.order.find((id) => id > this.selected) : this.order.findLast((id) => id < this.selected);
    this.pick(beside ?? (by > 0 ? this.order.at(-1) : this.order[0]));
  }

  child() {
    const found = this.lineage.nodes.filter((n) => n.parent === this.selected);
    const best = found.reduce((a, b) => ((b.train?.score ?? -1) > (a?.train?.score ?? -1) ? b : a), null);
    this.pick(found.find((n) => this.lineage.path.includes(n.id))?.id ?? best?.id ?? found[0]?.id);
  }

  open() {
    if (this.node) go("candidate", { run: this.run, id: this.selected });
  }

  resize() {
    const width = this.holder.clientWidth;
    if (!width || !this.canvas.isConnected) return;
    this.width = width;
    const least = 180 * Math.min(2, this.lineage.islands);
    this.height = clamp(window.innerHeight - 230, least, 330 * this.lineage.islands + 60);
    this.draw();
    this.drawList();
  }

  draw() {
    if (!this.width) return;
    this.where = layout(this.lineage, this.zoom, this.width, this.height);
    for (const canvas of [this.canvas, this.above]) canvas.style.setProperty("height", `${this.height}px`);
    const { shown, facts, colours, moving } = this;
    draw(this.canvas, this.lineage, this.where, { shown, facts, colours, moving });
    this.drawSelected();
    const { nodes, islands } = this.lineage;
    const keys = "j and k step, h to the parent, l to a child, Enter opens";
    const label = `${nodes.length} proposals on ${islands} islands, ${shown.size} shown; ${keys}`;
    this.canvas.setAttribute("aria-label", label);
  }

  drawSelected() {
    if (!this.width) return;
    drawSelection(this.above, this.lineage, this.where, { selected: this.selected, colours: this.colours });
  }

  drawList() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW) - 8);
    const last = Math.min(this.order.length, first + Math.ceil((this.list.clientHeight || 400) / ROW) + 16);
    const row = (id, k) => {
      const on = id === this.selected;
      const onclick = (e) => {
        if (e.ctrlKey || e.metaKey || id === this.selected) return;
        e.preventDefault();
        this.pick(id);
      };
      return listEntry(this.lineage, id, { run: this.run, on, top: (first + k) * ROW, onclick });
    };
    this.rows.replaceChildren(...this.order.slice(first, last).map(row));
  }

  tell() {
    const n = this.node;
    if (!n) return;
    this.says.textContent = `proposal ${n.id}, ${n.status}${n.train ? `, score ${n.train.score.toFixed(4)}` : ""}`;
    this.detail.replaceChildren(...detail(this.lineage, n, { run: this.run, pick: (id) => this.pick(id) }));
  }
}
