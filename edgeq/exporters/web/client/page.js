// The page of some networks: an image or the camera, and what each network makes of it.
import { EdgeqError, load, supports } from "./edgeq.js";

const element = (id) => document.getElementById(id);
const view = element("view");
const camera = element("camera");
const video = element("video");
const cards = [];

const made = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

const complain = (text) => {
  element("problem").textContent = text;
};

// --- files of a page in a single file -------------------------------------------------------------------------------

async function embedded(name) {
  const held = element(name);
  if (!held) throw new EdgeqError(`${name}: expected it in this page, found nothing; export it again`);
  const text = held.textContent;
  const packed = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function beside(name) {
  const response = await fetch(name);
  if (!response.ok) throw new EdgeqError(`${name}: cannot be read: the server answers ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

const read = element("page.json") ? embedded : beside;

// --- a card for each network ----------------------------------------------------------------------------------------

const size = (bytes) =>
  bytes < 1e6 ? `${(bytes / 1e3).toFixed(bytes < 1e4 ? 1 : 0)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
const count = (number) => number.toLocaleString("en");

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

class Card {
  times = [];

  constructor(network, check) {
    this.network = network;
    const { about, memory } = network;
    const held = memory === null ? "by onnxruntime-web" : `${size(memory)} of memory`;
    this.time = made("span", { className: "time" });
    this.classes = made("ol", { className: "classes" }, made("li", { className: "empty", textContent: "No image yet" }));
    if (!about.classes) this.classes.firstChild.textContent = "Makes no classes: use edgeq.js for its outputs";
    this.node = made(
      "article",
      { ariaLabel: `Network ${network.name}` },
      made("header", {}, made("h2", { textContent: network.name }), this.time),
      made("p", { className: "facts", textContent: `${size(about.bytes)} · ${held}` }),
      this.classes,
      Card.#checked(check),
    );
  }

  static async of(network) {
    return new Card(network, await network.check());
  }

  /** Whether it answers as ONNX Runtime does. */
  static #checked(found) {
    const what = `${count(found.equal)} of ${count(found.values)} outputs`;
    let text = `✓ Self-test: ${what} equal ONNX Runtime's, to the bit`;
    if (!found.exact) text = `✓ Self-test: as ONNX Runtime up to rounding, ${what} to the bit`;
    if (!found.passed) text = `✗ Self-test: only ${what} equal ONNX Runtime's; do not trust this page in this browser`;
    return made("p", { className: found.passed ? "check" : "check failed", textContent: text });
  }

  async show(image, keep) {
    const { classes, milliseconds } = await this.network.classify(image);
    this.times = [...(keep ? this.times : []), milliseconds].slice(-15);
    this.time.textContent = `${median(this.times).toFixed(1)} ms`;
    this.classes.replaceChildren(
      ...classes.map(({ label, probability }) => {
        const bar = made("span", { className: "bar" });
        bar.style.setProperty("--share", probability);
        const text = made(
          "span",
          { className: "text" },
          made("span", { className: "label", textContent: label, title: label }),
          made("span", { className: "share", textContent: `${(100 * probability).toFixed(1)} %` }),
        );
        return made("li", {}, bar, text);
      }),
    );
  }
}

// --- images ---------------------------------------------------------------------------------------------------------

/** Draw the part of an image that the networks see. */
function draw(image, width, height, { resize, crop }) {
  const [rows, columns] = [crop].flat().length > 1 ? crop : [crop, crop];
  const short = Math.min(width, height);
  const [high, wide] = Array.isArray(resize) ? resize : [(resize * height) / short, (resize * width) / short];
  view.height = Math.round((view.width * rows) / columns);
  const [seenWide, seenHigh] = [(width * columns) / wide, (height * rows) / high];
  const context = view.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(
    image, (width - seenWide) / 2, (height - seenHigh) / 2, seenWide, seenHigh, 0, 0, view.width, view.height,
  );
  element("drop").classList.add("full");
}

let asked = 0; // what the reader asked for last: nothing else is shown
let showing = Promise.resolve();

/** Show what is still asked for, once what was shown before is done. */
function show(mine, ...what) {
  showing = showing.catch(() => {}).then(() => (mine === asked ? shown(...what) : undefined));
  return showing;
}

async function shown(image, width, height, name, keep) {
  const seeing = cards.filter((card) => card.network.about.classes && card.network.about.preprocess);
  if (!seeing.length) throw new EdgeqError("These networks take no images");
  draw(image, width, height, seeing[0].network.about.preprocess);
  view.ariaLabel = name;
  for (const card of seeing) await card.show(image, keep);
}

async function open(file) {
  stop();
  complain("");
  const mine = asked;
  const name = file.name || "What was pasted";
  let image;
  try {
    image = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    if (mine === asked) complain(`${name}: expected an image that this browser can read, found another file`);
    return;
  }
  try {
    await ready;
  } catch {
    return; // which the page has said
  }
  try {
    for (let run = 0; run < 10 && mine === asked; run++) {
      await show(mine, image, image.width, image.height, name, run > 0);
      await new Promise((resolve) => setTimeout(resolve)); // what was found first is seen at once
    }
  } catch (error) {
    complain(error.message);
  }
}

function take(items) {
  const files = [...(items ?? [])].filter((file) => file.type.startsWith("image/") || items.length === 1);
  if (files.length) open(files[0]);
  else complain("Expected an image, found none");
}

// --- the camera -----------------------------------------------------------------------------------------------------

const REFUSED = {
  NotAllowedError: "The camera was refused: allow it in the settings of this page, or choose a file",
  NotFoundError: "No camera was found: choose a file",
  NotReadableError: "Another program uses the camera: close it, or choose a file",
};

async function film() {
  stop();
  complain("");
  const mine = asked;
  if (!navigator.mediaDevices) {
    complain("Browsers give the camera to pages from https or localhost alone: open it from there, or choose a file");
    return;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, facingMode: "environment" } });
    if (mine !== asked) {
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    if (mine !== asked) return;
    stop();
    complain(REFUSED[error.name] ?? `The camera cannot be used: ${error.message}`);
    return;
  }
  camera.ariaPressed = "true";
  camera.textContent = "Stop the camera";
  let keep = false;
  const frame = async () => {
    if (mine !== asked) return;
    try {
      await show(mine, video, video.videoWidth, video.videoHeight, "The camera", keep);
    } catch (error) {
      stop();
      complain(error.message);
    }
    keep = true;
    requestAnimationFrame(frame);
  };
  frame();
}

function stop() {
  asked++;
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  camera.ariaPressed = "false";
  camera.textContent = "Use the camera";
}

// --- start ----------------------------------------------------------------------------------------------------------

function listen() {
  const drop = element("drop");
  element("file").addEventListener("change", (event) => take(event.target.files));
  camera.addEventListener("click", () => (video.srcObject ? stop() : film()));
  addEventListener("paste", (event) => take(event.clipboardData.files));
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) addEventListener(kind, () => drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}

async function start() {
  const page = JSON.parse(new TextDecoder().decode(await read("page.json")));
  const networks = [];
  for (const name of page.networks) networks.push(await load(name, { read }));
  for (const network of networks) cards.push(await Card.of(network));
  element("networks").replaceChildren(...cards.map((card) => card.node));
  const code = ["edgeq.js", ...new Set(networks.flatMap(({ code }) => code))].map((file) => `${size(page.code[file])} ${file}`);
  const relaxed = networks.filter(({ simd }) => simd === "relaxed").map(({ name }) => name);
  const how = relaxed.length ? `relaxed SIMD for ${relaxed.join(", ")}, as the self-test is exact` : "SIMD";
  element("about").replaceChildren(
    made("p", { textContent: `Code: ${code.join(", ")}. One thread, ${how}. Times are the network's alone, medians.` }),
    made("p", { textContent: document.querySelector("meta[name=generator]").content }),
  );
  globalThis.edgeq = { networks, load, supports };
}

const ready = start();
listen(); // an image that is chosen while networks are loading waits for them
try {
  await ready;
  camera.disabled = false;
} catch (error) {
  element("networks").replaceChildren();
  element("file").disabled = true;
  complain(error.message);
}
document.documentElement.dataset.state = element("problem").textContent ? "failed" : "ready";
