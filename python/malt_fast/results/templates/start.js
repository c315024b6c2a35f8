// Runs last: keys of the whole page, and the view that the address names.
"use strict";
(() => {
  const keys = document.getElementById("keys");
  document.querySelectorAll("button.help").forEach((one) => one.addEventListener("click", () => keys.showModal()));
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    const view = document.querySelector("section.view:not([hidden])");
    if (!typing && event.key === "?") keys?.showModal();
    if (!view || keys.open) return;
    if (event.key === "Escape") {
      if (!view.dispatchEvent(new CustomEvent("back", { cancelable: true }))) return;
      view.querySelector(".list").focus();
    } else if (!typing && event.key === "/") {
      event.preventDefault();
      view.querySelector("[type=search]").focus();
    }
  });
  Malt.start();
})();
