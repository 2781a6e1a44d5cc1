// Runs that are under way: their bars follow the API until all is processed.
import { get } from "./api.js";

const PAUSE = 500;
const TIRED = 3000; // after an answer that did not come

function draw(card, run) {
  let start = 0;
  for (const part of card.querySelectorAll("[data-part]")) {
    const width = (100 * run[part.dataset.part]) / run.total;
    const isOutcome = part.dataset.part !== "generated";
    part.setAttribute("x", `${isOutcome ? start : 0}%`);
    part.setAttribute("width", `${width}%`);
    if (isOutcome) start += width;
  }
  for (const bar of card.querySelectorAll("[data-progress]")) bar.setAttribute("aria-valuenow", run[bar.dataset.progress]);
  for (const node of card.querySelectorAll("[data-count]")) node.textContent = run[node.dataset.count].toLocaleString("en");
  const state = card.querySelector("[data-run-state]");
  state.textContent = run.error ?? (run.is_done ? "Done" : run.generated < run.total ? "Generating" : "Processing");
}

async function follow(card) {
  let pause = PAUSE;
  try {
    const run = await get(`/runs/${card.dataset.run}`);
    draw(card, run);
    if (run.is_done) return;
  } catch (error) {
    if (error.status === 404) return; // the application was started anew
    pause = TIRED;
  }
  setTimeout(() => follow(card), pause);
}

for (const card of document.querySelectorAll("[data-run]:not([data-done])")) follow(card);
