// Outputs as people read them: Markdown and maths as elements, or the words that changed.
// Texts are untrusted. markdown-it only reads them; the elements are made here, of a few kinds, without
// attributes, and the page's policy forbids to turn any text into markup (trusted-types 'none').
"use strict";
(() => {
  const { make } = Malt;
  const MATHS = [   // opening, closing, displayed; a $ needs text at once and no digit behind it
    [/\$\$([\s\S]+?)\$\$/y, true], [/\\\[([\s\S]+?)\\\]/y, true], [/\\\(([\s\S]+?)\\\)/y, false],
    [/(\\begin\{(?:align|aligned|equation|gather|cases|[pbv]?matrix)\*?\}[\s\S]+?\\end\{\w+\*?\})/y, true],
    [/\$(?=\S)((?:\\.|[^$\\\n])+?)(?<=\S)\$(?!\d)/y, false], [/(\\boxed\{(?:[^{}]|\{[^{}]*\})*\})/y, false],
  ];
  const LONGEST = 20000;   // characters that are rendered; longer texts are shown as written
  const WORDS = 3000;      // words that are compared
  const ELEMENTS = {
    paragraph: "p", heading: "p", bullet_list: "ul", ordered_list: "ol", list_item: "li", blockquote: "blockquote",
    strong: "strong", em: "em", s: "s", table: "table", thead: "thead", tbody: "tbody", tr: "tr", th: "th", td: "td",
  };

  const reader = markdownit({ html: false, linkify: false, breaks: true, maxNesting: 20 });
  reader.inline.ruler.before("escape", "maths", (state, silent) => {
    for (const [pattern, displayed] of MATHS) {
      pattern.lastIndex = state.pos;
      const found = pattern.exec(state.src);
      if (!found || state.pos + found[0].length > state.posMax) continue;
      if (!silent) Object.assign(state.push("maths", "", 0), { content: found[1], meta: { displayed, whole: found[0] } });
      state.pos += found[0].length;
      return true;
    }
    return false;
  });

  // A * between two signs of a product, as in 2*3*4, is one and no emphasis.
  reader.inline.ruler.before("emphasis", "product", (state, silent) => {
    const { src, pos } = state;
    const around = src.slice(Math.max(0, pos - 1), pos + 2);
    if (src[pos] !== "*" || pos + 1 >= state.posMax || !/[\w)\]][*][\w([]/.test(around)) return false;
    if (!silent) state.push("text", "", 0).content = "*";
    state.pos += 1;
    return true;
  });

  // Throws for an element that is not maths, such as the link of a \ref, and removes attributes by which
  // one could act, be found or lie over the page.
  function onlyMaths(element) {
    if (element.namespaceURI !== "http://www.w3.org/1998/Math/MathML") throw new Error(element.localName);
    for (const { name, value } of [...element.attributes]) {
      if (/^(on|id$|class$|href|src|xlink|data)/.test(name) || /url\(|position|z-index/.test(value)) element.removeAttribute(name);
    }
  }

  function maths(token) {
    const box = make("span", { class: token.meta.displayed ? "maths displayed" : "maths" });
    try {
      const limits = { trust: false, maxExpand: 200, maxSize: [20, 200] };
      temml.render(token.content, box, { displayMode: token.meta.displayed, throwOnError: true, ...limits });
      box.querySelectorAll("*").forEach(onlyMaths);
    } catch {
      box.replaceChildren(token.meta.whole);
    }
    return box;
  }

  // The elements of a list of tokens, put below `root`.
  function build(tokens, root) {
    const above = [root];
    const put = (...parts) => above[above.length - 1].append(...parts);
    for (const token of tokens) {
      const kind = token.type.replace(/_(open|close)$/, "");
      if (token.hidden) continue;   // the paragraphs of a tight list
      if (token.type === "inline") build(token.children, above[above.length - 1]);
      else if (token.nesting === 1 && ELEMENTS[kind]) {
        const made = make(ELEMENTS[kind], { class: kind === "heading" ? kind : null, start: token.attrGet("start") });
        put(made);
        above.push(made);
      } else if (token.nesting === -1 && ELEMENTS[kind]) above.pop();
      else if (kind === "link" && token.nesting === 1) above.link = token.attrGet("href");
      else if (kind === "link") put(" ⟨", above.link, "⟩");
      else if (kind === "fence" || kind === "code_block") put(make("pre", {}, make("code", {}, token.content)));
      else if (kind === "code_inline") put(make("code", {}, token.content));
      else if (kind === "hardbreak" || kind === "softbreak") put(make("br"));
      else if (kind === "hr") put(make("hr"));
      else if (kind === "maths") put(maths(token));
      else put(kind === "image" ? `${token.content} ⟨${token.attrGet("src")}⟩` : token.content);
    }
  }

  function rendered(text) {
    const box = make("div", { class: "text rendered" });
    try {
      build(reader.parse(text, {}), box);
    } catch {
      box.replaceChildren(text);
    }
    return box;
  }

  // ---- changes ----

  // [[-1 dropped | 0 kept | 1 added, text]] that lead from one text to another: a longest common
  // subsequence of words; null where the texts are too long for it.
  function changes(before, after) {
    const [a, b] = [before, after].map((text) => text.match(/\s+|\w+|[^\w\s]/gu) || []);
    let head = 0, tail = 0;
    while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
    while (tail < Math.min(a.length, b.length) - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
    const x = a.slice(head, a.length - tail), y = b.slice(head, b.length - tail), width = y.length + 1;
    if (x.length > WORDS || y.length > WORDS) return null;
    const best = new Uint16Array((x.length + 1) * width);   // common words of x[i..] and y[j..]
    for (let i = x.length - 1; i >= 0; i -= 1) {
      for (let j = y.length - 1; j >= 0; j -= 1) {
        best[i * width + j] = x[i] === y[j] ? best[(i + 1) * width + j + 1] + 1
          : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
      }
    }
    const found = [];
    const put = (kind, word) => {
      const last = found[found.length - 1];
      if (last && last[0] === kind) last[1] += word;
      else found.push([kind, word]);
    };
    a.slice(0, head).forEach((word) => put(0, word));
    for (let i = 0, j = 0; i < x.length || j < y.length;) {
      if (i < x.length && j < y.length && x[i] === y[j]) { put(0, x[i]); i += 1; j += 1; }
      else if (j === y.length || (i < x.length && best[(i + 1) * width + j] >= best[i * width + j + 1])) { put(-1, x[i]); i += 1; }
      else { put(1, y[j]); j += 1; }
    }
    a.slice(a.length - tail).forEach((word) => put(0, word));
    return found;
  }

  function changed(before, after) {
    const found = changes(before, after);
    const parts = found
      ? found.map(([kind, text]) => (kind ? make(kind < 0 ? "del" : "ins", {}, text) : text))
      : ["(too long to compare)\n", after];
    return make("div", { class: "text raw" }, ...parts);
  }

  // ---- what a reader chose ----

  Malt.as = "rendered";
  Malt.redrawn = [];   // called when another way is chosen
  const choices = [...document.querySelectorAll("select.as")];
  for (const choice of choices) {
    choice.addEventListener("change", () => {
      Malt.as = choice.value;
      choices.forEach((one) => { one.value = Malt.as; });
      Malt.redrawn.forEach((redraw) => redraw());
    });
  }

  // An output as the reader chose to see it. before: the text that changes are counted from, or null.
  Malt.text = (text, before = null) => {
    if (Malt.as === "changes" && before !== null) return changed(before, text);
    if (Malt.as !== "raw" && text.length <= LONGEST) return rendered(text);
    return make("div", { class: "text raw" }, text);
  };
})();
