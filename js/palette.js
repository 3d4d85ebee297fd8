// The theme's colours, as values that a canvas can use, and word of their change.

export const STATES = ["running", "created", "paused", "exited", "failed", "removed", "lost"];
export const SIGNS = { running: "●", created: "○", paused: "‖", exited: "■", failed: "▲", removed: "×", lost: "!" };
export const HUES = 6;

const channels = (text) => (text.match(/[\d.]+/g) ?? ["0", "0", "0"]).map(Number);

/** Opaque colours by name, read off `probe`, an element inside the widget; plus the two font families. */
export function readPalette(probe) {
  const shown = getComputedStyle(probe);
  const spare = document.createElement("span");
  probe.append(spare);
  const read = (name) => {
    // Through the property `color`, so that any notation and any chain of variables becomes rgb(…).
    spare.style.color = `var(--ctlab-${name})`;
    return channels(getComputedStyle(spare).color);
  };
  const back = read("background");
  const colour = (name) => {
    // Themes have translucent greys; cytoscape ignores the alpha of a colour.
    const [red, green, blue, alpha = 1] = read(name);
    const blend = (front, behind) => Math.round(front * alpha + behind * (1 - alpha));
    return `rgb(${blend(red, back[0])},${blend(green, back[1])},${blend(blue, back[2])})`;
  };
  const names = ["text", "muted", "background", "line", "node", "accent"];
  for (const state of STATES) names.push(state, `${state}-fill`);
  for (let hue = 0; hue < HUES; hue += 1) names.push(`hue-${hue}`);
  const palette = Object.fromEntries(names.map((name) => [name, colour(name)]));
  spare.remove();
  palette.font = shown.getPropertyValue("--ctlab-font").trim() || "sans-serif";
  palette.mono = shown.getPropertyValue("--ctlab-mono").trim() || "monospace";
  return palette;
}

/**
 * Call back once the theme has changed. `probe` has a transition of 1 ms on its colours: no polling is needed. A change
 * of theme may hide the page for a moment, which cancels the transition: the colours are there then too.
 */
export function watchTheme(probe, changed) {
  const events = ["transitionend", "transitioncancel"];
  for (const name of events) probe.addEventListener(name, changed);
  return () => {
    for (const name of events) probe.removeEventListener(name, changed);
  };
}
