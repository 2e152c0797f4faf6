"use strict";
const $ = (id) => document.getElementById(id);
const most = Number(document.querySelector("main").dataset.maxBytes);
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const PAUSE = 900; // milliseconds between two labels
let found = null; // the last answer
let turn = 0; // grows with every image and replay, and ends what is still playing

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").className = wrong ? "error" : "";
}

const percent = (part) =>
  part > 0.999 ? "> 99.9 %" : `${(100 * part).toFixed(part > 0.99 || part < 0.1 ? 1 : 0)} %`;

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function show(label) {
  $("shown").src = label?.map ?? found.image;
  $("shown").alt = label?.map ? `the image under its attention for ${label.name}` : "the image";
  $("caption").textContent = label?.map ? `where it looked for ${label.name}` : "";
  for (const button of document.querySelectorAll("#labels button"))
    button.setAttribute("aria-pressed", String(button.label === label));
}

function row(label) {
  const button = element("button", "");
  button.type = "button";
  button.label = label;
  if (label.map) {
    const map = element("img", "");
    map.src = label.map;
    map.alt = "";
    button.append(map);
  }
  const bar = element("span", "bar"), filled = element("i", "");
  filled.style.width = `${100 * label.probability}%`;
  bar.append(filled);
  const score = label.score === null ? "" : `, score ${label.score.toFixed(3)}`;
  button.append(
    element("span", "name", label.name), element("span", "percent", percent(label.probability)), bar,
    element("span", "sub", `step ${label.step}${score}`),
  );
  // The same label again shows the image without its map.
  button.onclick = () => {
    turn++;
    fill();
    show(button.getAttribute("aria-pressed") === "true" ? null : label);
  };
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function fill() {
  const here = $("labels").children.length;
  $("labels").append(...found.labels.slice(here).map(row));
}

async function play() {
  const mine = ++turn;
  $("labels").replaceChildren();
  $("result").hidden = false;
  $("again").hidden = found.labels.length === 0;
  show(null);
  for (const label of found.labels) {
    if (!still) await new Promise((done) => setTimeout(done, PAUSE));
    if (turn !== mine) return;
    $("labels").append(row(label));
    show(label);
  }
  if (!found.labels.length) say("No label of this network is probable enough in this image.");
}

async function predict(file) {
  const mine = ++turn;
  $("result").hidden = true;
  if (file.size > most) return say(`${file.name} is larger than ${most >> 20} MB.`, true);
  say("looking …");
  try {
    const response = await fetch("predict", {
      method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
    });
    const answer = await response.json();
    if (turn !== mine) return;
    if (!response.ok) return say(answer.error, true);
    found = answer;
  } catch {
    if (turn === mine) say("The program behind this page does not answer: is it still running?", true);
    return;
  }
  say("");
  play();
}

$("file").onchange = () => {
  if ($("file").files.length) predict($("file").files[0]);
  $("file").value = "";
};
$("again").onclick = play;
// Anywhere on the page: an image that misses the field would take its place in the window.
document.ondragover = (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
};
document.ondragleave = (event) => event.relatedTarget || $("drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files.length) predict(event.dataTransfer.files[0]);
};
document.onpaste = (event) => {
  if (event.clipboardData.files.length) predict(event.clipboardData.files[0]);
};
