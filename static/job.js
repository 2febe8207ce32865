// The live job page: history, then live events from one cursor on; state changes redraw the upper part.
import { Charts } from "./charts.js";
import { Figures } from "./serving.js";
import { connect } from "./socket.js";

const root = document.getElementById("job");
const log = document.getElementById("log");
const follow = document.getElementById("follow");
const charts = new Charts(document.getElementById("charts"));
const figures = new Figures(document.getElementById("serving"));
const MAX_LINES = 3000;
let cursor = "";
let seen = [0, 0];
let live = false; // whether events come; before, the record knows phase and progress best

const newer = (attempt, seq) => attempt > seen[0] || (attempt === seen[0] && seq > seen[1]);
const advance = (text) => {
  cursor = text;
  seen = text.split(".").map(Number);
};

function push(series, attempt, step, at, value) {
  charts.push(series, attempt, step, at, value);
  figures.show(series, value);
}

function addLines(lines) {
  if (!lines.length) return;
  const fragment = document.createDocumentFragment();
  for (const line of lines) {
    const row = document.createElement("div");
    if (line.stream === "supervisor") row.className = "supervisor";
    row.textContent = line.text || " ";
    fragment.append(row);
  }
  log.querySelector(".empty-log")?.remove();
  log.append(fragment);
  while (log.childElementCount > MAX_LINES) log.firstElementChild.remove();
  if (follow.checked) log.scrollTop = log.scrollHeight;
}

const whole = (number) => Math.round(number).toLocaleString("en");
const duration = (s) => (s < 60 ? `${Math.round(s)} s` : s < 3600 ? `${Math.floor(s / 60)} min ${Math.round(s % 60)} s` : `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`);

function showProgress({ done, total, unit, eta_s }) {
  const bar = document.getElementById("progress");
  if (!bar || !total) return;
  bar.hidden = false;
  bar.max = total;
  bar.value = done;
  const eta = eta_s ? ` · ${duration(eta_s)} to go` : "";
  document.getElementById("progress-text").textContent = `${whole(done)} of ${whole(total)} ${unit}${eta}`;
}

function showPhase(name) {
  const phase = document.getElementById("phase");
  if (!phase) return;
  phase.textContent = name;
  document.getElementById("progress-text").textContent = "";
  document.getElementById("progress").hidden = true;
}

// What the server draws is asked for again when it is no longer what is drawn; phase and progress come as events.
function showState(job) {
  const drawn = JSON.parse(document.getElementById("job-drawn").textContent);
  if (Object.entries(drawn).some(([key, value]) => JSON.stringify(value) !== JSON.stringify(job[key]))) {
    htmx.ajax("GET", `${location.pathname}?part=state`, { target: "#job-state", swap: "outerHTML" });
  } else if (!live) {
    if (job.phase) showPhase(job.phase);
    showProgress(job.progress);
  }
}

const handlers = {
  snapshot: ({ job }) => showState(job),
  history: ({ metrics, logs, cursor: to }) => {
    const points = Object.entries(metrics).flatMap(([series, list]) => list.map((point) => [series, ...point]));
    points.sort((a, b) => a[4] - b[4] || a[5] - b[5]);
    for (const [series, step, at, value, attempt] of points) push(series, attempt, step, at, value);
    addLines(logs);
    advance(to);
    live = true;
  },
  events: ({ events, cursor: to }) => {
    const lines = [];
    for (const event of events) {
      if (!newer(event.attempt, event.seq)) continue;
      if (event.type === "metric") for (const [series, value] of Object.entries(event.values)) push(series, event.attempt, event.step, event.at, value);
      else if (event.type === "log") lines.push(event);
      else if (event.type === "progress") showProgress(event);
      else if (event.type === "phase") showPhase(event.name);
    }
    addLines(lines);
    advance(to);
  },
};

log.innerHTML = '<div class="empty-log supervisor">The log starts with the run.</div>';
log.addEventListener("scroll", () => {
  if (log.scrollTop + log.clientHeight < log.scrollHeight - 40) follow.checked = false;
});
follow.addEventListener("change", () => follow.checked && (log.scrollTop = log.scrollHeight));
root.connection = connect(
  () => {
    live = false;
    return `/ws/jobs/${root.dataset.jobId}/${cursor ? `?since=${cursor}` : ""}`;
  },
  (message) => handlers[message.type]?.(message),
);
