// Taking away: every table as CSV, Markdown or LaTeX, every plot as SVG or PNG, and what the reader chose as the page's address.
function download(name, url) {
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

const asFile = (text, type) => URL.createObjectURL(new Blob([text], { type }));

const FORMATS = {
  csv: rows => rows.map(row => row.map(cell => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join(",")).join("\n") + "\n",
  markdown: ([head, ...rows]) => [head, head.map(() => "---"), ...rows].map(row => `| ${row.map(cell => cell.replaceAll("|", "\\|")).join(" | ")} |`).join("\n") + "\n",
  latex: ([head, ...rows]) => {
    const special = { "\\": "\\textbackslash{}", "±": "$\\pm$", "−": "$-$", "—": "---", "×": "$\\times$", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
    const plain = cell => cell.replace(/[\\±−—×~^&%$#_{}]/g, letter => special[letter] ?? `\\${letter}`);
    const line = row => `${row.map(plain).join(" & ")} \\\\`;
    return ["% needs \\usepackage{booktabs}", `\\begin{tabular}{l${"r".repeat(head.length - 1)}}`, "\\toprule", line(head), "\\midrule", ...rows.map(line), "\\bottomrule", "\\end{tabular}", ""].join("\n");
  },
};

/** The heads and all rows that the filter leaves, as text. */
async function textOf(table) {
  await table.whole();
  await table.loading;
  const words = table.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = row => words.every(word => row.textContent.toLowerCase().includes(word));
  const cells = row => [...row.cells].map(cell => cell.textContent.trim());
  return [cells(table.table.tHead.rows[0]), ...table.rows.filter(fits).map(cells)];
}

function menu(label, items) {
  const list = make("span", { className: "items" }, ...items.map(([text, title, act]) => make("button", { type: "button", textContent: text, title, onclick: act })));
  return make("details", { className: "take" }, make("summary", { textContent: label }), list);
}

async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page from disk may not be allowed to
    const area = make("textarea", { value: text });
    from.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = from.textContent;
  from.textContent = "copied";
  setTimeout(() => { from.textContent = before; }, 1200);
}

for (const table of tables) {
  const as = format => async event => copy(FORMATS[format](await textOf(table)), event.target);
  table.words.closest(".bar").append(menu("Copy or download", [
    ["CSV", "download as CSV, as shown", async () => download(`${table.name}.csv`, asFile(FORMATS.csv(await textOf(table)), "text/csv"))],
    ["Markdown", "copy as Markdown", as("markdown")],
    ["LaTeX", "copy as LaTeX", as("latex")],
  ]));
}

function takePlots() {
  for (const figure of document.querySelectorAll("figure[id^=figure-]")) {
    const name = figure.id.slice("figure-".length), view = () => plots.views.get(name)?.view;
    figure.append(menu("Copy or download", [
      ["SVG", "download as SVG", async () => view() && download(`${name}.svg`, asFile(await view().toSVG(), "image/svg+xml"))],
      ["PNG", "download as PNG", async () => view() && download(`${name}.png`, await view().toImageURL("png", 2))],
    ]));
  }
}

/** panel, methods and reference of the page's address. */
const address = () => new URLSearchParams(location.search);
function keepInAddress(values) {
  const words = address();
  for (const [key, value] of Object.entries(values)) value ? words.set(key, value) : words.delete(key);
  const query = words.size ? `?${words}` : "";
  try { history.replaceState(null, "", `${location.pathname}${query}${location.hash}`); } catch { /* some browsers keep the address of files */ }
}

const reference = document.getElementById(`by-${address().get("reference")}`);
if (reference) reference.checked = true;
document.querySelectorAll("input[name=reference]").forEach(input => input.addEventListener("change", () => keepInAddress({ reference: input.id.slice(3) })));

plotsReady.then(async () => {
  takePlots();
  const words = address();
  if (words.has("panel") || words.has("methods")) {
    await plots.restore({ panel: words.get("panel") ?? plots.panel, picked: words.get("methods")?.split("|") ?? [], marked: [] });
  }
  plots.changed = () => keepInAddress({ panel: plots.panel === plots.titles[0] ? "" : plots.panel, methods: [...plots.picked].join("|") });
});
