import type { ComponentChildren } from "preact";
import { useCallback, useEffect, useRef } from "preact/hooks";
import { typing } from "./help";

interface Props {
  label: string;
  title?: string;
  class?: string;
  /** A key that opens it from anywhere. */
  hotkey?: string;
  /** The content gets a function that closes it. */
  children: (close: () => void) => ComponentChildren;
}

/** A button with a panel below it, closed by Escape, or by a press anywhere else. */
export function Popover({ label, title, class: className = "", hotkey, children }: Props) {
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
  useEffect(() => {
    if (!hotkey) return;
    const onKey = (e: KeyboardEvent) => {
      if (e.key !== hotkey || typing(e) || e.ctrlKey || e.metaKey || e.altKey || !box.current) return;
      e.preventDefault();
      box.current.open = true;
      box.current.querySelector<HTMLElement>(".popover button, .popover a, .popover input")?.focus();
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, [hotkey]);
  const onKey = (e: KeyboardEvent) => {
    if (e.key !== "Escape" || !box.current?.open) return;
    close();
    box.current.querySelector("summary")?.focus();
    e.stopPropagation();
  };
  return (
    <details class={`drop ${className}`} ref={box} onKeyDown={onKey}>
      <summary title={title}>{label}</summary>
      <div class="popover">{children(close)}</div>
    </details>
  );
}
