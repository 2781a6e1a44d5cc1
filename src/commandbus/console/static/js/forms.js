// What forms need before anybody can press their buttons: loaded like theme.js, ahead of the page itself, so that no click
// comes too early to be asked about.
(() => {
  // The boxes that say what is chosen in a form: that of a whole group alone, else those of rows. One is a command, or
  // as many as its data-count says.
  function chosen(form) {
    const whole = [...form.querySelectorAll("[data-whole]:checked")];
    return whole.length ? whole : [...form.querySelectorAll("[data-rows] input[type=checkbox]:checked")];
  }

  // A button with data-confirm-many does not ask about one command. It does about a group, which more may have joined,
  // and when it was Enter in a field that pressed it: browsers press the first button of a form.
  function isAsked(button, boxes) {
    if (!("confirmMany" in button.dataset)) return Boolean(button.dataset.confirm);
    const isOne = boxes.length < 2 && !boxes[0]?.dataset.count;
    return !isOne || document.activeElement.matches("input:not([type=checkbox])");
  }

  function warn(words) {
    const line = document.createElement("p");
    line.className = "flash tinted-line tone-warning mb-4";
    line.role = "alert";
    line.textContent = words;
    document.querySelector("main").prepend(line);
  }

  // Whether a button needs a field that is empty; then it is said beside it, as the server would say it, and nobody is
  // asked first.
  function isMissing(button) {
    const field = button.dataset.needs && button.form.elements[button.dataset.needs];
    if (!field || field.value.trim()) return false;
    const id = `${field.name}-wrong`;
    const line = document.getElementById(id) ?? document.createElement("p");
    Object.assign(line, { id, className: "wrong", textContent: "is missing" });
    field.after(line);
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", id);
    field.addEventListener("input", () => {
      line.remove();
      for (const name of ["aria-invalid", "aria-describedby"]) field.removeAttribute(name);
    }, { once: true });
    field.focus();
    return true;
  }

  // Questions before what is hard to take back.
  let sure = null;
  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (!button || button === sure) return;
    const boxes = chosen(button.form);
    if (!isAsked(button, boxes)) return;
    const count = boxes.reduce((sum, box) => sum + Number(box.dataset.count ?? 1), 0);
    if (!count && button.dataset.confirm.includes("{n}")) return; // nothing is chosen: the server says so
    event.preventDefault();
    if (isMissing(button)) return;
    const dialog = document.querySelector("[data-confirm-dialog]");
    if (!dialog) return; // the page's end is still on its way
    const [place, words] = count === 1 ? [/(all )?\{n\}/, "1 command"] : ["{n}", `${count.toLocaleString("en")} commands`];
    dialog.querySelector("[data-confirm-text]").textContent = button.dataset.confirm.replace(place, words);
    dialog.querySelector("[data-confirm-yes]").textContent = button.textContent.trim();
    dialog.returnValue = "no";
    dialog.onclose = () => {
      if (dialog.returnValue !== "yes") return;
      if (!button.isConnected) return warn("Nothing was done: the page changed while you were asked. Look, and try again.");
      sure = button;
      button.form.requestSubmit(button);
      sure = null;
    };
    dialog.showModal();
  });

  // Forms with one choice need no button.
  document.addEventListener("change", (event) => {
    event.target.closest?.("form[data-auto-submit]")?.requestSubmit();
  });
  document.addEventListener("DOMContentLoaded", () => {
    for (const button of document.querySelectorAll("form[data-auto-submit] [data-auto-hide]")) button.hidden = true;
  });

  // The page of a refused form has the address that the form was sent to: to reload it, or to come back to it, would send
  // it again. So it takes the address of the page that it is, and what was typed is kept with it.
  const { place } = document.documentElement.dataset;
  if (place) history.replaceState(null, "", place);
  document.addEventListener("DOMContentLoaded", () => {
    const fields = [...document.querySelectorAll("form[method=post] :is(input:not([type=password]), textarea)[id^=field-]")];
    if (place) history.replaceState(Object.fromEntries(fields.map((field) => [field.id, field.value])), "");
    else for (const field of fields) {
      if (field.value === field.defaultValue) field.value = history.state?.[field.id] ?? field.value;
    }
  });
})();
