"use strict";
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const views = new Map(); // of the charts that are drawn, by their elements
  let kept = 0; // the layer whose values are shown, by its position
  let held = false; // whether a reader has chosen it, so that it stays marked
  let pointed = -1; // the layer under the pointer
  const axis = {
    labelColor: "var(--muted)", titleColor: "var(--muted)", titleFontWeight: 500, gridColor: "var(--line)",
    domainColor: "var(--line)", tickColor: "var(--line)", labelFontSize: 11, titleFontSize: 11,
  };
  const config = {
    aria: false, // the tables are what is read aloud
    background: null,
    font: 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif',
    view: { stroke: null },
    axis,
    axisX: { grid: false },
    legend: { labelColor: "var(--ink)", titleColor: "var(--muted)", labelFontSize: 11, titleFontSize: 11 },
  };

  // --- charts

  async function draw(element) {
    if (views.has(element)) return;
    views.set(element, null);
    const spec = { ...data.specs[element.dataset.chart], config };
    if (element.dataset.chart === "histogram") spec.datasets = histogram(element);
    else if (element.dataset.export) spec.datasets = { layers: data.layers[element.dataset.export] };
    const { view } = await vegaEmbed(element, spec, {
      renderer: "svg", actions: false, tooltip: { theme: "custom" }, loader: { load: () => Promise.reject() },
      logLevel: vega.Error, // it warns of charts without values, as a float file has
    });
    views.set(element, view);
    if (!element.dataset.export) return;
    const layer = (item) => (item && item.datum && item.datum.position !== undefined ? item.datum.position : -1);
    view.addEventListener("pointermove", (_, item) => point(layer(item)));
    view.addEventListener("pointerout", () => point(-1));
    view.addEventListener("click", (_, item) => { if (layer(item) >= 0) keep(layer(item)); });
    await show(element);
  }

  const shown = () => document.querySelector(".export:not([hidden])");
  const rows = () => data.layers[shown().dataset.path];
  const charts = (root) => [...root.querySelectorAll(".chart")];

  async function show(element) {
    const view = views.get(element);
    if (!view) return;
    if (element.dataset.chart === "histogram") {
      const { bins, ends } = histogram(element);
      await view.data("bins", bins).data("ends", ends).runAsync();
    } else await view.signal("picked", pointed >= 0 ? pointed : held ? kept : -1).runAsync();
  }

  function histogram(element) {
    const layer = rows().find((row) => row.position === kept);
    const [start, width, counts] = data.histograms[layer.name];
    element.closest("figure").querySelector(".picked").textContent = layer.name;
    return {
      bins: counts.map((count, i) => ({ from: start + i * width, to: start + (i + 1) * width, count })),
      ends: layer.low === undefined ? [] : [{ end: layer.low }, { end: layer.high }],
    };
  }

  // --- one layer, in all charts and tables

  function point(position) {
    if (position === pointed) return;
    pointed = position;
    const export_ = shown();
    for (const row of export_.querySelectorAll("tr[data-layer]"))
      row.classList.toggle("pointed", Number(row.dataset.layer) === position);
    for (const element of charts(export_)) if (element.dataset.chart !== "histogram") show(element);
  }

  function keep(position, byReader = true) {
    held = byReader && !(held && kept === position);
    kept = position;
    const export_ = shown();
    for (const row of export_.querySelectorAll("tr[data-layer]")) {
      const own = held && Number(row.dataset.layer) === position;
      row.classList.toggle("kept", own);
      row.querySelector("button").setAttribute("aria-pressed", String(own));
    }
    for (const element of charts(export_)) show(element);
  }

  document.addEventListener("pointerover", (event) => {
    const row = event.target.closest("tr[data-layer]");
    if (row) point(Number(row.dataset.layer));
    else if (!event.target.closest(".chart")) point(-1);
  });

  // --- tables

  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = Number.parseFloat(text.replaceAll(",", ""));
    return { text, number: Number.isNaN(number) ? -Infinity : number };
  };

  function sort(header) {
    const table = header.closest("table");
    const column = header.cellIndex;
    const numeric = header.classList.contains("n");
    const down = header.ariaSort ? header.ariaSort === "ascending" : numeric;
    const order = (a, b) => {
      const [one, two] = [value(a, column), value(b, column)];
      const found = one.number - two.number || one.text.localeCompare(two.text, "en", { numeric: true });
      return down ? -found : found;
    };
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("th button");
    if (!button) return;
    const row = button.closest("tr[data-layer]");
    if (row) keep(Number(row.dataset.layer));
    else sort(button.closest("th"));
  });

  // --- which export

  function open(path) {
    for (const section of document.querySelectorAll(".export")) section.hidden = section.dataset.path !== path;
    pointed = -1;
    const worst = shown().querySelector("tr[data-layer]"); // of the layers that hurt most, if there are any
    for (const element of charts(shown())) watch.observe(element);
    keep(worst ? Number(worst.dataset.layer) : 0, false);
  }

  const watch = new IntersectionObserver((found) => {
    for (const { isIntersecting, target } of found) if (isIntersecting) draw(target);
  }, { rootMargin: "400px" });

  const choice = document.getElementById("export");
  choice.addEventListener("change", () => open(choice.value));
  for (const element of charts(document)) if (!element.dataset.export) watch.observe(element);
  open(choice.value);
  addEventListener("beforeprint", () => charts(document).forEach((element) => element.offsetParent && draw(element)));
}
