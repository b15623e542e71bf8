// The page's end of the worker.

import { RequestError } from "../api";
import type { Top } from "../wire";
import { unpackTop } from "./top";
import type { Scale } from "./tree";
import type { Graph, Local, Request, Response, Split } from "./worker";

/** A pattern that runs longer is given up together with its worker. */
const matchTimeoutMs = 3000;

export class PatternError extends Error {}

interface Pending {
  resolve: (response: Response) => void;
  reject: (reason: unknown) => void;
}

/** Omit over each member of a union. */
type Body = Request extends infer R ? (R extends Request ? Omit<R, "id"> : never) : never;

class Channel {
  private worker: Worker | null = null;
  private readonly pending = new Map<number, Pending>();
  private nextId = 1;

  send(body: Body): { id: number; response: Promise<Response> } {
    const id = this.nextId++;
    const response = new Promise<Response>((resolve, reject) => this.pending.set(id, { resolve, reject }));
    this.start().postMessage({ id, ...body });
    return { id, response };
  }

  abort(id: number): void {
    this.worker?.postMessage({ id, kind: "abort" } satisfies Request);
  }

  /** Stops whatever runs; the next send starts anew. */
  terminate(reason: Error): void {
    this.worker?.terminate();
    this.worker = null;
    for (const p of this.pending.values()) p.reject(reason);
    this.pending.clear();
  }

  private start(): Worker {
    if (this.worker) return this.worker;
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    worker.onmessage = (event: MessageEvent<Response>) => {
      this.pending.get(event.data.id)?.resolve(event.data);
      this.pending.delete(event.data.id);
    };
    worker.onerror = (event) => {
      // Also when its script cannot be fetched: there `message` is empty.
      this.terminate(new Error(event.message || "the page's worker script could not be loaded: reload the page"));
    };
    this.worker = worker;
    return worker;
  }
}

// Apart, so that giving up a pattern does not lose a load.
const loader = new Channel();
const matcher = new Channel();

async function load(body: Body, signal: AbortSignal): Promise<Response> {
  const { id, response } = loader.send(body);
  const abort = () => loader.abort(id);
  signal.addEventListener("abort", abort);
  try {
    const r = await response;
    if ("failure" in r) throw new RequestError(r.failure);
    return r;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

const unexpected = () => new Error("unexpected answer of the worker");

/** Fetches and decodes a flame graph. Rejects with RequestError. */
export async function loadGraph(url: string, scale: Scale, signal: AbortSignal): Promise<Graph> {
  const r = await load({ kind: "load", url, scale }, signal);
  if ("graph" in r) return r.graph;
  throw unexpected();
}

/** Reads a file of this machine; `type` is the index of a sample type, -1 for the file's own choice. Rejects with RequestError. */
export async function openFile(file: Blob, type: number, signal: AbortSignal): Promise<Local> {
  const r = await load({ kind: "open", file, type }, signal);
  if ("local" in r) return { ...r.local, top: unpackTop(r.local.top) };
  throw unexpected();
}

/** Fetches the table of functions. Rejects with RequestError. */
export async function loadTop(url: string, signal: AbortSignal): Promise<Top> {
  const r = await load({ kind: "top", url }, signal);
  if ("top" in r) return unpackTop(r.top);
  throw unexpected();
}

/** Fetches and decodes a sandwich. Rejects with RequestError. */
export async function loadSandwich(url: string, signal: AbortSignal): Promise<Split> {
  const r = await load({ kind: "sandwich", url }, signal);
  if ("split" in r) return r.split;
  throw unexpected();
}

/** Settles when the match before has ended: with one at a time in the worker, giving it up loses no other. */
let before: Promise<unknown> = Promise.resolve();

/** For each name 1 if it matches. Rejects with PatternError if the pattern is bad or takes too long; with the signal's reason if aborted before its turn. */
export function match(names: readonly string[], pattern: string, signal: AbortSignal): Promise<Uint8Array> {
  const result = before.then(() => {
    signal.throwIfAborted();
    return matchNow(names, pattern);
  });
  before = result.catch(() => undefined);
  return result;
}

async function matchNow(names: readonly string[], pattern: string): Promise<Uint8Array> {
  const timer = setTimeout(() => matcher.terminate(new PatternError("this pattern takes too long: make it simpler")), matchTimeoutMs);
  try {
    const r = await matcher.send({ kind: "match", names, pattern }).response;
    if ("matched" in r) return r.matched;
    throw new PatternError("syntax" in r ? r.syntax.replace(/^Invalid regular expression: .*: /s, "") : "unexpected answer of the worker");
  } finally {
    clearTimeout(timer);
  }
}
