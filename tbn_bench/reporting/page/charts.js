// Charts come as Vega-Lite panels. Here they lose their own legends and selections and get those of the page: methods singled out
// (`picked`) and runs marked (`marked`, a pattern of run ids), the same in every chart. Rows name `method` and `runs`.
class Plots {
  drawing = null;
  panel = null;
  picked = new Set();
  marked = new Set();
  views = new Map();
  own = new Map(); // figure -> panel chosen in the figure itself

  async start() {
    if (!document.getElementById("plots")) return;
    this.drawing = JSON.parse(await unpackedFrom("drawing"));
    for (const figure of this.drawing.figures) figure.datasets = Object.fromEntries(Object.entries(figure.datasets).map(([name, columns]) => [name, rowsOf(columns)]));
    for (const { datasets } of this.drawing.figures) for (const row of Object.values(datasets).flat()) row.runs = this.drawing.groups[row.runs] ?? row.runs;
    this.methods = new Map(this.drawing.methods.map(m => [m.label, m]));
    // The first figure's panels are what may be compared; a figure that divides them further continues their titles.
    this.titles = this.drawing.figures[0]?.panels.map(panel => panel.title) ?? [];
    for (const figure of this.drawing.figures) figure.shared = this.titles.some(title => this.#within(figure, title).length);
    this.panel = this.titles.find(title => title === this.drawing.first) ?? this.titles[0] ?? null;
    this.#choices();
    await this.draw();
    dark.addEventListener("change", () => this.draw());
    let wide = innerWidth, timer;
    addEventListener("resize", () => {
      clearTimeout(timer);
      if (innerWidth !== wide) timer = setTimeout(() => { wide = innerWidth; this.draw(); }, 150);
    });
  }

  #chooser(id, label, titles, chosen, change) {
    const select = make("select", { id }, ...titles.map(title => make("option", { value: title, textContent: title || "all", selected: title === chosen })));
    select.addEventListener("change", () => change(select.value));
    return [make("label", { htmlFor: id, textContent: label }), select];
  }

  #choices() {
    if (this.titles.length > 1) document.getElementById("panel-choice").append(...this.#chooser("panel", "Compare on", this.titles, this.panel, title => this.choose(title)));
  }

  choose(title) {
    this.panel = title;
    this.mark([]);
    return this.draw();
  }

  #within(figure, title) {
    const same = figure.panels.filter(panel => panel.title === title);
    return same.length ? same : figure.panels.filter(panel => panel.title.startsWith(`${title}, `));
  }

  /** The panel to draw, by the page's choice and, where that leaves several, the figure's own. */
  #panelOf(figure, holder) {
    const found = figure.shared ? this.#within(figure, this.panel) : figure.panels;
    const chosen = found.find(panel => panel.title === this.own.get(figure.name)) ?? found[0];
    holder.parentElement.querySelector(".controls")?.remove();
    if (found.length > 1) {
      const change = title => { this.own.set(figure.name, title); this.draw().then(() => document.getElementById(`panel-${figure.name}`).focus()); };
      const choice = this.#chooser(`panel-${figure.name}`, "Show", found.map(panel => panel.title), chosen.title, change);
      for (const option of choice[1].options) option.textContent = option.value.startsWith(`${this.panel}, `) ? option.value.slice(this.panel.length + 2) : option.value;
      holder.before(make("div", { className: "controls" }, ...choice));
    }
    return chosen;
  }

  async draw() {
    const seen = new Set(), absent = [];
    this.looks = new Map();
    for (const figure of this.drawing.figures) {
      const holder = document.getElementById(`chart-${figure.name}`), panel = this.#panelOf(figure, holder);
      this.views.get(figure.name)?.view.finalize();
      this.views.delete(figure.name);
      holder.closest("figure").hidden = !panel;
      if (!panel) {
        absent.push(figure.title);
        continue;
      }
      const names = dataNames(panel.spec), rows = names.flatMap(name => figure.datasets[name] ?? []);
      rows.forEach(row => row.method && seen.add(row.method));
      const spec = this.#prepare(panel, figure, names, holder.clientWidth);
      const renderer = rows.length > 3000 ? "canvas" : "svg";
      const view = await drawIn(holder, spec, renderer);
      if (holder.scrollWidth > holder.clientWidth) holder.tabIndex = 0; // what scrolls must be reachable without a mouse
      for (const brush of holder.querySelectorAll("g[class*=brush_brush]")) { // a frame for the mouse, which Vega describes as a picture without a name
        brush.removeAttribute("role");
        brush.setAttribute("aria-hidden", "true");
      }
      this.views.set(figure.name, { view, rows });
      this.#listen(figure.name, view, rows);
      showData(holder, `${figure.title}. ${panel.title}`, rows);
    }
    document.getElementById("absent").textContent = absent.length ? `Not measured for this comparison: ${absent.join("; ")}.` : "";
    this.#legend([...this.methods.keys()].filter(label => seen.has(label)));
    this.#say();
  }

  /** Whether the page's legend shows this label in this colour. */
  #isOurs(label, colour) {
    const own = this.methods.get(label)?.colour;
    return own !== undefined && (colour === undefined || colour === (own === "#000000" ? css("--ink") : own));
  }

  /** Markers and dashes of the legend are those of the first chart that draws the method. */
  #learn(channel, what, change) {
    if (channel?.field !== "method") return;
    (channel.scale?.domain ?? []).forEach((label, i) => {
      const look = this.looks.get(label) ?? {};
      if (channel.scale.range?.[i]) this.looks.set(label, { [what]: change(channel.scale.range[i]), ...look });
    });
  }

  /** Of methods, a chart's legend keeps those alone that the page's does not show, and none of other panels. Returns how many. */
  #trimLegends(parts, rows) {
    const here = new Set(rows.map(row => row.method)), channels = parts.flatMap(part => Object.values(part.encoding ?? {})).filter(channel => channel?.field === "method" && channel.scale);
    for (const part of parts) this.#learn(part.encoding?.shape, "path", shape => this.drawing.paths[shape] ?? shape);
    for (const part of parts) this.#learn(part.encoding?.strokeDash, "dash", dash => dash);
    const kept = new Set();
    for (const { scale: { domain = [], range = [] } } of channels) {
      domain.forEach((label, i) => { if (here.has(label) && !this.#isOurs(label, /^#[0-9a-f]{6}$/i.test(range[i]) ? range[i] : undefined)) kept.add(label); });
    }
    for (const channel of channels) channel.legend = kept.size ? { ...channel.legend, title: null, values: [...kept] } : null;
    return [...kept];
  }

  #prepare(panel, figure, names, width) {
    const spec = inInk(panel.spec), found = units(spec), dropped = new Set();
    for (const part of [spec, ...found]) {
      const own = param => param.bind === "legend" || (selectionType(param) === "interval" && param.bind !== "scales");
      part.params?.filter(own).forEach(param => dropped.add(param.name));
      part.params = part.params?.filter(param => !own(param)).map(({ views, ...param }) => param);
    }
    const rows = names.flatMap(name => figure.datasets[name]), many = new Set(rows.map(row => row.method)).size > 6;
    const kept = this.#trimLegends([spec, ...found], rows), columns = Math.max(1, Math.floor(width / (30 + 6 * Math.max(10, ...kept.map(label => label.length)))));
    spec.config = { ...spec.config, legend: { ...spec.config?.legend, orient: "bottom", columns } };
    for (const unit of found) {
      dim(unit, dropped, many);
      const axis = unit.encoding.y?.axis; // long names leave room for what they name
      if (axis?.labelLimit) axis.labelLimit = Math.min(axis.labelLimit, Math.round(0.4 * width));
    }
    const target = found.find(unit => ["point", "circle", "line", "square"].includes(markType(unit)) && unit.encoding?.x?.field && unit.encoding?.y?.field);
    // a finger that drags means to scroll; it marks runs by touching a point
    if (target && !matchMedia("(pointer: coarse)").matches) target.params = [...(target.params ?? []), { name: "brush", select: { type: "interval" } }];
    spec.params = [...(spec.params ?? []), { name: "picked", value: [...this.picked] }, { name: "marked", value: this.#pattern() }];
    spec.datasets = Object.fromEntries(names.map(name => [name, figure.datasets[name]]));
    spec.description = `${figure.title}. ${panel.title}`;
    const single = !["concat", "hconcat", "vconcat", "facet", "repeat", "spec"].some(key => key in spec);
    if ("concat" in spec) spec.columns = Math.max(1, Math.floor(width / 420));
    if (single && typeof spec.width !== "object") Object.assign(spec, { width: Math.max(220, width - 4), height: Math.max(spec.height ?? 0, 270) + 14 * Math.ceil(kept.length / columns), autosize: { type: "fit", contains: "padding" } });
    return spec;
  }

  #listen(name, view, rows) {
    const brushed = value => {
      const ranges = Object.entries(value ?? {}).map(([field, range]) => [field, Math.min(...range), Math.max(...range)]);
      if (!ranges.length) return [];
      return rows.filter(row => ranges.every(([field, low, high]) => row[field] >= low && row[field] <= high)).flatMap(runsOf);
    };
    view.addEventListener("click", (_, item) => { if (item?.datum && runsOf(item.datum).length) this.mark(runsOf(item.datum), name); });
    try {
      view.addSignalListener("brush", (_, value) => this.mark(brushed(value), name));
    } catch { /* a chart without points or lines has no brush */ }
  }

  #pattern() { return this.marked.size ? [...this.marked].join("|") : ""; }

  /** Marks runs in every chart. from: the chart whose brush did it; those of the others are lifted. */
  mark(ids, from = null) {
    if (this.clearing) return;
    if (!ids.length && !this.marked.size) return;
    this.marked = new Set(ids);
    this.clearing = true;
    for (const [name, { view }] of this.views) {
      view.signal("marked", this.#pattern());
      if (name !== from) try { view.signal("brush_x", []).signal("brush_y", []); } catch { /* no brush */ }
      view.runAsync(); // a brush reports while its own chart is still at work
    }
    this.clearing = false;
    this.#say();
  }

  pick(label) {
    if (!this.picked.delete(label)) this.picked.add(label);
    for (const { view } of this.views.values()) view.signal("picked", [...this.picked]).runAsync();
    document.querySelectorAll("#legend button[data-method]").forEach(button => button.setAttribute("aria-pressed", this.picked.has(button.dataset.method)));
    this.#say();
  }

  clear() {
    this.mark([]);
    [...this.picked].forEach(label => this.pick(label));
  }

  #say() {
    const line = document.getElementById("selection"), ids = [...this.marked], parts = [];
    if (this.picked.size) parts.push(`Methods: ${[...this.picked].join(", ")}. `);
    if (ids.length) {
      parts.push(`${ids.length} ${ids.length === 1 ? "run" : "runs"} marked: `);
      ids.slice(0, 12).forEach(id => parts.push(make("a", { href: `#run-${id}`, textContent: id }), " "));
      if (ids.length > 12) parts.push(`and ${ids.length - 12} more `);
    }
    if (parts.length) parts.push(make("button", { type: "button", textContent: "Show all again", onclick: () => this.clear() }));
    line.replaceChildren(...parts);
    this.changed?.();
  }

  #legend(labels) {
    for (const label of [...this.picked]) if (!labels.includes(label)) this.picked.delete(label);
    document.getElementById("legend").replaceChildren(...labels.map(label => {
      const button = make("button", { type: "button", "data-method": label, "aria-pressed": this.picked.has(label), onclick: () => this.pick(label) });
      button.append(swatch({ ...this.methods.get(label), ...this.looks.get(label) }), label);
      return button;
    }));
  }

  get state() { return { panel: this.panel, picked: [...this.picked], marked: [...this.marked] }; }

  async restore({ panel, picked, marked }) {
    if (this.titles?.includes(panel)) this.panel = panel;
    const select = document.getElementById("panel");
    if (select) select.value = this.panel;
    this.picked = new Set(picked);
    this.marked = new Set(marked);
    if (this.drawing) await this.draw();
  }
}

const runsOf = row => String(row.runs ?? row.run_id ?? "").match(/\b[0-9a-f]{12}\b/g) ?? [];
const markType = unit => (typeof unit.mark === "object" ? unit.mark.type : unit.mark);
const selectionType = param => (typeof param.select === "object" ? param.select?.type : param.select);

function units(spec, found = []) {
  if (spec.mark) found.push(spec);
  for (const key of ["layer", "concat", "hconcat", "vconcat"]) (spec[key] ?? []).forEach(part => units(part, found));
  if (spec.spec) units(spec.spec, found);
  return found;
}

function dataNames(spec) {
  const names = new Set([...JSON.stringify(spec).matchAll(/"data":\{"name":"([^"]+)"/g)].map(match => match[1]));
  return [...names];
}

/**
 * Faint where its method is not picked or its runs are not marked; what a chart did by its own, dropped selection is undone.
 * many: bands of many methods hide each other, so they show for picked methods alone.
 */
function dim(unit, dropped, many) {
  unit.encoding ??= {};
  for (const [key, channel] of Object.entries(unit.encoding)) {
    if (dropped.has(channel?.condition?.param)) {
      const { param, empty, ...kept } = channel.condition;
      unit.encoding[key] = kept;
    }
  }
  const set = unit.encoding.opacity?.value ?? (typeof unit.mark === "object" ? unit.mark.opacity : undefined);
  const full = typeof set === "number" ? set : 1;
  if (unit.encoding.opacity?.field) return;
  for (const axis of [unit.encoding.x, unit.encoding.y]) if (axis?.scale?.type === "log") axis.stack = null; // stacks begin at 0, which logs lack
  const test = "(!isValid(datum.method) || !picked.length || indexof(picked, datum.method) >= 0) && (!marked || test(regexp(marked), datum.runs || datum.run_id || ''))";
  const shown = many && markType(unit) === "area" ? `(picked.length || marked) && ${test}` : test;
  unit.encoding.opacity = { condition: { test: shown, value: full }, value: markType(unit) === "area" ? 0 : full * 0.12 };
}

/** The numbers of a chart as a table below it, made when it is opened. */
function showData(holder, title, rows) {
  const isOpen = holder.parentElement.querySelector(".data")?.open ?? false, content = make("div");
  holder.parentElement.querySelector(".data")?.remove();
  const fill = () => { if (!content.firstChild) content.append(dataTable(title, rows)); };
  const details = make("details", { className: "data", ontoggle: fill, open: isOpen }, make("summary", { textContent: "Data" }), content);
  holder.after(details);
}

function dataTable(title, rows) {
  const isShown = key => key !== "runs" && rows.some(row => row[key] !== null && row[key] !== rows[0][key]);
  const keys = Object.keys(rows[0] ?? {}).filter(isShown), number = key => rows.every(row => row[key] === null || typeof row[key] === "number");
  const head = make("tr", {}, ...keys.map(key => make("th", { scope: "col", className: number(key) ? "n" : "t", textContent: key })));
  const body = rows.map(row => make("tr", {}, ...keys.map(key => make("td", { className: number(key) ? "n" : "t", textContent: row[key] ?? "—" }))));
  const table = make("table", {}, make("caption", { className: "away", textContent: title }), make("thead", {}, head), make("tbody", {}, ...body));
  return make("div", { className: "scroll", tabIndex: 0, role: "group", "aria-label": `Data: ${title}` }, table);
}

function swatch({ colour, path, dash }) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "-14 -6 28 12");
  svg.setAttribute("width", 28);
  svg.setAttribute("height", 12);
  svg.setAttribute("aria-hidden", true);
  const ink = colour === "#000000" ? "var(--ink)" : colour;
  const line = document.createElementNS(svg.namespaceURI, "path"), shape = document.createElementNS(svg.namespaceURI, "path");
  line.setAttribute("d", "M-14,0H14");
  line.setAttribute("style", `stroke:${ink};stroke-width:1.6;stroke-dasharray:${dash.join(" ")}`);
  shape.setAttribute("d", path);
  shape.setAttribute("transform", "scale(4.2)");
  shape.setAttribute("style", `fill:${ink}`);
  svg.append(line, shape);
  return svg;
}

const plots = new Plots();
const plotsReady = plots.start().catch(error => {
  console.error(error);
  document.querySelectorAll(".chart").forEach(holder => holder.replaceChildren(make("p", { className: "warn", textContent: `Not drawn: ${error.message}. The print versions are in figures/.` })));
});
