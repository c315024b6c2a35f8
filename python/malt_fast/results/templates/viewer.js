// What the viewers share: their data, a list of questions, and outputs as cards.
"use strict";
(() => {
  const { make } = Malt;
  const KEPT = 8;     // chunks that stay unpacked
  const ROW = 46;     // px, the height of a row in viewer.css

  // ---- data: gzipped JSON in base64 (viewer_data.py) ----

  Malt.unpack = async (id) => {
    const raw = atob(document.getElementById(id).textContent);
    const bytes = Uint8Array.from(raw, (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };

  const open = new Map();
  Malt.entry = async (prefix, size, n) => {
    const id = `${prefix}-${Math.floor(n / size)}`;
    const found = open.get(id) || Malt.unpack(id);
    open.delete(id);
    open.set(id, found);
    if (open.size > KEPT) open.delete(open.keys().next().value);
    return (await found)[n % size];
  };

  // ---- a list of questions, of which only the rows in sight exist ----

  Malt.list = (list, box, { fill, choose, enter }) => {
    const at = { found: [], chosen: -1 };

    function row(n, place) {
      return make("div", {
        role: "option", id: `${list.id}-${n}`, "aria-selected": n === at.chosen, "aria-setsize": at.found.length,
        "aria-posinset": place + 1, style: `top: ${place * ROW}px`, "data-tree": n, onclick: () => choose(n),
      }, ...fill(n));
    }

    function rows() {
      const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
      const last = Math.min(at.found.length, first + Math.ceil(list.clientHeight / ROW) + 10);
      box.style.height = `${at.found.length * ROW}px`;
      box.replaceChildren(...at.found.slice(first, last).map((n, k) => row(n, first + k)));
      if (document.getElementById(`${list.id}-${at.chosen}`)) list.setAttribute("aria-activedescendant", `${list.id}-${at.chosen}`);
      else list.removeAttribute("aria-activedescendant");
    }

    function reveal(place) {
      const top = place * ROW;
      if (top < list.scrollTop) list.scrollTop = top;
      if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    }

    function move(by) {
      if (!at.found.length) return;
      const here = at.found.indexOf(at.chosen);
      const next = Math.max(0, Math.min(at.found.length - 1, (here < 0 ? -1 : here) + by));
      reveal(next);
      choose(at.found[next]);
    }

    list.addEventListener("scroll", rows);
    list.addEventListener("keydown", (event) => {
      const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
      const by = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity }[event.key];
      if (by !== undefined) move(by);
      else if (event.key === "Enter") enter();
      else return;
      event.preventDefault();
    });
    return {
      show: (found) => { at.found = found; list.scrollTop = 0; rows(); },
      choose: (n) => { at.chosen = n; const place = at.found.indexOf(n); if (place >= 0) reveal(place); rows(); },
      redraw: rows, move, found: () => at.found,
    };
  };

  // ---- outputs ----

  Malt.share = (value) => (value === null ? "–" : value.toFixed(2));
  Malt.tint = (value) => (value === null ? null : `--value: ${Math.round(100 * value)}%`);

  // The prompt as text, with what was put into its wording marked. outputs: texts by role.
  function prompt(parts, question, outputs) {
    const known = { question, ...outputs };
    return make("pre", { class: "config" }, ...parts.flatMap(([text, source]) => [
      text, source ? make("mark", { title: source }, known[source] ?? `⟨output of ${source}⟩`) : null,
    ]).filter((part) => part !== null));
  }

  // One output. one: {title, facts, answer, gold, right, text, before, prompt, question, outputs}
  Malt.card = (one, attributes = {}, ...more) => {
    const sign = one.right === null || one.right === undefined ? null : Malt.mark(one.right ? "1" : "0");
    const answer = one.answer === null ? null :
      make("p", { class: "answer" }, "extracted answer: ", make("b", {}, one.answer), ` · gold: ${one.gold}`);
    const asked = make("details", { class: "prompt", ontoggle: (event) => {
      if (event.target.open && event.target.children.length < 2) event.target.append(prompt(one.prompt, one.question, one.outputs));
    } }, make("summary", {}, "prompt"));
    return make("article", { class: "card", ...attributes },
      make("h3", {}, one.title, sign && " ", sign), make("p", { class: "note" }, one.facts.filter(Boolean).join(" · ")), answer,
      Malt.text(one.text, one.before), ...more, one.prompt ? asked : null);
  };

  const MARKS = { 1: ["right", "✓"], 0: ["wrong", "✗"], "-": ["none", "–"] };
  Malt.mark = (sign) => {
    const [word, shown] = MARKS[sign];
    return make("span", { class: `mark ${word}`, role: "img", "aria-label": word === "none" ? "no answer" : word }, shown);
  };
  Malt.state = (state) => (state === "cut" ? "cut off at max_tokens" : state === "failed" ? "failed" : "");
})();
