// Elements and text. Nothing in this front end parses markup: whatever a model or a candidate wrote ends in text nodes.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    // A style attribute would break the content-security policy; single properties do not.
    else if (name === "style") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else if (name === "value") element.value = value;
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
  return String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
}

export const fixed = (x, digits) => (x === null || x === undefined ? "\u2013" : x.toFixed(digits));
export const times = (x, digits = 4) => (x === null || x === undefined ? "\u2013" : x.toFixed(digits) + "\u00d7");
export const percent = (x, digits = 1) => (x === null || x === undefined ? "\u2013" : (100 * x).toFixed(digits) + "%");
export const microseconds = (x) => (x === null || x === undefined ? "\u2013" : x.toFixed(x < 100 ? 2 : 1));

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "\u2013";
  if (seconds < 1) return (1000 * seconds).toFixed(0) + " ms";
  if (seconds < 90) return seconds.toFixed(1) + " s";
  if (seconds < 5400) return (seconds / 60).toFixed(1) + " min";
  return (seconds / 3600).toFixed(1) + " h";
}

export const dollars = (x) => "$" + (x && x < 0.1 ? x.toFixed(4) : x.toFixed(2));

/** A table from columns of {name, value, number, title} and rows; values are text or elements. */
export function table(caption, columns, rows, attributes) {
  return h("table", { ...attributes },
    h("caption", { class: "sr" }, caption),
    h("thead", null, h("tr", null, columns.map((c) =>
      h("th", { scope: "col", class: c.number ? "num" : null, title: c.title }, c.name)))),
    h("tbody", null, rows.map((row) => h("tr", null, columns.map((c, i) => {
      const value = c.value(row);
      return i === 0 ? h("th", { scope: "row", class: c.number ? "num" : null }, value)
        : h("td", { class: c.number ? "num" : null }, value);
    })))));
}

/** A row of buttons of which one is pressed. */
export function choice(label, options, current, pick) {
  return h("div", { class: "choice", role: "group", "aria-label": label }, options.map(([value, text, title]) =>
    h("button", {
      type: "button", id: `choice-${label}-${value}`.replace(/\W+/g, "-"), title,
      "aria-pressed": String(value === current), onclick: () => pick(value),
    }, text)));
}

/** A titled part of a page. */
export function panel(title, attributes, ...children) {
  const id = "panel-" + title.toLowerCase().replace(/\W+/g, "-");
  return h("section", { "aria-labelledby": id, ...attributes, class: "panel " + (attributes?.class ?? "") },
    h("h2", { id }, title), children);
}
