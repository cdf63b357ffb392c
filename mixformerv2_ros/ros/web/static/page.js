"use strict";
// The page of `mixformerv2 web`; what it says to the server stands in protocol.py.
const at = (id) => document.getElementById(id);
const canvas = at("picture"), pen = canvas.getContext("2d");
const SMALLEST = 4; // pixels of the image; a shorter drag is a tap

let socket = null, colors = {}, retry = 500;
let shown = null;    // header of the picture on the canvas
let image = null;    // its pixels
let drag = null;     // [x0, y0, x1, y1] in pixels of the image
let waiting = null;  // the newest message that came while a box is drawn

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function connect() {
  const token = location.hash.slice(1);
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/socket?token=${encodeURIComponent(token)}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { link(true, "connected"); retry = 500; };
  socket.onmessage = (event) => typeof event.data === "string" ? told(JSON.parse(event.data)) : pictured(event.data);
  socket.onclose = (event) => {
    link(false, event.reason || "not connected: server down, token wrong, or too many pages");
    setTimeout(connect, retry);
    retry = Math.min(retry * 2, 8000);
  };
}

function link(on, text) {
  at("link").className = on ? "on" : "off";
  at("link").textContent = text;
}

function told(message) {
  if (message.kind === "hello") {
    at("title").textContent = message.title || "mixformerv2";
    colors = message.colors;
    makeSliders(message.sliders);
    return;
  }
  at("status").textContent = message.status;
  at("said").textContent = message.said;
  showTargets(message.targets);
  for (const [name, value] of Object.entries(message.parameters)) {
    const slider = document.querySelector(`input[data-name="${name}"]`);
    if (slider && document.activeElement !== slider) { slider.value = value; label(slider); }
  }
  at("numbers").replaceChildren(...Object.entries(message.diagnostics).map(([name, value]) => {
    const row = document.createElement("tr");
    for (const text of [name, value]) row.appendChild(document.createElement("td")).textContent = text;
    return row;
  }));
}

function makeSliders(sliders) {
  at("sliders").replaceChildren(...sliders.map((each) => {
    const row = document.createElement("label");
    row.title = each.text;
    row.textContent = each.name;
    const value = row.appendChild(document.createElement("output"));
    const slider = row.appendChild(document.createElement("input"));
    Object.assign(slider, { type: "range", min: each.low, max: each.high, step: 0.01 });
    slider.dataset.name = each.name;
    slider.oninput = () => { value.textContent = Number(slider.value).toFixed(2); };
    slider.onchange = () => {
      send({ kind: "parameter", name: each.name, value: Number(slider.value) });
      slider.blur();
    };
    return row;
  }));
}

function label(slider) {
  slider.parentElement.querySelector("output").textContent = Number(slider.value).toFixed(2);
}

function showTargets(targets) {
  at("targets").replaceChildren(...targets.map((each) => {
    const row = document.createElement("div");
    row.className = "target";
    row.style.borderLeftColor = colors[each.state];
    row.appendChild(document.createElement("b")).textContent = each.id;
    row.appendChild(document.createElement("span")).textContent = `${each.state} ${each.confidence.toFixed(2)}`;
    const button = row.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = "Stop";
    button.onclick = () => send({ kind: "stop", target_id: each.id });
    return row;
  }));
}

async function pictured(data) {
  // While a box is drawn the picture stands still: the box belongs to it and to its stamp.
  if (drag) waiting = data; else await display(data);
  send({ kind: "shown" });
}

async function display(data) {
  const length = new DataView(data).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const pixels = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
  if (drag) { pixels.close(); waiting = data; return; }
  if (image) image.close();
  image = pixels;
  shown = header;
  draw();
}

function resume() {
  const data = waiting;
  drag = waiting = null;
  if (data) display(data); else draw();
}

function draw() {
  if (!image) return;
  if (canvas.width !== image.width || canvas.height !== image.height) {
    canvas.width = image.width;
    canvas.height = image.height;
  }
  // Lines and letters have one size on the screen, however large the picture is.
  const scale = image.width / shown.width, unit = image.width / Math.max(1, canvas.clientWidth);
  pen.drawImage(image, 0, 0);
  pen.font = `${12 * unit}px system-ui, sans-serif`;
  pen.textBaseline = "bottom";
  pen.setLineDash([4 * unit, 4 * unit]);
  for (const each of shown.candidates) rectangle(each.box, "#ffffff", unit, scale, each.label);
  for (const each of shown.targets) {
    if (!each.box) continue;
    const lost = each.state === "LOST";
    pen.setLineDash(lost ? [6 * unit, 4 * unit] : []);
    if (!lost) bands(each, scale);
    rectangle(each.box, colors[each.state], 2 * unit, scale, `${each.id} ${each.confidence.toFixed(2)}${each.state === "TRACKING" ? "" : " " + each.state}`);
  }
  pen.setLineDash([]);
  if (drag) rectangle(box(drag), "#ffd23f", 2 * unit, scale, "");
}

function bands(each, scale) {
  const [x, y, w, h] = each.box, [left, top, right, bottom] = each.edge_std;
  pen.globalAlpha = 0.3;
  pen.fillStyle = colors[each.state];
  for (const [a, b, c, d] of [
    [x - left, y, 2 * left, h], [x + w - right, y, 2 * right, h],
    [x, y - top, w, 2 * top], [x, y + h - bottom, w, 2 * bottom],
  ]) pen.fillRect(a * scale, b * scale, c * scale, d * scale);
  pen.globalAlpha = 1;
}

function rectangle([x, y, w, h], color, width, scale, text) {
  pen.strokeStyle = color;
  pen.lineWidth = width;
  pen.strokeRect(x * scale, y * scale, w * scale, h * scale);
  if (!text) return;
  const size = pen.measureText(text), high = parseInt(pen.font, 10) * 1.3;
  const top = Math.max(high, y * scale), left = Math.max(0, Math.min(x * scale, canvas.width - size.width - 6));
  pen.fillStyle = color;
  pen.fillRect(left, top - high, size.width + 6, high);
  pen.fillStyle = "#000";
  pen.fillText(text, left + 3, top - high * 0.1);
}

function box([x0, y0, x1, y1]) {
  return [Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)];
}

// A place on the screen in pixels of the image; the canvas fits into its element as a whole.
function place(event) {
  const area = canvas.getBoundingClientRect();
  const scale = Math.min(area.width / canvas.width, area.height / canvas.height);
  const left = area.left + (area.width - canvas.width * scale) / 2, top = area.top + (area.height - canvas.height * scale) / 2;
  const ratio = shown.width / canvas.width / scale;
  return [
    Math.min(Math.max((event.clientX - left) * ratio, 0), shown.width),
    Math.min(Math.max((event.clientY - top) * ratio, 0), shown.height),
  ];
}

function start(area, stamp) {
  send({ kind: "box", box: area, stamp, frame_id: shown.frame_id, target_id: at("name").value });
}

canvas.onpointerdown = (event) => {
  if (!shown || drag || !event.isPrimary || event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  drag = [...place(event), ...place(event)];
  event.preventDefault();
};
canvas.onpointermove = (event) => {
  if (!drag || !event.isPrimary) return;
  drag.splice(2, 2, ...place(event));
  draw();
};
canvas.onpointerup = (event) => {
  if (!drag || !event.isPrimary) return;
  drag.splice(2, 2, ...place(event));
  const area = box(drag);
  if (area[2] >= SMALLEST && area[3] >= SMALLEST) {
    start(area, shown.stamp);
  } else {
    const hit = shown.candidates
      .filter(({ box: [x, y, w, h] }) => x <= area[0] && area[0] <= x + w && y <= area[1] && area[1] <= y + h)
      .sort((a, b) => a.box[2] * a.box[3] - b.box[2] * b.box[3])[0];
    if (hit) start(hit.box, hit.stamp);
  }
  resume();
};
canvas.onpointercancel = () => { if (drag) resume(); };
at("stop_all").onclick = () => send({ kind: "stop", target_id: "" });
connect();
