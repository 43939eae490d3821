"use strict";
const KEPT = 600;
const columns = ["gets", "hits", "sets", "evictions", "in", "out", "items", "bytes", "connections", "p50", "p99"];
const samples = Object.fromEntries(columns.map((name) => [name, []]));
let last = 0;
let arrived = performance.now();

const by = (id) => document.getElementById(id);
const round = (value) => {
  if (value === null || !isFinite(value)) return "–";
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (Math.abs(value) >= size * 10) return (value / size).toPrecision(3) + unit;
  }
  return value >= 100 ? Math.round(value).toString() : (Math.round(value * 10) / 10).toString();
};
const bytes = (value) => (value >= 1 << 20 ? (value / (1 << 20)).toFixed(1) + " MiB" : (value / 1024).toFixed(1) + " KiB");
const percent = (part, whole) => (whole > 0 ? (100 * part) / whole : null);
const sum = (name, count) => samples[name].slice(-count).reduce((total, value) => total + value, 0);

const charts = [
  { id: "chart-rates", first: (i) => samples.gets[i], second: (i) => samples.sets[i] },
  { id: "chart-ratio", first: (i) => percent(samples.hits[i], samples.gets[i]), top: 100 },
  { id: "chart-latency", first: (i) => samples.p50[i], second: (i) => samples.p99[i] },
  { id: "chart-traffic", first: (i) => samples.out[i], second: (i) => samples.in[i] },
].map((chart) => ({ ...chart, canvas: by(chart.id), pointer: null }));

for (const chart of charts) {
  chart.canvas.addEventListener("pointermove", (event) => (chart.pointer = event.offsetX));
  chart.canvas.addEventListener("pointerleave", () => (chart.pointer = null));
}

function draw(chart, now) {
  const { canvas } = chart;
  const scale = devicePixelRatio;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue("--" + name);
  const count = samples.gets.length;
  const shown = Math.min(KEPT, Math.max(60, count));
  const step = width / (shown - 1);
  // Between two samples the curve moves on, so that it does not jump once a second.
  const shift = Math.min(1, (now - arrived) / 1000);
  const x = (i) => width - (count - 1 - i + shift) * step;
  const lines = [chart.first, chart.second].filter(Boolean);
  let top = chart.top || 1;
  if (!chart.top) {
    for (const line of lines) for (let i = Math.max(0, count - shown); i < count; i++) top = Math.max(top, line(i) || 0);
    top *= 1.1;
  }
  pen.fillStyle = color("soft");
  pen.strokeStyle = color("line");
  pen.font = "11px system-ui";
  for (const part of [0, 0.5, 1]) {
    const y = height - 2 - part * (height - 14);
    pen.beginPath();
    pen.moveTo(0, y);
    pen.lineTo(width, y);
    pen.stroke();
    if (part > 0) pen.fillText(round(top * part), 2, y - 2);
  }
  lines.forEach((line, index) => {
    pen.strokeStyle = color(index === 0 ? "first" : "second");
    pen.lineWidth = 1.5;
    pen.beginPath();
    let open = false;
    for (let i = Math.max(0, count - shown - 1); i < count; i++) {
      const value = line(i);
      if (value === null) {
        open = false;
        continue;
      }
      const y = height - 2 - (value / top) * (height - 14);
      if (open) pen.lineTo(x(i), y);
      else pen.moveTo(x(i), y);
      open = true;
    }
    pen.stroke();
  });
  const output = canvas.parentElement.querySelector("output");
  if (chart.pointer === null) {
    output.textContent = "";
    return;
  }
  const at = Math.max(0, Math.min(count - 1, Math.round(count - 1 + shift - (width - chart.pointer) / step)));
  pen.strokeStyle = color("soft");
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(chart.pointer, 0);
  pen.lineTo(chart.pointer, height);
  pen.stroke();
  output.textContent = `${count - 1 - at} s ago: ${lines.map((line) => round(line(at))).join(" · ")}`;
}

function frame(now) {
  charts.forEach((chart) => draw(chart, now));
  requestAnimationFrame(frame);
}

function rows(id, data) {
  const table = by(id);
  if (!table) return;
  table.replaceChildren(
    ...data.map((cells) => {
      const row = document.createElement("tr");
      cells.forEach((text, index) => {
        const cell = document.createElement(index === 0 ? "th" : "td");
        cell.textContent = text;
        row.append(cell);
      });
      return row;
    }),
  );
}

function show(state) {
  const { general, cluster } = state;
  by("state").textContent = state.ready ? "ready" : "draining";
  by("state").classList.toggle("off", !state.ready);
  by("facts").textContent =
    `as memcached ${general.version} · up ${Math.floor(general.uptime / 3600)} h ${Math.floor((general.uptime % 3600) / 60)} min · ` +
    `${Number(general.curr_items).toLocaleString("en")} items · ${general.threads} threads`;
  by("reads").textContent = round(sum("gets", 1));
  by("writes").textContent = round(sum("sets", 1));
  by("evictions").textContent = round(sum("evictions", 1));
  const ratio = percent(sum("hits", 10), sum("gets", 10));
  by("ratio").textContent = ratio === null ? "–" : ratio.toFixed(1) + " %";
  by("p99").textContent = round(samples.p99.at(-1) ?? null) + " µs";
  by("connections").textContent = samples.connections.at(-1) ?? "–";
  const whole = state.memory.reduce((total, [, size]) => total + size, 0);
  by("memory").replaceChildren(
    ...state.memory.map(([, size]) => {
      const part = document.createElement("i");
      part.style.width = percent(size, whole) + "%";
      return part;
    }),
  );
  rows("memory-table", state.memory.map(([name, size]) => [name, bytes(size), percent(size, whole).toFixed(1) + " %"]));
  const estimate = state.estimate.sort((a, b) => a.times - b.times);
  rows("estimate", estimate.map((row) => [`${row.times} ×`, row.ratio === null ? "–" : (100 * row.ratio).toFixed(1) + " % hits"]));
  rows("sockets", Object.entries(state.sockets));
  for (const id of ["prefixes", "slowest"]) {
    const time = (mean) => (mean === null ? "–" : mean.toFixed(1) + " µs");
    rows(
      id,
      state[id] === null
        ? [["Not counted: send stats detail on, or start with -D"]]
        : [["prefix", "reads", "hits", "writes", "mean"], ...state[id].map((row) => [...row.slice(0, 4), time(row[4])])],
    );
  }
  if (cluster) {
    const facts = ["state", "settled", "reachable", "forwarded_out", "forwarded_in"];
    rows("cluster", [
      ["node", ...facts.map((fact) => fact.replace("_", " "))],
      ...Object.entries(cluster.nodes).map(([id, node]) => [id, ...facts.map((fact) => node[fact] ?? "–")]),
    ]);
  }
}

async function poll() {
  try {
    const state = await (await fetch("/status.json?since=" + last)).json();
    if (state.samples.last < last) columns.forEach((name) => (samples[name].length = 0));
    last = state.samples.last;
    for (const name of columns) {
      samples[name].push(...state.samples[name]);
      samples[name].splice(0, samples[name].length - KEPT);
    }
    arrived = performance.now();
    show(state);
  } catch {
    by("state").textContent = "does not answer";
    by("state").classList.add("off");
  }
  setTimeout(poll, 1000);
}

poll();
requestAnimationFrame(frame);
