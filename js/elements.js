// Brings what cytoscape holds up to date with the elements that Python sent, without moving what is there.
import { NETWORK_WIDTH, shorten, textWidth, WIDTH } from "./look.js";
import { SIGNS } from "./palette.js";

const DEPTH = { node: 0, network: 1, container: 1 };
const depth = (element) => (element.source ? 2 : (DEPTH[element.kind] ?? 1));

/** The text to draw for an element, cut to its room. */
function textOf(element, palette) {
  const font = `12px ${palette.font}`;
  if (element.source) return "";
  if (element.kind === "network") {
    const subnets = element.subnets ?? [];
    const more = subnets.length > 1 ? ` +${subnets.length - 1}` : "";
    const below = subnets.length ? `${subnets[0]}${more}` : (element.driver ?? "");
    return [element.label, below].filter(Boolean).map((line) => shorten(line, NETWORK_WIDTH - 34, font)).join("\n");
  }
  if (element.kind === "container") {
    const room = WIDTH - (element.state === "failed" ? 24 : 14);
    const sign = `${SIGNS[element.state] ?? "!"} `;
    const name = sign + shorten(element.label, room - textWidth(sign, font), font);
    return element.ended ? `${name}\n${shorten(element.ended, room, font)}` : name;
  }
  return element.label;
}

function dataOf(element, palette) {
  const data = { ...element, text: textOf(element, palette) };
  if (element.kind === "node") data.shift = textWidth(element.label, `bold 13px ${palette.font}`) + 10;
  delete data.x;
  delete data.y;
  if (!data.ended) delete data.ended;
  if (!data.parent) delete data.parent;
  return data;
}

/** Where an element stands: where a person dragged it, else where Python put it; null for what has no own place. */
export function positionOf(element, moved) {
  const dragged = moved[element.id];
  if (dragged) return { x: dragged[0], y: dragged[1] };
  return typeof element.x === "number" ? { x: element.x, y: element.y } : null;
}

/**
 * Add, update and remove. What is removed is faded out over `duration` ms and counts as gone at once; a node's box is as
 * large as with it until then, and `settled` is called. Returns whether anything was added or removed.
 */
export function update(cy, elements, { palette, moved, duration, settled }) {
  const wanted = new Map(elements.map((element) => [element.id, element]));
  let changed = false;
  // Names come back: what is still fading out under the same id has to go now.
  cy.elements(".leaving").filter((old) => wanted.has(old.id())).remove();
  cy.startBatch();
  const gone = cy.elements().filter((old) => !wanted.has(old.id()) && !old.is(".leaving, .address"));
  const fresh = cy.collection();
  for (const element of [...elements].sort((a, b) => depth(a) - depth(b))) {
    const data = dataOf(element, palette);
    const old = cy.getElementById(element.id);
    if (old.nonempty() && (old.data("source") !== data.source || old.data("target") !== data.target)) old.remove();
    else if (old.nonempty()) {
      if (old.isNode() && (old.data("parent") ?? null) !== (data.parent ?? null)) old.move({ parent: data.parent ?? null });
      for (const key of Object.keys(old.data())) {
        if (!(key in data) && key !== "parent") old.removeData(key);
      }
      old.data(data);
      continue;
    }
    const spec = { group: element.source ? "edges" : "nodes", data };
    const position = positionOf(element, moved);
    if (position) spec.position = position;
    fresh.merge(cy.add(spec));
    changed = true;
  }
  cy.endBatch();
  gone.addClass("leaving").unselectify().ungrabify();
  changed ||= gone.nonempty();
  if (duration) {
    const complete = () => {
      if (gone.filter(".leaving").remove().nonempty()) settled();
    };
    gone.animate({ style: { opacity: 0 } }, { duration, complete });
    fresh.style("opacity", 0).animate(
      { style: { opacity: 1 } },
      { duration, complete: () => fresh.removeStyle("opacity") },
    );
  } else gone.remove();
  showAddresses(cy, elements);
  layWires(cy.edges());
  return changed;
}

/** One small node for each address that has room: Python says where. */
function showAddresses(cy, elements) {
  const wanted = new Map(elements.filter((element) => element.shown).map((element) => [`shown:${element.id}`, element]));
  cy.nodes(".address").filter((old) => !wanted.has(old.id())).remove();
  for (const [id, { shown, shown_at: [x, y] }] of wanted) {
    const old = cy.getElementById(id);
    if (old.empty()) cy.add({ group: "nodes", classes: "address", data: { id, text: shown }, position: { x, y } }).ungrabify();
    else {
      old.data("text", shown);
      old.position({ x, y });
    }
  }
}

/** Bend wires as Python says, those whose ends are where they were then; others are straight and without their address. */
export function layWires(edges) {
  edges.forEach((edge) => {
    const wire = edge.data("wire") ?? [];
    const laid = wire.length > 1 && endsIn(edge.source(), wire[0]) && endsIn(edge.target(), wire.at(-1));
    if (laid) edge.scratch("laid", bends(edge, wire));
    edge.toggleClass("laid", laid).toggleClass("bent", laid && wire.length > 2);
    edge.cy().getElementById(`shown:${edge.id()}`).toggleClass("away", !laid);
    if (laid) edge.updateStyle();
  });
}

function endsIn(node, [x, y]) {
  const box = node.boundingBox({ includeLabels: false, includeUnderlays: false, includeOverlays: false });
  return x > box.x1 - 2 && x < box.x2 + 2 && y > box.y1 - 2 && y < box.y2 + 2;
}

/** A wire's corners in cytoscape's terms: where it ends from the middles of its nodes; how far along and off the chord. */
function bends(edge, wire) {
  const [[x, y], [toX, toY]] = [wire[0], wire.at(-1)];
  const [source, target] = [edge.source().position(), edge.target().position()];
  const length = Math.hypot(toX - x, toY - y);
  const along = ([a, b]) => ((a - x) * (toX - x) + (b - y) * (toY - y)) / length;
  const off = ([a, b]) => ((b - y) * (toX - x) - (a - x) * (toY - y)) / length;
  const corners = wire.slice(1, -1);
  return {
    from: [x - source.x, y - source.y],
    to: [toX - target.x, toY - target.y],
    weights: corners.map((corner) => along(corner) / length),
    distances: corners.map(off),
  };
}
