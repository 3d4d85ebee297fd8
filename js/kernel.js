// Whether the kernel that a view shows is still there. One that is restarted or killed says nothing at its end, so a
// page finds out by itself.
import { make } from "./panel.js";

const ENDED = new Set(["restarting", "autorestarting", "dead", "terminating"]);
const WHY = {
  gone: "nothing comes from the kernel of this notebook any more",
  away: "there is no connection to the kernel of this notebook",
};
const pad = (number) => String(number).padStart(2, "0");

export function clock(ms) {
  const at = new Date(ms);
  const day = `${at.getUTCFullYear()}-${pad(at.getUTCMonth() + 1)}-${pad(at.getUTCDate())}`;
  return `${day} ${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}:${pad(at.getUTCSeconds())} UTC`;
}

/** What a view says of itself once nothing comes any more: its text, and why, for who points at it. */
export function stopped(state, ms) {
  return { text: `${state === "away" ? "no connection" : "stopped"}, as of ${clock(ms)}`, title: WHY[state] };
}

/**
 * Call `heard` with "gone" once the kernel has ended, with "away" and later "" while it can't be reached. Returns what
 * ends that.
 */
export function watchKernel(model, heard) {
  let gone = false;
  const end = () => {
    if (!gone) heard("gone");
    gone = true;
  };
  const status = (_, now) => ENDED.has(now) && end();
  const connection = (_, now) => !gone && heard(now === "connected" ? "" : "away");
  // ipywidgets tells of a restart and of a closed model. Of a kernel that died only JupyterLab's connection knows.
  const kernel = model.widget_manager?.kernel;
  const signals = [[kernel?.statusChanged, status], [kernel?.connectionStatusChanged, connection], [kernel?.disposed, end]];
  for (const name of ["comm_live_update", "comm:close"]) model.on(name, end);
  for (const [signal, slot] of signals) signal?.connect(slot);
  return () => {
    gone = true;
    for (const name of ["comm_live_update", "comm:close"]) model.off(name, end);
    for (const [signal, slot] of signals) signal?.disconnect(slot);
  };
}

/** Hides the picture that stands beside a view, for as long as what is returned is in the page: see shown.py. */
export function instead(model) {
  const still = `.${model.get("still")}`;
  return make("style", {}, `${still} { display: none } .jp-OutputArea-child:has(${still}) { display: none }`);
}
