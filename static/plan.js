// The plan page and the panel beside a job form. The answers come from the server; this keeps what a swap would lose,
// marks refused fields, says the new verdict to a screen reader, reads a config.json, and fills the form by a plan.

// Parts that were opened stay open (and closed ones closed) in the next answer.
const kept = new Map();
addEventListener("toggle", ({ target }) => target.dataset?.keep && kept.set(target.dataset.keep, target.open), true);

addEventListener("htmx:beforeSwap", ({ detail }) => {
  // The server is there but refuses, or a proxy does: the last answer would be a lie by now.
  if (detail.xhr.status < 400) return;
  detail.shouldSwap = true;
  detail.isError = false;
  const words = detail.xhr.status === 413 || detail.xhr.status === 400
    ? "That is too much for a plan; paste the config.json alone."
    : "The portal can't plan just now; reload the page, or sign in again.";
  detail.serverResponse = `<div class="card plan-detail"><div class="card-body">${words}</div></div>`;
});

addEventListener("htmx:afterSwap", ({ detail: { target } }) => {
  for (const part of target.querySelectorAll("details[data-keep]")) {
    if (kept.has(part.dataset.keep)) part.open = kept.get(part.dataset.keep);
  }
  const invalid = (target.querySelector("[data-invalid]")?.dataset.invalid ?? "").split(" ");
  for (const field of document.querySelectorAll("#plan-form [name]")) {
    if (invalid.includes(field.name)) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
  const said = document.querySelector(`[data-says="#${target.id}"]`);
  const words = target.querySelector(".plan-words, .plan-sentence")?.textContent ?? "";
  if (said && said.textContent !== words) said.textContent = words;
});

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
    field.closest("details")?.setAttribute("open", "");
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
