// The review by keyboard: J and K move, A, C and X decide, Enter opens the page.

import { isTyping, prepare, press } from "./decision.js";

const items = [...document.querySelectorAll(".review")];
for (const form of document.querySelectorAll("form.decision")) prepare(form);

function current() {
  return document.activeElement?.closest(".review") ?? null;
}
function move(step) {
  const at = items.indexOf(current());
  items[Math.min(Math.max(at + step, 0), items.length - 1)]?.focus();
}

addEventListener("keydown", (event) => {
  if (isTyping(event)) return;
  const key = event.key.toLowerCase();
  if (key === "j") move(1);
  else if (key === "k") move(-1);
  else if (key === "enter" && document.activeElement === current()) current()?.querySelector("a")?.click();
  else if (!press(current()?.querySelector("form.decision"), key)) return;
  event.preventDefault();
});

// After a decision the next one is at hand.
const PLACE = "chartloom-review-place";
for (const [place, item] of items.entries()) {
  item.querySelector("form")?.addEventListener("submit", () => sessionStorage.setItem(PLACE, String(place)));
}
const place = sessionStorage.getItem(PLACE);
sessionStorage.removeItem(PLACE);
if (items.length && place !== null) items[Math.min(Number(place), items.length - 1)].focus();
