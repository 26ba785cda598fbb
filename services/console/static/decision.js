// The form of a person's word on a finding, by pointer and by key.

export function prepare(form) {
  const correction = form.querySelector(".correction");
  const button = form.querySelector(".correct");
  if (!correction) return;
  function toggle(open) {
    correction.hidden = correction.disabled = !open;
    button.setAttribute("aria-expanded", String(open));
    if (open) correction.querySelector("input:not([type=hidden])").focus();
    else button.focus();
  }
  button.addEventListener("click", (event) => { event.stopPropagation(); toggle(correction.hidden); });
  correction.querySelector(".cancel").addEventListener("click", () => toggle(false));
  correction.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); toggle(false); }
    // Enter in a field would press the first button of the form: Accept.
    if (event.key === "Enter" && event.target.tagName === "INPUT") {
      event.preventDefault();
      form.requestSubmit(correction.querySelector("button[value=correct]"));
    }
  });
}

export function press(form, key) {
  const button = form?.querySelector({ a: ".accept", c: ".correct", x: ".dismiss" }[key] ?? "none");
  if (!button) return false;
  button.click();
  return true;
}

export function isTyping(event) {
  return event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea") !== null;
}
