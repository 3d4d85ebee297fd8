// How cytoscape draws: the style sheet from a palette, and texts cut to the room they have.
import { HUES, STATES } from "./palette.js";

export const WIDTH = 116;
export const HEIGHT = 34;
export const NETWORK_WIDTH = 132;
const PADDING = 26;

const pen = document.createElement("canvas").getContext("2d");

export function textWidth(text, font) {
  pen.font = font;
  return pen.measureText(text).width;
}

/** `text`, or as much of its beginning and of its end, … between, as fits into `room` pixels: see text_width.py. */
export function shorten(text, room, font) {
  if (textWidth(text, font) <= room) return text;
  const signs = Array.from(text);
  const kept = (count) => [...signs.slice(0, (count + 1) >> 1), "…", ...signs.slice(signs.length - (count >> 1))].join("");
  let low = 0;
  let high = signs.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (textWidth(kept(middle), font) <= room) low = middle;
    else high = middle - 1;
  }
  return kept(low);
}

const BORDERS = { running: "solid", created: "dashed", paused: "double", exited: "solid", failed: "solid", removed: "dotted", lost: "solid" };
const BITE = 8; // the notches in the sides of what failed
const NOTCHED = [-1, -1, 1, -1, 1 - (2 * BITE) / WIDTH, 0, 1, 1, -1, 1, (2 * BITE) / WIDTH - 1, 0];
const SHAPES = {
  running: "round-rectangle",
  created: "round-rectangle",
  paused: "round-rectangle",
  exited: "rectangle",
  failed: "polygon",
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
      style: { width: WIDTH, height: HEIGHT, "border-width": 1.5, "text-wrap": "wrap" },
    },
    { selector: "node[ended]", style: { "font-size": 11, "line-height": 1.15 } },
    { selector: "node[kind != 'node']", style: { "z-compound-depth": "top" } }, // over the wires, wherever those lead
    {
      selector: "edge",
      style: {
        "curve-style": "straight",
        "line-color": palette.muted,
        "line-join": "round",
        width: 1.5,
        "overlay-opacity": 0,
      },
    },
    // Where Python has found a way: its corners. Until then, as while something is dragged, a straight line.
    {
      selector: "edge.laid",
      style: { "source-endpoint": (edge) => edge.scratch("laid").from, "target-endpoint": (edge) => edge.scratch("laid").to },
    },
    {
      selector: "edge.bent",
      style: {
        "curve-style": "segments",
        "edge-distances": "endpoints",
        "segment-weights": (edge) => edge.scratch("laid").weights,
        "segment-distances": (edge) => edge.scratch("laid").distances,
      },
    },
    {
      selector: "edge[kind = 'link']",
      style: { "line-style": "dotted", width: 2.5, "line-color": palette.text },
    },
    {
      selector: "node.address",
      style: {
        width: 1,
        height: 1,
        "background-opacity": 0,
        "border-width": 0,
        "font-family": palette.mono,
        "font-size": 10.5,
        "min-zoomed-font-size": 5,
        "text-outline-color": palette.node,
        "text-outline-width": 2,
        "z-index": 20,
        events: "no",
        "text-events": "no",
      },
    },
    { selector: "node.address.away", style: { visibility: "hidden" } },
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
        "shape-polygon-points": NOTCHED,
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
