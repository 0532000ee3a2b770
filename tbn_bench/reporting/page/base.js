"use strict";
// What the other scripts share.
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");

/** An element with attributes, properties (className, textContent, onclick) and children. */
function make(tag, values = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(values)) key in node ? (node[key] = value) : node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** The letters of base85, by their values (packing.py). */
const LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%/()*+-;,=.?@^_`{|}~";
const VALUES = new Map([...LETTERS].map((letter, value) => [letter.charCodeAt(0), value]));

/** Five letters are four bytes. */
function bytesOf(letters) {
  const groups = Math.ceil(letters.length / 5), words = new DataView(new ArrayBuffer(4 * groups));
  for (let group = 0; group < groups; group++) {
    let word = 0;
    for (let k = 5 * group; k < 5 * group + 5; k++) word = 85 * word + (VALUES.get(letters.charCodeAt(k)) ?? 84);
    words.setUint32(4 * group, word);
  }
  return new Uint8Array(words.buffer, 0, Math.floor(4 * letters.length / 5));
}

/** Text that was packed as gzip in base85. */
async function unpack(letters) {
  const bytes = bytesOf(letters.trim());
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

const unpackedFrom = id => unpack(document.getElementById(id).textContent);

/** Vega comes packed too; it is needed once, when the first chart is drawn. */
let vegaLoad = null;
const vegaReady = () => (vegaLoad ??= unpackedFrom("bundle").then(code => {
  document.head.append(make("script", { textContent: code }));
}));

/** Rows, from key -> values of all rows. */
function rowsOf(columns) {
  const keys = Object.keys(columns), count = keys.length ? columns[keys[0]].length : 0;
  return Array.from({ length: count }, (_, i) => Object.fromEntries(keys.map(key => [key, columns[key][i]])));
}

/** Colours of the page for a chart, so that light and dark are the same code. */
const chartTheme = () => ({
  background: "transparent",
  axis: { labelColor: css("--soft"), titleColor: css("--ink"), gridColor: css("--line"), domainColor: css("--soft"), tickColor: css("--soft") },
  legend: { labelColor: css("--ink"), titleColor: css("--ink") },
  header: { labelColor: css("--ink"), titleColor: css("--ink") },
  title: { color: css("--ink") },
  view: { stroke: css("--line") },
  text: { color: css("--ink") },
  rule: { color: css("--soft") },
});

/** Black marks are for light paper. */
const inInk = spec => JSON.parse(JSON.stringify(spec).replaceAll('"#000000"', `"${css("--ink")}"`));

/** A chart of Vega-Lite in an element, in the page's colours. Returns its view. */
async function drawIn(holder, spec, renderer = "svg") {
  await vegaReady();
  const theme = dark.matches ? "dark" : "light";
  const { view } = await vegaEmbed(holder, spec, { actions: false, renderer, config: chartTheme(), tooltip: { theme } });
  return view;
}
