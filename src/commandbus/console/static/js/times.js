// Relative times that stay true while a page is open, by the server's clock. The words are those of looks.py.
const STEPS = [[60, "s"], [60, "min"], [24, "h"], [365, "d"]];

function span(seconds) {
  for (const [size, unit] of STEPS) {
    if (Math.round(seconds) < size) return `${seconds.toFixed(0)} ${unit}`;
    seconds /= size;
  }
  return `${seconds.toFixed(0)} y`;
}

// How far this machine's clock is ahead; less than what a page takes to arrive tells nothing.
const told = Date.parse(document.body.dataset.now);
const ahead = Math.abs(Date.now() - told) > 2000 ? Date.now() - told : 0;

export function refreshTimes(root = document) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const seconds = (Date.now() - ahead - Date.parse(time.dateTime)) / 1000;
    const words = Math.abs(seconds) < 1 ? "now" : seconds < 0 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
    if (time.textContent !== words) time.textContent = words;
  }
}

export function keepTimes() {
  setInterval(refreshTimes, 1000);
}
