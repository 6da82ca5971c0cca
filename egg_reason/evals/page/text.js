"use strict";
// What a model wrote, as it is: characters that would hide or reorder text are shown by their number, mathematics is drawn, thoughts are quieter,
// and what a search finds is marked. With mathematics off, the text of the elements made here is exactly the text given.

// Controls but tab and line feed; invisible and direction-changing characters (joiners only where they join nothing); lone halves of surrogate
// pairs; what is no character; and the fifth and further marks on one letter, which would cover the lines around it.
const ODD = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\uffff\u{e0000}-\u{e0fff}]|(?<=[\u0000-\u007f]|^)[\u200c\u200d]|(?<=\p{M}{4})\p{M}|\p{Surrogate})\1*/gu;

const SHOWN_HEAD = 16000; // characters of a longer text that are shown at first, at its beginning
const SHOWN_TAIL = 4000; // and at its end, where the answer stands

// options: {mathematics: draw it, inline: all of it in the line, find: text to mark, thinking: the text begins within a thought}
function appendText(parent, text, options = {}) {
  if (text.length <= SHOWN_HEAD + SHOWN_TAIL + 1000) return appendWhole(parent, text, options);
  const [head, tail] = [boundary(text, SHOWN_HEAD), boundary(text, text.length - SHOWN_TAIL)];
  appendWhole(parent, text.slice(0, head), options);
  const show = element("button", { class: "more", type: "button" }, `… ${counted(tail - head)} characters more: show …`);
  const end = element("span", null);
  show.addEventListener("click", () => {
    end.replaceChildren();
    show.remove();
    appendWhole(end, text.slice(head), { ...options, thinking: thinkingAfter(text.slice(0, head), options.thinking) });
  });
  parent.append(show, end);
  appendWhole(end, text.slice(tail), { ...options, thinking: thinkingAfter(text.slice(0, tail), options.thinking) });
  return parent;
}

// Not between the halves of a surrogate pair.
const boundary = (text, at) => (/[\udc00-\udfff]/.test(text[at]) ? at - 1 : at);

const thinkingAfter = (text, before) => Math.max(text.lastIndexOf("<think>"), before ? 0 : -1) > text.lastIndexOf("</think>");

function appendWhole(parent, text, options) {
  for (const [piece, thought] of thoughts(text, options.thinking)) {
    const into = thought ? element("span", { class: "thought" }) : parent;
    for (const part of options.mathematics ? formulas(piece) : [{ text: piece }]) {
      const drawn = part.source === undefined ? null : mathematics.convert(part.source, part.display && !options.inline);
      if (part.code) into.append(appendMarked(element("span", { class: "code" }), part.text, options.find));
      else if (drawn) into.append(element("span", { class: part.display && !options.inline ? "formula display" : "formula", title: part.text }, drawn));
      else appendMarked(into, part.text, options.find);
    }
    if (thought) parent.append(into);
  }
  return parent;
}

// [text, whether it is a thought] pieces: a thought ends behind </think>, and another begins at <think>.
function thoughts(text, thinking) {
  const pieces = [];
  let at = 0;
  while (at < text.length) {
    const tag = thinking ? "</think>" : "<think>";
    const found = text.indexOf(tag, at);
    const end = found < 0 ? text.length : thinking ? found + tag.length : found;
    if (end > at) pieces.push([text.slice(at, end), Boolean(thinking)]);
    at = end;
    thinking = !thinking;
  }
  return pieces;
}

function appendMarked(parent, text, find) {
  if (!find) return appendVisible(parent, text);
  const lower = folded(text);
  let at = 0;
  for (let found = lower.indexOf(find); found >= 0; found = lower.indexOf(find, at)) {
    appendVisible(parent, text.slice(at, found));
    parent.append(appendVisible(element("mark", null), text.slice(found, found + find.length)));
    at = found + find.length;
  }
  return appendVisible(parent, text.slice(at));
}

// Lower case of the same length, so that places found in it hold for the text.
function folded(text) {
  const lower = text.toLowerCase();
  return lower.length === text.length ? lower : text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}

function appendVisible(parent, text) {
  let at = 0;
  for (const found of text.matchAll(ODD)) {
    if (found.index > at) parent.append(text.slice(at, found.index));
    const number = found[1].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    const times = found[0].length / found[1].length;
    parent.append(element("span", { class: "odd", "data-shown": `U+${number}${times > 1 ? `×${times}` : ""}` }, found[0]));
    at = found.index + found[0].length;
  }
  if (at < text.length) parent.append(text.slice(at));
  return parent;
}

// A formula's source that stands alone, such as a gold answer: drawn where it looks like LaTeX.
function appendAnswer(parent, text, options) {
  const bare = text.trim().replace(/^\$+([^$]*)\$+$/, "$1");
  const latex = bare.length <= 400 && !bare.includes("\n") && /\\[A-Za-z,!;{%$]|[\^_{}]/.test(bare);
  const drawn = options.mathematics && latex ? mathematics.convert(bare) : null;
  if (drawn) parent.append(element("span", { class: "formula", title: text }, drawn));
  else appendMarked(parent, text.length > 500 ? `${text.slice(0, boundary(text, 500))}…` : text, options.find);
  return parent;
}

// Splits text into {text}, {text, source, display} for $…$, $$…$$, \(…\), \[…\], \begin{…}…\end{…} and bare \boxed{…}, and {text, code} for
// fenced code and Asymptote drawings, whose dollars and brackets are no mathematics.
// Time is linear in the text: each closing delimiter is searched for once, however often its opening one stands there.
function formulas(text) {
  const LONGEST = 8000;
  const opening = /```|\[asy\]|\\\\|\\\$|\$\$?|\\\[|\\\(|\\begin\{([A-Za-z]+\*?)\}|\\(?:boxed|fbox)\s*\{/g;
  const next = new Map(); // closing delimiter: its next place
  const closing = (delimiter, from) => {
    let place = next.get(delimiter);
    if (place === undefined || (place >= 0 && place < from)) next.set(delimiter, (place = text.indexOf(delimiter, from)));
    return place >= 0 && place - from <= LONGEST ? place : -1;
  };
  const parts = [];
  let at = 0;
  for (let found = opening.exec(text); found; found = opening.exec(text)) {
    const token = found[0];
    const from = found.index + token.length;
    let [start, end, after, display] = [from, -1, 0, false];
    const code = { "```": "```", "[asy]": "[/asy]" }[token];
    if (token === "\\\\" || token === "\\$") continue;
    if (code) {
      end = closing(code, from);
      after = end + code.length;
    } else if (token === "$$" || token === "\\[" || token === "\\(") {
      const close = { $$: "$$", "\\[": "\\]", "\\(": "\\)" }[token];
      end = closing(close, from);
      after = end + 2;
      display = token !== "\\(";
    } else if (token === "$") {
      end = dollar(text, from, closing);
      after = end + 1;
    } else if (token.startsWith("\\begin")) {
      if (!mathematics.environments.has(found[1])) continue;
      const close = `\\end{${found[1]}}`;
      const last = closing(close, from);
      start = found.index;
      end = after = last < 0 ? -1 : last + close.length;
      display = true;
    } else {
      start = found.index;
      end = after = balanced(text, from, 600);
    }
    if (end < 0 || (!code && !text.slice(start, end).trim())) continue;
    if (found.index > at) parts.push({ text: text.slice(at, found.index) });
    parts.push(code ? { text: text.slice(found.index, after), code } : { text: text.slice(found.index, after), source: text.slice(start, end), display });
    opening.lastIndex = at = after;
  }
  if (at < text.length) parts.push({ text: text.slice(at) });
  return parts;
}

// Where the $ closes that opens before `from`; -1 where it is currency: a space inside, a digit behind the second one, or a sentence between.
function dollar(text, from, closing) {
  let end = closing("$", from);
  while (end > 0 && end - from < 2000 && text[end - 1] === "\\") end = text.indexOf("$", end + 1);
  if (end <= from || end - from > 2000 || /\s/.test(text[from]) || /\s/.test(text[end - 1]) || /[0-9]/.test(text[end + 1] || "")) return -1;
  const inside = text.slice(from, end);
  if (/\n\s*\n/.test(inside)) return -1;
  const words = inside.replace(/\\(?:text|mbox|textrm|textbf|operatorname|mathrm)\s*\{[^{}]*\}/g, "\u0001").replace(/\\[A-Za-z]+/g, "\u0001");
  return /[A-Za-z]{2,},?\s+[A-Za-z]{2,}/.test(words) ? -1 : end;
}

// Behind the brace that closes the one before `from`; -1 where there is none within `limit` characters.
function balanced(text, from, limit) {
  for (let depth = 1, i = from; i < Math.min(text.length, from + limit); i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return i + 1;
  }
  return -1;
}
