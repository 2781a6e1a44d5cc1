// Relative times that stay true while a page is open. The words are those of looks.py.
const STEPS = [[60, "s"], [60, "min"], [24, "h"], [365, "d"]];

function span(seconds) {
  for (const [size, unit] of STEPS) {
    if (seconds < size) return `${seconds.toFixed(0)} ${unit}`;
    seconds /= size;
  }
  return `${seconds.toFixed(0)} y`;
}

export function refreshTimes(root = document) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
    const words = Math.abs(seconds) < 1 ? "now" : seconds < 0 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
    if (time.textContent !== words) time.textContent = words;
  }
}

export function keepTimes() {
  setInterval(refreshTimes, 1000);
}
