// The page's curves and its samples. Texts go in with textContent alone: a completion is never markup.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const byId = (id) => document.getElementById(id);

// ---- curves -------------------------------------------------------------------------------------------------------
const TIMES = { generate: "--c0", judge: "--c1", learn: "--c4", publish: "--c2", wait: "--c5", overhead: "--c3" };
const touch = matchMedia("(pointer: coarse)").matches;

function layout(extra) {
  const axis = { linecolor: css("--line"), tickcolor: css("--line"), zeroline: false, automargin: true, ticklen: 4 };
  const font = { family: getComputedStyle(document.body).fontFamily, size: 11.5, color: css("--faint") };
  return {
    margin: { l: 44, r: 10, t: 14, b: 30 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font,
    showlegend: false, hovermode: "x unified", dragmode: touch ? false : "zoom",
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { ...font, color: css("--ink"), size: 12.5 } },
    ...extra,
    xaxis: { ...axis, showgrid: false, ticks: "outside", nticks: 7, hoverformat: ",d", unifiedhovertitle: { text: "step %{x}" },
      spikecolor: css("--faint"), spikethickness: 1, spikedash: "solid", ...extra.xaxis },
    yaxis: { ...axis, gridcolor: css("--line"), griddash: "dot", showline: false, nticks: 5, ...extra.yaxis },
  };
}

const translucent = (colour, alpha) => {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
};

// What the eye would draw through a noisy curve: a straight line fitted around each point, so that the ends stay true.
function smooth(values) {
  const half = Math.max(2, Math.round(values.length / 25));
  return values.map((_, i) => {
    const from = Math.max(0, i - half), near = values.slice(from, i + half + 1), n = near.length;
    const mean = near.reduce((a, b) => a + b, 0) / n, middle = (n - 1) / 2;
    const slope = near.reduce((sum, y, k) => sum + (k - middle) * (y - mean), 0) / ((n * (n * n - 1)) / 12);
    return mean + slope * (i - from - middle);
  });
}

// Noisy: it goes up and down several times its own range.
function isNoisy(values) {
  const way = values.slice(1).reduce((sum, value, i) => sum + Math.abs(value - values[i]), 0);
  return values.length >= 25 && way > 3 * (Math.max(...values) - Math.min(...values));
}

function curve(chart) {
  const share = chart.form === "share", log = chart.form === "log", traces = [];
  const top = Math.max(...chart.series.flatMap((s) => s.y));
  if (chart.band.length) {
    const [low, high] = chart.band, fill = translucent(css("--c0"), 0.16);
    traces.push({ x: low.x, y: low.y, mode: "lines", line: { width: 0 }, hoverinfo: "skip" });
    traces.push({ x: high.x, y: high.y, mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: fill, hoverinfo: "skip" });
  }
  chart.series.forEach((s, i) => {
    const colour = css(`--c${(s.colour ?? i) % 6}`), noisy = !log && isNoisy(s.y), short = s.x.length < 25;
    const format = share ? "%{y:.1%}" : top >= 1e4 ? "%{y:,.0f}" : "%{y:.4~g}";
    traces.push({
      x: s.x, y: s.y, name: s.name, mode: short ? "lines+markers" : "lines", marker: { size: 5 },
      line: { color: noisy ? translucent(colour, 0.38) : colour, width: noisy ? 1 : 1.8 },
      hovertemplate: (s.name ? "" : chart.title + " ") + format + (s.name ? "" : "<extra></extra>"),
    });
    if (noisy) traces.push({ x: s.x, y: smooth(s.y), mode: "lines", line: { color: colour, width: 2.2 }, hoverinfo: "skip" });
  });
  const yaxis = share ? { tickformat: top < 0.05 ? ".1~%" : ".0%", rangemode: "tozero" } : log ? { type: "log", exponentformat: "power", dtick: 1 } : { tickformat: top >= 1e4 ? "~s" : "~g" };
  return { traces, layout: layout({ yaxis }) };
}

function timing(t, width) {
  const traces = t.parts.map((p, i) => ({
    x: p.x, y: p.y, name: p.name, type: "bar", hovertemplate: "%{y:.3f} s",
    marker: { color: css(TIMES[p.name] || `--c${i % 6}`), line: { width: 0 } },
  }));
  traces.push({ x: t.step.x, y: t.step.y, name: "step", mode: "lines", line: { color: css("--ink"), width: 1, shape: "hvh" }, hovertemplate: "%{y:.3f} s" });
  return { traces, layout: layout({ barmode: "stack", bargap: t.step.x.length > width / 12 ? 0 : 0.18, yaxis: { ticksuffix: " s", rangemode: "tozero" } }) };
}

function map(m) {
  const discrete = typeof m.y[0] === "string";
  const trace = {
    type: "heatmap", x: m.x, y: m.y, z: m.z, text: m.z.map((row, i) => row.map(() => m.labels[i])), xgap: 1, ygap: 1, zmin: 0, zmax: Math.max(...m.z.flat()),
    colorscale: [[0, css("--heat0")], [1, css("--heat1")]], showscale: false,
    hovertemplate: "step %{x}<br>%{text}: <b>%{z:.0%}</b><extra></extra>",
  };
  return { traces: [trace], layout: layout({ hovermode: "closest", xaxis: { type: "category", nticks: innerWidth < 760 ? 5 : 9 }, yaxis: { showgrid: false, ...(discrete ? { type: "category" } : { tickformat: "~g" }) } }) };
}

function gold(g) {
  const points = (y, name, colour, more) => ({ x: g.d, y, name, mode: "markers", marker: { size: 5, color: translucent(css(colour), 0.6) }, hovertemplate: "%{y:.4~g}", ...more });
  const traces = [points(g.proxy, "reward", "--c0", { yaxis: "y2" }), points(g.gold, "gold", "--c1", {})];
  if (g.law.x.length) traces.push({ x: g.law.x, y: g.law.y, name: "law", mode: "lines", line: { color: css("--c3"), width: 2 }, hovertemplate: "%{y:.4~g}" });
  const right = { overlaying: "y", side: "right", showgrid: false, zeroline: false, automargin: true, tickmode: "auto", nticks: 5, tickfont: { color: css("--c0") }, tickformat: ".3~g" };
  return { traces, layout: layout({ hovermode: "closest", yaxis: { tickformat: "~g", tickfont: { color: css("--c1") } }, yaxis2: right, xaxis: { tickformat: "~g", hoverformat: ".3~g", unifiedhovertitle: {} } }) };
}

function draw(spot) {
  const [i, group, j] = (spot.dataset.chart || spot.dataset.map || spot.dataset.timing || spot.dataset.gold).split(".");
  const section = DATA.sections[i];
  const figure = spot.dataset.gold ? gold(section.gold) : spot.dataset.timing ? timing(section.timing, spot.clientWidth) : spot.dataset.map ? map(section[group][j]) : curve(section[group][j]);
  Plotly.react(spot, figure.traces, { ...figure.layout, width: spot.clientWidth, height: spot.clientHeight }, { displayModeBar: false });
}

// Drawn as wide as the card is, and again whenever that changes: a window that is turned, a fold that opens.
const drawAll = () => document.querySelectorAll(".plot").forEach((spot) => spot.clientWidth && draw(spot));
const sizes = new ResizeObserver((seen) => seen.forEach((s) => s.contentRect.width && draw(s.target)));
document.querySelectorAll(".plot").forEach((spot) => sizes.observe(spot));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
const watcher = new IntersectionObserver((seen) => seen.forEach((s) => {
  if (!s.isIntersecting) return;
  links.forEach((a) => a.classList.remove("here"));
  links.get(s.target.id)?.classList.add("here");
}), { rootMargin: "-20% 0px -75% 0px" });
document.querySelectorAll("main > section").forEach((section) => watcher.observe(section));

// ---- samples ------------------------------------------------------------------------------------------------------
const PAGE = 12;
const samples = DATA.samples.map((row, order) => ({ ...row, order, text: haystack(row) }));
const rewards = samples.map((s) => s.reward).filter((r) => r !== null && r !== undefined);
const [least, most] = [Math.min(...rewards), Math.max(...rewards)];
let shown = PAGE, only = null;

function haystack(row) {
  const why = Object.values(row.scores || {}).flatMap((s) => [s.explanation, s.failure]);
  return [row.task, row.prompt, row.completion, row.reference, row.failure, ...why].filter(Boolean).join("\n").toLowerCase();
}

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

// The text with every place that was searched for marked.
function marked(text, wanted) {
  const p = element("p"), lower = text.toLowerCase();
  let from = 0;
  for (let at = wanted ? lower.indexOf(wanted) : -1; at >= 0; at = lower.indexOf(wanted, from)) {
    p.append(text.slice(from, at), element("mark", "", text.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  p.append(text.slice(from));
  return p;
}

const plain = (value) => (value === null || value === undefined ? "–" : String(+(+value).toPrecision(4)));

function card(row, wanted) {
  const box = element("article", "card sample"), head = element("header"), texts = element("div", "texts");
  const reward = element("span", "reward", row.reward === null ? "no reward" : plain(row.reward));
  const level = most > least && row.reward !== null ? (row.reward - least) / (most - least) : 0;
  reward.style.setProperty("--level", `${Math.round(100 * level)}%`);
  reward.classList.toggle("high", level > 0.6);
  reward.classList.toggle("none", row.reward === null);
  const where = element("span");
  where.append(element("b", "", row.stage), ` step ${row.step}`);
  head.append(reward, where, element("span", "", `task ${row.task}, attempt ${row.index}`), element("span", "", `${row.tokens} tokens`));
  if (row.stop === "length") head.append(element("span", "flag", "truncated"));
  if (row.version !== undefined && row.version !== null) head.append(element("span", "", `weights ${row.version}`));
  if (row.disagreeing !== undefined) head.append(element("span", "", `proxy and gold ${plain(row.disagreeing)} apart`));
  if (!only && samples.some((s) => s !== row && sameGroup(s, row))) {
    const others = element("button", "", "All attempts at this task");
    others.type = "button";
    others.onclick = () => { only = row; refresh(true); byId("samples").scrollIntoView(); };
    head.append(others);
  }
  const before = row.before && ordered() === "changed" ? row.before : null;
  const shownTexts = [["prompt", row.prompt], ["before", before && before.completion], ["completion", row.completion], ["reference", row.reference]];
  for (const [name, text] of shownTexts) {
    if (text === null || text === undefined) continue;
    const part = element("div", name);
    if (name === "completion" && (row.reference === null || row.reference === undefined)) part.classList.add("alone");
    if (name === "prompt" && String(text).length <= 120) texts.classList.add("short");
    const title = name === "before" ? `${before.stage}, reward ${before.reward === null ? "none" : plain(before.reward)}` : before && name === "completion" ? row.stage : name[0].toUpperCase() + name.slice(1);
    if (before) texts.classList.add("pair");
    part.append(element("h4", "", title), marked(String(text), wanted));
    texts.append(part);
  }
  box.append(head, texts);
  const scores = element("div", "scores");
  for (const [source, score] of Object.entries(row.scores || {})) {
    scores.append(element("span", "", source), element("span", "number", plain(score.value)));
    const parts = Object.entries(score.parts || {}).map(([name, value]) => `${name} ${plain(value)}`);
    const price = [score.tokens && `${score.tokens} tokens`, score.cost && `cost ${plain(score.cost)}`];
    const why = [score.failure || score.explanation, ...parts, ...price].filter(Boolean).join(" · ");
    scores.append(element("span", score.failure ? "why failure" : "why", why));
  }
  const told = Object.values(row.scores || {}).some((score) => score.failure === row.failure);
  if (row.failure && !told) scores.append(element("span", "", "sample"), element("span", "number", "–"), element("span", "why failure", row.failure));
  if (scores.children.length) box.append(scores);
  return box;
}

const ordered = () => document.querySelector("[name=order]:checked").value;
const sameGroup = (a, b) => a.stage === b.stage && a.step === b.step && a.group === b.group;

function chosen() {
  const [low, high] = ["low", "high"].map((id) => (byId(id).value === "" ? null : +byId(id).value));
  const [wanted, stage, step, kind] = ["search", "stage", "step", "kind"].map((id) => byId(id).value);
  const order = ordered(), sign = order === "worst" ? 1 : -1;
  const rows = samples.filter((s) =>
    (!only || sameGroup(s, only)) && (!wanted || s.text.includes(wanted.toLowerCase())) && (!stage || s.stage === stage)
    && (!step || s.step === +step) && (low === null || (s.reward !== null && s.reward >= low))
    && (high === null || (s.reward !== null && s.reward <= high))
    && (!kind || (kind === "failed" ? s.reward === null : s.stop === "length")));
  if (order === "latest") return rows.reverse();
  if (order === "changed" || order === "disagreeing") return rows.filter((s) => s[order] !== undefined).sort((a, b) => b[order] - a[order]);
  // Best and worst are about rewards: samples without one come last.
  return rows.sort((a, b) => (a.reward === null) - (b.reward === null) || sign * (a.reward - b.reward) || b.order - a.order);
}

function refresh(fromTop) {
  if (fromTop) shown = PAGE;
  const rows = chosen(), wanted = byId("search").value.toLowerCase();
  const cards = rows.slice(0, shown).map((row) => card(row, wanted));
  byId("cards").replaceChildren(...(cards.length ? cards : [element("p", "empty", "No sample is like that.")]));
  byId("more").hidden = rows.length <= shown;
  byId("found").textContent = rows.length === samples.length ? byId("found").dataset.all : `${rows.length.toLocaleString("en")} of ${samples.length.toLocaleString("en")}`;
  byId("only").hidden = !only;
  if (only) byId("only").firstElementChild.textContent = `Attempts at task ${only.task}, ${only.stage} step ${only.step}.`;
}

function options(select, values, label) {
  select.replaceChildren(new Option("All", ""), ...values.map((value) => new Option(label(value), value)));
}

function steps() {
  const stage = byId("stage").value;
  options(byId("step"), [...new Set(samples.filter((s) => !stage || s.stage === stage).map((s) => s.step))].sort((a, b) => a - b), String);
}

if (byId("samples")) {
  options(byId("stage"), [...new Set(samples.map((s) => s.stage))], (name) => name);
  steps();
  byId("stage").addEventListener("change", steps);
  document.querySelectorAll(".filters input, .filters select").forEach((field) => field.addEventListener("input", () => refresh(true)));
  byId("only").querySelector("button").onclick = () => { only = null; refresh(true); };
  byId("more").onclick = () => { shown += PAGE; refresh(false); };
  refresh(true);
}
