// The chat with a launched model: turns kept here, each answer streamed, timed and stoppable.
import { complete } from "./completions.js";
import { connect } from "./socket.js";

const root = document.getElementById("chat");
const log = document.getElementById("chat-log");
const composer = document.getElementById("composer");
const settings = document.getElementById("chat-settings");
const message = document.getElementById("message");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const curl = document.getElementById("curl");
const csrf = composer.elements.csrfmiddlewaretoken.value;
const NUMBERS = ["temperature", "top_p", "max_tokens"];
const turns = []; // answered ones: {user, assistant}
let asking = null;
let gone = false;

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function messages(text, answered = turns) {
  const system = settings.elements.system.value.trim();
  const earlier = settings.elements.remember.checked ? answered : [];
  return [
    ...(system ? [{ role: "system", content: system }] : []),
    ...earlier.flatMap(({ user, assistant }) => [{ role: "user", content: user }, { role: "assistant", content: assistant }]),
    { role: "user", content: text },
  ];
}

// What was left empty, or max tokens left as it was, is the server's to choose: it knows how much room there is.
function chosen() {
  const values = {};
  for (const name of NUMBERS) {
    const field = settings.elements[name];
    const text = field.value.trim();
    if (!text || (name === "max_tokens" && text === field.defaultValue)) continue;
    values[name] = Number.isFinite(Number(text)) ? Number(text) : text;
  }
  return values;
}

function markField(param = null, sentence = "") {
  for (const name of NUMBERS) {
    const wrong = name === param;
    settings.elements[name].classList.toggle("is-invalid", wrong);
    const error = document.getElementById(`error-${name}`);
    error.hidden = !wrong;
    error.textContent = wrong ? sentence.replace(`${param}: `, "") : "";
  }
}

const atEnd = () => log.scrollTop + log.clientHeight > log.scrollHeight - 60;
const toEnd = () => (log.scrollTop = log.scrollHeight);

function busy(on) {
  log.setAttribute("aria-busy", String(on));
  send.hidden = on;
  stop.hidden = !on;
  send.disabled = gone;
}

function figures({ started, first, ended, pieces, usage, finish, stopped }) {
  const told = [];
  if (first) told.push(`first token after ${((first - started) / 1000).toFixed(2)} s`);
  const tokens = usage?.completion_tokens ?? pieces;
  const about = usage ? "" : "about ";
  if (tokens > 1 && ended > first) told.push(`${about}${(((tokens - 1) * 1000) / (ended - first)).toFixed(1)} tokens/s`);
  if (tokens) told.push(`${about}${tokens} token${tokens === 1 ? "" : "s"}`);
  if (stopped) told.push("stopped by you");
  else if (finish === "length") told.push("cut off: max tokens or the context is used up");
  return told.join(" · ");
}

// Show the sentence below the turn, with a way to ask again; what was said stays.
function fail(turn, text, error) {
  markField(error.param, error.message);
  const box = element("div", "error");
  box.setAttribute("role", "alert");
  const again = element("button", "btn btn-sm ms-2", "Try again");
  again.type = "button";
  again.addEventListener("click", () => {
    if (asking || gone) return;
    turn.remove();
    ask(text);
  });
  box.append(element("span", "", error.message), again);
  turn.append(box);
}

async function ask(text) {
  document.getElementById("chat-empty")?.remove();
  markField();
  const turn = element("div", "turn");
  const answer = element("div", "bubble assistant thinking");
  turn.append(element("div", "bubble user", text), answer);
  log.append(turn);
  toEnd();
  asking = new AbortController();
  busy(true);
  const seen = { started: performance.now(), pieces: 0 };
  const body = { model: root.dataset.model, messages: messages(text), ...chosen() };
  try {
    for await (const { text: piece, finish, usage } of complete(body, { csrf, signal: asking.signal })) {
      if (piece) {
        const follow = atEnd();
        seen.ended = performance.now();
        seen.first ??= seen.ended;
        seen.pieces += 1;
        answer.classList.remove("thinking");
        answer.append(piece);
        if (follow) toEnd();
      }
      seen.finish = finish ?? seen.finish;
      seen.usage = usage ?? seen.usage;
    }
  } catch (error) {
    if (error.name === "AbortError") seen.stopped = true;
    else fail(turn, text, error);
    seen.failed = !seen.stopped;
  }
  answer.classList.remove("thinking");
  const said = answer.textContent;
  if (!said && (seen.failed || seen.stopped)) answer.remove();
  else if (!said) answer.append(element("em", "text-secondary", "The model answered nothing."));
  if (!seen.failed) {
    if (said) turns.push({ user: text, assistant: said });
    turn.append(element("div", "stats", figures(seen)));
  }
  asking = null;
  busy(false);
  document.getElementById("clear").hidden = false;
  drawCurl();
  toEnd();
  message.focus();
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function drawCurl() {
  // The next request; with nothing typed, the last one.
  const draft = message.value.trim();
  const asked = draft ? messages(draft) : messages(turns.at(-1)?.user ?? "Hello!", turns.slice(0, -1));
  const body = { model: root.dataset.curlModel, messages: asked, ...chosen(), stream: true };
  curl.textContent = [
    `curl -N ${root.dataset.url}`,
    `-H "Authorization: Bearer $LIFTOFF_TOKEN"`,
    `-H "Content-Type: application/json"`,
    `-d ${quoted(JSON.stringify(body, null, 2))}`,
  ].join(" \\\n  ");
}

async function copyCurl(event) {
  const button = event.currentTarget;
  drawCurl();
  try {
    await navigator.clipboard.writeText(curl.textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy as curl"), 2000);
  } catch {
    getSelection().selectAllChildren(curl); // no clipboard here (plain HTTP): ready for Ctrl-C
    button.textContent = "Selected: press Ctrl-C";
  }
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = message.value.trim();
  if (!text || asking || gone) return;
  message.value = "";
  ask(text);
});
message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});
stop.addEventListener("click", () => asking?.abort());
settings.addEventListener("submit", (event) => event.preventDefault());
settings.addEventListener("input", drawCurl);
message.addEventListener("input", drawCurl);
document.getElementById("reset").addEventListener("click", () => {
  settings.reset();
  markField();
  drawCurl();
});
document.getElementById("clear").addEventListener("click", (event) => {
  if (asking) return;
  turns.length = 0;
  log.replaceChildren();
  event.currentTarget.hidden = true;
  message.focus();
});
document.getElementById("copy-curl").addEventListener("click", copyCurl);
for (const example of document.querySelectorAll("[data-example]")) {
  example.addEventListener("click", () => !asking && !gone && ask(example.textContent));
}

// The launch may end while the page is open.
connect(
  () => `/ws/jobs/${root.dataset.jobId}/`,
  ({ type, job }) => {
    if (type !== "snapshot") return;
    gone = !job.endpoint;
    document.getElementById("gone").hidden = !gone;
    document.getElementById("gone-status").textContent = job.status;
    send.disabled = gone;
  },
);
drawCurl();
message.focus();
