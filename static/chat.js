// The chat with a launched model: turns kept here, each answer streamed, timed and stoppable.
import { copyShown, curlOf, messagesOf, sendOnEnter, turnIn } from "./asking.js";
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

function messages(text, answered = turns) {
  return messagesOf(settings.elements.system.value.trim(), settings.elements.remember.checked ? answered : [], text);
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

function busy(on) {
  send.hidden = on;
  stop.hidden = !on;
  send.disabled = gone;
}

async function ask(text) {
  document.getElementById("chat-empty")?.remove();
  markField();
  asking = new AbortController();
  busy(true);
  const body = { model: root.dataset.model, messages: messages(text), ...chosen() };
  const said = await turnIn(log, text, body, {
    csrf,
    signal: asking.signal,
    refused: ({ param, message: sentence }) => markField(param, sentence),
    again: (turn) => {
      if (asking || gone) return;
      turn.remove();
      ask(text);
    },
  });
  if (said) turns.push({ user: text, assistant: said });
  asking = null;
  busy(false);
  document.getElementById("clear").hidden = false;
  drawCurl();
  message.focus();
}

function drawCurl() {
  // The next request; with nothing typed, the last one.
  const draft = message.value.trim();
  const asked = draft ? messages(draft) : messages(turns.at(-1)?.user ?? "Hello!", turns.slice(0, -1));
  curl.textContent = curlOf(root.dataset.url, { model: root.dataset.curlModel, messages: asked, ...chosen() });
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = message.value.trim();
  if (!text || asking || gone) return;
  message.value = "";
  ask(text);
});
sendOnEnter(message, composer);
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
document.getElementById("copy-curl").addEventListener("click", ({ currentTarget }) => {
  drawCurl();
  copyShown(currentTarget, curl);
});
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
