// Every table sorts by its heads and filters by words; rows beyond the first wait packed until they are asked for.
class ReportTable {
  constructor(block) {
    this.table = block.querySelector("table");
    this.body = this.table.tBodies[0];
    this.name = block.dataset.name;
    this.count = Number(block.dataset.count);
    this.others = block.querySelector(".others");
    this.shown = this.body.rows.length;
    this.rows = [...this.body.rows];
    this.sorted = null; // { index, up }
    this.#heads();
    this.pinned = "pinned" in block.dataset;
    this.#label(this.rows);
    this.#bar(block);
  }

  /** Each cell of a comparison knows its head: on a phone a row is a card. */
  #label(rows) {
    if (!this.pinned) return;
    const heads = [...this.table.tHead.rows[0].cells].map(head => head.textContent);
    for (const row of rows) [...row.cells].forEach((cell, i) => { cell.dataset.head = heads[i]; if (cell.textContent === '—') cell.dataset.none = ''; });
  }

  /** All rows, unpacked at the first need. */
  async whole() {
    if (!this.others) return;
    const packed = this.others;
    this.others = null;
    this.loading = unpack(packed.textContent).then(text => {
      const columns = JSON.parse(text), holder = document.createElement("template");
      const rows = columns[0].map((_, i) => `<tr>${columns.map(column => `<td${column[i]}`).join("")}</tr>`);
      holder.innerHTML = `<table><tbody>${rows.join("")}</tbody></table>`;
      this.rows.push(...holder.content.querySelector("tbody").rows);
    });
    await this.loading;
  }

  async show() {
    if (this.words.value || this.sorted || this.all) await this.whole();
    await this.loading;
    this.draw(this.all);
  }

  /** The rows that the filter leaves, in order; the first of them only, if not isAll. */
  draw(isAll) {
    const words = this.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = row => words.every(word => (row.dataset.text ??= row.textContent.toLowerCase()).includes(word));
    const found = words.length ? this.rows.filter(fits) : [...this.rows];
    if (this.sorted) this.#order(found);
    const total = words.length ? found.length : this.count;
    const drawn = isAll ? found : found.slice(0, this.shown);
    this.body.replaceChildren(...drawn);
    this.#label(drawn);
    this.said.textContent = words.length ? `${total} of ${this.count} rows` : `${this.count} rows`;
    this.more.hidden = isAll || total <= drawn.length;
    this.more.textContent = `Show all ${total} rows`;
  }

  #order(rows) {
    const { index, up } = this.sorted;
    const keys = new Map(rows.map(row => {
      const text = row.cells[index].dataset.value ?? row.cells[index].textContent.trim(), number = Number(text.replaceAll(",", ""));
      return [row, text === "—" || text === "" ? null : Number.isNaN(number) ? text : number];
    }));
    rows.sort((a, b) => {
      const x = keys.get(a), y = keys.get(b);
      if (x === null || y === null) return (x === null) - (y === null); // unknown values last in either direction
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
      return up ? order : -order;
    });
  }

  sort(index, up) {
    const heads = [...this.table.tHead.rows[0].cells];
    if (!heads[index]) return;
    heads.forEach(head => head.removeAttribute("aria-sort"));
    heads[index].setAttribute("aria-sort", up ? "ascending" : "descending");
    this.sorted = { index, up };
    return this.show();
  }

  #heads() {
    [...this.table.tHead.rows[0].cells].forEach((head, index) => {
      const button = make("button", { type: "button" }, ...head.childNodes);
      button.addEventListener("click", () => this.sort(index, head.getAttribute("aria-sort") !== "ascending"));
      head.replaceChildren(button);
    });
  }

  #bar(block) {
    const id = `filter-${this.name}`;
    this.words = make("input", { type: "search", id, autocomplete: "off", spellcheck: false });
    this.said = make("output", { role: "status", "aria-live": "polite", htmlFor: id, textContent: `${this.count} rows` });
    this.more = make("button", { type: "button", className: "more", hidden: true });
    this.words.addEventListener("input", () => this.show());
    this.more.addEventListener("click", () => { this.all = true; this.show(); });
    const scroll = block.querySelector(".scroll");
    scroll.tabIndex = 0; // a box that scrolls must be reachable without a mouse
    scroll.setAttribute("role", "group");
    scroll.setAttribute("aria-label", this.table.caption?.textContent ?? this.name);
    const filter = make("span", { className: "filter", hidden: this.count < 10 }, make("label", { htmlFor: id, textContent: "Filter rows" }), " ", this.words, " ", this.said); // a few rows need none
    scroll.before(make("div", { className: "bar" }, filter));
    scroll.after(this.more);
    this.more.hidden = !this.others;
    this.more.textContent = `Show all ${this.count} rows`;
  }

  get state() { return { words: this.words.value, sorted: this.sorted, all: this.all }; }

  async restore({ words, sorted, all }) {
    this.words.value = words;
    this.all = all;
    if (sorted) await this.sort(sorted.index, sorted.up);
    else if (words || all) await this.show();
  }
}

const tables = [...document.querySelectorAll("div.table")].map(block => new ReportTable(block));

// Paper has every row. Nothing can be awaited while a page is printed, so the rows are unpacked when there is time.
const idle = window.requestIdleCallback ?? (act => setTimeout(act, 1000));
idle(async () => { for (const table of tables) await table.whole(); });
addEventListener("beforeprint", () => tables.forEach(table => table.draw(true)));
addEventListener("afterprint", () => tables.forEach(table => table.draw(table.all)));
