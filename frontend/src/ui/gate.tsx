/** Before the workspace: the first admin, the login, an invitation. */

import type { ComponentChildren, JSX } from "preact";
import { useState } from "preact/hooks";
import { api, session } from "../core/api";
import { useSignal } from "../core/signal";
import type { Me } from "../core/types";
import { Dialog, Field, Problem, useAction } from "./widgets";

function Card({ title, lead, children }: { title: string; lead: ComponentChildren; children: ComponentChildren }): JSX.Element {
  return (
    <main class="gate">
      <div class="gate-card">
        <Logo />
        <h1>{title}</h1>
        <p class="lead">{lead}</p>
        {children}
      </div>
    </main>
  );
}

export function Logo(): JSX.Element {
  return (
    <span class="logo">
      <img src="./ball.svg" alt="" width="22" height="22" /> rallytrace
    </span>
  );
}

interface FormProps { button: string; path: string; extra?: Record<string, string>; fresh: boolean; name?: string }

/** Name and password; what comes back is a session. */
function Credentials({ button, path, extra, fresh, name: fixed }: FormProps): JSX.Element {
  const [name, setName] = useState(fixed ?? "");
  const [password, setPassword] = useState("");
  const { busy, error, act } = useAction();
  const submit = (event: Event): void => {
    event.preventDefault();
    act(async () => {
      const me = await api<Me>("POST", path, { ...extra, name, password });
      session.open(me);
      if (/^#\/(setup|invite|login)/.test(location.hash)) location.hash = "#/";
    });
  };
  return (
    <form onSubmit={submit}>
      <Field label="Name">
        <input name="name" required autoFocus={!fixed} autocomplete="username" readOnly={fixed !== undefined} value={name} onInput={(e) => setName(e.currentTarget.value)} />
      </Field>
      <Field label="Password" {...(fresh ? { hint: "At least 10 characters; a sentence is good." } : {})}>
        <input name="password" type="password" required autoFocus={fixed !== undefined} autocomplete={fresh ? "new-password" : "current-password"} value={password} onInput={(e) => setPassword(e.currentTarget.value)} />
      </Field>
      <Problem text={error} />
      <button class="primary block" disabled={busy}>
        {busy ? "One moment …" : button}
      </button>
    </form>
  );
}

export function SetupView({ token }: { token: string }): JSX.Element {
  if (!token) {
    return (
      <Card title="Almost there" lead="This project has no administrator yet. Open the link that the terminal printed when the server started: it ends in /#/setup/ and a token.">
        <span />
      </Card>
    );
  }
  return (
    <Card title="Welcome" lead="Make the first account of this project. It is the administrator: it adds videos, makes jobs and invites others.">
      <Credentials button="Create the account" path="/api/setup" extra={{ token }} fresh />
    </Card>
  );
}

export function InviteView({ token }: { token: string }): JSX.Element {
  return (
    <Card title="You are invited" lead="Choose the name that your team will see, and a password.">
      <Credentials button="Join the team" path="/api/invites/accept" extra={{ token }} fresh />
    </Card>
  );
}

export function LoginView(): JSX.Element {
  return (
    <Card title="Log in" lead="Label the ball, frame by frame, fast.">
      <Credentials button="Log in" path="/api/login" fresh={false} />
    </Card>
  );
}

/** On top of the page that stays as it is. */
export function LoginAgain(): JSX.Element {
  const user = useSignal(session.user);
  return (
    <Dialog title="Log in again">
      <p>Your session has ended. Nothing is lost: what you have done waits in this browser and is saved as soon as you are back.</p>
      <Credentials button="Continue" path="/api/login" fresh={false} {...(user ? { name: user.name } : {})} />
    </Dialog>
  );
}

export function Unreachable(): JSX.Element {
  return (
    <Card title="The server is not there" lead="The page will go on by itself as soon as it answers. Unsaved labels wait in this browser.">
      <button class="primary block" onClick={() => void session.ask()}>
        Try now
      </button>
    </Card>
  );
}
