// Requests to the HTTP API. Shared by the page and the worker, so nothing here touches the DOM.

import type { ErrorBody } from "./wire";

/** A failed request in a form that can be posted between threads. */
export interface Failure {
  code: string;
  message: string;
  param: string;
  requestId: string;
  aborted: boolean;
}

export class RequestError extends Error {
  constructor(readonly failure: Failure) {
    super(failure.message);
  }

  static from(err: unknown): RequestError {
    if (err instanceof RequestError) return err;
    const aborted = err instanceof DOMException && err.name === "AbortError";
    let message = err instanceof Error ? err.message : String(err);
    // fetch rejects with a TypeError, worded differently by each browser, when no answer came at all.
    if (err instanceof TypeError) message = "The server did not answer. Is it running?";
    return new RequestError({ code: "", message, param: "", requestId: "", aborted });
  }
}

/** GETs JSON. Rejects with RequestError, which carries the server's own message and request ID. */
export function getJson<T>(url: string, signal: AbortSignal): Promise<T> {
  return get(url, "application/json", signal, async (response) => (await response.json()) as T);
}

/** GETs something of a media type. Rejects with RequestError. */
export async function get<T>(url: string, type: string, signal: AbortSignal, read: (response: Response) => Promise<T>): Promise<T> {
  try {
    const response = await fetch(url, { signal, headers: { Accept: type } });
    if (!response.ok) throw await refused(response);
    return await read(response);
  } catch (err) {
    throw RequestError.from(err);
  }
}

async function refused(response: Response): Promise<RequestError> {
  const fallback: Failure = {
    code: String(response.status),
    message: `The server answered ${response.status} ${response.statusText}.`,
    param: "",
    requestId: response.headers.get("X-Request-Id") ?? "",
    aborted: false,
  };
  let body: Partial<ErrorBody>;
  try {
    body = (await response.json()) as Partial<ErrorBody>;
  } catch {
    return new RequestError(fallback); // not JSON: a proxy between us and the server spoke
  }
  if (!body.error) return new RequestError(fallback);
  const { code, message, param, request_id } = body.error;
  return new RequestError({ ...fallback, code, message, param: param ?? "", requestId: request_id ?? fallback.requestId });
}

export type Params = Record<string, string | readonly string[] | undefined>;

/** A path of the API with its parameters; empty ones are left out, lists are repeated. */
export function apiUrl(path: string, params: Params): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const text of typeof value === "string" ? [value] : value ?? []) {
      if (text) query.append(name, text);
    }
  }
  const q = query.toString();
  return `/api/v1/${path}${q ? "?" + q : ""}`;
}
