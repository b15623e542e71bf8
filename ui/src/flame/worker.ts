// The worker: fetches and decodes flame graphs, and runs search patterns, so that neither a large answer nor
// a costly pattern holds up the page.

import { get, getJson, RequestError, type Failure } from "../api";
import type { Sandwich, Source, Top } from "../wire";
import { columnsType, decodeColumns } from "./columns";
import { build, readProfile, type ValueType } from "./profile";
import { matchNames } from "./search";
import { packTop, topBuffers, type PackedTop } from "./top";
import { buffers, decode, type Scale, type Tree } from "./tree";

export type Request =
  | { id: number; kind: "load"; url: string; scale: Scale }
  | { id: number; kind: "top"; url: string }
  | { id: number; kind: "sandwich"; url: string }
  /** `type` is the index of a sample type; -1 for the one that the file prefers. */
  | { id: number; kind: "open"; file: Blob; type: number }
  | { id: number; kind: "abort" }
  | { id: number; kind: "match"; names: readonly string[]; pattern: string };

/** A flame graph and what it was made from. */
export interface Graph {
  tree: Tree;
  source: Source;
}

/** A function between the trees of its callers and of its callees. */
export interface Split {
  sandwich: Omit<Sandwich, "caller_graph" | "callee_graph">;
  callers: Tree;
  callees: Tree;
}

/** What a local file holds of one of its sample types. */
export interface Local<Table = Top> {
  tree: Tree;
  top: Table;
  types: ValueType[];
  type: number;
}

export type Response =
  | { id: number; local: Local<PackedTop> }
  | { id: number; graph: Graph }
  | { id: number; top: PackedTop }
  | { id: number; split: Split }
  | { id: number; matched: Uint8Array }
  | { id: number; failure: Failure }
  /** A bad pattern: the engine's words. */
  | { id: number; syntax: string };

const loads = new Map<number, AbortController>();

self.onmessage = (event: MessageEvent<Request>) => {
  const request = event.data;
  const { id } = request;
  switch (request.kind) {
    case "abort":
      loads.get(id)?.abort();
      break;
    case "load":
      void load(id, async (signal) => {
        const graph = await get(request.url, columnsType, signal, async (response) => ({
          tree: decode(decodeColumns(new Uint8Array(await response.arrayBuffer())), request.scale),
          source: sourceOf(response.headers),
        }));
        answer({ id, graph }, buffers(graph.tree));
      });
      break;
    case "top":
      void load(id, async (signal) => {
        const top = packTop(await getJson<Top>(request.url, signal));
        answer({ id, top }, topBuffers(top));
      });
      break;
    case "sandwich":
      void load(id, async (signal) => {
        const { caller_graph, callee_graph, ...sandwich } = await getJson<Sandwich>(request.url, signal);
        const split: Split = { sandwich, callers: decode(caller_graph), callees: decode(callee_graph) };
        answer({ id, split }, [...buffers(split.callers), ...buffers(split.callees)]);
      });
      break;
    case "open":
      void load(id, async (signal) => {
        const profile = readProfile(await inflate(request.file, signal));
        const type = request.type < 0 ? profile.preferred : request.type;
        const { graph, top } = build(profile, type);
        const local: Local<PackedTop> = { tree: decode(graph), top: packTop(top), types: profile.types, type };
        answer({ id, local }, [...buffers(local.tree), ...topBuffers(local.top)]);
      });
      break;
    case "match":
      try {
        const matched = matchNames(request.names, request.pattern);
        answer({ id, matched }, [matched.buffer as ArrayBuffer]);
      } catch (err) {
        answer({ id, syntax: err instanceof Error ? err.message : String(err) });
      }
  }
};

/** Runs a load that "abort" ends, and answers with what went wrong if something did. */
async function load(id: number, run: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const abort = new AbortController();
  loads.set(id, abort);
  try {
    await run(abort.signal);
  } catch (err) {
    answer({ id, failure: RequestError.from(err).failure });
  } finally {
    loads.delete(id);
  }
}

/** More than a browser tab can hold as a tree. */
const maxBytes = 1 << 30;

/** The bytes of a file, unpacked if it is gzipped. */
async function inflate(file: Blob, signal: AbortSignal): Promise<Uint8Array> {
  const head = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  const gzipped = head[0] === 0x1f && head[1] === 0x8b;
  const stream: ReadableStream<Uint8Array> = gzipped ? file.stream().pipeThrough(new DecompressionStream("gzip")) : file.stream();
  const chunks: Uint8Array[] = [];
  let length = 0;
  const reader = stream.getReader();
  for (let r = await reader.read(); !r.done; r = await reader.read()) {
    signal.throwIfAborted();
    chunks.push(r.value);
    if ((length += r.value.length) > maxBytes) throw new Error("the file is larger than 1 GiB: open it with go tool pprof");
  }
  const out = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    out.set(chunk, at);
    at += chunk.length;
  }
  return out;
}

/** What the columns leave to the headers. */
function sourceOf(headers: Headers): Source {
  const number = (name: string) => Number(headers.get(`Pilotlight-${name}`) ?? 0);
  const removed = headers.get("Pilotlight-Removed");
  return { profiles: number("Profiles"), damaged: number("Damaged"), removed: removed ? removed.split(",").map(Number) : [] };
}

function answer(response: Response, transfer: Transferable[] = []): void {
  self.postMessage(response, { transfer });
}
