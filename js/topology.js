// The live map of a lab: an anywidget view. State lives in the model's traits, so that a second view, a
// redisplay or a reload shows the same; only zoom and pan are kept here, per model.
import cytoscape from "cytoscape";
import { layWires, positionOf, update } from "./elements.js";
import { instead, stopped, watchKernel } from "./kernel.js";
import { styleSheet } from "./look.js";
import { readPalette, watchTheme } from "./palette.js";
import { drawDetails, drawLegend, drawTools, make } from "./panel.js";
import css from "./topology.css";

const NARROW = 640; // below this width the details stand under the map
const LARGEST = 1.25; // a small lab isn't blown up more than this
const viewports = new WeakMap();

function render({ model, el }) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const duration = calm ? 0 : 250;
  const probe = make("span", { class: "probe" });
  const map = make("div", { class: "map", tabindex: "0", role: "application", "aria-label": "map of the lab" });
  const nothing = make("div", { class: "nothing" }, "nothing here yet: %network create, %container run");
  const aside = make("aside", { hidden: "", "aria-label": "details" });
  const footer = make("footer");
  const heard = make("span", { class: "heard", "aria-live": "polite" });
  // JupyterLab would take the arrow keys for its own as long as the notebook is in command mode.
  const root = make("div", { class: "ctlab ctlab-topology", "data-lm-suppress-shortcuts": "true" });
  root.append(make("style", {}, css), instead(model), probe, make("div", { class: "body" }, map, aside), footer, heard);
  el.append(root);

  let palette = readPalette(probe);
  const cy = cytoscape({
    container: map,
    style: styleSheet(palette),
    layout: { name: "preset" }, // none: Python says where things stand
    boxSelectionEnabled: false,
    autounselectify: true,
    userZoomingEnabled: false, // a plain wheel belongs to the page
    minZoom: 0.05,
    maxZoom: 4,
  });
  const viewport = viewports.get(model) ?? { touched: false };
  viewports.set(model, viewport);
  let uncovered = false; // whether it was moved for the details
  let ended = null; // what is said once nothing comes from the kernel any more
  const elements = () => model.get("elements");
  const find = (id) => elements().find((element) => element.id === id);

  // --- the viewport

  function fitting() {
    const box = cy.elements().not(".leaving").boundingBox({ includeLabels: false });
    const width = cy.width();
    const height = cy.height();
    const below = (above) => {
      const zoom = Math.min(LARGEST, (width - 32) / box.w, (height - 32 - above) / box.h);
      return { zoom, left: (width - zoom * box.w) / 2, top: above + (height - above - zoom * box.h) / 2 };
    };
    let place = below(0);
    if (underTools(place.left) && place.top < tools.offsetHeight + 16) place = below(tools.offsetHeight);
    const { zoom, left, top } = place;
    return { zoom, pan: { x: left - zoom * box.x1, y: top - zoom * box.y1 } };
  }
  // Whether something that begins so far from the map's left and right reaches below the buttons in the corner.
  function underTools(left) {
    return left < tools.offsetWidth + 16;
  }
  function fit(animated) {
    if (!map.clientWidth || cy.elements().empty()) return;
    cy.stop();
    if (animated && duration) cy.animate({ ...fitting(), duration });
    else cy.viewport(fitting());
  }
  function fitHeight() {
    // Wide and flat or a hundred containers: the map takes the height that it needs, within reason, and never shrinks.
    const box = cy.elements().not(".leaving").boundingBox({ includeLabels: false });
    const zoom = Math.min(LARGEST, (map.clientWidth - 32) / Math.max(box.w, 1));
    const above = underTools((map.clientWidth - box.w * zoom) / 2) ? tools.offsetHeight : 0;
    const height = Math.min(560, Math.max(260, Math.ceil(box.h * zoom) + 40 + above, map.clientHeight));
    if (map.clientWidth) map.style.height = `${height}px`;
  }
  function zoomBy(factor, at = { x: cy.width() / 2, y: cy.height() / 2 }) {
    viewport.touched = true;
    cy.stop();
    cy.zoom({ level: cy.zoom() * factor, renderedPosition: at });
  }
  function fitAgain() {
    viewport.touched = false;
    fit(true);
  }
  const tools = drawTools([
    ["+", "zoom in", () => zoomBy(1.25)],
    ["−", "zoom out", () => zoomBy(0.8)],
    ["fit", "show everything", fitAgain],
    ["tidy", "arrange everything anew", tidy],
  ]);
  map.append(nothing, tools);
  function tidy() {
    model.set("tidy_requests", model.get("tidy_requests") + 1);
    save();
  }
  const wheel = (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    const frame = map.getBoundingClientRect();
    zoomBy(Math.exp(-event.deltaY / 400), { x: event.clientX - frame.left, y: event.clientY - frame.top });
  };
  map.addEventListener("wheel", wheel, { passive: false, capture: true });

  // --- from the model to the map

  function show(first) {
    const settled = () => {
      if (!viewport.touched) fit(true);
    };
    const changed = update(cy, elements(), { palette, moved: model.get("moved"), duration: first ? 0 : duration, settled });
    nothing.hidden = elements().length > 0;
    legend();
    choose();
    const count = (kind) => String(elements().filter((element) => element.kind === kind).length);
    root.dataset.containers = count("container");
    root.dataset.networks = count("network");
    root.dataset.nodes = count("node");
    root.dataset.edges = String(elements().filter((element) => element.source).length);
    root.dataset.paper = palette.background;
    if (changed && !viewport.touched) {
      fitHeight();
      cy.resize();
      fit(!first);
    }
  }
  function legend() {
    drawLegend(footer, model.get("name"), elements(), ended);
  }
  function choose() {
    const id = model.get("selected");
    const element = find(id);
    cy.elements(".chosen, .beside").removeClass("chosen beside");
    const chosen = cy.getElementById(id);
    chosen.addClass("chosen");
    if (chosen.isNode() && chosen.data("kind") !== "node") chosen.connectedEdges().addClass("beside");
    drawDetails(aside, element, model.get("details"), () => select(""));
    if (root.dataset.selected !== (element ? id : "")) uncover(chosen);
    heard.textContent = element ? [element.kind, element.label, element.state].filter(Boolean).join(" ") : "";
    root.dataset.selected = element ? id : "";
  }
  // The details lie over the map: what they are about moves beside them, and back again when they are closed.
  function uncover(chosen) {
    if (aside.hidden && uncovered && !viewport.touched) fit(true);
    uncovered = false;
    if (aside.hidden || chosen.empty() || root.classList.contains("narrow")) return;
    const frame = map.getBoundingClientRect();
    const card = aside.getBoundingClientRect();
    const box = chosen.renderedBoundingBox({ includeLabels: false });
    const over = Math.min(frame.left + box.x2 + 12 - card.left, box.x1 - 12);
    if (over <= 0 || frame.top + box.y2 < card.top) return;
    uncovered = true;
    cy.stop();
    if (duration) cy.animate({ panBy: { x: -over, y: 0 }, duration });
    else cy.panBy({ x: -over, y: 0 });
  }
  function move() {
    for (const element of elements()) {
      const node = cy.getElementById(element.id);
      const position = positionOf(element, model.get("moved"));
      if (!position || node.empty() || node.grabbed() || node.isParent()) continue;
      const at = node.position();
      if (Math.hypot(at.x - position.x, at.y - position.y) > 0.5) node.position(position);
    }
    layWires(cy.edges());
  }
  function arrange() {
    move();
    viewport.touched = false;
    fitHeight();
    cy.resize();
    fit(true);
  }
  const listeners = {
    "change:elements": () => show(false),
    "change:name": legend,
    "change:selected change:details": choose,
    "change:moved": move,
    "change:layout_version": arrange,
  };
  for (const [names, listener] of Object.entries(listeners)) {
    for (const name of names.split(" ")) model.on(name, listener);
  }

  // --- from the person to the model

  function save() {
    if (!ended) model.save_changes();
  }
  function select(id) {
    if (model.get("selected") === id || (ended && id)) return; // only the kernel knows details
    model.set({ selected: id, details: {} });
    save();
  }
  cy.on("tap", (event) => select(event.target === cy || event.target.hasClass("leaving") ? "" : event.target.id()));
  cy.on("drag", "node", (event) => layWires(event.target.union(event.target.descendants()).connectedEdges()));
  cy.on("dragfree", "node", (event) => {
    const moved = { ...model.get("moved") };
    const dragged = event.target.isParent() ? event.target.descendants() : event.target;
    dragged.forEach((node) => {
      moved[node.id()] = [Math.round(node.position("x")), Math.round(node.position("y"))];
    });
    model.set("moved", moved);
    save();
  });
  cy.on("dragpan", () => {
    viewport.touched = true;
  });
  cy.on("viewport", () => Object.assign(viewport, { zoom: cy.zoom(), pan: { ...cy.pan() } }));
  cy.on("mouseover", "node, edge", (event) => {
    const data = event.target.data();
    map.classList.add("over");
    map.title = [data.label, data.state, data.driver, ...(data.subnets ?? [])].filter(Boolean).join(", ");
  });
  cy.on("mouseout", "node, edge", () => {
    map.classList.remove("over");
    map.title = "";
  });
  // cytoscape remembers where the map is in the page; it can't notice scrolling if the view was made outside of it.
  const located = () => cy.resize();
  map.addEventListener("pointerenter", located);
  map.addEventListener("pointerdown", located, { capture: true });
  // Not before the mouse is up: cytoscape takes the focus away from everything when a button goes down.
  map.addEventListener("mouseup", () => map.focus({ preventScroll: true }));
  map.addEventListener("keydown", (event) => {
    if (event.target !== map || event.ctrlKey || event.metaKey || event.altKey) return;
    const ids = elements().map((element) => element.id);
    const here = ids.indexOf(model.get("selected"));
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step && ids.length) select(ids[here < 0 ? (step > 0 ? 0 : ids.length - 1) : (here + step + ids.length) % ids.length]);
    else if (event.key === "Escape") select("");
    else if (event.key === "+" || event.key === "=") zoomBy(1.25);
    else if (event.key === "-") zoomBy(0.8);
    else if (event.key === "0") fitAgain();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  // --- life

  // As it was then. What only the kernel could answer can't be asked any more.
  const unheard = watchKernel(model, (state) => {
    ended = state ? stopped(state, Date.now()) : null;
    root.dataset.state = ended ? "stopped" : "live";
    cy.autoungrabify(Boolean(ended));
    legend();
  });
  function repaint() {
    palette = readPalette(probe);
    cy.style(styleSheet(palette));
    show(false);
  }
  const unwatch = watchTheme(probe, repaint);
  let shown = false;
  const sizes = new ResizeObserver(() => {
    if (!map.clientWidth) {
      if (shown) setTimeout(leaveIfAbandoned, 1000);
      shown = false;
      return;
    }
    root.classList.toggle("narrow", root.clientWidth < NARROW);
    // A view may be made, and a notebook scrolled, outside of the page, where there are no colours and no sizes.
    if (!shown) {
      shown = true;
      repaint();
      if (!viewport.touched) fitHeight();
    }
    cy.resize();
    if (!viewport.touched) fit(false);
  });
  const kept = viewport.touched && viewport.zoom ? { zoom: viewport.zoom, pan: viewport.pan } : null;
  root.classList.toggle("narrow", el.clientWidth > 0 && el.clientWidth < NARROW);
  show(true);
  if (kept) cy.viewport(kept);
  sizes.observe(map);
  sizes.observe(root);
  // For tests and for scripts in a page: where an element stands on the map, and in the window.
  root.place = (id) => ({ ...cy.getElementById(id).position() });
  // The corners of an edge as they are drawn, on the map.
  root.wire = (id) => {
    const edge = cy.getElementById(id);
    return [edge.sourceEndpoint(), ...(edge.segmentPoints() ?? []), edge.targetEndpoint()].map(({ x, y }) => [x, y]);
  };
  root.addresses = () => cy.nodes(".address").not(".away").map((node) => node.data("text"));
  root.locate = (id) => {
    const at = cy.getElementById(id).renderedPosition();
    const frame = map.getBoundingClientRect();
    return { x: frame.left + at.x, y: frame.top + at.y };
  };
  root.dataset.state = "live";
  root.dataset.ready = "true";
  // An output that is updated gets another view of the model, and JupyterLab drops the old one without a word: its
  // element has no parent then. (A cell that was scrolled away is out of the page too, but whole.)
  function leaveIfAbandoned() {
    if (!el.parentElement) leave();
  }
  let left = false;
  function leave() {
    if (left) return;
    left = true;
    for (const [names, listener] of Object.entries(listeners)) {
      for (const name of names.split(" ")) model.off(name, listener);
    }
    sizes.disconnect();
    unwatch();
    unheard();
    cy.destroy();
    root.remove();
  }
  return leave;
}

export default { render };
