// Menus that close by themselves; not while a question is answered that one of their buttons asks.
const isAsking = () => document.querySelector("dialog:modal") !== null;

export function menus() {
  document.addEventListener("click", (event) => {
    if (isAsking()) return;
    for (const menu of document.querySelectorAll("details[data-menu][open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || isAsking()) return;
    for (const menu of document.querySelectorAll("details[data-menu][open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
}
