// Every form of every page (getAttribute, for a field may be called "method"): data-confirm asks first, and a second click within moments doesn't send a second time.
const SAME_CLICK_MS = 3000;

addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.getAttribute("method") !== "post") return;
  if (form.dataset.sent || (form.dataset.confirm && !confirm(form.dataset.confirm))) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "yes";
  setTimeout(() => delete form.dataset.sent, SAME_CLICK_MS);
});
