// Where the reader is: #VIEW?run=NAME&key=value. Everything that can be looked at can be linked to.

const listeners = [];

/** The address as it should be, where it is about to be written. */
let due = null;
let timer = null;
let written = 0;

/** Browsers refuse hundreds of changes of the address in a few seconds, which a held key or a dragged slider makes. */
const EVERY_MS = 150;

function write(target) {
  due = target;
  clearTimeout(timer);
  const wait = written + EVERY_MS - Date.now();
  if (wait > 0) timer = setTimeout(settle, wait);
  else settle();
}

function settle() {
  clearTimeout(timer);
  if (due === null || due === location.hash) {
    due = null;
    return;
  }
  const target = due;
  due = null;
  written = Date.now();
  history.replaceState(null, "", target);
}

export function read() {
  const text = (due ?? location.hash).slice(1);
  const cut = text.indexOf("?");
  const view = cut < 0 ? text : text.slice(0, cut);
  const values = {};
  for (const [key, value] of new URLSearchParams(cut < 0 ? "" : text.slice(cut + 1))) values[key] = value;
  return { view: view || "overview", values };
}

export function link(view, values) {
  const found = new URLSearchParams();
  for (const [key, value] of Object.entries(values)) {
    if (value !== null && value !== undefined && value !== "") found.set(key, String(value));
  }
  const text = found.toString();
  return `#${view}${text ? `?${text}` : ""}`;
}

/** Go to another place; the browser's back button returns. */
export function go(view, values) {
  const target = link(view, values);
  settle();
  if (target === location.hash) return;
  location.hash = target;
}

/** Change values of the present view. `quiet` leaves no trace in the history and draws nothing again. */
export function set(changes, { quiet = false } = {}) {
  const { view, values } = read();
  const target = link(view, { ...values, ...changes });
  if (target === (due ?? location.hash)) return;
  write(target);
  if (!quiet) settle();
  if (!quiet) for (const listener of listeners) listener();
}

export function onChange(listener) {
  listeners.push(listener);
  window.addEventListener("hashchange", () => {
    due = null;
    listener();
  });
}
