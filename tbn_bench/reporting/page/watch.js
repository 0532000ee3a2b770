// Only in a page that `tbn-bench report --watch` wrote: loads itself again when it was written again, and stays where the reader was.
const watched = document.querySelector("meta[name=watch]");
if (watched) {
  let stamp = null;
  const key = `tbn-report:${location.pathname}`;
  window.reportStamp = value => {
    if (stamp !== null && value !== stamp) {
      const state = { scroll: scrollY, tables: Object.fromEntries(tables.map(table => [table.name, table.state])), plots: plots.state };
      sessionStorage.setItem(key, JSON.stringify(state));
      location.reload();
    }
    stamp = value;
  };
  const look = () => {
    const script = make("script", { src: `data/stamp.js?${Date.now()}`, onload: () => script.remove(), onerror: () => script.remove() });
    document.head.append(script);
  };
  look();
  setInterval(look, 1000 * Number(watched.content));
  const kept = JSON.parse(sessionStorage.getItem(key) ?? "null");
  sessionStorage.removeItem(key);
  if (kept) {
    history.scrollRestoration = "manual";
    Promise.all([
      ...tables.map(table => kept.tables[table.name] && table.restore(kept.tables[table.name])),
      plotsReady.then(() => plots.restore(kept.plots)),
    ]).then(() => scrollTo({ top: kept.scroll, behavior: "instant" }));
  }
}
