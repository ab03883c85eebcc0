"use strict";

// Draws the vectors of the gallery in three dimensions. Uses functions of page.js.
(() => {
  const section = byId("map"), canvas = byId("points"), tip = byId("tip"), context = canvas.getContext("2d");
  const view = { turn: 0.6, tilt: 0.35, zoom: 1 };
  let data = null, colors = [], placed = [], near = null, dragged = null, moved = 0, waiting = false;

  function colorsOf(labels) {
    const numbers = new Map();
    // The golden angle keeps the hues of consecutive labels apart.
    return labels.map((label) => {
      if (label === null) return "hsl(0 0% 55%)";
      if (!numbers.has(label)) numbers.set(label, numbers.size);
      return `hsl(${(numbers.get(label) * 137.508) % 360} 65% 52%)`;
    });
  }

  function draw() {
    waiting = false;
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!data || !width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const scale = 0.42 * Math.min(width, height) * view.zoom;
    const [sinTurn, cosTurn, sinTilt, cosTilt] = [Math.sin(view.turn), Math.cos(view.turn), Math.sin(view.tilt),
      Math.cos(view.tilt)];
    placed = data.points.map(([x, y, z], index) => {
      const right = x * cosTurn + z * sinTurn, back = z * cosTurn - x * sinTurn;
      const up = y * cosTilt - back * sinTilt, depth = y * sinTilt + back * cosTilt, size = 3 / (3 + depth);
      return { index, depth, size, left: width / 2 + scale * right * size, top: height / 2 - scale * up * size };
    });
    placed.sort((one, other) => other.depth - one.depth);
    const radius = Math.max(2, Math.min(5, 120 / Math.sqrt(placed.length)));
    for (const point of placed) {
      context.globalAlpha = Math.max(0.25, Math.min(1, 0.75 - 0.35 * point.depth));
      context.fillStyle = colors[point.index];
      context.beginPath();
      context.arc(point.left, point.top, radius * point.size, 0, 2 * Math.PI);
      context.fill();
      if (point.index === near) {
        context.globalAlpha = 1;
        context.lineWidth = 2;
        context.strokeStyle = getComputedStyle(canvas).color;
        context.stroke();
      }
    }
  }

  function redraw() {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }

  function nearest(left, top) {
    let best = null, least = 12 * 12;
    for (const point of placed) {
      const squared = (point.left - left) ** 2 + (point.top - top) ** 2;
      // Of equally near points, the one in front, which is drawn last.
      if (squared <= least) [best, least] = [point, squared];
    }
    return best;
  }

  function itemOf(index) {
    const item = data.items[index];
    return { item, id: data.ids[index], label: data.labels[index], thumbnail: `/thumbnail/${item}` };
  }

  function point(event) {
    const found = nearest(event.offsetX, event.offsetY), index = found ? found.index : null;
    if (index !== near) {
      near = index;
      tip.hidden = index === null;
      canvas.classList.toggle("over", index !== null);
      if (index !== null) {
        const one = itemOf(index), image = element("img");
        image.src = one.thumbnail;
        image.alt = "";
        tip.replaceChildren(image, element("span", "label", one.label === null ? one.id : String(one.label)));
      }
      redraw();
    }
    if (found) {
      const side = found.left > canvas.clientWidth / 2;
      tip.style.left = `${found.left + (side ? -12 : 12)}px`;
      tip.style.top = `${found.top}px`;
      tip.classList.toggle("left", side);
    }
  }

  canvas.addEventListener("pointerdown", (event) => {
    dragged = [event.clientX, event.clientY];
    moved = 0;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!dragged) return point(event);
    const [x, y] = [event.clientX - dragged[0], event.clientY - dragged[1]];
    dragged = [event.clientX, event.clientY];
    moved += Math.abs(x) + Math.abs(y);
    view.turn += x / 150;
    view.tilt = Math.max(-1.5, Math.min(1.5, view.tilt + y / 150));
    if (moved > 4) tip.hidden = true;
    redraw();
  });
  canvas.addEventListener("pointerup", (event) => {
    dragged = null;
    if (moved > 4) return;
    point(event);
    if (near !== null) searchItem(itemOf(near));
  });
  canvas.addEventListener("pointercancel", () => { dragged = null; });
  canvas.addEventListener("pointerleave", () => {
    near = null;
    tip.hidden = true;
    redraw();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    view.zoom = Math.max(0.5, Math.min(20, view.zoom * Math.exp(-event.deltaY / 500)));
    redraw();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const change = { ArrowLeft: ["turn", -0.1], ArrowRight: ["turn", 0.1], ArrowUp: ["tilt", 0.1],
      ArrowDown: ["tilt", -0.1] }[event.key];
    if (change) view[change[0]] += change[1];
    else if (event.key === "+" || event.key === "-") view.zoom *= event.key === "+" ? 1.2 : 1 / 1.2;
    else return;
    event.preventDefault();
    redraw();
  });
  window.addEventListener("resize", redraw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  section.addEventListener("toggle", async () => {
    if (!section.open || data) return redraw();
    const said = byId("map-about");
    said.textContent = "Computing the map…";
    try {
      const response = await fetch("/map"), found = await response.json();
      if (!response.ok) throw new Error(found.detail || `the server answered ${response.status}`);
      data = found;
      colors = colorsOf(data.labels);
      const count = new Intl.NumberFormat("en"), share = data.explained.reduce((sum, one) => sum + one, 0);
      const shown = data.items.length < data.total ? `${count.format(data.items.length)} of ` : "";
      said.textContent = `${shown}${count.format(data.total)} images by three principal components with `
        + `${Math.round(100 * share)} % of the variance, so what is near here need not be near. Drag or use the arrow `
        + "keys to turn, scroll to zoom, click to search.";
      redraw();
    } catch (reason) {
      said.textContent = `The map cannot be shown: ${reason.message}`;
    }
  });
})();
