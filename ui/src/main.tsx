import { render } from "preact";
import { Shell } from "./shell";
import "./style.css";

const root = document.getElementById("app");
if (!root) throw new Error("index.html has no #app");
render(<Shell />, root);
