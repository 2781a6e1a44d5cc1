// Live pages: when the numbers of the server change, fetch this page again and swap its parts marked data-live. Charts
// go on when nothing changes: a page with data-live-charts is fetched again every few seconds.
import { refreshSelections } from "./selection.js";
import { refreshTimes } from "./times.js";

const POLL = 5000;
const LEAST = 1500; // between two fetches of the page
const CHARTS = 5000;
let version = null;
let waiting = null;
let fetchedAt = 0;

function show(state) {
  const words = { live: "Live", lost: "Reconnecting" }[state];
  const tone = state === "lost" ? "tone-warning" : "tone-success";
  const box = document.querySelector("[data-live-state]");
  if (!box) return;
  box.hidden = false;
  box.querySelector("[data-live-words]").textContent = words;
  box.querySelector("[data-live-dot]").className = `tinted-dot ${tone} size-2 rounded-full`;
}

// What somebody is in the middle of stays as it is.
function isInUse(part) {
  return part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select, button")
    || part.querySelector("input:checked, details[open], textarea:focus, [aria-invalid], [data-chart]:hover") !== null
    || [...part.querySelectorAll("input:not([type=hidden]), textarea")].some((field) => field.value !== field.defaultValue);
}

// A swap leaves people where they are: the focus on its link, and wide tables where they were scrolled to.
function swap(part, fresh) {
  const focus = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const scrolled = [...part.querySelectorAll(".overflow-x-auto")].map((box) => box.scrollLeft);
  part.replaceWith(fresh);
  fresh.querySelectorAll(".overflow-x-auto").forEach((box, i) => { box.scrollLeft = scrolled[i] ?? 0; });
  if (focus) [...fresh.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === focus)?.focus({ preventScroll: true });
}

async function refresh() {
  waiting = null;
  fetchedAt = Date.now();
  const parts = [...document.querySelectorAll("[data-live]")];
  if (!parts.length || document.hidden) return;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (document.querySelector("dialog:modal")) return; // a question is open, and its button must stay; see live()
  for (const part of parts) {
    const fresh = page.querySelector(`[data-live="${part.dataset.live}"]`);
    if (!fresh || isInUse(part)) continue;
    const at = [...part.querySelectorAll("[data-rows] > tr")].findIndex((row) => row.ariaCurrent === "true");
    swap(part, document.adoptNode(fresh));
    if (at >= 0) fresh.querySelectorAll("[data-rows] > tr")[at]?.setAttribute("aria-current", "true");
  }
  refreshTimes();
  refreshSelections();
}

function take(numbers) {
  for (const node of document.querySelectorAll("[data-number]")) {
    const value = numbers[node.dataset.number];
    if (value === undefined) continue;
    node.textContent = value.toLocaleString("en");
    node.hidden = node.classList.contains("badge") && !value;
  }
  if (numbers.version !== version) refreshSoon(); // the first too: much may have happened since the page was made
  version = numbers.version;
}

function refreshSoon() {
  waiting ??= setTimeout(() => refresh().catch(() => show("lost")), Math.max(0, fetchedAt + LEAST - Date.now()));
}

let source = null;
let timer = null;

function stop() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

// Without a stream: ask, and after a minute try to get a stream again.
async function poll(left = 12) {
  try {
    const answer = await fetch(document.body.dataset.poll, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(answer.status);
    take(await answer.json());
    show("live");
  } catch {
    show("lost");
  }
  if (!document.hidden) timer = setTimeout(() => (left ? poll(left - 1) : listen()), POLL);
}

function listen() {
  stop();
  source = new EventSource(document.body.dataset.events);
  source.onopen = () => show("live");
  source.onmessage = (event) => take(JSON.parse(event.data));
  source.onerror = () => {
    // Closed for good means refused: too many streams. Otherwise the browser tries again by itself.
    if (source.readyState === EventSource.CLOSED) poll();
    else show("lost");
  };
}

// Browsers open few connections to one server: only pages that are looked at hold one, and only after a moment.
export function live() {
  if (!document.body.dataset.events) return;
  const begin = () => { stop(); if (!document.hidden) timer = setTimeout(listen, 500); };
  document.addEventListener("visibilitychange", begin);
  addEventListener("pagehide", stop);
  document.addEventListener("close", ({ target }) => { if (target.returnValue !== "yes") refreshSoon(); }, true);
  fetchedAt = Date.now();
  setInterval(() => {
    const isDue = version !== null && Date.now() - fetchedAt >= CHARTS;
    if (isDue && document.querySelector("[data-live-charts]")) refreshSoon();
  }, 1000);
  begin();
}
