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

/** Text that was packed as gzip in base64. */
async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64.trim()), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

const unpackedFrom = id => unpack(document.getElementById(id).textContent);

/** Vega comes packed too; it is needed once, when the first chart is drawn. */
let vegaLoad = null;
const vegaReady = () => (vegaLoad ??= unpackedFrom("bundle").then(code => {
  document.head.append(make("script", { textContent: code }));
}));

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
