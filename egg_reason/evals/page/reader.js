"use strict";
// The list of problems, of which only the rows in view exist, and the problem that is read.

const ROW_HEIGHT = 62; // pixels, as in report.css

class ProblemList {
  constructor(report) {
    this.report = report;
    this.entries = [];
    this.rows = new Map(); // place in the list: element
    this.selected = -1;
    byId("scroller").addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(byId("scroller"));
  }

  fill(entries) {
    this.entries = entries;
    this.rows.clear();
    byId("rows").replaceChildren();
    byId("rows").style.height = `${entries.length * ROW_HEIGHT}px`;
    byId("scroller").scrollTop = 0;
    this.draw();
  }

  select(position) {
    this.rows.get(this.selected)?.firstChild.removeAttribute("aria-current");
    this.selected = position;
    const scroller = byId("scroller");
    const top = position * ROW_HEIGHT;
    if (position >= 0 && (top < scroller.scrollTop || top + ROW_HEIGHT > scroller.scrollTop + scroller.clientHeight)) {
      scroller.scrollTop = top - scroller.clientHeight / 3;
    }
    this.draw();
    this.rows.get(position)?.firstChild.setAttribute("aria-current", "true");
  }

  draw() {
    const scroller = byId("scroller");
    const first = Math.max(0, Math.floor(scroller.scrollTop / ROW_HEIGHT) - 8);
    const end = Math.min(this.entries.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW_HEIGHT) + 8);
    for (const [place, row] of this.rows) {
      if (place >= first && place < end) continue;
      row.remove();
      this.rows.delete(place);
    }
    for (let place = first; place < end; place++) {
      if (this.rows.has(place)) continue;
      const row = this.row(this.entries[place], place);
      this.rows.set(place, row);
      byId("rows").append(row);
    }
  }

  row({ problem }, place) {
    const { report } = this;
    const count = problem.flags.length;
    const link = element("a", { href: address({ ...report.state, at: report.nameOf(problem), sample: null }), "aria-current": place === this.selected ? "true" : null },
      element("span", { class: "name" }, partName(report.data, problem), score(problem)),
      element("span", { class: "label" }, appendText(element("span", null), problem.label || "(empty)", { mathematics: !report.state.source, inline: true })));
    if (count > 1) {
      const bar = element("span", { class: "share", "aria-hidden": "true" });
      bar.style.setProperty("--share", `${(100 * problem.right) / count}%`);
      link.append(bar);
    }
    const row = element("li", { "aria-setsize": this.entries.length, "aria-posinset": place + 1 }, link);
    row.style.top = `${place * ROW_HEIGHT}px`;
    return row;
  }
}

const partName = (data, { part, problem }) => (data.kind === "training" ? `step ${data.parts[part]} · prompt ${problem + 1}` : `${data.parts[part]} ${problem}`);

function score({ flags, right }) {
  if (flags.length > 1) return element("span", { class: "score", title: "right samples" }, `${right}/${flags.length}`);
  return element("span", { class: `score ${stateOf(flags[0])}`, title: WORDS[stateOf(flags[0])] }, MARKS[stateOf(flags[0])]);
}

const MARKS = { right: "✓", wrong: "✗", unanswered: "∅", failed: "!", truncated: "…" };
const WORDS = { right: "right", wrong: "wrong", unanswered: "no answer", failed: "reward failed", truncated: "truncated" };

// The one word for a sample: what hides its answer comes before wrong.
function stateOf(flags) {
  if (flags & FAILED) return "failed";
  if (flags & RIGHT) return "right";
  if (flags & TRUNCATED) return "truncated";
  return flags & NO_ANSWER ? "unanswered" : "wrong";
}

class Reader {
  constructor(report) {
    this.report = report;
    this.shown = null; // what is on the screen
    this.asked = 0;
  }

  // places: of the problem's samples that pass the filter. position: in the list, -1 where it is not in it.
  async show(problem, places, position) {
    const { state } = this.report;
    const mine = ++this.asked;
    if (!problem) {
      this.shown = null;
      byId("reader").replaceChildren(element("p", { class: "empty" }, this.report.visible.length ? "Choose a problem." : "No sample passes the filter."));
      return;
    }
    let place = state.at !== null && state.sample !== null && state.sample < problem.flags.length ? state.sample : null;
    place ??= places[0] ?? 0;
    this.place = place;
    this.places = places;
    const texts = await this.report.data.texts(problem);
    if (mine !== this.asked) return;
    const same = this.shown === problem;
    this.shown = problem;
    byId("reader").replaceChildren(...this.content(problem, texts, position));
    if (!same) byId("reader").scrollTop = 0;
    const chosen = byId("reader").querySelector(".strip [aria-pressed=true]");
    if (chosen) chosen.parentNode.scrollTop = chosen.offsetTop - chosen.parentNode.offsetTop - 40;
  }

  step(by) {
    if (!this.shown) return;
    const places = this.places.length ? this.places : [...this.shown.flags.keys()];
    const next = by > 0 ? places.find((place) => place > this.place) : places.findLast((place) => place < this.place);
    if (next !== undefined) this.choose(next);
  }

  choose(place) {
    this.report.go({ at: this.report.nameOf(this.shown), sample: place }, true);
  }

  content(problem, texts, position) {
    const { report } = this;
    const options = { mathematics: !report.state.source, find: folded(report.state.find) };
    const sample = texts.samples[this.place];
    const { prompt, question, gold, id } = texts;
    const head = element("header", null,
      element("button", { type: "button", class: "back", onclick: () => report.go({ at: null, sample: null }) }, "← List"),
      element("h2", null, partName(report.data, problem), " ", id !== undefined && id !== null && String(id) !== String(problem.problem) ? element("small", null, String(id)) : null),
      element("span", { class: "steps" },
        element("span", { class: "where" }, position < 0 ? "not in the list" : `${counted(position + 1)} of ${counted(report.visible.length)}`),
        element("button", { type: "button", "aria-label": "previous problem", title: "previous problem (k)", disabled: position <= 0, onclick: () => report.step(-1) }, "↑"),
        element("button", { type: "button", "aria-label": "next problem", title: "next problem (j)", disabled: position + 1 >= report.visible.length, onclick: () => report.step(1) }, "↓")));
    const block = (label, text, more) => element("section", null, element("p", { class: "label" }, label),
      appendText(element("div", { class: "text", dir: "auto" }), text, { ...options, ...more }));
    const parts = [head];
    if (typeof question === "string") parts.push(block("Question", question));
    if (typeof prompt === "string") {
      parts.push(typeof question === "string"
        ? element("details", { open: options.find !== "" && !folded(question).includes(options.find) && folded(prompt).includes(options.find) },
          element("summary", null, "Prompt"), appendText(element("div", { class: "text prompt" }), prompt, { find: options.find }))
        : block("Prompt", prompt));
    }
    if (gold !== undefined && gold !== null) {
      parts.push(element("section", null, element("p", { class: "label" }, "Gold answer"), appendAnswer(element("div", { class: "answer gold" }), String(gold), options)));
    }
    if (problem.flags.length > 1) parts.push(this.choice(problem, texts, options));
    parts.push(this.sample(problem.flags[this.place], sample, prompt, options, problem));
    return parts;
  }

  // The samples to choose from, and how many gave which answer.
  choice(problem, texts, options) {
    const answers = new Map();
    texts.samples.forEach((sample, place) => {
      const answer = typeof sample.extracted === "string" ? sample.extracted : null;
      const key = `${stateOf(problem.flags[place])} ${answer}`;
      if (!answers.has(key)) answers.set(key, { answer, state: stateOf(problem.flags[place]), places: [] });
      answers.get(key).places.push(place);
    });
    const votes = [...answers.values()].sort((a, b) => b.places.length - a.places.length);
    const most = votes.slice(0, 12);
    return element("section", { class: "choice" },
      element("p", { class: "label" }, `Samples: ${problem.right} of ${problem.flags.length} right`),
      this.report.data.answers ? element("ul", { class: "votes", "aria-label": "Answers and how many samples gave them" },
        most.map(({ answer, state, places }) => element("li", null,
          element("button", { type: "button", class: state, title: `${WORDS[state]}: show the first of ${places.length}`, onclick: () => this.choose(places[0]) },
            element("span", { class: "glyph", "aria-hidden": "true" }, MARKS[state]),
            answer === null ? element("em", null, "no answer") : appendAnswer(element("span", { class: "answer" }), answer, options),
            element("b", null, `× ${places.length}`)))),
        votes.length > most.length ? element("li", { class: "others" }, `and ${votes.length - most.length} other answers`) : null) : null,
      element("div", { class: "strip", role: "group", "aria-label": "Samples" }, problem.flags.map((flags, place) => {
        const state = stateOf(flags);
        const name = sampleName(texts.samples[place], place);
        return element("button", { type: "button", class: `${state}${this.places.length && !this.places.includes(place) ? " passed-over" : ""}`,
          "aria-pressed": String(place === this.place), "aria-label": `${name}: ${WORDS[state]}`, title: `${name}: ${WORDS[state]}`, onclick: () => this.choose(place) },
        element("span", { class: "glyph", "aria-hidden": "true" }, MARKS[state]), String(place + 1));
      })));
  }

  sample(flags, sample, prompt, options, problem) {
    const state = stateOf(flags);
    const { extracted, verdict, reward, rewards, tokens, stop, truncated, failure, completion } = sample;
    const facts = [["Extracted", extracted === undefined ? null : extracted === null ? element("em", null, "none") : appendAnswer(element("span", { class: "answer" }), String(extracted), options)],
      ["Verdict", verdict], ["Reward", reward === undefined ? null : reward === null ? "none" : number(reward)],
      ...Object.entries(rewards || {}).map(([name, value]) => [`Reward ${name}`, value === null ? "none" : number(value)]),
      ["Failure", failure], ["Tokens", finite(tokens) ? counted(tokens) : null], ["Stopped by", stop], ["Truncated", truncated ? "yes" : null]];
    const known = new Set("benchmark problem id sample member prompt question gold extracted verdict reward rewards tokens stop truncated failure completion correct".split(" "));
    const others = Object.entries(sample).filter(([name, value]) => !known.has(name) && value !== null);
    return element("section", { class: `sample ${state}` },
      element("p", { class: "verdict" }, element("span", { class: "glyph", "aria-hidden": "true" }, MARKS[state]), WORDS[state],
        flags & TRUNCATED && state !== "truncated" ? ", truncated" : null,
        problem.flags.length > 1 ? element("small", null, sampleName(sample, this.place)) : null),
      element("dl", { class: "facts" }, facts.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) =>
        element("div", null, element("dt", null, name), value instanceof Node ? element("dd", null, value) : appendVisible(element("dd", null), String(value))))),
      element("p", { class: "label" }, "Completion"),
      appendText(element("div", { class: "text completion", dir: "auto" }), String(completion ?? ""), { ...options, thinking: startsInThought(prompt) }),
      others.length ? element("details", null, element("summary", null, "Other columns"),
        element("dl", { class: "facts" }, others.map(([name, value]) => element("div", null, element("dt", null, name),
          appendMarked(element("dd", null), cut(typeof value === "string" ? value : JSON.stringify(value)), options.find))))) : null);
  }
}

const cut = (text) => (text.length > 2000 ? `${text.slice(0, boundary(text, 2000))}…` : text);
const number = (value) => (finite(value) ? String(Number(value.toPrecision(4))) : JSON.stringify(value));
const sampleName = ({ member, sample }, place) => (member === undefined ? `sample ${place + 1}` : `member ${member}${sample ? `, sample ${sample}` : ""}`);
// A prompt that ends in an open <think leaves the completion within a thought.
const startsInThought = (prompt) => typeof prompt === "string" && prompt.lastIndexOf("<think") > prompt.lastIndexOf("</think");
