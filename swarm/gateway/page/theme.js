// Light, dark, or what the system says; runs before anything is drawn, so that nothing flashes.
"use strict";

const THEMES = ["auto", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");

function chosenTheme() {
  const found = localStorage.getItem("theme");
  return THEMES.includes(found) ? found : "auto";
}

function showTheme() {
  const chosen = chosenTheme();
  const dark = chosen === "dark" || (chosen === "auto" && system.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  const name = document.getElementById("theme-name");
  if (name) name.textContent = chosen;
}

showTheme();
system.addEventListener("change", showTheme);
document.addEventListener("DOMContentLoaded", () => {
  showTheme();
  document.getElementById("theme").addEventListener("click", () => {
    localStorage.setItem("theme", THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length]);
    showTheme();
  });
});
