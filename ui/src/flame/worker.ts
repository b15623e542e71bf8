// The worker: fetches and decodes flame graphs, and runs search patterns, so that neither a large answer nor
// a costly pattern holds up the page.

import { get, getJson, RequestError, type Failure } from "../api";
import type { Sandwich, Source } from "../wire";
import { columnsType, decodeColumns } from "./columns";
import { matchNames } from "./search";
import { buffers, decode, type Scale, type Tree } from "./tree";

export type Request =
  | { id: number; kind: "load"; url: string; scale: Scale }
  | { id: number; kind: "sandwich"; url: string }
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

export type Response =
  | { id: number; graph: Graph }
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
    case "sandwich":
      void load(id, async (signal) => {
        const { caller_graph, callee_graph, ...sandwich } = await getJson<Sandwich>(request.url, signal);
        const split: Split = { sandwich, callers: decode(caller_graph), callees: decode(callee_graph) };
        answer({ id, split }, [...buffers(split.callers), ...buffers(split.callees)]);
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

/** What the columns leave to the headers. */
function sourceOf(headers: Headers): Source {
  const number = (name: string) => Number(headers.get(`Pilotlight-${name}`) ?? 0);
  const removed = headers.get("Pilotlight-Removed");
  return { profiles: number("Profiles"), damaged: number("Damaged"), removed: removed ? removed.split(",").map(Number) : [] };
}

function answer(response: Response, transfer: Transferable[] = []): void {
  self.postMessage(response, { transfer });
}
