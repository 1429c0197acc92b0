/** What a browser can do. */
export const supports: { readonly simd: boolean; readonly relaxed: boolean };

/** Whatever a caller can cause and mend; its message is one line. */
export class EdgeqError extends Error {}

/** An input or output: `uint8` has its channels last, `float32` first, as the network was exported. */
export interface End {
  readonly name: string;
  readonly shape: readonly number[];
  readonly type: "uint8" | "float32";
}

/** The content of NAME.json. */
export interface About {
  readonly name: string;
  readonly program: string;
  readonly bytes: number;
  /** Null for onnxruntime-web, which does not say. */
  readonly arena: number | null;
  readonly engine: "integer" | "float" | "onnxruntime-web";
  readonly inputs: readonly End[];
  readonly outputs: readonly End[];
  /** How many classes the first output scores; null if it makes none. */
  readonly classes: number | null;
  /** The file with their names. */
  readonly labels: string | null;
  /** How an image becomes the input; null for networks that take none. */
  readonly preprocess: Record<string, unknown> | null;
  readonly answers: { readonly file: string; readonly images: number; readonly allowed: number };
}

export interface Class {
  readonly index: number;
  readonly label: string;
  readonly probability: number;
}

/** How outputs on computed images compare with those of ONNX Runtime, which computed them at the export. */
export interface Check {
  readonly images: number;
  readonly values: number;
  /** Values with the same bits. */
  readonly equal: number;
  readonly exact: boolean;
  /** Whether they are as close as they can be: exact, or, of networks with layers in float, up to rounding. */
  readonly passed: boolean;
}

export type Values = Uint8Array | Uint8ClampedArray | Float32Array;

export interface Network {
  readonly name: string;
  readonly about: About;
  readonly labels: readonly string[] | null;
  /** Which instructions it uses, see `load`. */
  readonly simd: "plain" | "relaxed";
  /** Files of code that it needs besides this module. */
  readonly code: readonly string[];
  /** Bytes of memory that the engine has for it, the program included; null for onnxruntime-web, which does not say. */
  readonly memory: number | null;
  run(inputs: Values | Readonly<Record<string, Values>>): Promise<Record<string, Float32Array>>;
  prepare(image: CanvasImageSource | ImageData): Uint8Array | Float32Array;
  classify(image: CanvasImageSource | ImageData, most?: number): Promise<{ classes: Class[]; milliseconds: number }>;
  /** Compare the outputs of computed images: of all that the export has answers of, or of some. */
  check(images?: number): Promise<Check>;
}

export interface Options {
  /** The content of a file by its name; by default it is fetched from beside this module. */
  read?: (name: string) => Uint8Array | Promise<Uint8Array>;
  /** `relaxed` is faster, but not every browser computes it right: `auto` takes it if known answers come out. */
  simd?: "auto" | "plain" | "relaxed";
}

export function load(name: string, options?: Options): Promise<Network>;
