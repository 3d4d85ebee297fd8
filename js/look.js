// How cytoscape draws: the style sheet from a palette, and texts cut to the room they have.
import { HUES, STATES } from "./palette.js";

export const WIDTH = 116;
export const HEIGHT = 34;
export const NETWORK_WIDTH = 132;
const PADDING = 26;
const LABEL_ROOM = 124;

const pen = document.createElement("canvas").getContext("2d");

export function textWidth(text, font) {
  pen.font = font;
  return pen.measureText(text).width;
}

/** `text`, or as much of it with … as fits into `room` pixels. */
export function shorten(text, room, font) {
  if (textWidth(text, font) <= room) return text;
  const signs = Array.from(text);
  let low = 0;
  let high = signs.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (textWidth(`${signs.slice(0, middle).join("")}…`, font) <= room) low = middle;
    else high = middle - 1;
  }
  return `${signs.slice(0, low).join("")}…`;
}

export const addressText = (label, palette) => shorten(label, LABEL_ROOM, `10.5px ${palette.mono}`);

/** How far from its container's border, along the wire, an address stands clear of the box. */
export function addressOffset(from, to, width) {
  const dx = Math.abs(to.x - from.x);
  const dy = Math.abs(to.y - from.y);
  const length = Math.hypot(dx, dy);
  const leaves = (x, y) => Math.min(dx ? x / dx : 1, dy ? y / dy : 1, 1);
  const label = Math.min(leaves(WIDTH / 2 + width / 2 + 3, HEIGHT / 2 + 13), 0.5);
  return Math.max(0, (label - leaves(WIDTH / 2, HEIGHT / 2)) * length);
}

/** How far above its wire an address stands: only where the wire is so level that it would strike it through. */
export const addressLift = (from, to) => (Math.abs(to.y - from.y) < 13 ? -9 : 0);

const BORDERS = { running: "solid", created: "dashed", paused: "double", exited: "solid", removed: "dotted", lost: "solid" };
const SHAPES = {
  running: "round-rectangle",
  created: "round-rectangle",
  paused: "round-rectangle",
  exited: "rectangle",
  removed: "rectangle",
  lost: "cut-rectangle",
};

export function styleSheet(palette) {
  const rules = [
    {
      selector: "node",
      style: {
        label: "data(text)",
        color: palette.text,
        "font-family": palette.font,
        "font-size": 12,
        "text-valign": "center",
        "text-halign": "center",
        "min-zoomed-font-size": 4,
        "overlay-opacity": 0,
      },
    },
    {
      selector: "node[kind = 'node']",
      style: {
        shape: "round-rectangle",
        width: 150,
        height: 60,
        padding: PADDING,
        "background-color": palette.node,
        "border-color": palette.line,
        "border-width": 1,
        color: palette.muted,
        "font-size": 13,
        "font-weight": "bold",
        "text-valign": "top",
        "text-halign": "left",
        "text-margin-x": "data(shift)",
        "text-margin-y": 20,
        "compound-sizing-wrt-labels": "exclude",
      },
    },
    { selector: "node[kind = 'node']:childless", style: { padding: 0 } },
    {
      selector: "node[kind = 'network']",
      style: {
        shape: "hexagon",
        width: NETWORK_WIDTH,
        height: 50,
        "background-color": palette.background,
        "border-width": 2,
        "text-wrap": "wrap",
        "line-height": 1.25,
      },
    },
    {
      selector: "node[kind = 'container']",
      style: { width: WIDTH, height: HEIGHT, "border-width": 1.5 },
    },
    {
      selector: "edge",
      style: {
        "curve-style": "straight",
        "line-color": palette.muted,
        width: 1.5,
        "font-family": palette.mono,
        "font-size": 10.5,
        "min-zoomed-font-size": 5,
        color: palette.text,
        "text-background-color": palette.node,
        "text-background-opacity": 0.9,
        "text-background-padding": 1.5,
        "overlay-opacity": 0,
      },
    },
    { selector: "edge.labelled[kind = 'endpoint']", style: { "source-label": "data(text)", "source-text-offset": "data(offset)", "source-text-margin-y": "data(lift)" } },
    {
      selector: "edge.trunk[kind = 'endpoint']",
      style: { "curve-style": "taxi", "taxi-direction": "vertical", "taxi-turn": 6, "taxi-turn-min-distance": 3 },
    },
    {
      selector: "edge[kind = 'link']",
      style: { "line-style": "dotted", width: 2.5, "line-color": palette.text, label: "data(text)" },
    },
    { selector: "node.chosen", style: { "border-width": 3, "border-color": palette.accent } },
    {
      selector: "node.chosen[kind != 'node']",
      style: { "underlay-color": palette.accent, "underlay-opacity": 0.25, "underlay-padding": 5 },
    },
    { selector: "edge.chosen, edge.beside", style: { width: 3.5, "z-index": 10 } },
    { selector: "edge.chosen", style: { "line-color": palette.accent } },
  ];
  for (const state of STATES) {
    rules.splice(-4, 0, {
      selector: `node[state = '${state}']`,
      style: {
        shape: SHAPES[state],
        "background-color": palette[`${state}-fill`],
        "border-color": palette[state],
        "border-style": BORDERS[state],
        "border-width": state === "paused" ? 4 : 1.5,
        color: state === "removed" ? palette.muted : palette.text,
      },
    });
  }
  for (let hue = 0; hue < HUES; hue += 1) {
    const colour = palette[`hue-${hue}`];
    rules.splice(-4, 0, { selector: `node[hue = ${hue}]`, style: { "border-color": colour } });
    rules.splice(-4, 0, { selector: `edge[hue = ${hue}]`, style: { "line-color": colour } });
  }
  return rules;
}
