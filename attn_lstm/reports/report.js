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
