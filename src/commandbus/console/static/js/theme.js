// Light or dark, before anything is painted: by the system, unless the switch said otherwise.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const isDark = () => (chosen() ?? (system.matches ? "dark" : "light")) === "dark";
  const apply = () => {
    root.classList.toggle("dark", isDark());
    root.classList.toggle("light", !isDark());
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    for (const button of document.querySelectorAll("[data-theme-switch]")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        try { localStorage.setItem("theme", isDark() ? "light" : "dark"); } catch { /* only for this page */ }
        apply();
      });
    }
  });
})();
