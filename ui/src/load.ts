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

/** Loads anew whenever `key` changes, giving up the load before. An empty key loads nothing. */
export function useLoad<T>(key: string, load: (signal: AbortSignal) => Promise<T>): Loaded<T> {
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
    load(abort.signal).then(
      (data) => {
        if (!abort.signal.aborted) setState({ ...idle, data });
      },
      (err: unknown) => {
        if (!abort.signal.aborted) setState((s) => ({ ...idle, data: s.data, failure: RequestError.from(err).failure }));
      },
    );
    return () => abort.abort();
  }, [key, attempt]);
  return { ...state, retry, cancel };
}
