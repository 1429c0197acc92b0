// Quantized networks in a browser or in Node: `edgeq export --format web` writes this module and its networks.
//
//     import { load } from "./edgeq.js";
//     const network = await load("4bit");
//     const { classes } = await network.classify(await createImageBitmap(file));
//
// A network is NAME.json, which says what it takes and makes, and NAME.eqp, its program; the engine is edgeq.wasm, and
// edgeq-relaxed.wasm where a processor has faster instructions. A network that the engine does not run is NAME.onnx, for
// onnxruntime-web. Everything is read beside this module; nothing is sent.

const VERSION = 1;
const ONNXRUNTIME = "onnxruntime-web";
const CODE = {
  integer: ["edgeq.wasm"],
  relaxed: ["edgeq-relaxed.wasm"],
  float: ["edgeq-float.wasm"],
  [ONNXRUNTIME]: ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"],
};
const MOST_PIXELS = 89478485; // of an image, as edgeq takes them anywhere

export class EdgeqError extends Error {
  name = "EdgeqError";
}

// --- what this browser can do ---------------------------------------------------------------------------------------

// The smallest modules with an instruction on vectors, and with a relaxed one.
const head = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10];
const VECTORS = [...head, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const RELAXED = [...head, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11];

const has = (module) => typeof WebAssembly === "object" && WebAssembly.validate(Uint8Array.from(module));

export const supports = { simd: has(VECTORS), relaxed: has(RELAXED) };

// --- files ----------------------------------------------------------------------------------------------------------

async function fetched(name) {
  let response;
  try {
    response = await fetch(new URL(name, import.meta.url));
  } catch (error) {
    throw new EdgeqError(`${name}: cannot be read: ${error.message}`);
  }
  if (!response.ok) throw new EdgeqError(`${name}: cannot be read: the server answers ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

const parsed = (bytes, name) => {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new EdgeqError(`${name}: expected JSON, found something else; export it again`);
  }
};

// What was compiled, by who reads its files: networks of a page share it.
const compiled = new WeakMap();

function once(kind, read, make) {
  if (!compiled.has(read)) compiled.set(read, new Map());
  const known = compiled.get(read);
  if (!known.has(kind)) known.set(kind, make());
  return known.get(kind);
}

const engine = (kind, read) => once(kind, read, async () => WebAssembly.compile(await read(CODE[kind][0])));

const onnxruntime = (read) =>
  once(ONNXRUNTIME, read, async () => {
    const [module, binary] = await Promise.all(CODE[ONNXRUNTIME].map(read));
    const address = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
    const ort = await import(address);
    URL.revokeObjectURL(address);
    Object.assign(ort.env.wasm, { wasmBinary: binary.buffer, numThreads: 1 });
    return ort;
  });

// --- loading --------------------------------------------------------------------------------------------------------

/** Load a network by its name. `read` gets the content of a file by its name; by default it is fetched. `simd` says
 * which instructions are used: "relaxed" and "plain" are those, "auto" is relaxed if the network's known answers come
 * out right to the bit, which not every browser does. */
export async function load(name, { read = fetched, simd = "auto" } = {}) {
  if (!supports.simd) {
    throw new EdgeqError(
      "This browser has no WebAssembly SIMD; expected Chrome 91, Firefox 89, Safari 16.4 or anything newer",
    );
  }
  const about = parsed(await read(`${name}.json`), `${name}.json`);
  if (about.format !== "edgeq-web-network" || about.version !== VERSION) {
    throw new EdgeqError(`${name}.json: expected version ${VERSION} of a network of edgeq for the web; export it again`);
  }
  const [program, answers, labels] = await Promise.all([
    read(about.program),
    read(about.answers.file),
    about.labels === null ? null : read(about.labels).then((bytes) => parsed(bytes, about.labels)),
  ]);
  const open = async (kind) => {
    const runner =
      kind === ONNXRUNTIME
        ? await Session.open(about, await onnxruntime(read), program)
        : new Engine(about, await engine(kind, read), program);
    return new Network(about, kind, runner, answers, labels);
  };
  const exact = about.engine === "integer" && about.answers.allowed === 0;
  if (simd !== "plain" && exact && supports.relaxed) {
    const opened = open("relaxed");
    if (simd === "relaxed") return opened;
    const network = await opened.catch(() => null); // its file may be missing
    if (network && (await network.check(1)).exact) return network;
  }
  return open(about.engine);
}

// --- what runs a network --------------------------------------------------------------------------------------------

class Engine {
  #name;
  #exports;
  #pointers;
  #arena;
  #inputs;
  #outputs;

  constructor(about, module, program) {
    this.#name = about.name;
    this.#exports = new WebAssembly.Instance(module, {}).exports;
    const place = this.#reserve(program.length);
    new Uint8Array(this.#exports.memory.buffer, place, program.length).set(program);
    const wrong = this.#exports.open_program(place, program.length);
    if (wrong) throw new EdgeqError(`${about.program}: ${this.#text(wrong)}; export it again`);
    this.#arena = this.#reserve(about.arena);
    const ends = [...about.inputs, ...about.outputs];
    this.#pointers = this.#reserve(4 * ends.length);
    const places = ends.map((end) => this.#reserve(bytesOf(end)));
    // memory does not grow any more: views of it stay
    const buffer = this.#exports.memory.buffer;
    new Uint32Array(buffer, this.#pointers, places.length).set(places);
    const views = ends.map((end, i) => new TYPES[end.type](buffer, places[i], size(end)));
    this.#inputs = views.slice(0, about.inputs.length);
    this.#outputs = views.slice(about.inputs.length);
    this.memory = buffer.byteLength;
  }

  run(values) {
    values.forEach((array, i) => this.#inputs[i].set(array));
    this.#exports.run_program(this.#pointers, this.#pointers + 4 * values.length, this.#arena);
    return this.#outputs.map((view) => view.slice());
  }

  #reserve(bytes) {
    const place = this.#exports.reserve(bytes);
    if (!place) throw new EdgeqError(`${this.#name}: this browser has no ${bytes} bytes of memory for it`);
    return place;
  }

  #text(place) {
    const bytes = new Uint8Array(this.#exports.memory.buffer, place);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }
}

class Session {
  memory = null; // it does not say

  constructor(about, ort, session) {
    Object.assign(this, { about, ort, session });
  }

  static async open(about, ort, program) {
    try {
      return new Session(about, ort, await ort.InferenceSession.create(program, { executionProviders: ["wasm"] }));
    } catch (error) {
      throw new EdgeqError(`${about.program}: onnxruntime-web cannot open it: ${error.message}`);
    }
  }

  async run(values) {
    const { inputs, outputs } = this.about;
    const taken = inputs.map((end, i) => [end.name, new this.ort.Tensor(end.type, values[i], [1, ...end.shape])]);
    const made = await this.session.run(Object.fromEntries(taken));
    return outputs.map(({ name }) => made[name].data);
  }
}

// --- a network ------------------------------------------------------------------------------------------------------

class Network {
  #runner;
  #answers;

  constructor(about, kind, runner, answers, labels) {
    const simd = kind === "relaxed" ? "relaxed" : "plain";
    Object.assign(this, { about, name: about.name, labels, simd, code: CODE[kind], memory: runner.memory });
    this.#runner = runner;
    this.#answers = answers;
  }

  /** Run it on typed arrays by the names of inputs, or on the only one. Returns the outputs by their names. */
  async run(inputs) {
    const { inputs: taken, outputs: made } = this.about;
    const given = ArrayBuffer.isView(inputs) ? { [taken[0].name]: inputs } : inputs;
    const arrays = taken.map((end) => {
      const values = given[end.name];
      if (!ArrayBuffer.isView(values) || values.length !== size(end)) {
        const found = ArrayBuffer.isView(values) ? `${values.length} numbers` : `${values}`;
        throw new EdgeqError(`${this.name}: expected ${size(end)} numbers of ${end.type} of ${end.name}, found ${found}`);
      }
      return values;
    });
    const outputs = await this.#runner.run(arrays);
    return Object.fromEntries(made.map((end, i) => [end.name, outputs[i]]));
  }

  /** What the network takes of an image, as `edgeq evaluate` prepares it: anything that a canvas can draw. */
  prepare(image) {
    const { preprocess, inputs } = this.about;
    if (!preprocess) throw new EdgeqError(`${this.name}: takes no image; give its inputs to run()`);
    return normalized(cropped(pixelsOf(image), preprocess), preprocess, inputs[0]);
  }

  /** The most probable classes of an image, and how long the network itself took. */
  async classify(image, most = 5) {
    if (!this.about.classes) throw new EdgeqError(`${this.name}: makes no classes; use run()`);
    const input = this.prepare(image);
    const start = performance.now();
    const [scores] = Object.values(await this.run(input));
    return { classes: best(scores, most, this.labels), milliseconds: performance.now() - start };
  }

  /** Run it on images that are computed, and compare all outputs with those of ONNX Runtime. */
  async check(images = this.about.answers.images) {
    const { allowed } = this.about.answers;
    const expected = new Float32Array(this.#answers.slice().buffer);
    const bits = new Uint32Array(expected.buffer);
    let at = 0;
    let equal = 0;
    let error = 0;
    let power = 0;
    for (let number = 0; number < images; number++) {
      const inputs = this.about.inputs.map((end, i) => [end.name, pattern(number * 16 + i, end, this.about.preprocess)]);
      for (const values of Object.values(await this.run(Object.fromEntries(inputs)))) {
        new Uint32Array(values.buffer).forEach((word, i) => {
          equal += word === bits[at + i];
          error += (values[i] - expected[at + i]) ** 2;
          power += expected[at + i] ** 2;
        });
        at += values.length;
      }
    }
    return { images, values: at, equal, exact: equal === at, passed: allowed ? error <= allowed * power : equal === at };
  }
}

const TYPES = { uint8: Uint8Array, float32: Float32Array };
const size = (end) => end.shape.reduce((product, length) => product * length, 1);
const bytesOf = (end) => size(end) * TYPES[end.type].BYTES_PER_ELEMENT;

function best(scores, most, labels) {
  const highest = scores.reduce((a, b) => Math.max(a, b));
  const powers = Array.from(scores, (score) => Math.exp(score - highest));
  const total = powers.reduce((a, b) => a + b);
  return Array.from(scores.keys())
    .sort((a, b) => scores[b] - scores[a] || a - b)
    .slice(0, most)
    .map((index) => ({ index, label: labels?.[index] ?? `class ${index}`, probability: powers[index] / total }));
}

/** Numbers that Python computes as well (edgeq/exporters/web/answers.py): noise on stripes. */
function pattern(number, end, preprocess) {
  const codes = new Uint8Array(size(end));
  for (let i = 0; i < codes.length; i++) codes[i] = (hash(i, number) & 127) + (hash(i >>> 10, number + 8) & 127);
  if (end.type === "uint8") return codes;
  return preprocess ? normalized(codes, preprocess, end, true) : Float32Array.from(codes, (code) => (code - 127.5) / 64);
}

function hash(i, number) {
  let x = (Math.imul(i, 2654435761) + Math.imul(number, 40503)) | 0;
  x = Math.imul(x ^ (x >>> 15), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 24;
}

// --- images ---------------------------------------------------------------------------------------------------------

let canvas;

/** An image as R, G, B, alpha of every pixel. */
function pixelsOf(image) {
  if (image instanceof ImageData) return image;
  const width = image.videoWidth ?? image.displayWidth ?? image.naturalWidth ?? image.width;
  const height = image.videoHeight ?? image.displayHeight ?? image.naturalHeight ?? image.height;
  if (!width || !height) throw new EdgeqError("an image without pixels");
  if (width * height > MOST_PIXELS) throw new EdgeqError(`too large: ${width} x ${height} pixels`);
  canvas ??= new OffscreenCanvas(1, 1);
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Resized and cropped as Pillow does it, to the bit but for tall images, of which some versions of Pillow resize the
 * columns first, so that a few codes differ by one: R, G, B of every pixel. */
function cropped(image, { resize, crop, interpolation }) {
  const [rows, columns] = pair(crop);
  const short = Math.min(image.width, image.height);
  const [high, wide] = Array.isArray(resize)
    ? resize
    : [Math.floor((resize * image.height) / short), Math.floor((resize * image.width) / short)];
  const left = even((wide - columns) / 2);
  const top = even((high - rows) / 2);
  const across = taps(image.width, wide, left, columns, interpolation);
  const down = taps(image.height, high, top, rows, interpolation);
  const first = Math.min(...down.map((tap) => tap.from));
  const last = Math.max(...down.map((tap) => tap.from + tap.weights.length));
  const lines = new Uint8ClampedArray((last - first) * columns * 3);
  for (let y = first; y < last; y++) {
    resample(image.data, y * image.width * 4, 4, across, lines, (y - first) * columns * 3, 3);
  }
  const made = new Uint8ClampedArray(rows * columns * 3);
  const moved = down.map((tap) => ({ ...tap, from: tap.from - first }));
  for (let x = 0; x < columns; x++) resample(lines, x * 3, columns * 3, moved, made, x * 3, columns * 3);
  return made;
}

const pair = (value) => (Array.isArray(value) ? value : [value, value]);
const even = (value) => (value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value)); // as Python rounds
const BITS = 22; // of a weight behind the point

/** One line of three channels. */
function resample(from, start, step, line, to, place, next) {
  for (const tap of line) {
    let [r, g, b] = [1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1)];
    let at = start + tap.from * step;
    for (const weight of tap.weights) {
      r += from[at] * weight;
      g += from[at + 1] * weight;
      b += from[at + 2] * weight;
      at += step;
    }
    to[place] = r >> BITS;
    to[place + 1] = g >> BITS;
    to[place + 2] = b >> BITS;
    place += next;
  }
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : (((x - 5) * x + 8) * x - 4) * -0.5);
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0)],
  bicubic: [2, (x) => (Math.abs(x) < 2 ? cubic(Math.abs(x)) : 0)],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

/** Which pixels each of `count` places from `start` on is made of when `size` become `made`, and their weights. */
function taps(size, made, start, count, interpolation) {
  const scale = size / made;
  return Array.from({ length: count }, (_, i) => {
    const centre = (start + i + 0.5) * scale;
    if (size === made) return { from: start + i, weights: [1 << BITS] };
    if (interpolation === "nearest") return { from: Math.floor(centre), weights: [1 << BITS] };
    const [support, filter] = FILTERS[interpolation];
    const wide = Math.max(scale, 1);
    const from = Math.max(0, Math.trunc(centre - support * wide + 0.5));
    const end = Math.min(size, Math.trunc(centre + support * wide + 0.5));
    const weights = Array.from({ length: end - from }, (_, k) => filter((k + from - centre + 0.5) * (1 / wide)));
    const total = weights.reduce((a, b) => a + b);
    return { from, weights: weights.map((weight) => rounded((total ? weight / total : weight) * (1 << BITS))) };
  });
}

const rounded = (value) => Math.trunc(value < 0 ? value - 0.5 : value + 0.5);

/** R, G, B of every pixel as the input takes them; `placed` are codes that are already in its order. */
function normalized(pixels, { mean, std, channel_order: order, layout }, end, placed = false) {
  const bytes = end.type === "uint8";
  const channels = mean.length;
  const count = size(end) / channels;
  const first = !bytes && layout === "channels_first";
  const made = new TYPES[end.type](size(end));
  for (let c = 0; c < channels; c++) {
    const low = Math.fround(mean[c]);
    const unit = Math.fround(std[c]);
    const source = order === "bgr" && !bytes ? 2 - c : c;
    for (let i = 0; i < count; i++) {
      const at = first ? c * count + i : i * channels + c;
      const code = placed ? pixels[at] : channels === 1 ? gray(pixels, 3 * i) : pixels[3 * i + source];
      made[at] = bytes ? code : Math.fround(Math.fround(Math.fround(code / 255) - low) / unit);
    }
  }
  return made;
}

const gray = (pixels, at) => (pixels[at] * 19595 + pixels[at + 1] * 38470 + pixels[at + 2] * 7471 + 0x8000) >> 16;
