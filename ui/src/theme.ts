import { useEffect, useState } from "preact/hooks";
import type { State } from "./url";

const system = window.matchMedia("(prefers-color-scheme: dark)");

/** Applies a theme to the document and tells whether it is dark; follows the system while it is "auto". */
export function useTheme(theme: State["theme"]): boolean {
  const [systemDark, setSystemDark] = useState(system.matches);
  useEffect(() => {
    const update = () => setSystemDark(system.matches);
    system.addEventListener("change", update);
    return () => system.removeEventListener("change", update);
  }, []);
  const dark = theme === "auto" ? systemDark : theme === "dark";
  // style.css writes its colours with light-dark(), which follows color-scheme.
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  return dark;
}
