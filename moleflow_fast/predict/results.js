"use strict";
const { threshold: given, records } = JSON.parse(document.getElementById("data").textContent);
const LABELS = ["all", "defective", "unknown", "normal", "error"];
const COLUMNS = [
  ["path", "file"], ["label", "label"], ["calibrated", "calibrated"], ["score", "raw score"], ["product", "product"],
  ["distance", "distance"], ["regions", "regions"],
];
const ROWS_AT_A_TIME = 200;
const byId = (id) => document.getElementById(id);

const known = {
  threshold: (text) => text === "" || (Number(text) >= 0 && Number(text) <= 1),
  label: (text) => LABELS.includes(text),
  sort: (text) => COLUMNS.some(([column]) => column === text),
  order: (text) => ["down", "up"].includes(text),
};
// What the reader has chosen stands in the address, so that it can be sent to somebody.
// Without a threshold labels are as they were given.
const chosen = { threshold: "", label: "all", sort: "calibrated", order: "down" };
for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
  if (name in chosen && known[name](text)) chosen[name] = text;
}
let rowsShown = ROWS_AT_A_TIME;
const folder = commonFolder(records.map((record) => record.path));

// What all paths begin with, up to a slash: it is said once, and rows show the rest.
function commonFolder(paths) {
  let common = (paths[0] || "").replace(/[^/]*$/, "");
  while (!paths.every((path) => path.startsWith(common))) common = common.replace(/[^/]*\/$/, "");
  return common === "/" ? "" : common;
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== null && text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function labelOf(record) {
  if (chosen.threshold === "" || record.label === "error" || record.label === "unknown") return record.label;
  return record.calibrated > Number(chosen.threshold) ? "defective" : "normal";
}

function number(value, digits) {
  return value === null ? "" : value.toFixed(digits);
}

function value(record, column) {
  if (column === "label") return LABELS.indexOf(labelOf(record));
  return record[column] === null ? -Infinity : record[column];
}

function inOrder(list) {
  const direction = chosen.order === "down" ? -1 : 1;
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  return [...list].sort((a, b) => direction * compare(value(a, chosen.sort), value(b, chosen.sort)));
}

function cell(row, title, content, kind = "") {
  const made = row.appendChild(element("td", content, { "data-title": title, class: kind }));
  return made;
}

// A long path may break behind its slashes.
function pathCell(row, path) {
  const made = cell(row, "file", null, "file");
  made.title = path;
  const parts = path.slice(folder.length).split("/");
  parts.forEach((part, i) => (i < parts.length - 1 ? made.append(part + "/", element("wbr")) : made.append(part)));
}

function picture(record) {
  if (record.pictures) {
    const pair = element("div", null, { class: "pair" });
    [record.image, record.overlay || record.image].forEach((href, i) => {
      const link = pair.appendChild(element("a", null, { href }));
      const alt = i ? "with its anomaly map" : "image";
      link.appendChild(element("img", null, { src: record.pictures[i], alt, loading: "lazy" }));
    });
    return pair;
  }
  const links = element("span");
  links.appendChild(element("a", "image", { href: record.image }));
  if (record.overlay) links.append(" ", element("a", "overlay", { href: record.overlay }));
  return links;
}

function rowOf(record) {
  const label = labelOf(record);
  const row = element("tr", null, { class: label });
  pathCell(row, record.path);
  cell(row, "", null, "pictures").appendChild(picture(record));
  cell(row, "label", label, "label");
  if (record.error) {
    cell(row, "", record.error, "why").setAttribute("colspan", "5");
    return row;
  }
  cell(row, "calibrated", number(record.calibrated, 3), "number");
  cell(row, "raw score", number(record.score, 2), "number");
  cell(row, "product", record.product);
  cell(row, "distance", number(record.distance, 1), "number");
  cell(row, "regions", String(record.regions), "number");
  return row;
}

function drawCounts() {
  const counts = Object.fromEntries(LABELS.map((label) => [label, 0]));
  records.forEach((record) => (counts[labelOf(record)] += 1));
  counts.all = records.length;
  byId("counts").replaceChildren(...LABELS.filter((label) => label !== "error" || counts.error).map((label) => {
    const button = element("button", `${label} `, { "aria-pressed": String(chosen.label === label), id: `show-${label}` });
    button.appendChild(element("b", String(counts[label])));
    button.onclick = () => choose({ label });
    return button;
  }));
}

function drawTable() {
  const wanted = inOrder(records.filter((record) => chosen.label === "all" || labelOf(record) === chosen.label));
  document.querySelector("tbody").replaceChildren(...wanted.slice(0, rowsShown).map(rowOf));
  const rest = wanted.length - rowsShown;
  byId("more").hidden = rest <= 0;
  byId("more").textContent = `show ${Math.min(rest, ROWS_AT_A_TIME)} more of ${rest}`;
}

function drawHead() {
  const head = document.querySelector("thead tr");
  head.replaceChildren(...COLUMNS.map(([column, title]) => {
    const th = element("th", null, { class: ["path", "label", "product"].includes(column) ? "" : "number" });
    const arrow = column === chosen.sort ? (chosen.order === "down" ? "\u00a0↓" : "\u00a0↑") : "";
    const button = th.appendChild(element("button", title + arrow));
    button.onclick = () => sortBy(column);
    return th;
  }));
  head.insertBefore(element("th", "image and map"), head.children[1]);
}

function sortBy(column) {
  const turned = column === chosen.sort && chosen.order === "down";
  choose({ sort: column, order: turned ? "up" : "down" });
}

function draw() {
  const threshold = chosen.threshold === "" ? given : Number(chosen.threshold);
  byId("threshold").value = threshold === null ? 0.5 : threshold;
  byId("shown").textContent = threshold === null ? "by product" : threshold.toFixed(2);
  byId("sort").value = chosen.sort;
  drawCounts();
  drawHead();
  drawTable();
}

function choose(changes) {
  Object.assign(chosen, changes);
  rowsShown = ROWS_AT_A_TIME;
  history.replaceState(null, "", "#" + new URLSearchParams(chosen));
  draw();
}

byId("folder").textContent = folder && `Files are below ${folder}`;
byId("sort").append(...COLUMNS.map(([column, title]) => element("option", title, { value: column })));
byId("sort").onchange = (event) => sortBy(event.target.value);
byId("threshold").oninput = (event) => choose({ threshold: event.target.value });
byId("more").onclick = () => { rowsShown += ROWS_AT_A_TIME; drawTable(); };
draw();
