import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Failure } from "../api";

/** A request that failed: the server's words, its request ID, and a way on. */
export function ErrorNote({ what, failure, retry }: { what: string; failure: Failure; retry: () => void }) {
  return (
    <div class="note error" role="alert">
      <span>
        <strong>{what}:</strong> {failure.message}
        {failure.requestId && <span class="muted"> Request {failure.requestId}</span>}
      </span>
      <button type="button" onClick={retry}>Retry</button>
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children && <p>{children}</p>}
    </div>
  );
}

/** A load that was given up; `kept` says that the answer before it is still shown. */
export function Cancelled({ kept, load }: { kept: boolean; load: () => void }) {
  return (
    <div class="note" role="status">
      <span>Cancelled: {kept ? "this is still the answer before." : "nothing was loaded."}</span>
      <button type="button" onClick={load}>Load</button>
    </div>
  );
}

/** An answer that takes this long is worth a word. */
const patienceMs = 400;

/** Over what is being loaded anew: for how long already, and a way to give up. */
export function Busy({ cancel }: { cancel: () => void }) {
  const [begun] = useState(() => performance.now());
  const [now, setNow] = useState(begun);
  useEffect(() => {
    const timer = setInterval(() => setNow(performance.now()), 100);
    return () => clearInterval(timer);
  }, []);
  if (now - begun < patienceMs) return null;
  return (
    <div class="busy" role="status">
      <span>Loading</span> <span class="seconds" aria-hidden="true">{((now - begun) / 1e3).toFixed(1)} s</span>
      <button type="button" onClick={cancel}>Cancel</button>
    </div>
  );
}
