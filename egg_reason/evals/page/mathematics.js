"use strict";
// LaTeX mathematics as MathML, which browsers draw themselves. Models write mathematics in every completion, so the page converts what is on
// the screen instead of carrying everything converted. An unknown command stays visible as its source; malformed source gives null.

const mathematics = (() => {
  const NAMESPACE = "http://www.w3.org/1998/Math/MathML";
  const LONGEST = 8000; // characters of source
  const DEEPEST = 40; // nested groups

  const ENVIRONMENTS = { // name: [opening fence, closing fence, alignment of the columns, repeated]
    matrix: ["", "", "c"], smallmatrix: ["", "", "c"], pmatrix: ["(", ")", "c"], bmatrix: ["[", "]", "c"], Bmatrix: ["{", "}", "c"],
    vmatrix: ["|", "|", "c"], Vmatrix: ["‖", "‖", "c"], cases: ["{", "", "l"], dcases: ["{", "", "l"], rcases: ["", "}", "l"],
    array: ["", "", "c"], tabular: ["", "", "c"], align: ["", "", "rl"], aligned: ["", "", "rl"], alignat: ["", "", "rl"], alignedat: ["", "", "rl"],
    eqnarray: ["", "", "rcl"], split: ["", "", "rl"], gather: ["", "", "c"], gathered: ["", "", "c"], multline: ["", "", "c"],
    equation: ["", "", "c"], displaymath: ["", "", "c"], math: ["", "", "c"], subarray: ["", "", "c"],
  };
  const WITH_COLUMNS = new Set(["array", "tabular", "subarray", "alignat", "alignedat"]);
  const FONTS = { mathrm: "upright", text: "upright", textrm: "upright", textnormal: "upright", mbox: "upright", hbox: "upright", textup: "upright",
    mathup: "upright", mathbf: "bold", textbf: "bold", boldsymbol: "bold", bold: "bold", bm: "bold", mathit: "italic", textit: "italic",
    emph: "italic", mathsf: "sans", textsf: "sans", mathtt: "mono", texttt: "mono", textsc: "upright" };
  const TEXT = new Set(["text", "textrm", "textnormal", "mbox", "hbox", "textup", "textbf", "textit", "emph", "textsf", "texttt", "textsc"]);
  const ALPHABETS = { mathbb: 0x1d538, mathcal: 0x1d49c, mathscr: 0x1d49c, mathfrak: 0x1d504 }; // code point of the capital A
  const EXCEPTIONS = { mathbb: "CℂHℍNℕPℙQℚRℝZℤ", mathcal: "BℬEℰFℱHℋIℐLℒMℳRℛeℯgℊoℴ", mathscr: "BℬEℰFℱHℋIℐLℒMℳRℛeℯgℊoℴ", mathfrak: "CℭHℌIℑRℜZℨ" };
  const SIZES = { big: 1.2, Big: 1.6, bigg: 2.2, Bigg: 2.8 };
  const RELATIONS = { "-": "−", "*": "∗", "'": "′", "`": "‘" };

  class Malformed extends Error {}

  function node(name, attributes, ...children) {
    const made = document.createElementNS(NAMESPACE, name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  const row = (nodes) => (nodes.length === 1 ? nodes[0] : node("mrow", null, ...nodes));
  const fence = (text, form) => node("mo", { fence: "true", stretchy: "true", form }, text);
  const space = (em) => node("mspace", { width: `${em}em` });
  const unknown = (source) => node("mtext", { class: "unknown" }, source);
  const word = (text) => node("mo", { class: "word", form: "prefix", lspace: "0", rspace: "0.167em" }, text);
  const kept = (text) => text.replace(/^\s+|\s+$/g, " ").replace(/^ | $/g, "\u00a0"); // MathML drops outer spaces

  class Parser {
    constructor(source) {
      this.source = source;
      this.at = 0;
      this.depth = 0;
    }

    // The next token without taking it: "" at the end, a command with its backslash, or one character. Spaces before it are passed over.
    peek() {
      while (this.at < this.source.length && /\s/.test(this.source[this.at])) this.at++;
      const { source, at } = this;
      if (at >= source.length) return "";
      if (source[at] !== "\\") return String.fromCodePoint(source.codePointAt(at));
      const name = /\\(?:[A-Za-z]+\*?|[\s\S])?/y;
      name.lastIndex = at;
      return name.exec(source)[0];
    }

    take() {
      const token = this.peek();
      this.at += token.length;
      return token;
    }

    expect(token) {
      if (this.take() !== token) throw new Malformed(`${token} is missing`);
    }

    // Nodes up to one of the tokens in `ends`, which is left to be taken.
    nodes(ends) {
      if (++this.depth > DEEPEST) throw new Malformed("nested too deeply");
      const found = [];
      for (;;) {
        const token = this.peek();
        if (ends.includes(token)) break;
        if (token === "" || token === "}" || token === "\\right" || token === "\\end") throw new Malformed(`unexpected ${token || "end"}`);
        if (token === "\\over" || token === "\\choose" || token === "\\atop") {
          this.take();
          const fraction = node("mfrac", token === "\\over" ? null : { linethickness: "0" }, row(found.splice(0)), row(this.nodes(ends)));
          found.push(token === "\\choose" ? node("mrow", null, fence("(", "prefix"), fraction, fence(")", "postfix")) : fraction);
          break;
        }
        const atom = this.atom();
        if (!atom) continue;
        const after = found.at(-1);
        found.push(this.scripts(atom));
        if (atom.getAttribute("class") === "word") {
          if (after && after.localName !== "mo" && after.localName !== "mspace") atom.setAttribute("lspace", "0.167em");
          if (/^(\(|\[|\\left)$/.test(this.peek())) atom.setAttribute("rspace", "0");
        }
      }
      this.depth--;
      return found;
    }

    group() {
      this.expect("{");
      const inside = this.nodes(["}"]);
      this.take();
      if (inside.length === 1 && inside[0].localName === "mo") { // {,} and {=} are spaced as letters are
        inside[0].setAttribute("lspace", "0");
        inside[0].setAttribute("rspace", "0");
      }
      return row(inside);
    }

    // What a command applies to: a group, a command, or one character.
    argument() {
      const token = this.peek();
      if (token === "{") return this.group();
      if (/^[0-9]$/.test(token)) return node("mn", null, this.take());
      if (token === "" || "}&^_".includes(token)) throw new Malformed("an argument is missing");
      if (++this.depth > DEEPEST) throw new Malformed("nested too deeply");
      const atom = this.atom() || node("mrow");
      this.depth--;
      return atom;
    }

    // The source between balanced braces or brackets, as it stands; null where an optional one is absent.
    raw(open = "{", close = "}") {
      if (this.peek() !== open) {
        if (open === "[") return null;
        return this.take();
      }
      this.at++;
      for (let depth = 1, i = this.at; i < this.source.length; i++) {
        if (this.source[i] === "\\") i++;
        else if (this.source[i] === open) depth++;
        else if (this.source[i] === close && --depth === 0) {
          const inside = this.source.slice(this.at, i);
          this.at = i + 1;
          return inside;
        }
      }
      throw new Malformed(`${close} is missing`);
    }

    inner(source) {
      const parser = new Parser(source);
      parser.depth = this.depth;
      return parser.nodes([""]);
    }

    scripts(base) {
      let below = null;
      let above = null;
      let limits = base.dataset?.limits === "true" || base.getAttribute("movablelimits") === "true" || base.dataset?.brace === "true";
      for (;;) {
        const token = this.peek();
        if (token === "_" && !below) {
          this.take();
          below = this.argument();
        } else if (token === "^" && !above) {
          this.take();
          above = this.argument();
        } else if (token === "'" || token === "^" && above?.dataset?.prime) {
          const primes = [];
          while (this.peek() === "'") primes.push(this.take());
          const mark = primes.length ? node("mo", { lspace: "0", rspace: "0", "data-prime": "yes" }, "′".repeat(primes.length)) : null;
          if (!mark) {
            this.take();
            above = row([above, this.argument()]);
          } else above = above ? row([above, mark]) : mark;
        } else if (token === "\\limits" || token === "\\nolimits") {
          this.take();
          limits = token === "\\limits";
        } else break;
      }
      if (!below && !above) return base;
      if (limits) {
        if (below && above) return node("munderover", null, base, below, above);
        return below ? node("munder", null, base, below) : node("mover", null, base, above);
      }
      if (below && above) return node("msubsup", null, base, below, above);
      return below ? node("msub", null, base, below) : node("msup", null, base, above);
    }

    // One atom without its scripts; null for what has no visible form.
    atom() {
      const token = this.peek();
      if (token === "{") return this.group();
      if (token === "^" || token === "_") return node("mrow"); // a script on nothing
      if (/^[0-9.]/.test(token)) {
        const number = /[0-9]*\.?[0-9]+|\./y;
        number.lastIndex = this.at;
        const found = number.exec(this.source)[0];
        this.at += found.length;
        return node(found === "." ? "mo" : "mn", null, found);
      }
      this.take();
      if (token[0] === "\\") return this.command(token.slice(1), token);
      if (token === "~") return space(SYMBOLS.spaces["~"]);
      if (token === "&") return null; // alignment outside a table
      if (/\p{L}/u.test(token)) return node("mi", null, token);
      if ("()[]|".includes(token)) return node("mo", { stretchy: "false", ...(token === "|" ? { lspace: "0", rspace: "0" } : {}) }, token);
      if ("/%#$@\"".includes(token)) return node("mo", { lspace: "0", rspace: "0" }, token);
      return node("mo", null, RELATIONS[token] || token);
    }

    command(name, token) {
      const has = (table) => Object.hasOwn(table, name);
      if (has(SYMBOLS.letters)) return node("mi", null, SYMBOLS.letters[name]);
      if (has(SYMBOLS.upright)) return node("mi", { mathvariant: "normal" }, SYMBOLS.upright[name]);
      if (has(SYMBOLS.operators)) return node("mo", { stretchy: "false" }, SYMBOLS.operators[name]);
      if (has(SYMBOLS.large)) return node("mo", { largeop: "true", movablelimits: "true" }, SYMBOLS.large[name]);
      if (has(SYMBOLS.integrals)) return node("mo", { largeop: "true" }, SYMBOLS.integrals[name]);
      if (has(SYMBOLS.delimiters)) return node("mo", { stretchy: "false" }, SYMBOLS.delimiters[name]);
      if (SYMBOLS.functions.has(name)) return word(name);
      if (SYMBOLS.limits.has(name)) {
        const made = word(name.replace(/^(lim|arg)(?=.)/, "$1\u2009"));
        made.setAttribute("movablelimits", "true");
        return made;
      }
      if (has(SYMBOLS.spaces)) return space(SYMBOLS.spaces[name]);
      if (has(SYMBOLS.accents)) {
        return node("mover", { accent: "true" }, this.argument(), node("mo", { stretchy: "false" }, SYMBOLS.accents[name]));
      }
      if (name === "overline" || name === "underline") return node("mrow", { class: name }, this.argument());
      if (has(SYMBOLS.over) || has(SYMBOLS.under)) {
        const mark = node("mo", { stretchy: "true" }, SYMBOLS.over[name] || SYMBOLS.under[name]);
        const made = node(has(SYMBOLS.over) ? "mover" : "munder", { accent: "true" }, this.argument(), mark);
        if (name.endsWith("brace")) made.dataset.brace = "true"; // its scripts go above and below
        return made;
      }
      if (has(FONTS)) return this.font(name);
      if (has(ALPHABETS)) return this.alphabet(name);
      if (SYMBOLS.ignored.has(name)) return null;
      if (SYMBOLS.ignoredWithArgument.has(name)) return this.raw() && null;
      const size = /^(big|Big|bigg|Bigg)[lrm]?$/.exec(name);
      if (size) {
        const em = `${SIZES[size[1]]}em`;
        return node("mo", { stretchy: "true", symmetric: "true", minsize: em, maxsize: em, lspace: "0", rspace: "0" }, this.delimiter());
      }
      return this.construction(name, token);
    }

    construction(name, token) {
      switch (name) {
        case "frac": case "dfrac": case "tfrac": case "cfrac": {
          const fraction = node("mfrac", null, this.argument(), this.argument());
          return name === "frac" ? fraction : node("mstyle", { displaystyle: String(name !== "tfrac"), scriptlevel: name === "tfrac" ? "1" : "0" }, fraction);
        }
        case "binom": case "dbinom": case "tbinom": {
          const fraction = node("mfrac", { linethickness: "0" }, this.argument(), this.argument());
          return node("mrow", null, fence("(", "prefix"), fraction, fence(")", "postfix"));
        }
        case "sqrt": {
          const index = this.raw("[", "]");
          return index === null ? node("msqrt", null, this.argument()) : node("mroot", null, this.argument(), row(this.inner(index)));
        }
        case "left": return this.fenced();
        case "begin": return this.environment();
        case "boxed": case "fbox": case "framebox": return node("mrow", { class: "boxed" }, this.argument());
        case "cancel": case "bcancel": case "xcancel": case "not": return name === "not" ? this.negated() : node("mrow", { class: "cancel" }, this.argument());
        case "cancelto": {
          const value = this.argument();
          return node("msup", null, node("mrow", { class: "cancel" }, this.argument()), value);
        }
        case "overset": case "stackrel": case "underset": {
          const mark = this.argument();
          return node(name === "underset" ? "munder" : "mover", null, this.argument(), mark);
        }
        case "xrightarrow": case "xleftarrow": {
          const below = this.raw("[", "]");
          const arrow = node("mo", { stretchy: "true", minsize: "1.5em" }, name === "xrightarrow" ? "→" : "←");
          const above = this.argument();
          return below === null ? node("mover", null, arrow, above) : node("munderover", null, arrow, row(this.inner(below)), above);
        }
        case "substack": return this.table(this.raw(), "c", []);
        case "operatorname": case "operatorname*": case "mathop": {
          const plain = /^\{([A-Za-z -]+)\}/.exec(this.source.slice(this.at).trimStart());
          const made = plain ? word((this.raw(), plain[1])) : this.argument();
          if (name !== "operatorname") made.dataset.limits = "true";
          return made;
        }
        case "mathrel": case "mathbin": case "mathord": case "mathopen": case "mathclose": case "mathpunct": case "mathinner": case "ensuremath":
          return this.argument();
        case "pmod": return node("mrow", null, space(1), node("mo", { stretchy: "false" }, "("), word("mod"), this.argument(), node("mo", { stretchy: "false" }, ")"));
        case "pod": return node("mrow", null, space(1), node("mo", { stretchy: "false" }, "("), this.argument(), node("mo", { stretchy: "false" }, ")"));
        case "bmod": case "mod": return node("mo", { lspace: "0.222em", rspace: "0.222em" }, "mod");
        case "tag": case "tag*": return node("mrow", null, space(2), node("mtext", null, `(${this.raw()})`));
        case "phantom": case "hphantom": case "vphantom": return node("mphantom", null, this.argument());
        case "color": return this.raw() && null;
        case "textcolor": case "colorbox": return this.raw() && this.argument();
        case "middle": return fence(this.delimiter(), "infix");
        case "char": case "textsuperscript": return node("msup", null, node("mrow"), this.argument());
        case "\\": case "newline": case "cr": return node("mspace", { linebreak: "newline", width: "1em" });
        default: return unknown(token);
      }
    }

    delimiter() {
      const token = this.take();
      if (token === ".") return "";
      if (token === "<") return "⟨";
      if (token === ">") return "⟩";
      const name = token.slice(1);
      if (token[0] !== "\\") {
        if (!"()[]|/".includes(token) || token === "") throw new Malformed("a delimiter is missing");
        return token;
      }
      if (!Object.hasOwn(SYMBOLS.delimiters, name)) throw new Malformed(`${token} is no delimiter`);
      return SYMBOLS.delimiters[name];
    }

    fenced() {
      const open = this.delimiter();
      const inside = this.nodes(["\\right"]);
      this.take();
      const close = this.delimiter();
      return node("mrow", null, ...(open ? [fence(open, "prefix")] : []), ...inside, ...(close ? [fence(close, "postfix")] : []));
    }

    negated() {
      const made = this.argument();
      if (made.childElementCount === 0) made.textContent += "\u0338";
      return made;
    }

    font(name) {
      const style = FONTS[name];
      if (TEXT.has(name)) {
        const pieces = this.raw().split("$"); // mathematics may stand within text
        if (pieces.length % 2 === 0) throw new Malformed("$ is missing");
        const made = pieces.map((piece, i) => (i % 2 ? row(this.inner(piece)) : piece && node("mtext", { class: style }, kept(plain(piece)))));
        return row(made.filter(Boolean));
      }
      const argument = this.argument();
      for (const leaf of [argument, ...argument.querySelectorAll("mi, mn")]) {
        if (leaf.localName !== "mi" && leaf.localName !== "mn") continue;
        leaf.setAttribute("class", style);
        if (style !== "italic") leaf.setAttribute("mathvariant", "normal");
      }
      return argument;
    }

    alphabet(name) {
      const argument = this.argument();
      for (const leaf of [argument, ...argument.querySelectorAll("mi")]) {
        if (leaf.localName !== "mi" || !/^[A-Za-z]$/.test(leaf.textContent)) continue;
        const letter = leaf.textContent;
        const exception = EXCEPTIONS[name].indexOf(letter);
        const offset = letter <= "Z" ? letter.charCodeAt(0) - 65 : letter.charCodeAt(0) - 71;
        leaf.textContent = exception % 2 === 0 ? EXCEPTIONS[name][exception + 1] : String.fromCodePoint(ALPHABETS[name] + offset);
        leaf.setAttribute("mathvariant", "normal");
      }
      return argument;
    }

    environment() {
      const name = this.raw();
      const kind = name.replace(/\*$/, "");
      if (!Object.hasOwn(ENVIRONMENTS, kind)) throw new Malformed(`no environment ${name}`);
      let [open, close, columns] = ENVIRONMENTS[kind];
      let bars = [];
      if (kind === "aligned" || WITH_COLUMNS.has(kind)) this.raw("[", "]"); // a vertical position
      if (WITH_COLUMNS.has(kind)) {
        const given = this.raw().replace(/[@!>p]\s*\{[^{}]*\}/g, "");
        bars = [...given.matchAll(/\|/g)].map((bar) => given.slice(0, bar.index).replace(/[^lcr]/g, "").length);
        columns = kind.startsWith("align") ? columns : given.replace(/[^lcr]/g, "") || columns;
      }
      const begin = `\\begin{${name}}`;
      const end = `\\end{${name}}`;
      let depth = 1;
      let i = this.at;
      for (; i < this.source.length; i++) {
        if (this.source.startsWith(begin, i)) depth++;
        else if (this.source.startsWith(end, i) && --depth === 0) break;
      }
      if (depth) throw new Malformed(`${end} is missing`);
      const inside = this.source.slice(this.at, i);
      this.at = i + end.length;
      const table = this.table(inside, columns, bars);
      if (columns === "rl" || columns === "rcl") table.setAttribute("class", "aligned");
      if (kind !== "smallmatrix" && kind !== "subarray" && !close && open !== "{") table.setAttribute("displaystyle", "true");
      if (!open && !close) return table;
      return node("mrow", null, ...(open ? [fence(open, "prefix")] : []), table, ...(close ? [fence(close, "postfix")] : []));
    }

    table(source, columns, bars) {
      const parser = new Parser(source);
      parser.depth = this.depth + 1;
      const rows = [];
      let cells = [];
      let line = false;
      for (;;) {
        while (/^\\(hline|cline|toprule|midrule|bottomrule)$/.test(parser.peek())) {
          if (parser.take() === "\\cline") parser.raw();
          line = true;
        }
        if (!cells.length && parser.peek() === "") break; // nothing after the last \\
        const span = parser.peek() === "\\multicolumn" ? (parser.take(), parser.raw()) : null;
        if (span !== null) parser.raw(); // its alignment
        const content = span !== null ? [parser.argument()] : parser.nodes(["&", "\\\\", "\\cr", "\\tabularnewline", ""]);
        const column = cells.length;
        const align = { l: "left", c: "center", r: "right" }[columns[columns === "rl" ? column % 2 : Math.min(column, columns.length - 1)]];
        const classes = [align, ...(bars.includes(column) && column ? ["bar"] : [])];
        cells.push(node("mtd", { class: classes.join(" "), ...(/^\d+$/.test(span || "") ? { columnspan: span } : {}) }, ...content));
        const end = parser.take();
        if (end === "&") continue;
        rows.push(node("mtr", line ? { class: "line" } : null, ...cells));
        cells = [];
        line = false;
        if (end === "") break;
        if (parser.source[parser.at] === "[") parser.raw("[", "]"); // distance to the next row
      }
      return node("mtable", null, ...rows);
    }
  }

  // The words of a \text: commands for single characters are replaced, others stay as they are.
  const plain = (text) => text.replace(/\\([%$#&_{} ])/g, "$1").replace(/~/g, "\u00a0").replace(/[{}]/g, "").replace(/\s+/g, " ").replace(/``|''/g, '"');

  // A <math> element for LaTeX source without its delimiters, or null where it is malformed, longer than LONGEST or nested too deeply.
  function convert(source, display = false) {
    if (source.length > LONGEST) return null;
    try {
      const nodes = new Parser(source).nodes([""]);
      return node("math", display ? { display: "block" } : null, node("mrow", null, ...nodes));
    } catch (error) {
      if (error instanceof Malformed) return null;
      throw error;
    }
  }

  return { convert, environments: new Set(Object.keys(ENVIRONMENTS).flatMap((name) => [name, `${name}*`])) };
})();
