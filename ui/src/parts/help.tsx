import { useEffect, useRef } from "preact/hooks";

const keys: [string, string][] = [
  ["/", "Search the flame graph"],
  ["n, N", "Next and previous match"],
  ["← → ↑ ↓", "Sibling, parent, child"],
  ["Enter", "Zoom into the frame"],
  ["Esc, Backspace", "Zoom out by one frame"],
  ["0", "Show everything"],
  ["s", "Sandwich: the frame between callers and callees"],
  ["f, x, h", "Focus on, ignore, hide the frame"],
  ["c", "Copy the frame's name"],
  ["i", "Inverted: from the innermost functions upwards"],
  ["r", "Collapse recursion"],
  ["d", "Compare with the period before"],
  ["t", "The table beside the graph"],
  ["e", "Export"],
  ["Shift+F10", "Menu of the frame"],
  ["?", "This list"],
];

/** True while the keys belong to a field one types in. */
export function typing(event: KeyboardEvent): boolean {
  const target = event.target;
  return target instanceof HTMLElement && (target.matches("input, textarea, select") || target.isContentEditable);
}

export function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const open = (event: KeyboardEvent) => {
      if (event.key !== "?" || typing(event)) return;
      event.preventDefault();
      dialog.current?.showModal();
    };
    window.addEventListener("keydown", open);
    return () => window.removeEventListener("keydown", open);
  }, []);
  return (
    <>
      <button type="button" aria-label="Keys" title="Keys (?)" onClick={() => dialog.current?.showModal()}>?</button>
      <dialog ref={dialog} aria-label="Keys" onClick={(e) => e.target === e.currentTarget && e.currentTarget.close()}>
        <div class="help">
          <h2>Keys</h2>
          <dl>
            {keys.map(([key, what]) => (
              <div key={key}><dt>{key.split(", ").map((k) => <kbd key={k}>{k}</kbd>)}</dt><dd>{what}</dd></div>
            ))}
          </dl>
          <p class="muted">Click a frame to zoom in, right-click it for its menu. Drag across the time series to select a range, double-click it to clear.</p>
          <form method="dialog"><button>Close</button></form>
        </div>
      </dialog>
    </>
  );
}
