// The tree viewer. Texts are untrusted: they become text nodes, never markup. trees.py writes the data.
"use strict";
(() => {
  const meta = document.getElementById("trees-meta");
  if (!meta) return;
  const forests = JSON.parse(meta.textContent);
  const $ = (name) => document.getElementById("t-" + name);
  const ROW = 46;     // px, the height of a row in trees.css
  const KEPT = 8;     // chunks that stay unpacked
  const at = { forest: 0, index: null, found: [], question: -1, tree: null, node: -1, pair: null };
  const open = new Map();

  // ---- data ----

  async function unpack(name) {
    const raw = atob(document.getElementById(name).textContent);
    const bytes = Uint8Array.from(raw, (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  async function chunk(forest, i) {
    const name = `trees-${forest}-${i}`;
    const found = open.get(name) || unpack(name);
    open.delete(name);
    open.set(name, found);
    if (open.size > KEPT) open.delete(open.keys().next().value);
    return found;
  }

  const forest = () => forests[at.forest];
  const tree = async (t) => (await chunk(at.forest, Math.floor(t / forest().chunk)))[t % forest().chunk];
  const childrenOf = (node) => forest().parents.flatMap((p, i) => (p === node ? [i] : []));
  const siblings = (node) => childrenOf(forest().parents[node]);
  const name = (node) => {
    const path = [];
    for (let n = node; n >= 0; n = forest().parents[n]) path.unshift(siblings(n).indexOf(n) + 1);
    return `${forest().chain[forest().level[node] - 1]} ${path.join(".")}`;
  };

  // ---- elements ----

  function make(tag, attributes = {}, ...inside) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...inside.filter((part) => part !== null));
    return made;
  }
  const share = (value) => (value === null ? "–" : value.toFixed(2));
  const tint = (value) => (value === null ? null : `--value: ${Math.round(100 * value)}%`);

  // ---- the list ----

  const deep = { text: "", trees: null };   // the last search in outputs, and the trees it found

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
    at.found = i.id.map((_, t) => t).filter(fits);
    const order = $("order").value;
    if (order) {
      const sign = order === "up" ? 1 : -1;
      at.found.sort((a, b) => sign * ((i.value[a] ?? -1) - (i.value[b] ?? -1)) || a - b);
    }
    $("count").textContent =
      `${at.found.length.toLocaleString("en")} of ${i.id.length.toLocaleString("en")} questions`;
    $("list").scrollTop = 0;
    rows();
  }

  function rows() {
    const list = $("list"), box = $("rows");
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
    const last = Math.min(at.found.length, first + Math.ceil(list.clientHeight / ROW) + 10);
    box.style.height = `${at.found.length * ROW}px`;
    box.replaceChildren(...at.found.slice(first, last).map((t, k) => row(t, first + k)));
    list.setAttribute("aria-activedescendant", at.question < 0 ? "" : `t-row-${at.question}`);
  }

  function row(t, place) {
    const i = at.index;
    return make("div", {
      role: "option", id: `t-row-${t}`, "aria-selected": t === at.question, "aria-setsize": at.found.length,
      "aria-posinset": place + 1, style: `top: ${place * ROW}px`, onclick: () => choose(t), "data-tree": t,
    },
    make("span", { class: "value", style: tint(i.value[t]) }, share(i.value[t])),
    make("span", { class: "what" }, i.question[t].slice(0, 200)),
    make("span", { class: "id" }, i.id[t]));
  }

  function move(by) {
    const here = at.found.indexOf(at.question);
    const next = Math.max(0, Math.min(at.found.length - 1, (here < 0 ? -1 : here) + by));
    if (!at.found.length) return;
    const list = $("list"), top = next * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    choose(at.found[next]);
  }

  async function searchOutputs() {
    const words = $("search").value.trim().toLowerCase();
    if (!words) return;
    deep.text = words;
    deep.trees = new Set();
    for (let t = 0; t < forest().trees; t += forest().chunk) {
      $("count").textContent = `searching, ${t.toLocaleString("en")} questions so far`;
      const trees = await unpack(`trees-${at.forest}-${t / forest().chunk}`);
      trees.forEach((one, k) => one.text.some((x) => x.toLowerCase().includes(words)) && deep.trees.add(t + k));
    }
    filter();
  }

  // ---- the tree ----

  async function choose(t, node = null, address = true) {
    at.question = t;
    const found = await tree(t);
    if (at.question !== t) return;   // another question was chosen in the meantime
    at.tree = found;
    at.pair = null;
    at.node = node ?? childrenOf(-1)[0] ?? -1;
    rows();
    draw();
    show(address);
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
    const f = forest(), one = at.tree, { span, first } = places();
    const above = new Set();
    for (let n = at.node; n >= 0; n = f.parents[n]) above.add(n);
    const heads = f.chain.map((role, k) =>
      make("div", { class: "head", role: "presentation", style: `grid-column: ${k + 1}; grid-row: 1` }, role));
    const nodes = f.parents.map((_, n) => make("button", {
      type: "button", role: "treeitem", "data-node": n, "aria-level": f.level[n], "aria-selected": n === at.node,
      tabindex: n === at.node ? 0 : -1, class: `node ${one.state[n]}${above.has(n) ? " path" : ""}`,
      "aria-label": `${name(n)}, value ${share(one.value[n])}${one.state[n] ? ", " + one.state[n] : ""}`,
      style: `grid-column: ${f.level[n]}; grid-row: ${first[n] + 1} / span ${span[n]}; ${tint(one.value[n]) || ""}`,
      onclick: () => select(n),
    },
    make("b", {}, share(one.value[n])),
    make("i", {}, one.label[n] === 1 ? "+" : one.label[n] === 0 ? "−" : ""),
    make("span", {}, one.state[n] === "failed" ? "failed" : one.answer[n] ?? ""),
    one.examples.includes(n) || one.pairs.some((p) => p.includes(n)) ? make("em", { title: "trained on" }, "●") : null));
    $("tree").style.gridTemplateColumns = `repeat(${f.chain.length}, minmax(0, 1fr))`;
    $("tree").replaceChildren(...heads, ...nodes);
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

  function show(address = true) {
    const shown = [];
    if (at.pair) shown.push(...at.pair);
    else for (let n = at.node; n >= 0; n = forest().parents[n]) shown.unshift(n);
    const back = at.pair && make("button", { type: "button", class: "back", onclick: () => select(at.node) },
      `← back to ${name(at.node)}`);
    $("detail").replaceChildren(...(back ? [back] : []), make("div", { class: "cards" }, ...shown.map(card)));
    if (!address) return;
    history.replaceState(null, "", "#" + new URLSearchParams({ f: at.forest, q: at.index.id[at.question], n: at.node }));
  }

  function card(n) {
    const one = at.tree, role = at.pair && (n === at.pair[0] ? "chosen: " : "rejected: ");
    const facts = [`value ${share(one.value[n])}`, `${one.tokens[n]} tokens`];
    if (one.label[n] >= 0) facts.push(one.label[n] ? "positive" : "negative");
    if (one.outcome[n] !== null) facts.push(one.outcome[n] ? "correct" : "wrong");
    if (one.state[n]) facts.push(one.state[n] === "cut" ? "cut off at max_tokens" : one.state[n]);
    const answer = one.answer[n] === null ? null :
      make("p", { class: "answer" }, "extracted answer: ", make("b", {}, one.answer[n]), ` · gold: ${at.index.gold[at.question]}`);
    return make("article", { class: "card", style: tint(one.value[n]), "data-card": n },
      make("h4", {}, `${role || ""}${name(n)}`), make("p", { class: "note" }, facts.join(" · ")), answer,
      make("pre", {}, one.text[n]), learned(n));
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

  function treeKey(event) {
    const n = at.node, f = forest();
    if (n < 0) return;
    const level = f.parents.map((_, i) => i).filter((i) => f.level[i] === f.level[n]);
    const next = {
      ArrowLeft: f.parents[n], ArrowRight: childrenOf(n)[0] ?? -1,
      ArrowUp: level[level.indexOf(n) - 1] ?? -1, ArrowDown: level[level.indexOf(n) + 1] ?? -1,
      Home: level[0], End: level[level.length - 1],
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    if (next >= 0) select(next);
  }

  function listKey(event) {
    const page = Math.max(1, Math.floor($("list").clientHeight / ROW) - 1);
    const by = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity }[event.key];
    if (by !== undefined) move(by);
    else if (event.key === "Enter" && at.node >= 0) select(at.node);
    else return;
    event.preventDefault();
  }

  function anyKey(event) {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && !$("keys").open) {
      if (at.pair) select(at.node);
      else $("list").focus();
    } else if (!typing && event.key === "/") {
      event.preventDefault();
      $("search").focus();
    } else if (!typing && event.key === "?") $("keys").showModal();
  }

  // ---- start ----

  async function enter(number) {
    at.forest = number;
    at.index = await unpack(`trees-${number}-index`);
    Object.assign(at, { question: -1, tree: null, node: -1, pair: null });
    deep.text = "";
    filter();
  }

  async function follow() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const number = Number(asked.get("f") ?? 0);
    if (number !== at.forest || !at.index) await enter(forests[number] ? number : 0);
    $("forest").value = String(at.forest);
    const t = at.index.id.indexOf(asked.get("q"));
    const n = Number(asked.get("n") ?? -1);
    if (t === at.question && n === at.node && t >= 0) return;
    if (t >= 0) {
      await choose(t, n >= 0 && n < forest().parents.length ? n : null);
      document.getElementById("trees").scrollIntoView();
    } else if (at.found.length) await choose(at.found[0], null, false);  // the address stays as it is
  }

  forests.forEach((f, i) => $("forest").append(make("option", { value: i }, f.name)));
  $("forest").addEventListener("change", async () => { await enter(Number($("forest").value)); move(1); });
  for (const field of ["search", "low", "high"]) $(field).addEventListener("input", filter);
  for (const field of ["leaves", "flag", "order"]) $(field).addEventListener("change", filter);
  $("deep").addEventListener("click", searchOutputs);
  $("help").addEventListener("click", () => $("keys").showModal());
  $("list").addEventListener("scroll", rows);
  $("list").addEventListener("keydown", listKey);
  $("tree").addEventListener("keydown", treeKey);
  document.addEventListener("keydown", anyKey);
  window.addEventListener("hashchange", follow);
  follow();
})();
