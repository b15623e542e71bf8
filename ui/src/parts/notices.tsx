import type { ComponentChildren } from "preact";
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
