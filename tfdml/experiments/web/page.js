"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("form"), input = byId("image"), drop = byId("drop"), result = byId("result"), error = byId("error");
let limits = null, running = 0, preview = null;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function fail(message) {
  error.textContent = message;
  error.hidden = false;
  byId("status").textContent = "";
}

function neighbor(one, rank) {
  const entry = element("li"), button = element("button"), image = element("img");
  const label = one.label === null ? "" : String(one.label), distance = one.distance.toFixed(4);
  const said = `${label ? label + ", " : ""}distance ${distance}`;
  button.type = "button";
  button.setAttribute("aria-label", `Neighbor ${rank}: ${said}. Search for images like this one.`);
  button.title = "Search for images like this one";
  image.src = one.thumbnail;
  image.alt = "";
  button.append(image);
  button.addEventListener("click", () => searchItem(one));
  entry.append(button);
  if (label) entry.append(element("p", "label", label));
  entry.append(element("p", "distance", distance), element("p", "id", one.id));
  return entry;
}

function show(found, source, alt) {
  const verdict = byId("verdict"), shown = byId("shown");
  shown.src = source;
  shown.alt = alt;
  verdict.textContent = "";
  verdict.className = "";
  if (found.verdict) {
    const { is_known: known, label, score, threshold } = found.verdict;
    verdict.className = known ? "known" : "unknown";
    verdict.textContent = known
      ? `Known: ${label} (score ${score.toFixed(4)} ≤ threshold ${threshold.toFixed(4)})`
      : `Unknown (score ${score.toFixed(4)} > threshold ${threshold.toFixed(4)})`;
  }
  byId("neighbors").replaceChildren(...found.neighbors.map((one, index) => neighbor(one, index + 1)));
  result.hidden = false;
  const count = found.neighbors.length;
  byId("status").textContent = `${count} ${count === 1 ? "image" : "images"} found. ${verdict.textContent}`;
}

async function request(address, options, source, alt) {
  const number = ++running;
  error.hidden = true;
  byId("status").textContent = "Searching…";
  try {
    const response = await fetch(address, options);
    const found = await response.json();
    // A later search has begun.
    if (number !== running) return;
    if (response.ok) show(found, source, alt);
    else fail(found.detail || `The server answered ${response.status}.`);
  } catch (reason) {
    if (number === running) fail(`The server cannot be reached: ${reason.message}`);
  }
}

function searchFile(file) {
  if (limits && file.size > limits.max_upload_bytes) {
    fail(`The file is too large: ${(file.size / 1e6).toFixed(1)} MB. At most ${limits.max_upload_bytes / 1e6} MB are accepted.`);
    return;
  }
  if (!byId("k").reportValidity()) return;
  const body = new FormData();
  body.append("image", file, file.name || "pasted");
  body.append("k", byId("k").value);
  if (preview) URL.revokeObjectURL(preview);
  preview = URL.createObjectURL(file);
  request("/search", { method: "POST", body }, preview, `The query image ${file.name || ""}`);
}

function searchItem(one) {
  if (!byId("k").reportValidity()) return;
  request(`/search/${one.item}?k=${byId("k").value}`, {}, one.thumbnail, `The query image ${one.id}`);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (input.files.length) searchFile(input.files[0]);
});
input.addEventListener("change", () => { if (input.files.length) searchFile(input.files[0]); });
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
}
document.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) searchFile(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) searchFile(file);
});

fetch("/gallery").then((response) => response.json()).then((gallery) => {
  limits = gallery;
  document.title = `Image search: ${gallery.name}`;
  const count = new Intl.NumberFormat("en").format(gallery.items);
  const labels = gallery.labels ? `, ${gallery.labels} labels` : "";
  byId("about").textContent = `${gallery.name}: ${count} images${labels}, ${gallery.distance} distance`
    + (gallery.is_calibrated ? "" : ". Without a threshold, every image has neighbors, even unlike ones.");
}).catch(() => {});
