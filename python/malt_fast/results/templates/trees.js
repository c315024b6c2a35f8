// The trees of outputs that the roles learned from. trees.py writes the data.
"use strict";
(() => {
  const forests = Malt.data("trees-meta");
  if (!forests) return;
  const { make, share, tint } = Malt;
  const $ = (name) => document.getElementById("t-" + name);
  const at = { forest: 0, index: null, question: -1, tree: null, node: -1, pair: null };

  const forest = () => forests[at.forest];
  const sampled = (node) => at.tree.state[node] !== "open";
  const childrenOf = (node) => forest().parents.flatMap((p, i) => (p === node && sampled(i) ? [i] : []));
  const siblings = (node) => childrenOf(forest().parents[node]);
  const roleOf = (node) => forest().chain[forest().level[node] - 1];
  function path(node) {
    const found = [];
    for (let n = node; n >= 0; n = forest().parents[n]) found.unshift(n);
    return found;
  }
  const name = (node) => `${roleOf(node)} ${path(node).map((n) => siblings(n).indexOf(n) + 1).join(".")}`;

  // ---- the list ----

  const deep = { text: "", trees: null };   // the last search in outputs, and the trees it found
  const list = Malt.list($("list"), $("rows"), {
    fill: (t) => [
      make("span", { class: "value", style: tint(at.index.value[t]) }, share(at.index.value[t])),
      make("span", { class: "what" }, at.index.question[t].slice(0, 200)),
      make("span", { class: "id" }, at.index.id[t])],
    choose: (t) => choose(t),
    enter: () => at.node >= 0 && select(at.node),
  });

  function filter() {
    const i = at.index, words = $("search").value.trim().toLowerCase();
    const low = Number($("low").value || 0), high = Number($("high").value || 1);
    const flag = Number($("flag").value), leaves = $("leaves").value;
    const inside = deep.text === words && words ? deep.trees : null;
    const fits = (t) =>
      (!words || (inside && inside.has(t)) ||
        i.id[t].toLowerCase() === words || i.question[t].toLowerCase().includes(words)) &&
      (!flag || i.flags[t] & flag) &&
      (i.value[t] === null ? low <= 0 : i.value[t] >= low && i.value[t] <= high) &&
      (!leaves || (leaves === "all") === (i.right[t] === i.graded[t] && i.graded[t] > 0)) &&
      (leaves !== "none" || i.right[t] === 0) &&
      (leaves !== "some" || (i.right[t] > 0 && i.right[t] < i.graded[t]));
    const found = i.id.map((_, t) => t).filter(fits);
    const order = $("order").value;
    if (order) {
      const sign = order === "up" ? 1 : -1;
      found.sort((a, b) => sign * ((i.value[a] ?? -1) - (i.value[b] ?? -1)) || a - b);
    }
    $("count").textContent = `${Malt.number(found.length)} of ${Malt.number(i.id.length)} questions`;
    list.show(found);
  }

  async function searchOutputs() {
    const words = $("search").value.trim().toLowerCase();
    if (!words) return;
    deep.text = words;
    deep.trees = new Set();
    for (let t = 0; t < forest().trees; t += forest().chunk) {
      $("count").textContent = `searching, ${Malt.number(t)} questions so far`;
      const trees = await Malt.unpack(`trees-${at.forest}-${t / forest().chunk}`);
      trees.forEach((one, k) => one.text.some((x) => x.toLowerCase().includes(words)) && deep.trees.add(t + k));
    }
    filter();
  }

  // ---- the tree ----

  async function choose(t, node = null, remember = true) {
    at.question = t;
    const found = await Malt.entry(`trees-${at.forest}`, forest().chunk, t);
    if (at.question !== t) return;   // another question was chosen in the meantime
    Object.assign(at, { tree: found, pair: null, node: node ?? firstLeaf(found) });
    list.choose(t);
    draw();
    show(remember);
  }

  // The first leaf that is correct, or else the first: its path shows the whole chain.
  function firstLeaf(one) {
    const right = one.outcome.indexOf(1);
    const isLeaf = (level, n) => level === forest().chain.length && one.state[n] !== "open";
    return right >= 0 ? right : Math.max(0, forest().level.findIndex(isLeaf));
  }

  // Grid rows: a node spans the rows of the leaves below it.
  function places() {
    const span = forest().parents.map(() => 1), first = [];
    let leaf = 1;
    const place = (n) => {
      first[n] = leaf;
      const below = childrenOf(n);
      below.forEach(place);
      if (below.length) span[n] = leaf - first[n];
      else leaf += 1;
    };
    childrenOf(-1).forEach(place);
    return { span, first };
  }

  function draw() {
    const f = forest(), one = at.tree, { span, first } = places(), above = new Set(path(at.node));
    const nodes = f.parents.map((_, n) => n).filter(sampled).map((n) => make("button", {
      type: "button", role: "treeitem", "data-node": n, "aria-level": f.level[n], "aria-selected": n === at.node,
      tabindex: n === at.node ? 0 : -1, class: `node ${one.state[n]}${above.has(n) ? " path" : ""}`,
      style: `grid-column: ${f.level[n]}; grid-row: ${first[n]} / span ${span[n]}; ${tint(one.value[n]) || ""}`,
      onclick: () => select(n),
    },
    make("small", { class: "unseen" }, `${name(n)}, ${Malt.state(one.state[n])} value `),
    make("b", {}, share(one.value[n])),
    make("i", {}, one.label[n] === 1 ? "+" : one.label[n] === 0 ? "−" : ""),
    make("span", {}, one.state[n] === "failed" ? "failed" : one.answer[n] ?? ""),
    one.examples.includes(n) || one.pairs.some((p) => p.includes(n)) ? make("em", { title: "trained on" }, "●") : null));
    for (const grid of ["heads", "tree"]) $(grid).style.gridTemplateColumns = `repeat(${f.chain.length}, minmax(0, 1fr))`;
    $("heads").replaceChildren(...f.chain.map((role) => make("span", {}, role)));
    $("tree").replaceChildren(...nodes);
    const i = at.index, t = at.question;
    $("question").replaceChildren(
      make("p", { class: "asked" }, i.question[t]),
      make("p", { class: "note" }, `gold answer: ${i.gold[t]} · ${i.id[t]} · ${i.right[t]} of ${i.graded[t]} leaves correct`));
  }

  function select(n, focus = true) {
    at.node = n;
    at.pair = null;
    draw();
    show();
    if (focus) $("tree").querySelector(`[data-node="${n}"]`).focus({ preventScroll: true });
  }

  // ---- outputs side by side ----

  function show(remember = true) {
    if (!at.tree) return;
    const shown = at.pair || path(at.node);
    const leave = { type: "button", class: "back", onclick: () => select(at.node) };
    const back = at.pair && make("button", leave, `← back to ${name(at.node)}`);
    $("detail").replaceChildren(...(back ? [back] : []), make("div", { class: "cards" }, ...shown.map(card)));
    if (remember) Malt.address("trees", { f: at.forest, q: at.index.id[at.question], n: at.node });
  }

  function card(n) {
    const one = at.tree, f = forest(), line = path(n);
    const role = at.pair ? (n === at.pair[0] ? "chosen: " : "rejected: ") : "";
    const label = one.label[n] < 0 ? "" : one.label[n] ? "positive" : "negative";
    const outputs = Object.fromEntries(line.slice(0, -1).map((m) => [roleOf(m), one.passed[m] ?? one.text[m]]));
    // Changes: in a pair from the chosen output, else from the draft to the end of the chain.
    const last = line.length > 1 && f.level[n] === f.chain.length;
    const base = at.pair ? (role === "rejected: " ? at.pair[0] : null) : last ? line[0] : null;
    return Malt.card({
      title: role + name(n), text: one.text[n], answer: one.answer[n], gold: at.index.gold[at.question], right: one.outcome[n],
      facts: [`value ${share(one.value[n])}`, label, `${one.tokens[n]} tokens`, Malt.state(one.state[n])],
      before: base === null ? null : one.text[base],
      prompt: f.prompts[f.level[n] - 1], question: at.index.question[at.question], outputs,
    }, { style: tint(one.value[n]), "data-card": n }, learned(n));
  }

  function learned(n) {
    const one = at.tree, parts = [];
    if (one.examples.includes(n)) parts.push(make("li", {}, "SFT example"));
    for (const [chosen, rejected] of one.pairs) {
      if (n !== chosen && n !== rejected) continue;
      const label = n === chosen ? `chosen over ${name(rejected)}` : `rejected for ${name(chosen)}`;
      parts.push(make("li", {}, make("button", {
        type: "button", class: "pair", onclick: () => { at.pair = [chosen, rejected]; show(); },
      }, label)));
    }
    return parts.length ? make("ul", { class: "learned" }, ...parts) : null;
  }

  // ---- keys ----

  $("tree").addEventListener("keydown", (event) => {
    const n = at.node, f = forest();
    if (n < 0) return;
    const level = f.parents.map((_, i) => i).filter((i) => f.level[i] === f.level[n] && sampled(i));
    const next = {
      ArrowLeft: f.parents[n], ArrowRight: childrenOf(n)[0] ?? -1,
      ArrowUp: level[level.indexOf(n) - 1] ?? -1, ArrowDown: level[level.indexOf(n) + 1] ?? -1,
      Home: level[0], End: level[level.length - 1],
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    if (next >= 0) select(next);
  });

  // ---- start ----

  async function enter(number) {
    at.forest = number;
    at.index = await Malt.unpack(`trees-${number}-index`);
    Object.assign(at, { question: -1, tree: null, node: -1, pair: null });
    deep.text = "";
    $("threshold").textContent = `its value is ${forest().positive}, or not`;
    filter();
  }

  forests.forEach((f, i) => $("forest").append(make("option", { value: i }, f.name)));
  $("forest").addEventListener("change", async () => { await enter(Number($("forest").value)); list.move(1); });
  for (const field of ["search", "low", "high"]) $(field).addEventListener("input", filter);
  for (const field of ["leaves", "flag", "order"]) $(field).addEventListener("change", filter);
  $("deep").addEventListener("click", searchOutputs);
  document.getElementById("trees").addEventListener("back", (event) => {
    if (!at.pair) return;
    event.preventDefault();
    select(at.node);
  });
  Malt.redrawn.push(() => show(false));
  Malt.views.set("trees", async (asked) => {
    const number = Number(asked.get("f") ?? 0);
    if (number !== at.forest || !at.index) await enter(forests[number] ? number : 0);
    $("forest").value = String(at.forest);
    const t = at.index.id.indexOf(asked.get("q")), n = Number(asked.get("n") ?? -1);
    if (t >= 0) await choose(t, n >= 0 && n < forest().parents.length ? n : null);
    else if (list.found().length && at.question < 0) await choose(list.found()[0], null, false);   // the address stays as it is
    list.redraw();
  });
})();
