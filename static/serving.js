// What a launched model reports of itself, as figures that follow its events. Knows nothing of charts.
const amount = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3))));
const time = (s) => (s < 1 ? `${amount(s * 1000)} ms` : `${amount(s)} s`);
const WORDS = { share: (value) => `${Math.round(value * 100)} %`, time, amount };

export class Figures {
  // `root`: a list of elements with data-figure (names, joined by " / ") and data-as; null where there is none.
  constructor(root) {
    this.fields = [...(root?.querySelectorAll("[data-figure]") ?? [])];
    this.errors = root?.querySelector("[data-errors]");
    this.known = new Map();
    this.counts = new Map();
    this.root = root;
  }

  show(series, value) {
    if (!this.root) return;
    const error = /^errors_(.+)_total$/.exec(series);
    if (error) this.counts.set(error[1].replaceAll("_", " "), value);
    else this.known.set(series, value);
    this.changed ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.changed = undefined;
    for (const field of this.fields) {
      const values = field.dataset.figure.split(" ").map((name) => this.known.get(name));
      if (values.every((value) => value !== undefined)) field.textContent = values.map(WORDS[field.dataset.as ?? "amount"]).join(" / ");
    }
    const told = [...this.counts].filter(([, count]) => count).map(([kind, count]) => `${count} ${kind}`);
    if (this.known.size) this.errors.textContent = told.join(", ") || "none";
  }
}
