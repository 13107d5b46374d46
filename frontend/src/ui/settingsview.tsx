/** One's own settings: looks, review speed, password, API tokens, the way out. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { api, session } from "../core/api";
import { set, settings, type Settings } from "../core/settings";
import { useSignal } from "../core/signal";
import type { ApiToken, Me } from "../core/types";
import { Copy, Field, Problem, useAction, useLoad } from "./widgets";

export function SettingsView(): JSX.Element {
  const user = useSignal(session.user);
  const { error, act } = useAction();
  return (
    <main class="page narrow">
      <div class="page-head">
        <h1>Settings</h1>
        <button disabled={false} onClick={() => act(() => session.logout())}>
          Log out {user?.name}
        </button>
      </div>
      <Problem text={error} />
      <Looks />
      <Password />
      <Tokens />
    </main>
  );
}

function Looks(): JSX.Element {
  const now = useSignal(settings);
  return (
    <section class="card">
      <h2>This browser</h2>
      <div class="three">
        <Field label="Theme">
          <select value={now.theme} onChange={(e) => set({ theme: e.currentTarget.value as Settings["theme"] })}>
            <option value="system">as the system</option>
            <option value="dark">dark</option>
            <option value="light">light</option>
          </select>
        </Field>
        <Field label="Review speed" hint="frames per second">
          <select value={now.reviewFps} onChange={(e) => set({ reviewFps: Number(e.currentTarget.value) })}>
            {[5, 10, 15, 20].map((fps) => (
              <option key={fps}>{fps}</option>
            ))}
          </select>
        </Field>
        <Field label="Review stops below score" hint={now.stopScore.toFixed(2)}>
          <input type="range" min="0" max="1" step="0.05" value={now.stopScore} onInput={(e) => set({ stopScore: Number(e.currentTarget.value) })} />
        </Field>
      </div>
      <Field label="Review stops at jumps" hint={`of more than ${now.stopJump} px off the path`}>
        <input type="range" min="5" max="100" step="1" value={now.stopJump} onInput={(e) => set({ stopJump: Number(e.currentTarget.value) })} />
      </Field>
      <label class="check">
        <input type="checkbox" checked={now.advance} onChange={() => set({ advance: !now.advance })} /> Go to the next frame after each label
      </label>
      <label class="check">
        <input type="checkbox" checked={now.follow} onChange={() => set({ follow: !now.follow })} /> The view follows the ball
      </label>
    </section>
  );
}

function Password(): JSX.Element {
  const [old, setOld] = useState("");
  const [fresh, setFresh] = useState("");
  const [done, setDone] = useState(false);
  const { busy, error, act } = useAction();
  const submit = (event: Event): void => {
    event.preventDefault();
    act(async () => {
      await api("POST", "/api/password", { old, new: fresh });
      session.open(await api<Me>("GET", "/api/me")); // a new session has its own token
      setOld("");
      setFresh("");
      setDone(true);
    });
  };
  return (
    <section class="card">
      <h2>Password</h2>
      <form onSubmit={submit} class="three">
        <Field label="Present password">
          <input type="password" required autocomplete="current-password" value={old} onInput={(e) => setOld(e.currentTarget.value)} />
        </Field>
        <Field label="New password" hint="At least 10 characters">
          <input type="password" required minLength={10} autocomplete="new-password" value={fresh} onInput={(e) => setFresh(e.currentTarget.value)} />
        </Field>
        <button class="align-end" disabled={busy}>
          Change
        </button>
      </form>
      {done && <p role="status">Changed. Your other sessions and your API tokens have ended.</p>}
      <Problem text={error} />
    </section>
  );
}

function Tokens(): JSX.Element {
  const user = useSignal(session.user);
  const { data, reload } = useLoad(() => api<ApiToken[]>("GET", "/api/tokens"));
  const tokens = data?.filter((token) => token.user_id === user?.id); // an admin sees everybody's
  const [name, setName] = useState("");
  const [made, setMade] = useState("");
  const { busy, error, act } = useAction();
  const submit = (event: Event): void => {
    event.preventDefault();
    act(async () => {
      const token = await api<ApiToken>("POST", "/api/tokens", { name });
      setMade(token.token ?? "");
      setName("");
      reload();
    });
  };
  return (
    <section class="card">
      <h2>API tokens</h2>
      <p class="hint">For scripts: send it as “Authorization: Bearer …”. A token can do what you can do.</p>
      <form class="inline" onSubmit={submit}>
        <input required aria-label="Name of the token" placeholder="What is it for?" value={name} onInput={(e) => setName(e.currentTarget.value)} />
        <button disabled={busy}>Make a token</button>
      </form>
      {made && (
        <>
          <p role="status">Copy it now: it is shown this once.</p>
          <Copy value={made} label="API token" />
        </>
      )}
      <Problem text={error} />
      <ul class="plain">
        {tokens?.map((token) => (
          <li key={token.id} class="inline">
            <b>{token.name}</b>
            <button class="quiet" onClick={() => act(() => api("DELETE", `/api/tokens/${token.id}`).then(reload))}>
              Revoke
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
