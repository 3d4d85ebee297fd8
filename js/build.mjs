// Bundles the map's sources and cytoscape into one ES module that anywidget can load offline.
//
// Usage: node build.mjs OUTPUT [DIGEST]. DIGEST names the inputs; hatch_build.py reads it back from
// the first line to see whether the file is current.
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const [output, digest = "by-hand"] = process.argv.slice(2);
if (!output) {
  console.error("usage: node build.mjs OUTPUT [DIGEST]");
  process.exit(2);
}
// The bundle is the only copy of cytoscape that reaches a user, so its licence travels inside it;
// "eof" adds the notices of what cytoscape itself includes.
const licence = await readFile(join(here, "node_modules/cytoscape/LICENSE"), "utf8");
await build({
  entryPoints: [join(here, "topology.js")],
  outfile: output,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  charset: "utf8",
  legalComments: "eof",
  loader: { ".css": "text" },
  banner: { js: `/* ctlab topology; inputs ${digest} */` },
  footer: { js: `/*! cytoscape.js\n${licence.replaceAll("*/", "* /")}*/` },
  logLevel: "warning",
});
