"use strict";
// The page: what the address says is what is shown. Filters, search, the list of problems and keys change the address; `show` follows it.

const WIDE = matchMedia("(min-width: 800px)");

// {show: filter, in: part or null, find: text, at: "part/problem" or null, sample: place or null, source: mathematics as source}
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  return {
    show: Object.hasOwn(FILTERS, given.get("show") || "") ? given.get("show") : "all",
    in: given.get("in"),
    find: given.get("find") || "",
    at: given.get("at"),
    sample: /^\d+$/.test(given.get("sample") || "") ? Number(given.get("sample")) : null,
    source: given.get("source") === "yes",
  };
}

function address(state) {
  const words = new URLSearchParams();
  if (state.show !== "all") words.set("show", state.show);
  if (state.in !== null) words.set("in", state.in);
  if (state.find) words.set("find", state.find);
  if (state.at !== null) words.set("at", state.at);
  if (state.sample !== null) words.set("sample", state.sample);
  if (state.source) words.set("source", "yes");
  return `#${words}`;
}

class Report {
  constructor(data) {
    this.data = data;
    this.byAddress = new Map(data.problems.map((problem) => [this.nameOf(problem), problem]));
    this.state = { show: null };
    this.found = null; // what the search found: a byte for each sample
    this.visible = []; // [{problem, places of its samples that pass}]
    this.searches = 0;
    this.list = new ProblemList(this);
    this.reader = new Reader(this);
    showOverview(data, (part, filter) => address({ ...this.blank(), in: part, show: filter }));
    byId("samples").hidden = data.samples === 0;
    this.makeControls();
    this.listen();
    this.show();
    if (location.hash.length > 1) byId("samples").scrollIntoView();
  }

  nameOf(problem) {
    return `${this.data.parts[problem.part]}/${problem.problem}`;
  }

  blank() {
    return { show: "all", in: null, find: "", at: null, sample: null, source: Boolean(this.state.source) };
  }

  // Changes the address. Typing and moving about replace it, so that "back" leaves the problem and not the last of many keys.
  go(changes, replace = false) {
    const next = address({ ...this.state, ...changes });
    if (next === (location.hash || "#")) return;
    if (replace) history.replaceState(null, "", next);
    else history.pushState(null, "", next);
    this.show(); // at once, so that the next key finds it done
  }

  // Brings the page to what the address says.
  show() {
    const before = this.state;
    const state = (this.state = readAddress());
    if (state.in !== null && !this.data.parts.includes(state.in)) state.in = null;
    byId("mathematics").setAttribute("aria-pressed", String(!state.source));
    if (state.find !== before.find) {
      if (byId("find") !== document.activeElement) byId("find").value = state.find;
      this.search(state.find); // the list stays as it is until the search is done
    } else if (state.show !== before.show || state.in !== before.in || state.source !== before.source) this.filter();
    this.select();
  }

  filter() {
    const { state, data } = this;
    const part = state.in === null ? null : data.parts.indexOf(state.in);
    this.visible = [];
    let samples = 0;
    for (const problem of data.problems) {
      if (part !== null && problem.part !== part) continue;
      const places = data.passing(problem, state.show, this.found);
      if (places.length) this.visible.push({ problem, places });
      samples += places.length;
    }
    this.showControls(part);
    this.list.fill(this.visible);
    byId("count").textContent = this.visible.length ? `${plural(this.visible.length, "problem")}, ${plural(samples, "sample")}` : "No samples";
  }

  // Where the problem shown is in the list; -1 where none of it is.
  position() {
    const shown = this.byAddress.get(this.state.at);
    return shown ? this.visible.findIndex((each) => each.problem === shown) : this.visible.length && WIDE.matches ? 0 : -1;
  }

  select() {
    const position = this.position();
    const entry = this.visible[position];
    const problem = entry?.problem || this.byAddress.get(this.state.at) || null;
    document.body.classList.toggle("reading", this.byAddress.has(this.state.at));
    this.list.select(position);
    this.reader.show(problem, entry?.places || [], position);
  }

  async search(find) {
    const mine = ++this.searches;
    const text = folded(find);
    byId("list").setAttribute("aria-busy", "true");
    const progress = (share) => {
      if (mine === this.searches) byId("count").textContent = share < 1 ? `Searching … ${Math.round(100 * share)}%` : "";
    };
    const found = text ? await this.data.search(text, progress, () => mine !== this.searches) : null;
    if (mine !== this.searches) return;
    this.found = found;
    byId("list").removeAttribute("aria-busy");
    byId("list").dataset.searched = find;
    this.filter();
    this.select();
  }

  makeControls() {
    const { data } = this;
    byId("filters").append(...Object.entries(FILTERS).filter(([name]) => name !== "unanswered" || data.answers).map(([name, [label, , title]]) =>
      element("button", { type: "button", "data-filter": name, title, onclick: () => this.go({ show: name, at: null, sample: null }) },
        element("span", { class: `mark ${name}`, "aria-hidden": "true" }), label, " ", element("b", null))));
    if (data.parts.length < 2) return;
    if (data.kind === "training") {
      const choose = () => this.go({ in: slider.value === "0" ? null : data.parts[slider.value - 1], at: null, sample: null }, true);
      const slider = element("input", { type: "range", id: "part", min: 0, max: data.parts.length, step: 1, value: 0, oninput: choose });
      byId("parts").append(element("label", { for: "part" }, "Step"), slider, element("output", { for: "part", id: "part-shown" }));
    } else {
      const choose = () => this.go({ in: select.value || null, at: null, sample: null });
      const select = element("select", { id: "part", onchange: choose },
        element("option", { value: "" }, "All benchmarks"), data.parts.map((part) => element("option", { value: part }, part)));
      byId("parts").append(element("label", { for: "part", class: "hidden-label" }, "Benchmark"), select);
    }
  }

  showControls(part) {
    const counts = this.data.counts(part, this.found);
    for (const button of byId("filters").children) {
      const name = button.dataset.filter;
      button.setAttribute("aria-pressed", String(name === this.state.show));
      button.classList.toggle("none", counts[name] === 0);
      button.querySelector("b").textContent = counted(counts[name]);
    }
    const chooser = byId("part");
    if (!chooser) return;
    chooser.value = this.data.kind === "training" ? (part === null ? 0 : part + 1) : this.state.in || "";
    if (byId("part-shown")) byId("part-shown").value = part === null ? "all" : this.data.parts[part];
  }

  step(by) {
    const position = this.position();
    const next = this.visible[Math.min(this.visible.length - 1, Math.max(0, position + by))];
    if (next) this.go({ at: this.nameOf(next.problem), sample: null }, this.state.at !== null);
  }

  listen() {
    addEventListener("hashchange", () => this.show());
    WIDE.addEventListener("change", () => this.select());
    byId("skip").addEventListener("click", () => byId("samples").focus());
    byId("mathematics").addEventListener("click", () => this.go({ source: !this.state.source }, true));
    byId("help-open").addEventListener("click", () => byId("help").showModal());
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("overview").addEventListener("click", (event) => {
      if (event.target.closest("a")) setTimeout(() => byId("samples").scrollIntoView());
    });
    let typing = 0;
    byId("find").addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.go({ find: byId("find").value, at: null, sample: null }, true), 200);
    });
    addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const field = event.target.closest?.("input, select, textarea");
    if (field) {
      if (event.key === "Escape") field.blur();
      return;
    }
    const number = Number(event.key);
    const filters = [...byId("filters").children];
    const keys = {
      j: () => this.step(1),
      k: () => this.step(-1),
      ArrowRight: () => this.reader.step(1),
      ArrowLeft: () => this.reader.step(-1),
      "/": () => byId("find").focus(),
      m: () => byId("mathematics").click(),
      "?": () => byId("help").showModal(),
      Escape: () => this.go({ at: null, sample: null }),
    };
    if (number >= 1 && number <= filters.length) filters[number - 1].click();
    else if (Object.hasOwn(keys, event.key)) keys[event.key]();
    else return;
    event.preventDefault();
  }
}

(async () => {
  if (typeof DecompressionStream === "undefined") throw new Error("This report needs a browser of 2023 or newer.");
  globalThis.report = new Report(await Data.open());
  document.body.dataset.ready = "yes";
})().catch((error) => {
  byId("problem-report").hidden = false;
  byId("problem-report").textContent = `The report cannot be shown: ${error.message}`;
  throw error;
});
