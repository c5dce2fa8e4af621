// Light or dark: as the system says, or as a person has chosen. A classic script, so that no page flashes.
"use strict";
(() => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const read = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const isDark = () => (read() ? read() === "dark" : dark.matches);
  const apply = () => { root.dataset.theme = isDark() ? "dark" : "light"; };
  apply();
  dark.addEventListener("change", apply);
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    if (!button) return; // the login has none
    const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    label();
    button.addEventListener("click", () => {
      try { localStorage.setItem("theme", isDark() ? "light" : "dark"); } catch { /* no storage */ }
      apply(); label();
      dispatchEvent(new Event("themechange"));
    });
  });
})();
