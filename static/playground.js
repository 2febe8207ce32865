// The playground: one prompt for one model, or for two side by side, each with its own conversation and figures.
import { copyShown, curlOf, messagesOf, pythonOf, sendOnEnter, turnIn } from "./asking.js";

const root = document.getElementById("playground");
const composer = document.getElementById("composer");
const settings = document.getElementById("settings");
const message = document.getElementById("message");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const clear = document.getElementById("clear");
const snippet = document.getElementById("snippet");
const csrf = composer.elements.csrfmiddlewaretoken.value;
let asking = null;
let language = "curl";
let last = "Hello!";

class Pane {
  constructor(section) {
    this.model = section.querySelector("select");
    this.log = section.querySelector(".chat-log");
    this.turns = [];
    this.model.addEventListener("change", () => this.clear());
  }

  clear() {
    this.turns = [];
    this.log.replaceChildren();
    draw();
  }

  body(text, turns = this.turns) {
    const earlier = settings.elements.remember.checked ? turns : [];
    const tokens = settings.elements.max_tokens.value.trim();
    return {
      model: this.model.value,
      messages: messagesOf(settings.elements.system.value.trim(), earlier, text),
      temperature: Number(settings.elements.temperature.value),
      top_p: Number(settings.elements.top_p.value),
      ...(tokens && { max_tokens: Number.isFinite(Number(tokens)) ? Number(tokens) : tokens }),
    };
  }

  async ask(text, signal) {
    const again = (turn) => {
      if (asking) return;
      turn.remove();
      run([this], text);
    };
    const said = await turnIn(this.log, text, this.body(text), { csrf, signal, again });
    if (said) this.turns.push({ user: text, assistant: said });
  }
}

const panes = ["pane-one", "pane-two"].map((id) => new Pane(document.getElementById(id)));
const asked = () => panes.filter((pane) => pane.model.value);

async function run(some, text) {
  asking = new AbortController();
  busy(true);
  last = text;
  await Promise.all(some.map((pane) => pane.ask(text, asking.signal)));
  asking = null;
  busy(false);
  message.focus();
}

function busy(on) {
  send.hidden = on;
  stop.hidden = !on;
  for (const pane of panes) pane.model.disabled = on;
  draw();
}

function draw() {
  const draft = message.value.trim();
  // The next request; with nothing typed, the last one.
  const body = draft ? panes[0].body(draft) : panes[0].body(last, panes[0].turns.slice(0, -1));
  snippet.textContent = language === "curl" ? curlOf(root.dataset.url, body) : pythonOf(root.dataset.url, body);
  clear.hidden = !panes.some((pane) => pane.log.childElementCount);
  document.getElementById("panes").classList.toggle("alone", !panes[1].model.value);
  for (const output of settings.querySelectorAll("output")) output.value = settings.elements[output.htmlFor.value].value;
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = message.value.trim();
  if (!text || asking) return;
  message.value = "";
  run(asked(), text);
});
sendOnEnter(message, composer);
stop.addEventListener("click", () => asking?.abort());
settings.addEventListener("submit", (event) => event.preventDefault());
for (const field of [settings, message]) field.addEventListener("input", draw);
document.getElementById("reset").addEventListener("click", () => {
  settings.reset();
  draw();
});
clear.addEventListener("click", () => !asking && panes.forEach((pane) => pane.clear()));
for (const button of document.querySelectorAll("[data-snippet]")) {
  button.addEventListener("click", () => {
    language = button.dataset.snippet;
    draw();
    copyShown(button, snippet);
  });
}
draw();
message.focus();
