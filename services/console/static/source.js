// The page and its findings: each shows the other, by pointer, by touch and by key.

import { isTyping, prepare, press } from "./decision.js";

const sheet = document.getElementById("sheet");
const frame = document.getElementById("frame");
const hint = document.getElementById("hint");
const words = JSON.parse(document.getElementById("words").textContent);
const facts = [...document.querySelectorAll(".fact")];
const marks = new Map([...document.querySelectorAll(".mark")].map((mark) => [mark.dataset.fact, mark]));
for (const form of document.querySelectorAll("form.decision")) prepare(form);

// -- choosing a finding -------------------------------------------------------------------------------------------------

let active = null;
let zoom = 1;
function choose(fact, { focus = true, scroll = true } = {}) {
  if (active === fact) return;
  for (const other of [active, active && marks.get(active.dataset.fact)]) other?.classList.remove("active");
  active = fact;
  if (!fact) return;
  const mark = marks.get(fact.dataset.fact);
  fact.classList.add("active");
  mark.classList.add("active");
  // The last drawn is on top.
  sheet.insertBefore(mark, document.getElementById("word"));
  if (scroll) {
    enlarge(mark);
    show(mark);
  }
  if (focus) fact.focus({ preventScroll: true });
  fact.scrollIntoView({ block: "nearest" });
  history.replaceState(null, "", `#fact-${fact.dataset.fact}`);
}
// On a phone the whole page is too small to read: its words are made so large that they can be.
const LEGIBLE = 11;
function enlarge(mark) {
  const line = mark.querySelector("rect").getBoundingClientRect().height / zoom;
  if (frame.clientWidth < 600 && line * zoom < LEGIBLE) zoomTo(LEGIBLE / line);
}
function show(mark) {
  const inner = mark.getBoundingClientRect();
  const outer = frame.getBoundingClientRect();
  if (inner.top < outer.top || inner.bottom > outer.bottom) frame.scrollTop += inner.top - outer.top - outer.height / 3;
  if (inner.left < outer.left || inner.right > outer.right) frame.scrollLeft += inner.left - outer.left - outer.width / 3;
}
function move(step) {
  const at = facts.indexOf(active);
  const next = at + step;
  if (next >= facts.length) document.getElementById("later")?.click();
  else if (next < 0 && at >= 0) document.getElementById("earlier")?.click();
  else choose(facts[Math.max(next, 0)]);
}

for (const fact of facts) {
  const mark = marks.get(fact.dataset.fact);
  fact.addEventListener("click", (event) => { if (!event.target.closest("form, a")) choose(fact); });
  fact.addEventListener("focus", () => choose(fact, { focus: false }));
  fact.addEventListener("pointerenter", () => mark.classList.add("hovered"));
  fact.addEventListener("pointerleave", () => mark.classList.remove("hovered"));
  mark.addEventListener("click", (event) => { event.preventDefault(); choose(fact, { scroll: false }); });
  mark.addEventListener("pointerenter", () => fact.classList.add("hovered"));
  mark.addEventListener("pointerleave", () => fact.classList.remove("hovered"));
}

// -- words --------------------------------------------------------------------------------------------------------------

function wordAt(event) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(sheet.getScreenCTM().inverse());
  return words.find(([x0, y0, x1, y1]) => x0 <= at.x && at.x <= x1 && y0 <= at.y && at.y <= y1);
}
const outline = document.getElementById("word");
sheet.addEventListener("pointermove", (event) => {
  const word = wordAt(event);
  outline.setAttribute("width", word ? word[2] - word[0] : 0);
  outline.setAttribute("height", word ? word[3] - word[1] : 0);
  if (!word) return;
  outline.setAttribute("x", word[0]);
  outline.setAttribute("y", word[1]);
  const share = Math.round(word[4] * 100);
  hint.textContent = `“${word[5]}”, read with ${share} % confidence`;
});
// The findings that are told from a word, one after the other with each click.
sheet.addEventListener("click", (event) => {
  if (event.target.closest(".mark")) return;
  const word = wordAt(event);
  if (!word) return;
  const told = facts.filter((fact) => [...marks.get(fact.dataset.fact).querySelectorAll("rect")].some((rect) => {
    const box = { x: rect.x.baseVal.value, y: rect.y.baseVal.value, w: rect.width.baseVal.value, h: rect.height.baseVal.value };
    const x = (word[0] + word[2]) / 2;
    const y = (word[1] + word[3]) / 2;
    return box.x <= x && x <= box.x + box.w && box.y <= y && y <= box.y + box.h;
  }));
  if (told.length) choose(told[(told.indexOf(active) + 1) % told.length], { scroll: false });
  else hint.textContent = `“${word[5]}”: nothing was told from this word`;
});

// -- zoom ---------------------------------------------------------------------------------------------------------------

function zoomTo(wanted) {
  const before = zoom;
  zoom = Math.min(Math.max(wanted, 1), 6);
  sheet.style.width = `${zoom * 100}%`;
  frame.scrollTop *= zoom / before;
  frame.scrollLeft *= zoom / before;
  if (active) show(marks.get(active.dataset.fact));
}
document.getElementById("larger").addEventListener("click", () => zoomTo(zoom * 1.4));
document.getElementById("smaller").addEventListener("click", () => zoomTo(zoom / 1.4));
document.getElementById("fit").addEventListener("click", () => zoomTo(1));

addEventListener("keydown", (event) => {
  if (isTyping(event)) return;
  const key = event.key.toLowerCase();
  if (key === "j") move(1);
  else if (key === "k") move(-1);
  else if (key === "+" || key === "=") zoomTo(zoom * 1.4);
  else if (key === "-") zoomTo(zoom / 1.4);
  else if (key === "0") zoomTo(1);
  else if (key === "[") document.getElementById("previous-page")?.click();
  else if (key === "]") document.getElementById("next-page")?.click();
  else if (!press(active?.querySelector("form.decision"), key)) return;
  event.preventDefault();
});

function fromAddress() {
  const fact = document.getElementById(location.hash.slice(1));
  if (fact?.classList.contains("fact")) choose(fact);
}
addEventListener("hashchange", fromAddress);
fromAddress();
