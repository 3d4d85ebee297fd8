// Bundles our sources and the libraries they stand on into ES modules that anywidget can load offline: one for the map,
// one for the chart.
//
// Usage: node build.mjs FOLDER [DIGEST]. DIGEST names the inputs; hatch_build.py reads it back from
// the first line to see whether a file is current.
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const [folder, digest = "by-hand"] = process.argv.slice(2);
if (!folder) {
  console.error("usage: node build.mjs FOLDER [DIGEST]");
  process.exit(2);
}
const LIBRARIES = { topology: "cytoscape", chart: "plotly.js-basic-dist-min" };
for (const [name, library] of Object.entries(LIBRARIES)) {
  // The bundle is the only copy of the library that reaches a user, so its licence travels inside it;
  // "eof" adds the notices of what the library itself includes.
  const licence = await readFile(join(here, "node_modules", library, "LICENSE"), "utf8");
  await build({
    entryPoints: [join(here, `${name}.js`)],
    outfile: join(folder, `${name}.js`),
    bundle: true,
    format: "esm",
    target: "es2022",
    minify: true,
    charset: "utf8",
    legalComments: "eof",
    loader: { ".css": "text" },
    banner: { js: `/* ctlab ${name}; inputs ${digest} */` },
    footer: { js: `/*! ${library}\n${licence.replaceAll("*/", "* /")}*/` },
    logLevel: "warning",
  });
}
