// What the pages that ask a model share: one answer drawn and measured as it comes, and the request as a program.
import { complete } from "./completions.js";

export function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// The system prompt, what was said before ({user, assistant} each) and the new words.
export const messagesOf = (system, earlier, text) => [
  ...(system ? [{ role: "system", content: system }] : []),
  ...earlier.flatMap(({ user, assistant }) => [{ role: "user", content: user }, { role: "assistant", content: assistant }]),
  { role: "user", content: text },
];

export function figures({ started, first, ended, pieces, usage, finish, stopped }) {
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

// One turn in `log`: the words, the answer as it comes, its figures; an error in words with a way to ask again.
// Gives what was said, null where it failed.
export async function turnIn(log, text, body, { csrf, signal, again, refused = () => {} }) {
  const atEnd = () => log.scrollTop + log.clientHeight > log.scrollHeight - 60;
  const toEnd = () => (log.scrollTop = log.scrollHeight);
  const turn = element("div", "turn");
  const answer = element("div", "bubble assistant thinking");
  const stats = element("div", "stats-live");
  turn.append(element("div", "bubble user", text), answer);
  log.append(turn);
  toEnd();
  log.setAttribute("aria-busy", "true");
  const seen = { started: performance.now(), pieces: 0 };
  let failure = null;
  try {
    for await (const { text: piece, finish, usage, status } of complete(body, { csrf, signal })) {
      const follow = atEnd();
      if (status) answer.dataset.status = status;
      if (piece) {
        seen.ended = performance.now();
        seen.first ??= seen.ended;
        seen.pieces += 1;
        answer.classList.remove("thinking");
        delete answer.dataset.status;
        answer.append(piece);
        stats.textContent = figures(seen);
        turn.append(stats);
      }
      if (follow) toEnd();
      seen.finish = finish ?? seen.finish;
      seen.usage = usage ?? seen.usage;
    }
  } catch (error) {
    if (error.name === "AbortError") seen.stopped = true;
    else failure = error;
  }
  log.setAttribute("aria-busy", "false");
  answer.classList.remove("thinking");
  delete answer.dataset.status;
  const said = answer.textContent;
  if (!said && (failure || seen.stopped)) answer.remove();
  else if (!said) answer.append(element("em", "text-secondary", "The model answered nothing."));
  if (failure) {
    stats.remove();
    refused(failure);
    turn.append(errorBox(failure.message, () => again(turn)));
  } else {
    stats.className = "stats";
    stats.textContent = figures(seen);
    turn.append(stats);
  }
  toEnd();
  return failure ? null : said;
}

function errorBox(sentence, again) {
  const box = element("div", "error");
  box.setAttribute("role", "alert");
  const button = element("button", "btn btn-sm ms-2", "Try again");
  button.type = "button";
  button.addEventListener("click", again);
  box.append(element("span", "", sentence), button);
  return box;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export const curlOf = (url, body) =>
  [
    `curl -N ${url}/chat/completions`,
    `-H "Authorization: Bearer $LIFTOFF_TOKEN"`,
    `-H "Content-Type: application/json"`,
    `-d ${quoted(JSON.stringify({ ...body, stream: true }, null, 2))}`,
  ].join(" \\\n  ");

// With OpenAI's own client. A JSON string is a Python string, and nothing else of a request differs.
export const pythonOf = (url, body) => `import os
from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(url)}, api_key=os.environ["LIFTOFF_TOKEN"])
stream = client.chat.completions.create(
${Object.entries(body).map(([name, value]) => `    ${name}=${JSON.stringify(value, null, 4).replaceAll("\n", "\n    ")},\n`).join("")}    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
`;

// Copies what `source` shows; where there is no clipboard (plain HTTP), selects it.
export async function copyShown(button, source) {
  const label = button.dataset.label ?? (button.dataset.label = button.textContent);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 2000);
  } catch {
    getSelection().selectAllChildren(source);
    button.textContent = "Selected: press Ctrl-C";
  }
}

export function sendOnEnter(field, form) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
}
