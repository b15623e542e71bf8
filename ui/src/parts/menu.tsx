import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Command } from "./commands";

export interface Opened {
  title: string;
  x: number;
  y: number;
  commands: Command[];
}

/** A menu at a point of the window, which takes the focus and gives it back. */
export function Menu({ menu, close }: { menu: Opened; close: () => void }) {
  const box = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const el = box.current;
    if (!el) return;
    el.style.left = `${Math.max(4, Math.min(menu.x, window.innerWidth - el.offsetWidth - 4))}px`;
    el.style.top = `${Math.max(4, Math.min(menu.y, window.innerHeight - el.offsetHeight - 4))}px`;
    const before = document.activeElement;
    el.querySelector("button")?.focus();
    return () => {
      if (before instanceof HTMLElement && el.contains(document.activeElement)) before.focus({ preventScroll: true });
    };
  }, [menu]);
  useEffect(() => {
    const outside = (e: Event) => !(e.target instanceof Node && box.current?.contains(e.target)) && close();
    window.addEventListener("pointerdown", outside);
    return () => window.removeEventListener("pointerdown", outside);
  }, [close]);
  const onKey = (e: KeyboardEvent) => {
    const items = [...(box.current?.querySelectorAll("button") ?? [])];
    const at = items.indexOf(document.activeElement as HTMLButtonElement);
    e.stopPropagation();
    if (e.key === "Escape" || e.key === "Tab") close();
    else if (e.key === "ArrowDown") items[(at + 1) % items.length]?.focus();
    else if (e.key === "ArrowUp") items[(at - 1 + items.length) % items.length]?.focus();
    else return;
    e.preventDefault();
  };
  return (
    <div ref={box} class="menu popover" role="menu" aria-label={menu.title} onKeyDown={onKey}>
      <p class="mono" aria-hidden="true">{menu.title}</p>
      {menu.commands.map((c) => (
        <button key={c.label} type="button" role="menuitem" tabIndex={-1} onClick={() => { close(); c.run(); }}>
          <span>{c.label}</span>{c.key && <kbd aria-hidden="true">{c.key}</kbd>}
        </button>
      ))}
    </div>
  );
}
