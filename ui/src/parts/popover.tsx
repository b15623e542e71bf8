import type { ComponentChildren } from "preact";
import { useCallback, useEffect, useRef } from "preact/hooks";

interface Props {
  label: string;
  title?: string;
  class?: string;
  /** The content gets a function that closes it. */
  children: (close: () => void) => ComponentChildren;
}

/** A button with a panel below it, closed by Escape, or by a press anywhere else. */
export function Popover({ label, title, class: className = "", children }: Props) {
  const box = useRef<HTMLDetailsElement>(null);
  const close = useCallback(() => {
    if (box.current) box.current.open = false;
  }, []);
  useEffect(() => {
    const outside = (event: Event) => {
      if (!(event.target instanceof Node && box.current?.contains(event.target))) close();
    };
    window.addEventListener("pointerdown", outside);
    return () => window.removeEventListener("pointerdown", outside);
  }, [close]);
  const onKey = (e: KeyboardEvent) => {
    if (e.key !== "Escape" || !box.current?.open) return;
    close();
    e.stopPropagation();
  };
  return (
    <details class={`drop ${className}`} ref={box} onKeyDown={onKey}>
      <summary title={title}>{label}</summary>
      <div class="popover">{children(close)}</div>
    </details>
  );
}
