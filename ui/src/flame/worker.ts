// The worker: fetches and decodes flame graphs, and runs search patterns, so that neither a large answer nor
// a costly pattern holds up the page.

import type { FlameGraph } from "../wire";
import { getJson, RequestError, type Failure } from "../api";
import { matchNames } from "./search";
import { buffers, decode, type Tree } from "./tree";

export type Request =
  | { id: number; kind: "load"; url: string }
  | { id: number; kind: "abort" }
  | { id: number; kind: "match"; names: readonly string[]; pattern: string };

export type Response =
  | { id: number; tree: Tree }
  | { id: number; matched: Uint8Array }
  | { id: number; failure: Failure }
  /** A bad pattern: the engine's words. */
  | { id: number; syntax: string };

const loads = new Map<number, AbortController>();

self.onmessage = async (event: MessageEvent<Request>) => {
  const request = event.data;
  switch (request.kind) {
    case "abort":
      loads.get(request.id)?.abort();
      break;
    case "load": {
      const abort = new AbortController();
      loads.set(request.id, abort);
      try {
        const tree = decode(await getJson<FlameGraph>(request.url, abort.signal));
        answer({ id: request.id, tree }, buffers(tree));
      } catch (err) {
        answer({ id: request.id, failure: RequestError.from(err).failure });
      } finally {
        loads.delete(request.id);
      }
      break;
    }
    case "match":
      try {
        const matched = matchNames(request.names, request.pattern);
        answer({ id: request.id, matched }, [matched.buffer as ArrayBuffer]);
      } catch (err) {
        answer({ id: request.id, syntax: err instanceof Error ? err.message : String(err) });
      }
  }
};

function answer(response: Response, transfer: Transferable[] = []): void {
  self.postMessage(response, { transfer });
}
