// What the scripts of the page share: elements, the theme, and views that the address names.
// An address is #VIEW&KEY=VALUE..., or #ID of a section of the first view.
"use strict";
const Malt = { views: new Map(), themed: [] };   // views: by id what is called with the address's values
(() => {
  // An element; a text among `inside` becomes a text node, never markup.
  Malt.make = (tag, attributes = {}, ...inside) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...inside.filter((part) => part !== null));
    return made;
  };
  Malt.number = (value) => value.toLocaleString("en");
  Malt.data = (id) => JSON.parse(document.getElementById(id)?.textContent || "null");

  // ---- views ----

  Malt.address = (view, values) =>
    history.replaceState(null, "", `#${view}&${new URLSearchParams(values)}`);

  const sections = [...document.querySelectorAll("section.view")];
  const first = document.getElementById("first-view");

  function route() {
    const [name, ...rest] = location.hash.slice(1).split("&");
    const shown = sections.find((one) => one.id === name);
    for (const one of sections) one.hidden = one !== shown;
    first.hidden = Boolean(shown);
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === `#${name || "results"}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (shown) {
      shown.scrollIntoView();
      Malt.views.get(name)?.(new URLSearchParams(rest.join("&")));
    } else if (name) document.getElementById(name)?.scrollIntoView();
  }

  Malt.start = () => {
    window.addEventListener("hashchange", route);
    route();
  };

  // ---- theme: at first the system decides ----

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
    root.dataset.theme = now ? "light" : "dark";
    Malt.themed.forEach((redraw) => redraw());
  });
  dark.addEventListener("change", () => Malt.themed.forEach((redraw) => redraw()));
})();
