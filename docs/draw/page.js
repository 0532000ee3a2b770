/* The pad, the 28 x 28 pixels that the networks see, and the table. NETWORKS and tbnNetwork are defined above. */

/* Pixels as MNIST has them: the longer side of the ink is 20 pixels, and its centre of mass is the middle, pixel 14. The width of
 * MNIST's strokes: a 1 has 60 pixels of ink there, a 0 has 135. */
const SIDE = 28;
const BOX = 20;
const MIDDLE = 14;
const HALF_WIDTH = 1.45;
const HALF_EDGE = 0.6; /* from ink to paper, on each side of the outline */
const LARGEST_SCALE = 200; /* a short tap stays a dot */

/* strokes: lists of [x, y], both from 0 to 1. Returns Float32Array of SIDE x SIDE values from 0 to 1. */
function pixelsOf(strokes) {
  const points = strokes.flat();
  if (points.length === 0) return new Float32Array(SIDE * SIDE);
  const xs = points.map((point) => point[0]);
  const ys = points.map((point) => point[1]);
  const left = Math.min(...xs), right = Math.max(...xs), top = Math.min(...ys), bottom = Math.max(...ys);
  const room = BOX - 2 * (HALF_WIDTH + HALF_EDGE);
  const scale = Math.min(room / Math.max(right - left, bottom - top, 1e-9), LARGEST_SCALE);
  const shifted = (dx, dy) => strokes.map((stroke) => stroke.map(([x, y]) => [
    (x - (left + right) / 2) * scale + MIDDLE + dx,
    (y - (top + bottom) / 2) * scale + MIDDLE + dy,
  ]));
  const [x, y] = centreOfMass(raster(shifted(0, 0)));
  return raster(shifted(MIDDLE - x, MIDDLE - y));
}

function raster(strokes) {
  const pixels = new Float32Array(SIDE * SIDE);
  const reach = HALF_WIDTH + HALF_EDGE;
  for (const stroke of strokes) {
    for (let i = 0; i < stroke.length; i += 1) {
      const [ax, ay] = stroke[Math.max(i - 1, 0)];
      const [bx, by] = stroke[i];
      const first = Math.max(0, Math.ceil(Math.min(ay, by) - reach));
      const last = Math.min(SIDE - 1, Math.floor(Math.max(ay, by) + reach));
      for (let y = first; y <= last; y += 1) {
        for (let x = 0; x < SIDE; x += 1) {
          const ink = (reach - distance(x, y, ax, ay, bx, by)) / (2 * HALF_EDGE);
          const at = y * SIDE + x;
          pixels[at] = Math.max(pixels[at], Math.min(1, ink));
        }
      }
    }
  }
  return pixels;
}

/* From a point to the segment a, b. */
function distance(x, y, ax, ay, bx, by) {
  const dx = bx - ax, dy = by - ay;
  const length = dx * dx + dy * dy;
  const along = length === 0 ? 0 : Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / length));
  return Math.hypot(x - ax - along * dx, y - ay - along * dy);
}

function centreOfMass(pixels) {
  let total = 0, x = 0, y = 0;
  pixels.forEach((ink, at) => {
    total += ink;
    x += ink * (at % SIDE);
    y += ink * Math.floor(at / SIDE);
  });
  return [x / total, y / total];
}

/* Strokes of the buttons, in a square of 100. "M" begins a stroke; four numbers after "Q" are the control point and the end of a curve. */
const EXAMPLES = [
  "M 55 15 Q 25 15 25 50 Q 25 85 50 85 Q 75 85 75 50 Q 75 15 50 15",
  "M 42 30 L 54 16 L 50 85",
  "M 28 34 Q 32 15 52 16 Q 74 18 68 40 Q 62 56 28 84 L 76 82",
  "M 30 22 Q 50 8 66 22 Q 76 40 46 47 Q 76 48 72 68 Q 62 92 28 78",
  "M 40 15 L 26 56 L 76 54 M 64 28 L 60 88",
  "M 70 16 L 38 17 L 34 46 Q 60 36 70 58 Q 72 86 30 82",
  "M 64 14 Q 34 30 30 62 Q 32 88 56 84 Q 74 76 66 58 Q 52 46 32 66",
  "M 26 20 L 74 18 Q 54 46 46 88",
  "M 66 24 Q 46 6 34 26 Q 34 40 52 48 Q 74 60 64 78 Q 46 94 32 76 Q 28 60 50 48 Q 70 38 66 24",
  "M 68 30 Q 56 8 36 24 Q 26 44 46 50 Q 64 48 68 28 Q 66 60 58 88",
];

function strokesOf(text) {
  const words = text.split(" ");
  const strokes = [];
  let at = 0;
  const number = () => Number(words[at++]) / 100;
  while (at < words.length) {
    const word = words[at];
    if (word === "M" || word === "L" || word === "Q") at += 1;
    if (word === "M") {
      strokes.push([[number(), number()]]);
      continue;
    }
    const stroke = strokes[strokes.length - 1];
    if (word !== "Q") {
      stroke.push([number(), number()]);
      continue;
    }
    const [sx, sy] = stroke[stroke.length - 1];
    const [cx, cy, ex, ey] = [number(), number(), number(), number()];
    for (let i = 1; i <= 12; i += 1) {
      const t = i / 12, u = 1 - t;
      stroke.push([u * u * sx + 2 * u * t * cx + t * t * ex, u * u * sy + 2 * u * t * cy + t * t * ey]);
    }
  }
  return strokes;
}

const pad = document.getElementById("pad");
const seen = document.getElementById("seen");
const told = document.getElementById("told");
let strokes = [];
let networks = [];
let pixels = pixelsOf([]);
let pen = null; /* of the keyboard: {x, y, down} */
let isWaiting = false;
let telling = 0;

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function draw() {
  const style = getComputedStyle(document.documentElement);
  const context = pad.getContext("2d");
  const side = pad.width;
  context.clearRect(0, 0, side, side);
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = side / 14;
  context.strokeStyle = style.getPropertyValue("--ink");
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(stroke[0][0] * side, stroke[0][1] * side);
    for (const [x, y] of stroke) context.lineTo(x * side, y * side);
    context.stroke();
  }
  if (pen) {
    context.lineWidth = 3;
    context.strokeStyle = style.getPropertyValue(pen.down ? "--best" : "--focus");
    context.beginPath();
    context.arc(pen.x * side, pen.y * side, side / 24, 0, 2 * Math.PI);
    context.stroke();
  }
}

function drawSeen() {
  const context = seen.getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  pixels.forEach((ink, at) => image.data.set([255 * ink, 255 * ink, 255 * ink, 255], 4 * at));
  context.putImageData(image, 0, 0);
}

function update() {
  isWaiting = false;
  pixels = pixelsOf(strokes);
  draw();
  drawSeen();
  const answers = networks.map((network, column) => show(network, column));
  clearTimeout(telling);
  telling = setTimeout(() => {
    told.textContent = strokes.length ? answers.join(" ") : "The pad is empty.";
  }, 700);
}

/* Fills a column of the table. Returns the answer in words. */
function show(network, column) {
  const isEmpty = strokes.length === 0;
  const shares = Array.from(isEmpty ? new Float64Array(10) : network.probabilities(pixels));
  network.shares = shares;
  const best = shares.indexOf(Math.max(...shares));
  document.getElementById(`answer-${column}`).textContent = isEmpty ? "–" : String(best);
  shares.forEach((share, digit) => {
    const cell = document.getElementById(`share-${column}-${digit}`);
    cell.classList.toggle("best", !isEmpty && digit === best);
    cell.firstElementChild.textContent = isEmpty ? "–" : percent(share);
    cell.lastElementChild.firstElementChild.style.width = `${100 * share}%`;
  });
  return `${network.label}: ${best}, ${percent(shares[best])}.`;
}

function updateSoon() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(update);
}

function clear() {
  strokes = [];
  updateSoon();
}

function place(event) {
  const box = pad.getBoundingClientRect();
  const inside = (value) => Math.min(1, Math.max(0, value));
  return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
}

pad.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  pad.setPointerCapture(event.pointerId);
  pen = null;
  strokes.push([place(event)]);
  updateSoon();
});
pad.addEventListener("pointermove", (event) => {
  if (!pad.hasPointerCapture(event.pointerId)) return;
  strokes[strokes.length - 1].push(place(event));
  updateSoon();
});

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

pad.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (step) {
    pen = pen ?? { x: 0.5, y: 0.5, down: false };
    const inside = (value) => Math.min(0.96, Math.max(0.04, value));
    pen.x = inside(pen.x + 0.04 * step[0]);
    pen.y = inside(pen.y + 0.04 * step[1]);
    if (pen.down) strokes[strokes.length - 1].push([pen.x, pen.y]);
  } else if (event.key === " ") {
    pen = pen ?? { x: 0.5, y: 0.5, down: false };
    pen.down = !pen.down;
    if (pen.down) strokes.push([[pen.x, pen.y]]);
    told.textContent = pen.down ? "The pen is down." : "The pen is up.";
  } else if (event.key === "Delete" || event.key === "Backspace" || event.key === "Escape") {
    pen = null;
    clear();
  } else {
    return;
  }
  event.preventDefault();
  updateSoon();
});
pad.addEventListener("blur", () => {
  pen = null;
  draw();
});

document.getElementById("clear").addEventListener("click", clear);
document.getElementById("undo").addEventListener("click", () => {
  strokes.pop();
  updateSoon();
});
document.querySelectorAll("button[data-digit]").forEach((button) => {
  button.addEventListener("click", () => {
    strokes = strokesOf(EXAMPLES[Number(button.dataset.digit)]);
    updateSoon();
  });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

/* For tests: resolved when the networks have passed their self-tests. */
const ready = Promise.all(
  NETWORKS.map(async ({ label, about, wasm }) => ({ label, ...(await tbnNetwork(about).load(bytesOf(wasm))) })),
).then((loaded) => {
  networks = loaded;
  update();
}).catch((error) => {
  document.getElementById("failed").textContent = `The networks cannot run in this browser: ${error.message}`;
  throw error;
});
