// A run's own view: #run-ID opens it; its block of details is in the page or in a script beside it.
const book = JSON.parse(document.getElementById("run-book").textContent);
const runDialog = document.getElementById("run");
const blocks = new Map(), waiting = new Map();

/** Called by data/runs-*.js. */
function runBlock(k, text) { waiting.get(k)?.(text); }

function packedBlock(k) {
  const inside = document.getElementById(`runs-${k}`);
  if (inside) return Promise.resolve(inside.textContent);
  return new Promise((resolve, reject) => {
    waiting.set(k, resolve);
    document.head.append(make("script", { src: book.files[k], onerror: () => reject(new Error(`${book.files[k]} is not beside this page`)) }));
  });
}

async function recordsOf(id) {
  const k = book.firsts.findLastIndex(first => first <= id);
  if (k < 0) return [];
  if (!blocks.has(k)) {
    const columns = JSON.parse(await unpack(await packedBlock(k)));
    blocks.set(k, rowsOf({ ...columns, curves: rowsOf(columns.curves) }));
  }
  return blocks.get(k).filter(record => record.id === id);
}

const worded = value => (value === null || value === undefined ? "—" : typeof value === "number" && Number.isInteger(value) ? value.toLocaleString("en") : typeof value === "number" ? String(+value.toPrecision(6)) : String(value));

const pairs = found => make("dl", { className: "pairs" }, ...found.map(([key, value]) => make("div", {}, make("dt", { textContent: key }), make("dd", { textContent: worded(value) }))));

function part(title, ...content) { return [make("h3", { textContent: title }), ...content]; }

function commandLine(command) {
  const code = make("code"); // lines break between flags, not at their hyphens
  code.append(...command.split(" ").flatMap(word => [make("span", { textContent: word }), " "]));
  const copy = make("button", { type: "button", textContent: "Copy" });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      copy.textContent = "Copied";
    } catch { // some browsers do not let a page from disk write to the clipboard
      getSelection().selectAllChildren(code);
    }
  });
  return make("div", { className: "command" }, code, copy);
}

function planTable({ keys, rows }) {
  const numeric = rows.length ? rows[0].map((_, i) => rows.some(row => typeof row[i] === "number")) : [];
  const head = make("tr", {}, ...keys.map((key, i) => make("th", { scope: "col", className: numeric[i] ? "n" : "", textContent: key })));
  const body = rows.map(row => make("tr", {}, ...row.map((cell, i) => make("td", { className: numeric[i] ? "n" : "", textContent: worded(cell) }))));
  const table = make("table", {}, make("caption", { className: "away", textContent: "Plan: how each weight is stored" }), make("thead", {}, head), make("tbody", {}, ...body));
  return make("div", { className: "scroll", tabIndex: 0, role: "group", "aria-label": "Plan" }, table);
}

/** A row per true class, a column per predicted one; a cell's shade is its share of the row. */
function confusionTable(counts) {
  const classes = counts.map((_, k) => k);
  const head = make("tr", {}, make("th", { scope: "col", textContent: "true \\ predicted" }), ...classes.map(k => make("th", { scope: "col", className: "n", textContent: k })));
  const body = counts.map((row, k) => {
    const total = Math.max(1, row.reduce((sum, count) => sum + count, 0));
    const cells = row.map((count, j) => {
      const cell = make("td", { className: j === k ? "n hit" : "n", textContent: count.toLocaleString("en") });
      const percent = Math.round(45 * Math.sqrt(count / total)); // a root shows rare confusions; ink stays readable on it
      cell.style.background = `color-mix(in srgb, var(${j === k ? "--accent" : "--warn"}) ${percent}%, transparent)`;
      return cell;
    });
    return make("tr", {}, make("th", { scope: "row", className: "n", textContent: k }), ...cells);
  });
  const table = make("table", { className: "confusion" }, make("caption", { className: "away", textContent: "Test samples by true and predicted class" }), make("thead", {}, head), make("tbody", {}, ...body));
  return make("div", { className: "scroll", tabIndex: 0, role: "group", "aria-label": "Confusion matrix" }, table);
}

/** One small chart per kind of value: losses share axes, other names have their own. */
async function drawCurves(holder, { epoch, ...series }, judged) {
  const kinds = { loss: ["train/loss", "val/loss"], [judged]: [judged], "tile/flip_rate": ["tile/flip_rate"], "tile/near_zero": ["tile/near_zero"], lr: ["lr"] };
  const charts = Object.entries(kinds).map(([title, names]) => ({ title, drawn: names.filter(name => series[name]) })).filter(chart => chart.drawn.length);
  const places = charts.map(() => holder.appendChild(make("div"))); // all of them first: they share the width
  for (const [k, { title, drawn }] of charts.entries()) {
    const values = drawn.flatMap(name => epoch.map((e, i) => ({ epoch: e, value: series[name][i], name })).filter(row => row.value !== null));
    const place = places[k];
    const spec = {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json", data: { values }, width: Math.max(200, place.clientWidth - 4), height: 170, autosize: { type: "fit", contains: "padding" },
      description: `${title} by epoch`, mark: { type: "line", point: { size: 22 }, tooltip: true },
      encoding: {
        x: { field: "epoch", type: "quantitative", axis: { tickMinStep: 1, format: "d" } }, y: { field: "value", type: "quantitative", title, scale: { zero: false } },
        color: { field: "name", type: "nominal", scale: { domain: drawn, range: dark.matches ? ["#85bdf2", "#ff9d5c"] : ["#0072B2", "#D55E00"] }, legend: drawn.length > 1 ? { title: null, orient: "top" } : null },
      },
    };
    await drawIn(place, spec);
  }
}

/** Small multiples: a chart per layer, of the signs that flipped and of the sums near zero, in percent. */
async function drawTiles(holder, { epochs, ...kinds }) {
  const names = { flips: "signs flipped, %", near_zero: "sums near zero, %" };
  const values = Object.entries(kinds).flatMap(([kind, layers]) => Object.entries(layers).flatMap(([layer, shares]) => epochs.map((epoch, i) => ({ layer, epoch, percent: 100 * shares[i], name: names[kind] })).filter(row => Number.isFinite(row.percent))));
  const columns = Math.max(1, Math.floor(holder.clientWidth / 190));
  const spec = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json", data: { values }, columns, description: "Signs flipped and sums near zero by epoch, a chart per layer",
    facet: { field: "layer", type: "nominal", title: null, sort: Object.keys(kinds.flips) },
    spec: {
      width: 110, height: 70, mark: { type: "line", point: { size: 12 }, tooltip: true },
      encoding: {
        x: { field: "epoch", type: "quantitative", axis: { tickMinStep: 1, format: "d", tickCount: 3 } }, y: { field: "percent", type: "quantitative", title: "%" },
        color: { field: "name", type: "nominal", scale: { domain: Object.values(names), range: dark.matches ? ["#85bdf2", "#ff9d5c"] : ["#0072B2", "#D55E00"] }, legend: { title: null, orient: "top" } },
      },
    },
  };
  await drawIn(holder, spec);
}

async function fill(record, holder) {
  const changed = record.config.filter(pair => !pair[2]), same = record.config.filter(pair => pair[2]);
  holder.append(make("p", { textContent: `${record.status}, sweep ${record.sweep}${record.error ? `: ${record.error}` : ""}` }));
  holder.append(...part("Command to reproduce", commandLine(record.command)));
  if (record.scores.length) holder.append(...part("Result", pairs(record.scores)));
  const curves = make("div", { className: "curves" });
  if (record.curves.epoch) holder.append(...part("Curves", curves));
  const tiles = make("div", { className: "tiles scroll", tabIndex: 0, role: "group", "aria-label": "Layers" });
  if (record.tiles) holder.append(...part("Signs of each layer", tiles));
  holder.append(...part("Configuration", pairs(changed), make("details", {}, make("summary", { textContent: `${same.length} defaults` }), pairs(same))));
  if (record.cost.length) holder.append(...part("Cost", pairs(record.cost)));
  if (record.confusion) holder.append(...part("Confusion matrix of the test set", confusionTable(record.confusion)));
  if (record.plan) holder.append(...part("Plan", planTable(record.plan)));
  holder.append(...part("Environment", pairs(record.environment)));
  if (record.curves.epoch) await drawCurves(curves, record.curves, record.judged);
  if (record.tiles) await drawTiles(tiles, record.tiles);
}

async function openRun(id) {
  const close = make("button", { type: "button", textContent: "Close", onclick: () => runDialog.close() });
  const body = make("div");
  runDialog.replaceChildren(make("header", {}, make("h2", { id: "run-title", textContent: `Run ${id}` }), close), body);
  if (!runDialog.open) runDialog.showModal();
  try {
    const found = await recordsOf(id);
    if (!found.length) body.append(make("p", { textContent: "No such run is in this report." }));
    for (const record of found) await fill(record, body);
  } catch (error) {
    body.append(make("p", { className: "warn", textContent: `${error.message}; its record in words: tbn-bench runs show ${id}` }));
  }
  runDialog.dataset.run = id; // drawn whole
}

function route() {
  const match = location.hash.match(/^#run-([0-9a-f]+)$/);
  if (match) openRun(match[1]);
  else if (runDialog.open) runDialog.close();
}

let scrolled = 0; // a closed run leaves the reader where it was opened
document.addEventListener("click", event => { if (event.target.closest?.('a[href^="#run-"]')) scrolled = scrollY; });
runDialog.addEventListener("close", () => {
  delete runDialog.dataset.run;
  if (location.hash.startsWith("#run-")) history.replaceState(null, "", location.pathname + location.search);
  scrollTo({ top: scrolled, behavior: "instant" });
});
addEventListener("hashchange", route);
route();
