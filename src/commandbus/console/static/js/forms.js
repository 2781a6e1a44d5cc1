// What forms need before anybody can press their buttons: loaded like theme.js, ahead of the page itself, so that no click
// comes too early to be asked about.
(() => {
  // Questions before what cannot be taken back.
  let sure = null;
  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (!button?.dataset.confirm || button === sure) return;
    event.preventDefault();
    const dialog = document.querySelector("[data-confirm-dialog]");
    if (!dialog) return; // the page's end is still on its way
    dialog.querySelector("[data-confirm-text]").textContent = button.dataset.confirm;
    dialog.querySelector("[data-confirm-yes]").textContent = button.textContent.trim();
    dialog.returnValue = "no";
    dialog.onclose = () => {
      if (dialog.returnValue !== "yes") return;
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
})();
