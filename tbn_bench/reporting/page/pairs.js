// Two methods that the reader chooses, on every task that both ran on: differences paired by seed (stats.py has the same formulas).
class Pairs {
  constructor(holder) {
    this.data = JSON.parse(document.getElementById("pair-data").textContent);
    this.out = holder.querySelector(".found");
    this.differ = holder.querySelector(".differ");
    const count = new Map();
    for (const { scores } of this.data.tasks) for (const name of Object.keys(scores)) count.set(name, (count.get(name) ?? 0) + 1);
    const names = [...count.keys()].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    const tiled = names.filter(name => name.startsWith("TBN")).sort((a, b) => count.get(b) - count.get(a))[0];
    const chosen = [address().get("first") ?? tiled ?? names[0], address().get("second") ?? (count.has("BWN") ? "BWN" : names[1])];
    this.selects = ["first", "second"].map((id, i) => {
      const select = holder.querySelector(`#pair-${id}`);
      select.append(...names.map(name => make("option", { value: name, textContent: name, selected: name === chosen[i] })));
      select.addEventListener("change", () => { this.show(); keepInAddress(Object.fromEntries(this.selects.map(s => [s.id.slice(5), s.value]))); });
      return select;
    });
    this.show();
  }

  show() {
    const [first, second] = this.selects.map(select => select.value);
    const rows = this.data.tasks.map(task => this.#row(task, task.scores[first], task.scores[second])).filter(Boolean);
    this.differ?.replaceChildren();
    if (first === second) return this.out.replaceChildren(make("p", { textContent: "Choose two different methods." }));
    if (!rows.length) return this.out.replaceChildren(make("p", { textContent: `No task has ${first} and ${second} with a common seed.` }));
    const heads = ["task", "differences", "mean (95 % interval)", "pairs", "what they show"];
    const kinds = ["t", "plot", "n", "n", "t"];
    const head = make("tr", {}, ...heads.map((text, i) => make("th", { scope: "col", className: kinds[i], textContent: text })));
    const caption = make("caption", { textContent: `${first} minus ${second}, by seed. Above 0, ${first} is better; errors have their sign turned.` });
    const scroll = make("div", { className: "scroll", tabIndex: 0, role: "group", "aria-label": `${first} compared with ${second}` }, make("table", { className: "forest" }, caption, make("thead", {}, head), make("tbody", {}, ...rows)));
    this.out.replaceChildren(scroll);
    this.#differ(first, second);
  }

  /** The test samples on which one of the two methods alone is right, by task and seed. */
  async #differ(first, second) {
    if (!this.differ) return;
    this.predicted ??= unpackedFrom("predicted").then(JSON.parse);
    const rows = [], lists = [];
    for (const [k, task] of (await this.predicted).entries()) {
      const own = task?.wrong[first], other = task?.wrong[second];
      for (const seed of Object.keys(own ?? {}).filter(seed => seed in (other ?? {}))) {
        const a = wrongOf(own[seed]), b = wrongOf(other[seed]), all = task.labels.length;
        const onlyFirst = [...b.keys()].filter(sample => !a.has(sample)), onlySecond = [...a.keys()].filter(sample => !b.has(sample));
        const neither = a.size - onlySecond.length, name = `${this.data.tasks[k].title}, seed ${seed}`;
        const counts = [all - neither - onlyFirst.length - onlySecond.length, onlyFirst.length, onlySecond.length, neither];
        rows.push(make("tr", {}, make("th", { scope: "row", className: "t", textContent: name }), ...counts.map(count => make("td", { className: "n", textContent: count.toLocaleString("en") }))));
        lists.push(this.#listOf(name, [...onlyFirst, ...onlySecond].sort((x, y) => x - y), task.labels, [a, b], [first, second]));
      }
    }
    if (this.selects.some((select, i) => select.value !== [first, second][i])) return; // the reader has chosen others meanwhile
    const heads = ["task", "both right", `only ${first} right`, `only ${second} right`, "both wrong"];
    const caption = make("caption", { textContent: `Test samples that ${first} and ${second} classify, by seed. Open a list to see on which they differ.` });
    const head = make("tr", {}, ...heads.map((text, i) => make("th", { scope: "col", className: i ? "n" : "t", textContent: text })));
    const table = make("table", { className: "forest" }, caption, make("thead", {}, head), make("tbody", {}, ...rows));
    const scroll = make("div", { className: "scroll", tabIndex: 0, role: "group", "aria-label": "Test samples on which the two methods differ" }, table);
    const none = make("p", { className: "note", textContent: `No seed has recorded predictions of both ${first} and ${second}.` });
    this.differ.replaceChildren(...(rows.length ? [scroll, ...lists] : [none]));
  }

  /** A list that opens: sample, its class, and the class that each method predicts. */
  #listOf(name, samples, labels, wrong, methods) {
    const most = 200, heads = ["sample", "class", ...methods.map(method => `${method} says`)];
    const list = make("details", {}, make("summary", { textContent: `${name}: ${samples.length.toLocaleString("en")} samples on which they differ` }));
    list.addEventListener("toggle", () => {
      const body = samples.slice(0, most).map(sample => make("tr", {}, ...[sample, labels[sample], ...wrong.map(found => found.get(sample) ?? labels[sample])].map((text, i) => make("td", { className: "n", textContent: i ? parseInt(text, 36) : text }))));
      const head = make("tr", {}, ...heads.map(text => make("th", { scope: "col", className: "n", textContent: text })));
      const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
      list.append(make("div", { className: "scroll", tabIndex: 0, role: "group", "aria-label": `Samples of ${name}` }, table));
      if (samples.length > most) list.append(make("p", { className: "note", textContent: `The first ${most}; tbn-bench runs predictions RUN RUN gives all.` }));
    }, { once: true });
    return list;
  }

  /** A row of the table; undefined where the methods have no seed in common. */
  #row(task, own, other) {
    if (!own || !other) return undefined;
    const seeds = Object.keys(own).filter(seed => seed in other), d = seeds.map(seed => own[seed] - other[seed]), n = d.length;
    if (!n) return undefined;
    const mean = d.reduce((a, b) => a + b, 0) / n;
    const deviation = Math.sqrt(d.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (n - 1)), quantile = this.data.quantiles[Math.min(n - 2, this.data.quantiles.length - 1)];
    const half = n > 1 ? quantile * deviation / Math.sqrt(n) : null;
    const number = (x, sign = false) => `${sign && x >= 0 ? "+" : ""}${x.toFixed(task.digits)}`.replace("-", "−");
    const text = half === null ? number(mean, true) : `${number(mean, true)} ± ${number(half)}`;
    return make("tr", {},
      make("th", { scope: "row", className: "t", textContent: `${task.title}, ${task.unit}` }),
      make("td", { className: "plot" }, this.#plot(d, mean, half)),
      make("td", { className: "n", textContent: text }),
      make("td", { className: "n", textContent: n }),
      make("td", { className: "t", textContent: this.#verdict(d, mean, half) }));
  }

  #verdict(d, mean, half) {
    const n = d.length, least = 2 / 2 ** n;
    if (n === 1) return "one seed: undecided";
    if (half <= 1e-9 * Math.abs(mean)) return "all differences are equal: undecided";
    const shown = Math.abs(mean) > half ? `the interval is ${mean > 0 ? "above" : "below"} 0` : "not significant";
    if (least > 0.05) return `${shown}; ${n} pairs cannot give an exact p below ${least.toPrecision(2)}`;
    return n > this.data.most ? shown : `${shown}; exact p = ${signFlip(d).toPrecision(2)}`;
  }

  #plot(d, mean, half) {
    const most = Math.max(...d.map(Math.abs), Math.abs(mean) + (half ?? 0), 1e-12), at = x => 120 + 110 * x / most;
    const parts = [["path", { class: "zero", d: "M120 0V16" }]];
    if (half !== null) parts.push(["path", { class: "range", d: `M${at(mean - half)} 8H${at(mean + half)}` }]);
    for (const x of d) parts.push(["circle", { class: "pair", cx: at(x), cy: 8, r: 3 }]);
    parts.push(["path", { class: "range", d: `M${at(mean)} 2V14` }]);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [key, value] of Object.entries({ viewBox: "0 0 240 16", width: 240, height: 16, "aria-hidden": "true" })) svg.setAttribute(key, value);
    for (const [tag, values] of parts) {
      const part = document.createElementNS(svg.namespaceURI, tag);
      for (const [key, value] of Object.entries(values)) part.setAttribute(key, value);
      svg.append(part);
    }
    return svg;
  }
}

/** sample -> the class that was predicted for it, of a network's wrong samples. */
function wrongOf([since, letters]) {
  let sample = 0;
  return new Map(since.map((step, i) => [(sample += step), letters[i]]));
}

/** Exact two-sided p of Fisher's sign-flip test: the share of the 2^n sums that are at least as far from 0. */
function signFlip(d) {
  let sums = [0];
  for (const x of d) sums = sums.flatMap(sum => [sum + x, sum - x]);
  const observed = Math.abs(d.reduce((a, b) => a + b, 0)), rounding = 1e-9 * d.reduce((a, b) => a + Math.abs(b), 0);
  return sums.filter(sum => Math.abs(sum) >= observed - rounding).length / sums.length;
}

const pairsHolder = document.getElementById("pairs");
if (pairsHolder) new Pairs(pairsHolder);
