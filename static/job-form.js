// Folded groups of a job form: each summary says in a line which of its fields differ from their defaults.
const form = document.getElementById("job-form");

const label = (field) => (field.labels[0].querySelector(".form-check-label") ?? field.labels[0]).textContent.trim();
const differs = (field) => (field.type === "checkbox" ? String(field.checked) : field.value.trim()) !== field.dataset.default;
const value = (field) => (field.type === "checkbox" ? (field.checked ? "on" : "off") : field.value.trim() || "empty");

function draw() {
  for (const said of form.querySelectorAll("summary > [data-usual]")) {
    const changed = [...said.closest("details").querySelectorAll("[data-default]")].filter(differs);
    said.textContent = changed.map((field) => `${label(field)}: ${value(field)}`).join(" · ") || said.dataset.usual;
    said.classList.toggle("changed", changed.length > 0);
  }
}

form.addEventListener("input", draw);
draw();
