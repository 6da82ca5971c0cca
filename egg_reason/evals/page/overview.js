"use strict";
// The upper part of the page: a table of results with intervals, or the learning curve of a run; and the settings behind them.

const asShare = (value) => (typeof value === "number" ? { mean: value } : value && typeof value.mean === "number" ? value : null);
const finite = (value) => typeof value === "number" && Number.isFinite(value);

// linkTo(part, filter): the address of a part's samples.
function showOverview(data, linkTo) {
  byId("kind").textContent = data.kind === "training" ? "Training run" : "Evaluation";
  byId("name").textContent = data.name;
  document.title = `${data.name} · egg-reason`;
  byId("overview").append(...(data.kind === "training" ? training(data, linkTo) : evaluation(data, linkTo)));
}

function evaluation(data, linkTo) {
  const benchmarks = Object.entries(data.results.benchmarks || {});
  const { fingerprint, versions, settings } = data.results;
  byId("facts").textContent = [
    `${plural(data.problems.length, "problem")}, ${plural(data.samples, "completion")}`,
    fingerprint && `weights ${String(fingerprint).slice(0, 12)}`,
    versions?.["egg-reason"] && `egg-reason ${versions["egg-reason"]}`,
  ].filter(Boolean).join(" · ");
  const details = element("details", { class: "settings" }, element("summary", null, "Settings, prompts and versions"),
    facts({ ...settings, ...(fingerprint ? { fingerprint } : {}), ...prefixed("version of ", versions) }),
    benchmarks.map(([name, result]) => benchmarkDetails(name, result)));
  if (!benchmarks.length) return [element("p", { class: "notice" }, "No results.json with benchmarks: the samples alone are shown."), details];
  const all = powers(benchmarks);
  return [resultsTable(data, benchmarks, linkTo), ...(all ? [all] : []), details];
}

const prefixed = (prefix, table) => Object.fromEntries(Object.entries(table || {}).map(([key, value]) => [prefix + key, value]));

// The k of a benchmark's pass@k or maj@k, in order.
const ks = (table) => Object.keys(table || {}).map(Number).filter(Number.isFinite).sort((a, b) => a - b);

function resultsTable(data, benchmarks, linkTo) {
  const metric = (name) => { // the highest k of each benchmark; named in the head where it is the same for all
    const highest = benchmarks.map(([, result]) => Math.max(0, ...ks(result[`${name}@k`])));
    const common = new Set(highest).size === 1;
    return {
      title: common && highest[0] ? `${name}@${highest[0]}` : `${name}@k`,
      cell: (result, i) => (highest[i] ? interval(asShare(result[`${name}@k`][highest[i]]), common ? null : `k = ${highest[i]}:`) : "–"),
    };
  };
  const [pass, majority] = [metric("pass"), metric("maj")];
  const head = element("tr", null,
    element("th", { scope: "col" }, "Benchmark"),
    element("th", { scope: "col", class: "number" }, "Problems"),
    element("th", { scope: "col", class: "number", title: "share of right completions, the mean over problems; 95% interval clustered by problem" }, "Accuracy (avg)"),
    element("th", { scope: "col", class: "plot" }, axis()),
    element("th", { scope: "col", class: "number", title: "share of problems that one of k samples solves, unbiased" }, pass.title),
    element("th", { scope: "col", class: "number", title: "share of problems that the most frequent of k answers solves" }, majority.title),
    element("th", { scope: "col", class: "number" }, "Truncated"),
    element("th", { scope: "col", class: "number" }, "No answer"),
    element("th", { scope: "col", class: "number", title: "completions without a score, by an error or time-out of the reward; counted apart from zeros" }, "Failures"),
    element("th", { scope: "col", class: "number", title: "mean length of a completion" }, "Tokens"));
  const link = (name, filter, content) => (data.parts.includes(name) ? element("a", { href: linkTo(name, filter) }, content) : content);
  const rows = benchmarks.map(([name, result], i) => {
    const average = asShare(result.avg);
    return element("tr", null,
      element("th", { scope: "row" }, link(name, "all", name)),
      element("td", { class: "number" }, `${result.problems ?? "?"} × ${result.samples ?? "?"}`),
      element("td", { class: "number" }, interval(average)),
      element("td", { class: "plot" }, average ? intervalPlot(average, name) : null),
      element("td", { class: "number" }, pass.cell(result, i)),
      element("td", { class: "number" }, majority.cell(result, i)),
      element("td", { class: "number" }, link(name, "truncated", rate(result.truncated))),
      element("td", { class: "number" }, link(name, "unanswered", rate(result.no_answer))),
      element("td", { class: "number" }, link(name, "failed", rate(result.reward_failures))),
      element("td", { class: "number" }, finite(result.tokens?.mean ?? result.tokens) ? counted(Math.round(result.tokens?.mean ?? result.tokens)) : "–"));
  });
  return element("div", { class: "wide", role: "region", "aria-label": "Table of results", tabindex: "0" },
    element("table", { class: "results" }, element("caption", null, "Results, with 95% intervals"), element("thead", null, head), element("tbody", null, rows)));
}

// A share, or a number of cases.
function rate(value) {
  const number = asShare(value)?.mean;
  if (!finite(number)) return "–";
  return number > 1 ? counted(number) : percent(number);
}

function interval(value, label = null, share = true) {
  if (!value) return "–";
  const between = finite(value.low) && finite(value.high);
  const bound = (end) => (share ? (100 * end).toFixed(1) : plainly(end));
  return element("span", { class: "interval" },
    element("strong", null, share ? percent(value.mean) : plainly(value.mean)),
    element("small", null, label ? `${label} ` : "", between ? `${bound(value.low)} – ${bound(value.high)}` : ""));
}

function axis() {
  const marks = [0, 25, 50, 75, 100];
  return drawing("svg", { viewBox: "0 0 200 18", class: "axis", role: "img", "aria-label": "scale from 0 to 100%" },
    marks.map((mark) => drawing("text", { x: 8 + mark * 1.76, y: 13, "text-anchor": "middle" }, mark === 100 ? "100%" : String(mark))));
}

function intervalPlot(value, name) {
  const x = (share) => 8 + 176 * Math.min(1, Math.max(0, share));
  const low = finite(value.low) ? value.low : value.mean;
  const high = finite(value.high) ? value.high : value.mean;
  return drawing("svg", { viewBox: "0 0 200 26", class: "bar", role: "img", "aria-label": `${name}: ${percent(value.mean)}, from ${percent(low)} to ${percent(high)}` },
    [0, 0.25, 0.5, 0.75, 1].map((mark) => drawing("line", { class: "grid", x1: x(mark), x2: x(mark), y1: 0, y2: 26 })),
    drawing("rect", { class: "span", x: x(low), width: Math.max(1, x(high) - x(low)), y: 9, height: 8, rx: 4 }),
    drawing("circle", { class: "mean", cx: x(value.mean), cy: 13, r: 4.5 }));
}

// All pass@k and maj@k, where there are several k.
function powers(benchmarks) {
  const every = [...new Set(benchmarks.flatMap(([, result]) => [...ks(result["pass@k"]), ...ks(result["maj@k"])]))].sort((a, b) => a - b);
  if (every.length < 2) return null;
  const rows = benchmarks.flatMap(([name, result]) => ["pass", "maj"].filter((metric) => ks(result[`${metric}@k`]).length).map((metric) =>
    element("tr", null, element("th", { scope: "row" }, `${name} ${metric}@k`),
      every.map((k) => element("td", { class: "number" }, interval(asShare(result[`${metric}@k`][k])))))));
  return element("details", null, element("summary", null, "pass@k and maj@k for every k"),
    element("div", { class: "wide", role: "region", "aria-label": "pass@k and maj@k", tabindex: "0" }, element("table", { class: "results" },
      element("thead", null, element("tr", null, element("td"), every.map((k) => element("th", { scope: "col", class: "number" }, `k = ${k}`)))),
      element("tbody", null, rows))));
}

function benchmarkDetails(name, result) {
  const { prompt_example: example, sampling, ...others } = result;
  const inTable = new Set(["problems", "samples", "avg", "pass@k", "maj@k", "truncated", "no_answer", "reward_failures", "tokens"]);
  const simple = Object.fromEntries(Object.entries(others).filter(([key]) => !inTable.has(key)));
  return element("section", null, element("h3", null, name), facts({ ...simple, ...prefixed("sampling: ", sampling) }),
    example === undefined || example === null ? null
      : element("div", null, element("p", { class: "label" }, "prompt"), appendText(element("pre", { class: "text" }), String(example))));
}

function facts(table) {
  return element("dl", { class: "facts" }, Object.entries(table).map(([key, value]) => element("div", null, element("dt", null, key.replaceAll("_", " ")),
    appendVisible(element("dd", null), plainly(value)))));
}

// A setting as people write it.
function plainly(value) {
  if (typeof value === "string") return value;
  if (finite(value)) return String(Number(value.toPrecision(6)));
  if (value === null || (typeof value === "object" && !Object.keys(value).length)) return "none";
  return Array.isArray(value) && value.every((each) => typeof each !== "object") ? value.join(", ") : JSON.stringify(value);
}

function training(data, linkTo) {
  const { config, metric, metrics, summary } = data.run;
  const evaluations = metrics.filter((line) => line.heldout);
  const before = data.run.before || evaluations[0]?.heldout;
  const after = data.run.after || (evaluations.length > 1 ? evaluations.at(-1).heldout : null);
  const name = String(metric.name).replaceAll("_", " ");
  const better = metric.higher ? "" : " (lower is better)";
  // Shown in percent where all that was measured are shares.
  const share = [before, after, ...evaluations.map((line) => line.heldout)].filter(Boolean)
    .every((value) => [value.mean, value.low, value.high].filter(finite).every((one) => one >= 0 && one <= 1));
  const minutes = summary.minutes ?? (metrics.length ? metrics.at(-1).time / 60 : null);
  const steps = summary.steps ?? (metrics.length ? metrics.at(-1).step + 1 : 0);
  byId("facts").textContent = [config.model && `${config.model} on ${config.task}`, `${plural(data.samples, "completion")} kept`,
    summary.steps === undefined ? "not finished" : null].filter(Boolean).join(" · ");
  const tile = (label, content) => element("div", { class: "tile" }, element("p", { class: "label" }, label), content);
  return [
    element("div", { class: "tiles" },
      before ? tile(`Held-out ${name} before${better}`, interval(before, null, share)) : null,
      after ? tile(`Held-out ${name} ${data.run.after ? "after" : "now"}${better}`, interval(after, null, share)) : null,
      tile("Steps", element("strong", null, counted(steps))),
      finite(minutes) ? tile("Minutes", element("strong", null, minutes.toFixed(1))) : null),
    metrics.length ? curve(metrics, evaluations, name, share, data.parts, linkTo) : element("p", { class: "notice" }, "No metrics yet."),
    element("details", { class: "settings" }, element("summary", null, "Settings"), facts(config)),
  ];
}

function curve(metrics, evaluations, name, share, parts, linkTo) {
  const shown = (value) => (share ? percent(value) : plainly(value));
  const rewards = metrics.filter((line) => finite(line.reward_mean));
  const [width, height, left, right, top, bottom] = [innerWidth < 800 ? 430 : 960, 280, 40, 12, 12, 34];
  const values = [...rewards.map((line) => line.reward_mean), ...evaluations.flatMap((line) => [line.heldout.mean, line.heldout.low, line.heldout.high])].filter(finite);
  let [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const step = niceStep((high - low || 1) / 4);
  [low, high] = [Math.floor(low / step) * step, Math.ceil(high / step) * step];
  if (high === low) high += step;
  const last = Math.max(1, ...metrics.map((line) => line.step));
  const x = (line) => left + ((width - left - right) * line.step) / last;
  const y = (value) => top + ((height - top - bottom) * (high - value)) / (high - low);
  const points = (lines, value) => lines.map((line) => `${x(line).toFixed(1)},${y(value(line)).toFixed(1)}`).join(" ");
  const grid = [];
  for (let mark = low; mark <= high + step / 2; mark += step) {
    grid.push(drawing("line", { class: "grid", x1: left, x2: width - right, y1: y(mark), y2: y(mark) }),
      drawing("text", { x: left - 8, y: y(mark) + 4, "text-anchor": "end" }, Number(mark.toFixed(6)).toString()));
  }
  const across = Math.max(1, niceStep(last / (width / 120)));
  for (let mark = 0; mark <= last; mark += across) {
    grid.push(drawing("text", { x: x({ step: mark }), y: height - 14, "text-anchor": "middle" }, counted(mark)));
  }
  const band = evaluations.filter((line) => finite(line.heldout.low) && finite(line.heldout.high));
  const saved = parts.map((part) => drawing("a", { href: linkTo(part, "all"), "aria-label": `samples of step ${part}` },
    drawing("title", null, `samples of step ${part}`),
    drawing("rect", { class: "hit", x: x({ step: Number(part) }) - 7, y: height - bottom - 9, width: 14, height: 14 }),
    drawing("path", { class: "saved", d: `M${x({ step: Number(part) })} ${height - bottom - 7}l4 7h-8z` })));
  return element("figure", null,
    element("figcaption", null,
      evaluations.length ? element("span", { class: "key heldout" }, `held-out ${name}, 95% interval`) : null,
      rewards.length ? element("span", { class: "key reward" }, "training reward") : null,
      parts.length ? element("span", { class: "key saved" }, "saved samples") : null),
    drawing("svg", { viewBox: `0 0 ${width} ${height}`, class: "curve", role: "group", "aria-label": `held-out ${name} and training reward by step` },
      grid,
      drawing("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, "step"),
      band.length > 1 ? drawing("polygon", { class: "band", points: `${points(band, (line) => line.heldout.high)} ${points(band.toReversed(), (line) => line.heldout.low)}` })
        : band.map((line) => drawing("line", { class: "whisker", x1: x(line), x2: x(line), y1: y(line.heldout.low), y2: y(line.heldout.high) })),
      drawing("polyline", { class: "reward", points: points(rewards, (line) => line.reward_mean) }),
      drawing("polyline", { class: "heldout", points: points(evaluations, (line) => line.heldout.mean) }),
      evaluations.map((line) => drawing("circle", { class: "heldout", cx: x(line), cy: y(line.heldout.mean), r: 4 },
        drawing("title", null, `step ${line.step}: ${shown(line.heldout.mean)}${finite(line.heldout.low) ? ` [${shown(line.heldout.low)}, ${shown(line.heldout.high)}]` : ""}`))),
      saved));
}

// 1, 2 or 5 times a power of ten, at least `rough`.
function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999);
}
