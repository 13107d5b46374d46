/** The frame around every view: who you are, where you can go, what is unsaved. */

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { session } from "../core/api";
import type { Outbox } from "../core/outbox";
import { set, settings } from "../core/settings";
import { useSignal } from "../core/signal";
import type { User } from "../core/types";
import { theOutbox } from "../core/world";
import { ConflictsDialog } from "./conflicts";
import { InviteView, LoginAgain, LoginView, Logo, SetupView, Unreachable } from "./gate";
import { HomeView } from "./home";
import { JobsView, JobView } from "./jobs";
import { SettingsView } from "./settingsview";
import { TaskView } from "./taskview";
import { TeamView } from "./team";
import { VideosView } from "./videos";
import { Problem, count } from "./widgets";

function useHash(): string[] {
  const read = (): string[] => location.hash.replace(/^#\/?/, "").split("/");
  const [parts, setParts] = useState(read);
  useEffect(() => {
    const changed = (): void => setParts(read());
    window.addEventListener("hashchange", changed);
    return () => window.removeEventListener("hashchange", changed);
  }, []);
  return parts;
}

export function App(): JSX.Element {
  const gate = useSignal(session.gate);
  const [page = "", argument = ""] = useHash();
  useEffect(() => {
    void session.ask();
  }, []);
  useEffect(() => {
    if (gate !== "unreachable") return;
    const timer = setInterval(() => void session.ask(), 3000);
    return () => clearInterval(timer);
  }, [gate]);
  if (gate === "asking") return <main class="gate" aria-busy="true" />;
  if (gate === "unreachable") return <Unreachable />;
  if (gate === "setup") return <SetupView token={page === "setup" ? argument : ""} />;
  if (gate === "login") return page === "invite" ? <InviteView token={argument} /> : <LoginView />;
  return (
    <>
      <Workplace page={page} argument={argument} />
      {gate === "expired" && <LoginAgain />}
    </>
  );
}

function Workplace({ page, argument }: { page: string; argument: string }): JSX.Element {
  const user = useSignal(session.user)!;
  const [outbox, setOutbox] = useState<Outbox>();
  const [error, setError] = useState("");
  useEffect(() => {
    theOutbox().then(setOutbox, (problem: unknown) => {
      setError(`This browser cannot keep unsaved labels (${String(problem)}). Leave private mode or use another browser.`);
    });
  }, []);
  return (
    <div class={page === "task" ? "app app-task" : "app"}>
      <Header page={page} user={user} outbox={outbox} />
      <Problem text={error} />
      {outbox && <View page={page} argument={argument} user={user} outbox={outbox} />}
    </div>
  );
}

function View({ page, argument, user, outbox }: { page: string; argument: string; user: User; outbox: Outbox }): JSX.Element {
  const admin = user.role === "admin";
  const id = Number(argument);
  if (page === "task") return <TaskView key={id} id={id} user={user} outbox={outbox} />;
  if (page === "settings") return <SettingsView />;
  if (page === "videos" && user.role !== "annotator") return <VideosView user={user} />;
  if (page === "team" && admin) return <TeamView />;
  if (page === "jobs" && user.role !== "annotator") return argument ? <JobView key={id} id={id} user={user} /> : <JobsView user={user} />;
  return <HomeView user={user} />;
}

const PLACES: { page: string; title: string; roles: string[] }[] = [
  { page: "", title: "Tasks", roles: ["admin", "annotator", "reviewer"] },
  { page: "jobs", title: "Jobs", roles: ["admin", "reviewer"] },
  { page: "videos", title: "Videos", roles: ["admin", "reviewer"] },
  { page: "team", title: "Team", roles: ["admin"] },
];

function Header({ page, user, outbox }: { page: string; user: User; outbox: Outbox | undefined }): JSX.Element {
  return (
    <header class="top">
      <a href="#/" class="home-link" aria-label="rallytrace, home">
        <Logo />
      </a>
      <nav aria-label="Main">
        {PLACES.filter((place) => place.roles.includes(user.role)).map((place) => (
          <a key={place.page} href={`#/${place.page}`} aria-current={place.page === page ? "page" : undefined}>
            {place.title}
          </a>
        ))}
      </nav>
      <span class="spring" />
      {outbox && <Saved outbox={outbox} />}
      <ThemeButton />
      <a class="who" href="#/settings" aria-current={page === "settings" ? "page" : undefined} title="Settings">
        <span class="avatar" aria-hidden="true">
          {user.name.slice(0, 1).toUpperCase()}
        </span>
        <span class="who-name">{user.name}</span>
      </a>
    </header>
  );
}

function ThemeButton(): JSX.Element {
  const { theme } = useSignal(settings);
  const next = { system: "dark", dark: "light", light: "system" } as const;
  const sign = { system: "◐", dark: "☾", light: "☀" } as const;
  return (
    <button class="quiet" aria-label={`Theme: ${theme}. Change to ${next[theme]}`} title={`Theme: ${theme}`} onClick={() => set({ theme: next[theme] })}>
      {sign[theme]}
    </button>
  );
}

/** The counter of what no server has yet; conflicts wait behind it. */
function Saved({ outbox }: { outbox: Outbox }): JSX.Element {
  const { unsaved, conflicts, rejected, trouble } = useSignal(outbox.state);
  const [open, setOpen] = useState(false);
  const questions = conflicts.length + rejected.length;
  const text = unsaved === 0 ? "Saved" : `${count(unsaved, "label")} unsaved${trouble ? ` · ${trouble}` : ""}`;
  return (
    <>
      <span class={`saved ${unsaved === 0 ? "saved-all" : trouble ? "saved-trouble" : "saved-some"}`} role="status" data-unsaved={unsaved} title={trouble ? "They are safe in this browser and are sent when the server answers" : ""}>
        {text}
      </span>
      {questions > 0 && (
        <button class="danger" onClick={() => setOpen(true)}>
          {conflicts.length > 0 ? count(conflicts.length, "conflict") : `${rejected.length} refused`}
        </button>
      )}
      {open && questions > 0 && <ConflictsDialog outbox={outbox} onClose={() => setOpen(false)} />}
    </>
  );
}
