import { render } from "preact";
import { applyTheme } from "./core/settings";
import { App } from "./ui/app";
import "./style.css";

applyTheme();
render(<App />, document.getElementById("app")!);
