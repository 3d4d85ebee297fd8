// Brings what cytoscape holds up to date with the elements that Python sent, without moving what is there.
import { addressLift, addressOffset, addressText, NETWORK_WIDTH, shorten, textWidth, WIDTH } from "./look.js";
import { SIGNS } from "./palette.js";

const DEPTH = { node: 0, network: 1, container: 1 };
const depth = (element) => (element.source ? 2 : (DEPTH[element.kind] ?? 1));

/** The text to draw for an element, cut to its room. */
function textOf(element, palette) {
  const font = `12px ${palette.font}`;
  if (element.source) return element.label ? addressText(element.label, palette) : "";
  if (element.kind === "network") {
    const subnets = element.subnets ?? [];
    const more = subnets.length > 1 ? ` +${subnets.length - 1}` : "";
    const below = subnets.length ? `${subnets[0]}${more}` : (element.driver ?? "");
    return [element.label, below].filter(Boolean).map((line) => shorten(line, NETWORK_WIDTH - 34, font)).join("\n");
  }
  if (element.kind === "container") return shorten(`${SIGNS[element.state] ?? "!"} ${element.label}`, WIDTH - 14, font);
  return element.label;
}

function dataOf(element, palette) {
  const data = { ...element, text: textOf(element, palette) };
  if (element.kind === "node") data.shift = textWidth(element.label, `bold 13px ${palette.font}`) + 10;
  delete data.x;
  delete data.y;
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
export function update(cy, elements, { palette, moved, few, duration, settled }) {
  const wanted = new Map(elements.map((element) => [element.id, element]));
  let changed = false;
  // Names come back: what is still fading out under the same id has to go now.
  cy.elements(".leaving").filter((old) => wanted.has(old.id())).remove();
  cy.startBatch();
  const gone = cy.elements().filter((old) => !wanted.has(old.id()) && !old.hasClass("leaving"));
  const fresh = cy.collection();
  for (const element of [...elements].sort((a, b) => depth(a) - depth(b))) {
    const data = dataOf(element, palette);
    const old = cy.getElementById(element.id);
    if (old.nonempty() && (old.data("source") !== data.source || old.data("target") !== data.target)) old.remove();
    else if (old.nonempty()) {
      if (old.isNode() && (old.data("parent") ?? null) !== (data.parent ?? null)) old.move({ parent: data.parent ?? null });
      for (const key of Object.keys(old.data())) {
        if (!(key in data) && !["offset", "lift", "parent"].includes(key)) old.removeData(key);
      }
      old.data(data);
      continue;
    }
    if (element.source) Object.assign(data, { offset: 0, lift: 0 }); // until placeAddresses
    const spec = { group: element.source ? "edges" : "nodes", data };
    const position = positionOf(element, moved);
    if (position) spec.position = position;
    fresh.merge(cy.add(spec));
    changed = true;
  }
  const edges = cy.edges();
  edges.toggleClass("labelled", few);
  edges.toggleClass("trunk", !few);
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
  placeAddresses(cy.edges());
  return changed;
}

/** Keep addresses clear of their boxes after something was moved. */
export function placeAddresses(edges) {
  edges.forEach((edge) => {
    if (edge.data("kind") !== "endpoint") return;
    const width = textWidth(edge.data("text"), "10.5px monospace");
    const [from, to] = [edge.source().position(), edge.target().position()];
    edge.data({ offset: addressOffset(from, to, width), lift: addressLift(from, to) });
  });
}
