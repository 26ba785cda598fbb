// Filtering happens here and not in an address: what somebody looks for in a record is their own.

const entries = [...document.querySelectorAll(".entry")];
const search = document.getElementById("search");
const chips = [...document.querySelectorAll(".chip")];
let kind = "";

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const entry of entries) {
    const text = entry.textContent.toLowerCase();
    entry.hidden = (kind && entry.dataset.kind !== kind) || !words.every((word) => text.includes(word));
    count += !entry.hidden;
  }
  for (const year of document.querySelectorAll(".year")) year.hidden = !year.querySelector(".entry:not([hidden])");
  document.getElementById("shown").textContent = count === 1 ? "1 entry" : `${count} entries`;
  document.getElementById("none").hidden = count > 0;
}

search?.addEventListener("input", filter);
for (const chip of chips) {
  chip.addEventListener("click", () => {
    kind = chip.dataset.kind;
    for (const other of chips) other.setAttribute("aria-pressed", String(other === chip));
    filter();
  });
}
