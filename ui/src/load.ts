import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { RequestError, type Failure } from "./api";

export interface Loaded<T> {
  /** The last good answer; kept while the next one loads and after it failed. */
  data: T | null;
  failure: Failure | null;
  loading: boolean;
  /** Given up by the user: `data` is of an earlier question. */
  cancelled: boolean;
  retry: () => void;
  cancel: () => void;
}

/** How many loads the page waits for. */
let running = 0;

export function isLoading(): boolean {
  return running > 0;
}

/** Loads anew whenever `key` or `tick` changes, giving up the load before. An empty key loads nothing. */
export function useLoad<T>(key: string, load: (signal: AbortSignal) => Promise<T>, tick = 0): Loaded<T> {
  const idle = { failure: null, loading: false, cancelled: false };
  const [state, setState] = useState<Pick<Loaded<T>, "data" | "failure" | "loading" | "cancelled">>({ ...idle, data: null, loading: key !== "" });
  const [attempt, setAttempt] = useState(0);
  const current = useRef<AbortController | null>(null);
  const retry = useCallback(() => setAttempt((n) => n + 1), []);
  const cancel = useCallback(() => {
    current.current?.abort();
    setState((s) => (s.loading ? { ...s, loading: false, cancelled: true } : s));
  }, []);
  useEffect(() => {
    if (key === "") {
      setState({ ...idle, data: null });
      return;
    }
    const abort = new AbortController();
    current.current = abort;
    setState((s) => ({ ...s, loading: true, cancelled: false }));
    running++;
    load(abort.signal).finally(() => running--).then(
      (data) => {
        if (!abort.signal.aborted) setState({ ...idle, data });
      },
      (err: unknown) => {
        if (!abort.signal.aborted) setState((s) => ({ ...idle, data: s.data, failure: RequestError.from(err).failure }));
      },
    );
    return () => abort.abort();
  }, [key, attempt, tick]);
  return { ...state, retry, cancel };
}
