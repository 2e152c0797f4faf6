"use strict";
// The gallery's filter. Its state lies in the address, so that a view can be linked to:
// #label=3&kind=wrong
const gallery = document.querySelector("#cards");
const cards = [...gallery.children];
const controls = ["label", "kind", "order"].map((name) => document.querySelector(`#by-${name}`));
const [label, kind, order] = controls;

const shows = (card, name) => {
  const labels = card.dataset[name].split(" ").filter(Boolean);
  return label.value ? labels.includes(label.value) : labels.length > 0;
};

function matches(card) {
  if (kind.value) {
    const clean = !label.value && kind.value === "right";
    return clean ? !shows(card, "wrong") && !shows(card, "missed") : shows(card, kind.value);
  }
  return !label.value || ["right", "wrong", "missed"].some((name) => shows(card, name));
}

function filter() {
  for (const card of cards) card.hidden = !matches(card);
  const sign = { best: -1, worst: 1 }[order.value] || 0;
  const sorted = [...cards].sort((a, b) => sign * (a.dataset.f1 - b.dataset.f1));
  gallery.append(...sorted); // of equals the order of the page stays
  const shown = cards.filter((card) => !card.hidden).length;
  document.querySelector("#shown").textContent =
    `${shown} of ${cards.length} images${shown ? "" : ": none in this gallery shows that"}`;
}

function read() {
  const state = new URLSearchParams(location.hash.slice(1));
  if (!["label", "kind", "order"].some((name) => state.has(name))) return;
  for (const control of controls) {
    const value = state.get(control.name) || "";
    control.value = [...control.options].some((option) => option.value === value) ? value : "";
  }
  filter();
  document.querySelector("#gallery").scrollIntoView();
}

for (const control of controls) {
  control.addEventListener("change", () => {
    const state = controls.filter((c) => c.value).map((c) => `${c.name}=${c.value}`);
    history.replaceState(null, "", `#${state.join("&") || "label="}`);
    filter();
  });
}
addEventListener("hashchange", read);
document.querySelector(".filter").hidden = false;
filter();
read();

// The table of labels: a heading sorts, the field finds.
const table = document.querySelector("table.labels");
const lines = [...table.tBodies[0].rows];
const heads = [...table.tHead.rows[0].cells];

function sort(column) {
  const up = heads[column].getAttribute("aria-sort") === "descending" || (column === 0
    && heads[0].getAttribute("aria-sort") !== "ascending");
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (line) => line.cells[column].dataset.v;
  const compare = column ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b));
  table.tBodies[0].append(...[...lines].sort((a, b) => (up ? 1 : -1) * compare(a, b)));
}

heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => sort(column));
});
const find = document.querySelector("#find");
find.addEventListener("input", () => {
  const wanted = find.value.toLocaleLowerCase();
  for (const line of lines) line.hidden = !line.cells[0].dataset.v.toLocaleLowerCase().includes(wanted);
});
document.querySelector(".find").hidden = false;

// Images open large.
const large = document.querySelector("#large");
function open(image) {
  large.querySelector("img").src = image.src;
  large.querySelector("img").alt = image.alt;
  const name = image.closest("article").querySelector("h3").firstChild.textContent.trim();
  large.querySelector("p").textContent = `${name}: ${image.alt}`;
  large.showModal();
}
for (const image of document.querySelectorAll(".looks img")) {
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  image.addEventListener("click", () => open(image));
  image.addEventListener("keydown", (event) => {
    if (event.key === "Enter") open(image);
  });
}
large.addEventListener("click", (event) => event.target === large && large.close());
