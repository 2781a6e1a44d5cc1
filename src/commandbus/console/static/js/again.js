// A page that could not be shown looks whether it can be now; until then nothing moves under who reads it.
export function tryAgain() {
  const seconds = Number(document.querySelector("[data-again]")?.dataset.again);
  if (!seconds) return;
  setInterval(async () => {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
    if (answer && answer.status !== 503) location.replace(location.pathname + location.search);
  }, seconds * 1000);
}
