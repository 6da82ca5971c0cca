"use strict";
// The page's data: an index of all problems and samples, read at once, and their texts in compressed blocks, read when they are shown or searched.
//
// index: {kind: "evaluation" or "training", name, parts: [names of benchmarks, or steps], results or run, answers: whether any were extracted,
//   problems: [[part, problem, id, label, block, place in the block, number of samples], …], flags: one number a sample, in the problems' order}
// block: [{prompt, question, gold, …, samples: [{completion, extracted, verdict, …}]}, …]; a sample that lacks a field has its problem's.

const RIGHT = 1, TRUNCATED = 2, NO_ANSWER = 4, FAILED = 8;

const FILTERS = { // name: [label, whether a sample's flags pass, explanation]
  all: ["All", () => true, "every sample"],
  wrong: ["Wrong", (flags) => !(flags & (RIGHT | FAILED)), "scored, and not right"],
  right: ["Right", (flags) => Boolean(flags & RIGHT), "right"],
  truncated: ["Truncated", (flags) => Boolean(flags & TRUNCATED), "ended by the limit on tokens"],
  unanswered: ["No answer", (flags) => Boolean(flags & NO_ANSWER), "no answer could be extracted"],
  failed: ["Failed reward", (flags) => Boolean(flags & FAILED), "the reward raised an error, ran out of time or gave nothing: counted apart from wrong"],
  disagreeing: ["Disagreeing", () => true, "problems whose samples are not all of one verdict"],
};

const KEPT_BLOCKS = 96; // in memory, about 1 MB each

class Data {
  constructor(index, blocks) {
    Object.assign(this, index);
    this.blocks = blocks; // elements that hold gzip in base64
    this.read = new Map(); // block number: promise of its content, the least recently used first
    let first = 0;
    this.problems = index.problems.map(([part, problem, id, label, block, place, count], number) => {
      const flags = index.flags.slice(first, first + count);
      const right = flags.filter((flag) => flag & RIGHT).length;
      const made = { number, part, problem, id, label, block, place, first, flags, right, disagreeing: right > 0 && right < count };
      first += count;
      return made;
    });
    this.samples = first;
  }

  static async open() {
    const index = JSON.parse(await unpacked(byId("index")));
    return new Data(index, [...document.querySelectorAll("script.block")]);
  }

  async block(number) {
    const known = this.read.get(number);
    this.read.delete(number);
    const content = known || unpacked(this.blocks[number]).then(JSON.parse);
    this.read.set(number, content);
    if (this.read.size > KEPT_BLOCKS) this.read.delete(this.read.keys().next().value);
    return content;
  }

  // {prompt, question, gold, …, samples: [whole samples]}
  async texts(problem) {
    const { samples, ...shared } = (await this.block(problem.block))[problem.place];
    return { ...shared, samples: samples.map((sample) => ({ ...shared, ...sample })) };
  }

  // Places of the problem's samples that pass the filter, and that the search found (found: a byte for each sample; null: no search).
  passing(problem, filter, found) {
    if (filter === "disagreeing" && !problem.disagreeing) return [];
    const passes = FILTERS[filter][1];
    const places = [];
    for (let i = 0; i < problem.flags.length; i++) {
      if (passes(problem.flags[i]) && (!found || found[problem.first + i])) places.push(i);
    }
    return places;
  }

  // {filter: samples that pass it} within a part (null: all) and what the search found (null: all); for "disagreeing" the number of problems.
  counts(part, found) {
    const counts = Object.fromEntries(Object.keys(FILTERS).map((name) => [name, 0]));
    for (const problem of this.problems) {
      if (part !== null && problem.part !== part) continue;
      let any = false;
      problem.flags.forEach((flags, i) => {
        if (found && !found[problem.first + i]) return;
        any = true;
        for (const name in FILTERS) counts[name] += name !== "disagreeing" && FILTERS[name][1](flags);
      });
      counts.disagreeing += any && problem.disagreeing;
    }
    return counts;
  }

  // A byte for each sample: 1 where a text of it, or of its problem, holds `find` (folded). Calls `progress(share)`; null once `stopped()`.
  async search(find, progress, stopped) {
    const found = new Uint8Array(this.samples);
    const holds = (row) => Object.entries(row).some(([key, value]) => key !== "samples" && typeof value === "string" && folded(value).includes(find));
    let block = -1;
    for (const problem of this.problems) {
      if (problem.block !== block) {
        block = problem.block;
        progress(block / this.blocks.length);
        await new Promise((resume) => setTimeout(resume)); // the page stays alive
      }
      if (stopped()) return null;
      const { samples, ...shared } = (await this.block(block))[problem.place];
      if (holds(shared)) found.fill(1, problem.first, problem.first + samples.length);
      else samples.forEach((sample, i) => (found[problem.first + i] = holds(sample)));
    }
    progress(1);
    return found;
  }
}

async function unpacked(holder) {
  const binary = atob(holder.textContent.trim());
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}
