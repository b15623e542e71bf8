import { useCallback, useEffect, useState } from "preact/hooks";
import { RequestError, type Failure } from "./api";

export interface Loaded<T> {
  /** The last good answer; kept while the next one loads and after it failed. */
  data: T | null;
  failure: Failure | null;
  loading: boolean;
  retry: () => void;
}

/** Loads anew whenever `key` changes, giving up the load before. An empty key loads nothing. */
export function useLoad<T>(key: string, load: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<{ data: T | null; failure: Failure | null; loading: boolean }>({ data: null, failure: null, loading: key !== "" });
  const [attempt, setAttempt] = useState(0);
  const retry = useCallback(() => setAttempt((n) => n + 1), []);
  useEffect(() => {
    if (key === "") {
      setState({ data: null, failure: null, loading: false });
      return;
    }
    const abort = new AbortController();
    setState((s) => ({ ...s, loading: true }));
    load(abort.signal).then(
      (data) => {
        if (!abort.signal.aborted) setState({ data, failure: null, loading: false });
      },
      (err: unknown) => {
        if (!abort.signal.aborted) setState((s) => ({ ...s, failure: RequestError.from(err).failure, loading: false }));
      },
    );
    return () => abort.abort();
  }, [key, attempt]);
  return { ...state, retry };
}
