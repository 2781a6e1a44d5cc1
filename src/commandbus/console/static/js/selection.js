// Choosing rows: all of a page at once, a range with Shift, and how many there are.
let last = null;

const boxes = (form) => [...form.querySelectorAll("[data-rows] input[type=checkbox]")];

function tell(form) {
  const all = form.querySelector("[data-choose-all]");
  const words = form.querySelector("[data-chosen]");
  if (!all || !words) return;
  const count = boxes(form).filter((box) => box.checked).length;
  all.hidden = false;
  all.checked = count > 0 && count === boxes(form).length;
  all.indeterminate = count > 0 && !all.checked;
  const whole = form.querySelector("[data-whole]")?.checked;
  const what = words.dataset.what;
  words.textContent = whole ? "All of it is chosen" : count ? `${count} chosen` : `Choose ${what}s, then decide`;
}

export function refreshSelections() {
  for (const form of document.querySelectorAll("form[data-selection]")) tell(form);
}

export function selections() {
  refreshSelections();
  document.addEventListener("click", (event) => {
    const box = event.target;
    const form = box.closest?.("form[data-selection]");
    if (!form || box.type !== "checkbox") return;
    if (box.matches("[data-whole]")) {
      last = null;
    } else if (box.matches("[data-choose-all]")) {
      for (const other of boxes(form)) other.checked = box.checked;
    } else {
      const all = boxes(form);
      const from = all.indexOf(last), to = all.indexOf(box);
      if (event.shiftKey && from >= 0) {
        for (const other of all.slice(Math.min(from, to), Math.max(from, to) + 1)) other.checked = box.checked;
      }
      last = box;
    }
    tell(form);
  });
}
