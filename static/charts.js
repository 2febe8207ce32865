// One card and one uPlot chart a series; points are appended as they come and drawn once a frame.
const NAMES = {
  loss: "Loss",
  grad_norm: "Gradient norm",
  learning_rate: "Learning rate",
  tokens_per_s: "Tokens/s",
  "rewards/accuracies": "Chosen answer preferred",
  "rewards/margins": "Reward margin",
  "rewards/chosen": "Reward of chosen answers",
  "rewards/rejected": "Reward of rejected answers",
  aux_loss: "Router loss",
  cpu_percent: "CPU of the run",
  rss_bytes: "Memory of the run (RSS)",
  requests_per_s: "Requests/s",
  tokens_out_per_s: "Tokens/s out",
  tokens_in_per_s: "Tokens/s in",
  ttft_s: "Time to first token",
  tpot_s: "Time of a token",
  latency_s: "Time of an answer",
  queue_depth: "Requests waiting",
  running: "Requests being answered",
  kv_cache_used: "KV cache used",
};
const ORDER = Object.keys(NAMES);
const MAX_POINTS = 20_000;
const NOT_DRAWN = /^epoch$|_p\d+_s$|^(errors_.*|requests|tokens_(in|out))_total$|^model_bytes$/; // straight lines, and what is told as figures
const FROM_ZERO = /_(bytes|percent|w|total|per_s)$|^(ttft_s|tpot_s|latency_s|queue_depth|running|kv_cache_used)$/; // amounts, whose noise would else fill the chart
const TIME_STEPS = [1, 2, 5, 10, 30, ...[1, 2, 5, 10, 30, 60, 120, 360, 720, 1440, 10_080].map((minutes) => minutes * 60)];
const BYTE_STEPS = Array.from({ length: 50 }, (_, power) => 2 ** power);

const name = (series) => {
  if (NAMES[series]) return NAMES[series];
  const device = /^device(\d+)_(util_percent|memory_bytes|power_w)$/.exec(series);
  if (device) return `Device ${device[1]} ${{ util_percent: "utilisation", memory_bytes: "memory", power_w: "power" }[device[2]]}`;
  return series.replaceAll("_", " ");
};

export const format = (series, value) => {
  if (value === null || value === undefined) return "";
  if (series.endsWith("_bytes")) return value >= 2 ** 30 ? `${Number((value / 2 ** 30).toFixed(2))} GiB` : `${(value / 2 ** 20).toFixed(0)} MiB`;
  if (series.endsWith("_percent")) return `${value.toFixed(0)} %`;
  if (series === "kv_cache_used") return `${(value * 100).toFixed(0)} %`;
  if (series.endsWith("_w")) return `${value.toFixed(0)} W`;
  if (series.endsWith("_s") && !series.endsWith("_per_s")) return value && value < 0.1 ? `${Number((value * 1000).toPrecision(3))} ms` : `${value.toFixed(2)} s`;
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
};

const duration = (s) => {
  if (s < 120) return `${Math.round(s)} s`;
  return s < 7200 ? `${Number((s / 60).toFixed(1))} min` : `${Number((s / 3600).toFixed(1))} h`;
};

const fromZero = (series) => (_, low, high) => [Math.min(0, low ?? 0), /^device\d+_util_percent$/.test(series) ? 100 : (high || 1) * 1.08];

// A theme's variable may be an expression; a canvas wants the colour it comes to.
const colour = (variable) => {
  const probe = document.createElement("span");
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
};

class Chart {
  constructor(parent, series) {
    this.series = series;
    this.x = [];
    this.y = [];
    this.byStep = null;
    this.start = null;
    this.card = document.createElement("div");
    this.card.className = "card chart-card";
    this.card.dataset.series = series;
    this.card.innerHTML = '<div class="card-body"><div class="chart-title"><span></span><b></b></div><div class="chart"></div></div>';
    this.card.querySelector("span").textContent = name(series);
    this.latest = this.card.querySelector("b");
    this.host = this.card.querySelector(".chart");
    const rank = (s) => (ORDER.includes(s) ? ORDER.indexOf(s) : ORDER.length);
    const after = [...parent.children].find((card) => rank(card.dataset.series) > rank(series));
    parent.insertBefore(this.card, after ?? null);
    new ResizeObserver(() => this.plot?.setSize({ width: this.host.clientWidth, height: 190 })).observe(this.host);
    document.addEventListener("theme", () => this.rebuild());
  }

  push(step, at, value) {
    this.byStep ??= step !== null;
    this.start ??= at;
    this.x.push(this.byStep ? step : at - this.start);
    this.y.push(value);
    if (this.x.length > MAX_POINTS) {
      this.x = this.x.filter((_, index) => index % 2 === 0);
      this.y = this.y.filter((_, index) => index % 2 === 0);
    }
  }

  clear() {
    this.x = [];
    this.y = [];
    this.start = null;
  }

  draw() {
    if (!this.plot) this.rebuild();
    this.plot.setData([this.x, this.y]);
    this.latest.textContent = format(this.series, this.y.at(-1));
    this.card.dataset.points = String(this.x.length);
  }

  rebuild() {
    this.plot?.destroy();
    const text = colour("--tblr-secondary");
    const grid = { stroke: colour("--tblr-border-color"), width: 1 };
    const axis = { stroke: text, grid, ticks: grid, font: "11px sans-serif" };
    const label = this.byStep ? (v) => (Number.isInteger(v) ? v.toLocaleString("en") : "") : duration;
    const { series } = this;
    this.plot = new uPlot(
      {
        width: this.host.clientWidth || 300,
        height: 190,
        scales: { x: { time: false }, y: FROM_ZERO.test(series) ? { range: fromZero(series) } : {} },
        cursor: { points: { size: 6 } },
        series: [{}, { stroke: colour("--chart-line"), width: 1.5, points: { show: this.x.length < 3, size: 4 } }],
        axes: [
          { ...axis, size: 28, values: (_, ticks) => ticks.map(label), ...(this.byStep ? {} : { incrs: TIME_STEPS }) },
          { ...axis, size: 64, values: (_, ticks) => ticks.map((v) => format(series, v)), ...(series.endsWith("_bytes") ? { incrs: BYTE_STEPS } : {}) },
        ],
        hooks: {
          setCursor: [
            (plot) => {
              const index = plot.cursor.idx;
              const there = index !== null && index !== undefined;
              this.latest.textContent = there
                ? `${format(this.series, this.y[index])} at ${this.byStep ? `step ${label(this.x[index])}` : duration(this.x[index])}`
                : format(this.series, this.y.at(-1));
            },
          ],
        },
      },
      [this.x, this.y],
      this.host,
    );
  }
}

export class Charts {
  constructor(parent) {
    this.parent = parent;
    this.charts = new Map();
    this.dirty = new Set();
    this.attempt = 0;
  }

  push(series, attempt, step, at, value) {
    if (attempt < this.attempt || NOT_DRAWN.test(series)) return;
    if (attempt > this.attempt) {
      this.attempt = attempt;
      for (const chart of this.charts.values()) chart.clear();
    }
    if (!this.charts.has(series)) this.charts.set(series, new Chart(this.parent, series));
    const chart = this.charts.get(series);
    chart.push(step, at, value);
    if (!this.dirty.size) {
      requestAnimationFrame(() => {
        for (const changed of this.dirty) changed.draw();
        this.dirty.clear();
      });
    }
    this.dirty.add(chart);
  }
}
