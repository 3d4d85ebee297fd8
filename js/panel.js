// What stands around the map: legend, buttons, the details of what is selected.
import { STATES } from "./palette.js";

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/**
 * The line below the map: the lab's name, how many containers are in which state, what the other shapes mean. `ended`:
 * what is said, and why, once the map no longer follows the lab.
 */
export function drawLegend(footer, name, elements, ended) {
  const counts = new Map();
  let networks = 0;
  let links = 0;
  for (const element of elements) {
    if (element.kind === "container") counts.set(element.state, (counts.get(element.state) ?? 0) + 1);
    networks += element.kind === "network";
    links += element.kind === "link";
  }
  const items = [make("span", { class: "name" }, name)];
  if (ended) items.push(make("span", { class: "ended", title: ended.title }, ended.text));
  for (const state of STATES) {
    if (!counts.has(state)) continue;
    const sample = make("i", { class: state });
    sample.style.borderColor = `var(--ctlab-${state})`;
    sample.style.background = `var(--ctlab-${state}-fill)`;
    items.push(make("span", {}, sample, `${counts.get(state)} ${state}`));
  }
  if (networks) items.push(make("span", {}, make("i", { class: "network" }), `${networks} network${networks > 1 ? "s" : ""}`));
  if (links) items.push(make("span", {}, make("i", { class: "link" }), `${links} link${links > 1 ? "s" : ""}`));
  const hint = ended ? "Ctrl + wheel to zoom" : "click for details, drag to arrange, Ctrl + wheel to zoom";
  items.push(make("span", { class: "hint" }, hint));
  footer.replaceChildren(...items);
}

/** The panel of the selected element; hidden if there is none. */
export function drawDetails(aside, element, details, close) {
  aside.hidden = !element;
  if (!element) return;
  const title = make("h4", {}, element.label || element.id, make("small", {}, element.kind));
  const button = make("button", { type: "button", "aria-label": "close the details", onclick: close }, "×");
  const list = make("dl");
  for (const [name, value] of Object.entries(details)) {
    const text = Array.isArray(value) ? value.join("\n") : String(value);
    if (text) list.append(make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, text));
  }
  aside.replaceChildren(make("header", {}, title, button), list);
}

/** The buttons in the map's corner. `actions`: a list of [text, what it does, callback]. */
export function drawTools(actions) {
  const buttons = actions.map(([text, what, act]) =>
    make("button", { type: "button", title: what, "aria-label": what, onclick: act }, text),
  );
  return make("div", { class: "tools" }, ...buttons);
}
