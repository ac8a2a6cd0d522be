// Draws the curves from the page's own data, and answers pointer and keys. Nothing is fetched, nothing is evaluated;
// the script of a live page hands new curves on by the event newcurves.
(function () {
  "use strict";
  const root = document.documentElement;
  let runs = JSON.parse(document.getElementById("data").textContent).runs;
  const state = { across: "step", smoothing: 0.6, log: false, off: new Set(), range: null };
  const charts = [];

  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const color = (n) => css("--c" + (n % 8));
  const isNumber = (v) => typeof v === "number" && isFinite(v);

  // -- numbers in words ----------------------------------------------------------------------------------------

  function short(v) {
    if (!isNumber(v)) return "-";
    const size = Math.abs(v);
    if (size >= 1e9) return +(v / 1e9).toPrecision(4) + "G";
    if (size >= 1e6) return +(v / 1e6).toPrecision(4) + "M";
    if (size >= 1e4) return +(v / 1e3).toPrecision(4) + "k";
    if (size > 0 && size < 1e-3) return v.toExponential(2);
    return String(+v.toPrecision(size >= 1000 ? 5 : 4));
  }

  function clock(s) {
    if (s < 60) return +s.toFixed(1) + " s";
    const pad = (n) => String(Math.floor(n)).padStart(2, "0");
    return s < 3600 ? Math.floor(s / 60) + ":" + pad(s % 60) : Math.floor(s / 3600) + ":" + pad((s % 3600) / 60) + " h";
  }

  const place = (x) =>
    state.across === "seconds" ? clock(x) : state.across === "tokens" ? short(x) : Math.round(x).toLocaleString("en");

  // -- series --------------------------------------------------------------------------------------------------

  // An exponential mean that begins unbiased: the weights of what came before are divided out (Kingma & Ba, 2015).
  function smooth(values) {
    const a = state.smoothing;
    let sum = 0, weight = 0;
    return values.map((v) => {
      if (!isNumber(v)) return null;
      sum = a * sum + (1 - a) * v;
      weight = a * weight + (1 - a);
      return sum / weight;
    });
  }

  // Columns in the order of x, without what has no place on the axis.
  function table(xs, ...columns) {
    const at = xs.map((_, i) => i).filter((i) => isNumber(xs[i])).sort((i, j) => xs[i] - xs[j]);
    return [at.map((i) => xs[i]), ...columns.map((c) => at.map((i) => (isNumber(c[i]) ? c[i] : null)))];
  }

  const shownRuns = () => runs.map((run, n) => ({ run, n })).filter(({ n }) => !state.off.has(n));
  const named = (run, what) => (runs.length > 1 ? run.name + ": " + what : what);

  function ranged(column, what, isThin) {
    return shownRuns().map(({ run, n }) => ({
      table: table(run.train[state.across], smooth(run.train[column]), run.train[column + "_low"], run.train[column + "_high"]),
      series: [
        { label: named(run, what), stroke: color(n), width: isThin ? 1.25 : 1.75, told: true },
        { label: "low", stroke: color(n), width: 0.5, alpha: 0.35 },
        { label: "high", stroke: color(n), width: 0.5, alpha: 0.35, band: true },
      ],
    }));
  }

  function plain(column, what) {
    return shownRuns().map(({ run, n }) => ({
      table: table(run.train[state.across], run.train[column]),
      series: [{ label: named(run, what), stroke: color(n), width: 1.5, told: true }],
    }));
  }

  function validations() {
    return shownRuns().map(({ run, n }) => ({
      table: table(run.val[state.across], run.val.loss),
      series: [{
        label: named(run, "validation"), stroke: color(runs.length > 1 ? n : 1), width: 2, dash: [7, 4],
        points: { show: true, size: 7 }, told: true, perplexity: true,
      }],
    }));
  }

  function sources() {
    let n = 0;
    return shownRuns().flatMap(({ run }) => Object.keys(run.sources).map((name) => ({
      table: table(run.val[state.across], run.sources[name]),
      series: [{ label: named(run, name), stroke: color(n++), width: 2, points: { show: true, size: 6 }, told: true }],
    })));
  }

  const kinds = {
    loss: () => ranged("train_loss", "training").concat(validations()),
    sources: sources,
    lr: () => plain("lr", "learning rate"),
    grad_norm: () => ranged("grad_norm", "gradient norm", true),
    speed: () => plain("speed", "tokens a second"),
  };

  // -- a chart -------------------------------------------------------------------------------------------------

  function axes() {
    const line = { stroke: css("--line"), width: 1 };
    const axis = { stroke: css("--soft"), grid: line, ticks: line, font: "12px system-ui, sans-serif" };
    return [
      { ...axis, space: 70, values: (u, ticks) => ticks.map(place) },
      { ...axis, size: 58, values: (u, ticks) => ticks.map((v) => (v === null ? "" : short(v))) },
    ];
  }

  function faded(stroke, alpha) {
    const part = (i) => parseInt(stroke.slice(i, i + 2), 16);
    return stroke.length === 7 ? `rgba(${part(1)},${part(3)},${part(5)},${alpha})` : stroke;
  }

  // Dashed lines where a run was gone on with, dotted ones at spikes.
  function drawMarks(u) {
    const { ctx } = u, { left, width, top, height } = u.bbox;
    ctx.save();
    ctx.strokeStyle = css("--soft");
    ctx.lineWidth = devicePixelRatio;
    for (const { run } of shownRuns()) {
      for (const mark of run.marks) {
        const at = run.train.step.findIndex((s) => s >= mark.step);
        const x = at < 0 ? null : run.train[state.across][at];
        if (!isNumber(x)) continue;
        const px = u.valToPos(x, "x", true);
        if (px < left || px > left + width) continue;
        ctx.setLineDash(mark.kind === "spike" ? [2, 4] : [8, 4]);
        ctx.beginPath();
        ctx.moveTo(px, top);
        ctx.lineTo(px, top + height);
        ctx.stroke();
      }
    }
    ctx.restore();
  }

  function make(chart) {
    const groups = kinds[chart.kind]().filter((g) => g.table[0].length);
    const series = [{}], bands = [];
    for (const group of groups) {
      for (const s of group.series) {
        series.push({
          label: s.label, stroke: s.alpha ? faded(s.stroke, s.alpha) : s.stroke, width: s.width, dash: s.dash,
          points: s.points || { show: group.table[0].length === 1 && s.told, size: 7 },
          told: s.told, swatch: s.stroke, perplexity: s.perplexity,
        });
        if (s.band) {
          bands.push({ series: [series.length - 1, series.length - 2], fill: faded(s.stroke, 0.13) });
        }
      }
    }
    const data = groups.length ? uPlot.join(groups.map((g) => g.table)) : [[], ...series.slice(1).map(() => [])];
    const isLog = state.log && (chart.kind === "loss" || chart.kind === "sources");
    const options = {
      width: Math.max(chart.box.clientWidth, 200),
      height: chart.kind === "loss" ? 320 : 220,
      legend: { show: false },
      scales: { x: { time: false }, y: { distr: isLog ? 3 : 1 } },
      axes: axes(),
      series: series,
      bands: bands,
      cursor: { sync: { key: "babygpt" }, drag: { x: true, y: false }, points: { size: 7 } },
      hooks: {
        setCursor: [() => tell(chart)],
        setScale: [(u, key) => { if (key === "x") follow(u); }],
        draw: [(u) => { drawMarks(u); chart.box.dataset.points = String(data[0].length); }],
      },
    };
    const before = chart.plot && isNumber(chart.plot.cursor.idx) ? chart.plot.cursor : null;
    if (chart.plot) chart.plot.destroy();
    chart.plot = null;
    chart.plot = new uPlot(options, data, chart.box);
    if (state.range) chart.plot.setScale("x", state.range);
    if (before) chart.plot.setCursor({ left: before.left, top: before.top }, false, false);
    chart.figure.hidden = !groups.length;
    tell(chart);
  }

  // All charts show the same stretch.
  let following = false;
  function follow(u) {
    if (following || !charts.every((c) => c.plot)) return;
    following = true;
    state.range = { min: u.scales.x.min, max: u.scales.x.max };
    for (const c of charts) if (c.plot !== u) c.plot.setScale("x", state.range);
    following = false;
  }

  const redraw = () => {
    following = true;
    charts.forEach(make);
    following = false;
  };

  function resetZoom() {
    state.range = null;
    redraw();
  }

  // The value at the cursor, or the nearest one before it; without a cursor the last.
  function valueAt(u, column, index) {
    const values = u.data[column];
    for (let i = index; i >= 0; i--) if (isNumber(values[i])) return values[i];
    return null;
  }

  function tell(chart) {
    const u = chart.plot;
    if (!u) return;
    const end = u.data[0].length - 1;
    const index = isNumber(u.cursor.idx) ? u.cursor.idx : end;
    const items = [];
    if (end >= 0) {
      const across = { step: "step ", tokens: "tokens ", seconds: "time " }[state.across];
      items.push(item(across + place(u.data[0][index]), null));
    }
    u.series.forEach((s, column) => {
      if (!s.told) return;
      const v = valueAt(u, column, index);
      const also = s.perplexity && isNumber(v) && v < 700 ? " (perplexity " + short(Math.exp(v)) + ")" : "";
      items.push(item(s.label + " " + short(v) + also, s.swatch));
    });
    chart.readout.replaceChildren(...items);
  }

  function item(text, swatch) {
    const li = document.createElement("li");
    if (swatch) {
      const mark = document.createElement("span");
      mark.className = "swatch";
      mark.style.background = swatch;
      li.append(mark);
    }
    li.append(text);
    return li;
  }

  // -- keys ----------------------------------------------------------------------------------------------------

  function onKey(chart, event) {
    const u = chart.plot, xs = u.data[0];
    if (!xs.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const now = isNumber(u.cursor.idx) ? u.cursor.idx : xs.length - 1;
    const stride = event.shiftKey ? Math.max(1, Math.round(xs.length / 20)) : 1;
    const goal = { ArrowLeft: now - stride, ArrowRight: now + stride, Home: 0, End: xs.length - 1 }[event.key];
    if (goal !== undefined) {
      const i = Math.min(xs.length - 1, Math.max(0, goal));
      let { min, max } = u.scales.x;
      if (xs[i] < min || xs[i] > max) {
        const move = xs[i] < min ? xs[i] - min : xs[i] - max;
        u.setScale("x", { min: min + move, max: max + move });
      }
      u.setCursor({ left: u.valToPos(xs[i], "x"), top: 0 }, true, true);
    } else if (event.key === "+" || event.key === "=" || event.key === "-") {
      const { min, max } = u.scales.x, factor = event.key === "-" ? 2 : 0.5;
      const middle = Math.min(max, Math.max(min, xs[now]));
      const least = xs[0], most = xs[xs.length - 1];
      u.setScale("x", {
        min: Math.max(least, middle - (middle - min) * factor), max: Math.min(most, middle + (max - middle) * factor),
      });
    } else if (event.key === "0" || event.key === "Escape") {
      resetZoom();
    } else {
      return;
    }
    event.preventDefault();
    chart.readout.setAttribute("aria-live", "polite");
  }

  // -- the page ------------------------------------------------------------------------------------------------

  for (const figure of document.querySelectorAll("figure[data-kind]")) {
    const chart = {
      kind: figure.dataset.kind, figure: figure, box: figure.querySelector(".chart"),
      readout: figure.querySelector(".readout"), plot: null,
    };
    charts.push(chart);
    chart.box.addEventListener("keydown", (event) => onKey(chart, event));
    chart.box.addEventListener("dblclick", resetZoom);
    chart.box.addEventListener("pointerdown", () => chart.readout.removeAttribute("aria-live"));
  }
  redraw();

  for (const choice of document.querySelectorAll("input[name=across]")) {
    choice.addEventListener("change", () => { state.across = choice.value; resetZoom(); });
  }
  for (const box of document.querySelectorAll("input[name=run]")) {
    box.addEventListener("change", () => {
      if (box.checked) state.off.delete(+box.value); else state.off.add(+box.value);
      redraw();
    });
  }
  const slider = document.getElementById("smoothing");
  slider.addEventListener("input", () => {
    state.smoothing = +slider.value;
    document.getElementById("smoothed").textContent = (+slider.value).toFixed(2);
    redraw();
  });
  const log = document.getElementById("log");
  log.addEventListener("change", () => { state.log = log.checked; redraw(); });
  document.getElementById("reset").addEventListener("click", resetZoom);

  for (const choice of document.querySelectorAll("input[name=theme]")) {
    choice.addEventListener("change", () => {
      if (choice.value === "system") delete root.dataset.theme; else root.dataset.theme = choice.value;
      redraw();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  // Drawn anew under the pointer, a chart would lose the stretch that is being dragged across: that is waited for.
  let isHeld = false, waits = false;
  const newcurves = () => {
    waits = isHeld;
    if (!isHeld) redraw();
  };
  for (const c of charts) c.box.addEventListener("pointerdown", (event) => { isHeld = event.button === 0; });
  for (const end of ["pointerup", "pointercancel"]) {
    addEventListener(end, () => {
      isHeld = false;
      if (waits) setTimeout(newcurves, 0);  // once the chart has taken what was dragged
    });
  }
  document.addEventListener("newcurves", (event) => {
    runs = event.detail;
    newcurves();
  });

  let width = 0;
  new ResizeObserver(() => {
    if (charts[0].box.clientWidth === width) return;
    width = charts[0].box.clientWidth;
    for (const c of charts) {
      if (c.plot && c.box.clientWidth) c.plot.setSize({ width: c.box.clientWidth, height: c.plot.height });
    }
  }).observe(charts[0].box);
  root.dataset.ready = "yes";
})();
