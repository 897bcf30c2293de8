// Elements and text. Nothing in this front end parses markup: whatever a model or a candidate wrote ends in text nodes.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    // A style attribute would break the content-security policy; single properties do not.
    else if (name === "style") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

/** An HTML element; strings among the children become text nodes. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

/** Text of a model with the characters spelled out that would reorder or hide what stands beside them. */
export function visible(text) {
  return String(text).replace(
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

export const fixed = (x, digits) => (x === null || x === undefined ? "\u2013" : x.toFixed(digits));
export const times = (x, digits = 4) => (x === null || x === undefined ? "\u2013" : `${x.toFixed(digits)}\u00d7`);
export const percent = (x, digits = 1) => (x === null || x === undefined ? "\u2013" : `${(100 * x).toFixed(digits)}%`);
export const microseconds = (x) => (x === null || x === undefined ? "\u2013" : x.toFixed(x < 100 ? 2 : 1));

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "\u2013";
  if (seconds < 1) return `${(1000 * seconds).toFixed(0)} ms`;
  if (seconds < 90) return `${seconds.toFixed(1)} s`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** A count with its noun: 1 proposal, 2 proposals. */
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

export const dollars = (x) => `$${x && x < 0.1 ? x.toFixed(4) : x.toFixed(2)}`;

/**
 * A table from columns and rows; values are text or elements.
 * @param {string} caption
 * @param {{name: string, value: (row: any) => any, number?: boolean, wrap?: boolean, title?: string,
 *   sort?: {on: boolean, descending: boolean, pick: () => void}}[]} columns those with `sort` have a button as heading
 * @param {any[]} rows
 * @param {object} [attributes]
 */
export function table(caption, columns, rows, attributes) {
  const kind = (c) => [c.number ? "num" : "", c.wrap ? "wraps" : ""].join(" ").trim() || null;
  const order = (sort) => (!sort?.on ? null : sort.descending ? "descending" : "ascending");
  const heading = (c) =>
    c.sort
      ? h(
          "button",
          { type: "button", class: "sort", id: `sort-${c.name}`.replace(/\W+/g, "-"), onclick: c.sort.pick },
          c.name,
          h("span", { "aria-hidden": "true" }, !c.sort.on ? "" : c.sort.descending ? " \u25be" : " \u25b4"),
        )
      : c.name;
  const cell = (row) => (c, i) =>
    i === 0 ? h("th", { scope: "row", class: kind(c) }, c.value(row)) : h("td", { class: kind(c) }, c.value(row));
  return h(
    "table",
    attributes ?? {},
    h("caption", { class: "sr" }, caption),
    h(
      "thead",
      null,
      h(
        "tr",
        null,
        columns.map((c) =>
          h("th", { scope: "col", class: kind(c), title: c.title, "aria-sort": order(c.sort) }, heading(c)),
        ),
      ),
    ),
    h(
      "tbody",
      null,
      rows.map((row) => h("tr", null, columns.map(cell(row)))),
    ),
  );
}

/** A row of buttons of which one is pressed. */
export function choice(label, options, current, pick) {
  return h(
    "div",
    { class: "choice", role: "group", "aria-label": label },
    options.map(([value, text, title]) =>
      h(
        "button",
        {
          type: "button",
          id: `choice-${label}-${value}`.replace(/\W+/g, "-"),
          title,
          "aria-pressed": String(value === current),
          onclick: () => pick(value),
        },
        text,
      ),
    ),
  );
}

/** A titled part of a page. */
export function panel(title, attributes, ...children) {
  const id = `panel-${title.toLowerCase().replace(/\W+/g, "-")}`;
  return h(
    "section",
    { "aria-labelledby": id, ...attributes, class: `panel ${attributes?.class ?? ""}` },
    h("h2", { id }, title),
    children,
  );
}

/** A legend from [mark element class, text] pairs. */
export function legend(entries) {
  return h(
    "ul",
    { class: "legend" },
    entries.map(([kind, text]) => h("li", null, h("span", { class: `key ${kind}`, "aria-hidden": "true" }), text)),
  );
}

/** A place for a drawing, made anew whenever it gets another width; `data` says what is drawn, for `same`. */
export function drawing(data, draw) {
  const holder = h("div", { class: "drawing", "data-figure": JSON.stringify(data) });
  let width = 0;
  new ResizeObserver(() => {
    if (!holder.clientWidth || holder.clientWidth === width) return;
    width = holder.clientWidth;
    draw(holder, Math.max(240, width));
  }).observe(holder);
  return holder;
}

/** Whether two pieces of a page show the same; drawings are compared by their data. */
export function same(a, b) {
  if (a.nodeType !== b.nodeType || a.nodeName !== b.nodeName) return false;
  if (a.nodeType !== Node.ELEMENT_NODE) return a.nodeValue === b.nodeValue;
  if (a.dataset?.figure !== undefined) return a.dataset.figure === b.dataset.figure;
  if (a.attributes.length !== b.attributes.length || a.childNodes.length !== b.childNodes.length) return false;
  for (const { name, value } of a.attributes) if (b.getAttribute(name) !== value) return false;
  for (let i = 0; i < a.childNodes.length; i++) if (!same(a.childNodes[i], b.childNodes[i])) return false;
  return true;
}
