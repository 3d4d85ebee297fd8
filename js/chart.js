// The live chart of a lab: an anywidget view. A picture is state of the model; what a view has drawn it says on the
// model's own channel, and only then does the next picture come (ctlab/notebook/chart_pace.py).
import Plotly from "plotly.js-basic-dist-min";
import css from "./chart.css";
import { layoutOf, tracesOf } from "./chart_draw.js";
import { instead, stopped, watchKernel } from "./kernel.js";
import { readPalette, watchTheme } from "./palette.js";
import { make } from "./panel.js";

const CONFIG = {
  displaylogo: false,
  showTips: false,
  responsive: false, // a window isn't all that changes the place's width: see ResizeObserver
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], // named, since plotly.js also offers to share
};
const STALE_MS = 8000; // without a picture: nothing feeds the chart any more

function render({ model, el }) {
  const view = crypto.randomUUID?.() ?? String(Math.random());
  const probe = make("span", { class: "probe" });
  const name = make("strong", {});
  const state = make("span", { class: "state" });
  const said = make("span", { class: "said" });
  const legend = make("div", { class: "legend", role: "group", "aria-label": "lines" });
  const plot = make("div", { class: "plot" });
  const root = make("div", { class: "ctlab ctlab-live" });
  root.append(make("style", {}, css), instead(model), probe, make("header", {}, name, state, said), legend, plot);
  el.append(root);

  let palette = readPalette(probe);
  let drawn = 0; // number of the newest picture on the page
  let looked = null; // whether somebody can see this view, as last told
  let inside = false; // whether it is in the visible part of the page
  let tried = 0; // the same of the newest that it has tried to draw
  let dirty = false; // whether what is drawn has to be drawn anew
  let drawing = false;
  let received = performance.now();
  let left = false;
  let kernel = ""; // what is wrong with it, if anything
  const hidden = new Set(); // names that a person has switched off

  // --- to Python

  function tell(more = {}) {
    if (kernel === "gone") return;
    try {
      model.send({ view, visible: looked === true, drawn, took_seconds: 0, ...more });
    } catch {
      // The kernel is gone, or another one is there; the chart will say so by itself.
    }
  }
  function look() {
    const now = inside && !document.hidden;
    if (now === looked || left) return;
    looked = now;
    if (now) {
      received = performance.now(); // nothing was sent to a hidden view
      schedule();
    }
    tell();
    heed();
  }

  // --- the picture

  function schedule() {
    const news = dirty || model.get("picture").number > tried;
    // The first one is drawn wherever it is: who prints the page, or scrolls, finds a chart.
    if (!news || drawing || left || (!looked && drawn)) return;
    drawing = true;
    requestAnimationFrame(draw);
  }
  async function draw() {
    const began = performance.now();
    const picture = model.get("picture");
    tried = picture.number;
    dirty = false;
    try {
      if (!left && plot.clientWidth) {
        const { layout, panes } = model.get("figure");
        const traces = tracesOf(picture, panes, hidden);
        await Plotly.react(plot, traces, layoutOf(layout, picture, palette, plot.clientWidth), CONFIG);
        words(picture);
        drawn = picture.number;
        root.dataset.drawn = String(drawn);
        root.dataset.newest = String(picture.window[1]);
      }
    } finally {
      // After the browser has painted it, and has had its turn with everything else.
      requestAnimationFrame(() => setTimeout(() => done(picture, performance.now() - began), 0));
    }
  }
  function done(picture, took) {
    drawing = false;
    if (left) return;
    if (drawn === picture.number) tell({ took_seconds: took / 1000 });
    schedule();
  }
  function words(picture) {
    name.textContent = picture.lab;
    said.textContent = picture.said;
    const shown = picture.names.map((text, index) => [text, picture.colours[index]]);
    const key = JSON.stringify([shown, [...hidden]]);
    if (legend.dataset.key === key) return;
    legend.dataset.key = key;
    legend.replaceChildren(
      ...shown.map(([text, colour]) => {
        const off = hidden.has(text);
        const sample = make("i", {});
        sample.style.background = colour;
        const title = `${text}: ${off ? "show" : "hide"}`;
        return make("button", { type: "button", title, "aria-pressed": String(!off), onclick: () => toggle(text) }, sample, text);
      }),
    );
  }
  function toggle(text) {
    if (!hidden.delete(text)) hidden.add(text);
    again();
  }
  function again() {
    dirty = true;
    schedule();
  }

  // --- whether anything feeds it

  function heed() {
    const { window: shown } = model.get("picture");
    const silent = performance.now() - received;
    const patience = Math.max(STALE_MS, 3000 * model.get("period_seconds"));
    const stale = kernel || (looked === true && silent > patience ? "gone" : "");
    const { text, title } = stale ? stopped(stale, shown[1]) : { text: "live", title: "" };
    root.dataset.state = stale ? "stopped" : "live";
    state.textContent = text;
    state.title = title;
  }
  const unheard = watchKernel(model, (now) => {
    kernel = now;
    received = performance.now();
    heed();
  });
  const heeding = setInterval(heed, 1000);

  // --- life

  function came() {
    received = performance.now();
    heed();
    schedule();
  }
  model.on("change:picture", came);
  const seen = new IntersectionObserver((entries) => {
    inside = entries[entries.length - 1].isIntersecting;
    look();
    if (!inside) setTimeout(leaveIfAbandoned, 1000);
  });
  seen.observe(root);
  document.addEventListener("visibilitychange", look);
  const unwatch = watchTheme(probe, () => {
    palette = readPalette(probe);
    again();
  });
  let width = 0;
  const sizes = new ResizeObserver(() => {
    if (!plot.clientWidth || plot.clientWidth === width) return;
    width = plot.clientWidth;
    palette = readPalette(probe); // a view may be made outside of the page, where there are no colours
    again();
  });
  sizes.observe(plot);
  words(model.get("picture"));
  heed();

  // An output that is updated gets another view of the model, and JupyterLab drops the old one without a word: its
  // element has no parent then. (A cell that was scrolled away is out of the page too, but whole.)
  function leaveIfAbandoned() {
    if (!inside && !el.parentElement) leave();
  }
  function leave() {
    if (left) return;
    left = true;
    model.off("change:picture", came);
    document.removeEventListener("visibilitychange", look);
    clearInterval(heeding);
    seen.disconnect();
    sizes.disconnect();
    unwatch();
    unheard();
    tell({ gone: true });
    Plotly.purge(plot);
    root.remove();
  }
  return leave;
}

export default { render };
