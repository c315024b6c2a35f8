// The held-out questions: who answered what, how votes fell, and what was said. transcripts.py writes
// the data.
"use strict";
(() => {
  const meta = Malt.data("transcripts-meta");
  if (!meta) return;
  const { make, mark } = Malt;
  const $ = (name) => document.getElementById("h-" + name);
  const names = meta.systems.map((one) => one.name);
  const numbered = (name, other) => Math.max(0, names.indexOf(name) >= 0 ? names.indexOf(name) : other);
  const at = { index: null, question: -1, one: null, pass: [0, 0] };   // pass: shown of each system
  const before = () => Number($("before").value), after = () => Number($("after").value);

  // ---- the list ----

  const marked = () => [...new Set([numbered("SA", 0), before(), after()])];   // systems with a mark
  const list = Malt.list($("list"), $("rows"), {
    fill: (q) => [
      make("span", { class: "marks" }, ...marked().map((s) => mark(at.index.right[s][q]))),
      make("span", { class: "what" }, at.index.question[q].slice(0, 200)),
      make("span", { class: "id" }, at.index.id[q])],
    choose: (q) => choose(q),
    enter: () => $("systems").querySelector("button").focus(),
  });

  const OUTCOMES = {
    every: (q) => at.index.right.every((signs) => signs[q] === "1"),
    none: (q) => at.index.right.every((signs) => signs[q] !== "1"),
  };
  function filter() {
    const i = at.index, words = $("search").value.trim().toLowerCase(), outcome = $("outcome").value;
    const is = (s, q) => (i.right[s][q] === "1" ? "1" : "0");
    const fits = OUTCOMES[outcome] || ((q) => !outcome || is(before(), q) + is(after(), q) === outcome);
    const says = (q) => !words || [i.id[q], i.gold[q]].some((one) => one.toLowerCase() === words) ||
      i.question[q].toLowerCase().includes(words);
    const found = i.id.map((_, q) => q).filter((q) => fits(q) && says(q));
    $("count").textContent = `${Malt.number(found.length)} of ${Malt.number(i.id.length)} questions`;
    $("marks").textContent = marked().map((s) => names[s]).join(", ");
    list.show(found);
  }

  // ---- a question ----

  async function choose(q, remember = true) {
    at.question = q;
    const one = await Malt.entry("transcripts", meta.chunk, q);
    if (at.question !== q) return;   // another question was chosen in the meantime
    at.one = one;
    at.pass = [before(), after()].map((s) => shownPass(s));
    list.choose(q);
    draw();
    if (remember) address();
  }

  const address = () => Malt.address("transcripts", {
    a: names[before()], b: names[after()], o: $("outcome").value, q: at.question < 0 ? "" : at.index.id[at.question] });

  // The pass that decided the vote, or the first.
  function shownPass(s) {
    return Math.max(0, meta.systems[s].passes.findIndex((slots) => slots[slots.length - 1] === at.one.voted[s]));
  }

  function draw() {
    if (!at.one) return;
    const i = at.index, q = at.question;
    $("question").replaceChildren(
      make("p", { class: "asked" }, i.question[q]),
      make("p", { class: "note" }, `gold answer: ${i.gold[q]} · ${i.id[q]}`));
    $("systems").replaceChildren(...meta.systems.map((one, s) => make("button", {
      type: "button", "aria-pressed": s === after() || s === before(), title: one.about, "data-system": one.name,
      onclick: () => compareWith(s),
    }, one.name, " ", mark(i.right[s][q]))));
    const shown = before() === after() ? [after()] : [before(), after()];
    $("detail").replaceChildren(...shown.map((s, k) => system(s, k)));
  }

  function compareWith(s) {
    $("after").value = String(s);
    changed();
    $("systems").querySelectorAll("button")[s].focus();
  }

  // ---- one system: its vote, and the texts of a pass ----

  function system(s, k) {
    const one = meta.systems[s];
    const head = make("h3", { class: "system" },
      one.name, " ", mark(at.index.right[s][at.question]), make("span", { class: "note" }, ` ${one.about}`));
    const slots = one.passes[at.pass[k]] || one.passes[0];
    const cards = make("div", { class: "cards" }, ...slots.map((_, turn) => card(one, slots, turn)));
    return make("section", { "data-side": k, "aria-label": one.name }, head, votes(s, k), cards);
  }

  const last = (slots) => slots[slots.length - 1];
  const verdict = (slot) => (at.one.same[slot] < 0 ? "no answer" : at.one.right[slot] ? "a right answer" : "a wrong answer");
  const answer = (slot) => at.one.answer[slot] ?? verdict(slot);
  const signOf = (slot) => mark(at.one.same[slot] < 0 ? "-" : String(at.one.right[slot]));

  // The answers of all passes and how many agree, to the majority.
  function votes(s, k) {
    const passes = meta.systems[s].passes;
    if (passes.length < 2) return null;
    const won = at.one.voted[s];
    const agree = passes.filter((slots) => at.one.same[last(slots)] === at.one.same[won]).length;
    const ballots = passes.map((slots, pass) => make("button", {
      type: "button", "aria-pressed": pass === at.pass[k], "data-pass": pass,
      class: won >= 0 && at.one.same[last(slots)] === at.one.same[won] ? "won" : null,
      onclick: () => {
        at.pass[k] = pass;
        draw();
        $("detail").querySelector(`[data-side="${k}"] [data-pass="${pass}"]`).focus();
      },
    }, make("small", {}, `pass ${pass + 1} `), answer(last(slots)), " ", signOf(last(slots))));
    const end = won < 0 ? "no pass states an answer" : `majority: ${answer(won)}, ${agree} of ${passes.length} votes`;
    return make("div", { class: "votes", role: "group", "aria-label": "votes; a click shows the pass" },
      ...ballots, make("b", {}, `→ ${end} `), mark(at.index.right[s][at.question]));
  }

  function card(one, slots, turn) {
    const slot = slots[turn], q = at.one, turns = one.turns;
    const outputs = Object.fromEntries(slots.slice(0, turn).map((s, k) => [turns[k], q.passed[s] ?? q.text[s]]));
    const judged = q.same[slot] >= 0;
    return Malt.card({
      title: turns[turn], text: q.text[slot], answer: q.answer[slot], gold: at.index.gold[at.question],
      right: judged ? q.right[slot] : null, facts: [`${q.tokens[slot]} tokens`, Malt.state(q.state[slot])],
      before: turn > 0 && turn === turns.length - 1 ? q.text[slots[0]] : null,
      prompt: meta.prompts[turns[turn]], question: at.index.question[at.question], outputs,
    }, { class: `card ${judged ? (q.right[slot] ? "good" : "bad") : ""}`, "data-slot": slot });
  }

  // ---- start ----

  function changed() {
    filter();
    if (at.one) at.pass = [before(), after()].map((s) => shownPass(s));
    if (at.question >= 0) list.choose(at.question);
    draw();
    address();
  }

  for (const side of ["before", "after"]) {
    meta.systems.forEach((one, s) => $(side).append(make("option", { value: s, title: one.about }, one.name)));
    $(side).addEventListener("change", changed);
  }
  $("before").value = String(numbered("MA", 0));
  $("after").value = String(numbered("MALT", names.length - 1));
  $("outcome").addEventListener("change", () => { filter(); address(); });
  $("search").addEventListener("input", filter);
  Malt.redrawn.push(draw);
  Malt.views.set("transcripts", async (asked) => {
    at.index ||= await Malt.unpack("transcripts-index");
    if (names.includes(asked.get("a"))) $("before").value = String(names.indexOf(asked.get("a")));
    if (names.includes(asked.get("b"))) $("after").value = String(names.indexOf(asked.get("b")));
    if (asked.has("o")) $("outcome").value = asked.get("o");
    if ($("outcome").selectedIndex < 0) $("outcome").value = "";
    filter();
    const q = at.index.id.indexOf(asked.get("q"));
    if (q >= 0) await choose(q);
    else if (list.found().length) await choose(list.found()[0], false);   // the address stays as it is
  });
})();
