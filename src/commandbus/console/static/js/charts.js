// Charts are drawn by the server; here the pointer reads them: the legend shows the numbers of the moment below it.
function read(chart, at) {
  const moments = chart.dataset.moments.split("|");
  const i = at === null ? moments.length - 1 : Math.round(at * (moments.length - 1));
  for (const node of chart.querySelectorAll("[data-values]")) node.textContent = node.dataset.values.split("|")[i] ?? "-";
  const note = chart.querySelector("[data-chart-moment]");
  note.dataset.note ??= note.textContent;
  note.textContent = at === null ? note.dataset.note : `${moments[i]} UTC`;
  const plot = chart.querySelector("[data-plot]");
  const { width, height } = plot.viewBox.baseVal;
  const x = (width * i) / Math.max(moments.length - 1, 1);
  plot.querySelector("[data-cursor]").setAttribute("d", at === null ? "" : `M${x},0V${height}`);
}

export function charts() {
  let last = null;
  const leave = () => { if (last?.isConnected) read(last, null); last = null; };
  document.addEventListener("pointermove", (event) => {
    const plot = event.target.closest?.("[data-plot]");
    const chart = plot?.closest("[data-chart]") ?? null;
    if (chart !== last) leave();
    if (!chart) return;
    last = chart;
    const box = plot.getBoundingClientRect();
    read(chart, Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1));
  });
  document.addEventListener("pointerleave", leave);
}
