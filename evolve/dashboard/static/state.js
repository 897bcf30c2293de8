// Where the reader is: #VIEW?run=NAME&key=value. Everything that can be looked at can be linked to.

const listeners = [];

export function read() {
  const text = location.hash.slice(1);
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
  return "#" + view + (text ? "?" + text : "");
}

/** Go to another place; the browser's back button returns. */
export function go(view, values) {
  const target = link(view, values);
  if (target === location.hash) return;
  location.hash = target;
}

/** Change values of the present view. `quiet` leaves no trace in the history and draws nothing again. */
export function set(changes, { quiet = false } = {}) {
  const { view, values } = read();
  const target = link(view, { ...values, ...changes });
  if (target === location.hash) return;
  history.replaceState(null, "", target);
  if (!quiet) for (const listener of listeners) listener();
}

export function onChange(listener) {
  listeners.push(listener);
  window.addEventListener("hashchange", listener);
}
