// The plan page and the panel beside a job form: every change of the form asks the server again and shows its answer.
// It keeps what a new answer would lose, marks refused fields, says the verdict to a screen reader, reads a config.json,
// and fills the form by a plan.
const PAUSE_MS = 150; // after the last key

// Where no answer comes, the last one would be a lie by now.
const NO_ANSWER = "The portal doesn't answer; the next change tries again.";
const SIGNED_OUT = "You are signed out, or the page is too old; reload it.";
const TOO_MUCH = "That is too much for a plan; paste the config.json alone.";
const card = (words) => `<div class="card plan-detail"><div class="card-body plan-sentence">${words}</div></div>`;

// Parts that were opened stay open, and closed ones closed, in the next answer.
const kept = new Map();
addEventListener("toggle", ({ target }) => target.dataset?.keep && kept.set(target.dataset.keep, target.open), true);

async function answerTo(form, url) {
  const headers = JSON.parse(document.body.getAttribute("hx-headers"));
  try {
    const answer = await fetch(url, { method: "POST", headers, body: new URLSearchParams(new FormData(form)) });
    if (answer.ok && !answer.redirected) return await answer.text();
    if (answer.redirected || answer.status === 403) return card(SIGNED_OUT);
    return card([400, 413].includes(answer.status) ? TOO_MUCH : NO_ANSWER);
  } catch {
    return card(NO_ANSWER);
  }
}

function show(place, html) {
  place.innerHTML = html;
  for (const part of place.querySelectorAll("details[data-keep]")) {
    if (kept.has(part.dataset.keep)) part.open = kept.get(part.dataset.keep);
  }
  const { url, invalid = "" } = place.querySelector("[data-invalid]")?.dataset ?? {};
  for (const field of document.querySelectorAll("#plan-form [name]")) {
    if (invalid.split(" ").includes(field.name)) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
  if (url) history.replaceState(history.state, "", url);
  const said = document.querySelector(`[data-says="#${place.id}"]`);
  const words = place.querySelector(".plan-words, .plan-sentence")?.textContent ?? "";
  if (said.textContent !== words) said.textContent = words;
}

// One question at a time; what changes meanwhile is asked next, as it is by then.
for (const place of document.querySelectorAll("[data-plan]")) {
  const form = document.getElementById(place.dataset.form);
  let timer, asking = false, changed = false;
  const ask = async () => {
    changed = true;
    if (asking) return;
    asking = true;
    place.classList.add("plan-asking");
    while (changed) {
      changed = false;
      show(place, await answerTo(form, place.dataset.plan));
    }
    place.classList.remove("plan-asking");
    asking = false;
  };
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, PAUSE_MS);
  });
  if (form.method === "get") {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      ask();
    });
  }
  if (!("answered" in place.dataset)) ask();
}

// A plan's values go into the form that is there already; nothing else of it changes.
document.addEventListener("click", ({ target }) => {
  const button = target.closest?.("[data-fill]");
  const form = document.getElementById("job-form");
  if (!button || !form) return;
  for (const [name, value] of Object.entries(JSON.parse(button.dataset.fill))) {
    const field = form.elements.namedItem(name);
    if (!field) continue;
    if (field.type === "checkbox") field.checked = value !== "";
    else field.value = value;
    for (let part = field.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
    field.classList.remove("plan-filled");
    void field.offsetWidth; // so that the highlight plays again
    field.classList.add("plan-filled");
  }
  form.dispatchEvent(new Event("input", { bubbles: true }));
});

// A config.json is read here and planned as if it had been pasted.
const config = document.querySelector("textarea[name=config]");
if (config) {
  const note = document.getElementById("config-note");
  const usual = note.textContent;
  const put = (text) => {
    config.value = text;
    note.textContent = usual;
    config.dispatchEvent(new Event("input", { bubbles: true }));
  };
  document.getElementById("config-tools").hidden = false;
  document.getElementById("config-clear").addEventListener("click", () => put(""));
  document.getElementById("config-file").addEventListener("input", (event) => event.stopPropagation());
  document.getElementById("config-file").addEventListener("change", async ({ target }) => {
    const file = target.files[0];
    if (!file) return;
    const most = Number(config.dataset.most);
    if (file.size > most) note.textContent = `${file.name} has ${file.size} bytes, too many for a config.json; at most ${most} are read.`;
    else put(await file.text());
    target.value = "";
  });
}
