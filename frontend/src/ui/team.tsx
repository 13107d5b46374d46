/** The team: members and their roles, invitations, API tokens. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { api } from "../core/api";
import type { ApiToken, Invite, Role, User } from "../core/types";
import { Badge, Copy, Problem, useAction, useLoad } from "./widgets";

const ROLES: Role[] = ["annotator", "reviewer", "admin"];

function RoleSelect({ value, label, onChange }: { value: Role; label: string; onChange: (role: Role) => void }): JSX.Element {
  return (
    <select aria-label={label} value={value} onChange={(e) => onChange(e.currentTarget.value as Role)}>
      {ROLES.map((role) => (
        <option key={role}>{role}</option>
      ))}
    </select>
  );
}

export function TeamView(): JSX.Element {
  const { data: users, error, reload } = useLoad(() => api<User[]>("GET", "/api/users"));
  const { error: failed, act } = useAction();
  const change = (user: User, what: Partial<User>): void => act(() => api("PATCH", `/api/users/${user.id}`, what).finally(reload));
  return (
    <main class="page">
      <div class="page-head">
        <div>
          <h1>Team</h1>
          <p class="lead">Annotators label, reviewers approve or return, admins do everything.</p>
        </div>
      </div>
      <Problem text={error || failed} />
      <section class="card">
        <h2>Members</h2>
        <table>
          <thead>
            <tr>
              <th>Name</th>
              <th>Role</th>
              <th />
            </tr>
          </thead>
          <tbody>
            {users?.map((user) => (
              <tr key={user.id} class={user.active === false ? "faded" : ""}>
                <td>
                  <bdi>{user.name}</bdi> {user.active === false && <Badge kind="declined">inactive</Badge>}
                </td>
                <td>
                  <RoleSelect label={`Role of ${user.name}`} value={user.role} onChange={(role) => change(user, { role })} />
                </td>
                <td class="num">
                  <button class="quiet" onClick={() => change(user, { active: user.active === false })}>
                    {user.active === false ? "Let in again" : "Lock out"}
                  </button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
      <Invitations />
      <Tokens />
    </main>
  );
}

function Invitations(): JSX.Element {
  const { data: invites, reload } = useLoad(() => api<Invite[]>("GET", "/api/invites"));
  const [role, setRole] = useState<Role>("annotator");
  const [link, setLink] = useState("");
  const { busy, error, act } = useAction();
  const invite = (): void =>
    act(async () => {
      const made = await api<{ token: string }>("POST", "/api/invites", { role });
      setLink(`${location.origin}${location.pathname}#/invite/${made.token}`);
      reload();
    });
  return (
    <section class="card">
      <h2>Invite somebody</h2>
      <p class="hint">A link works once and for a week. Send it by a road that you trust.</p>
      <div class="inline">
        <RoleSelect label="Role of the new member" value={role} onChange={setRole} />
        <button class="primary" disabled={busy} onClick={invite}>
          Make a link
        </button>
      </div>
      {link && <Copy value={link} label="Invitation link" />}
      <Problem text={error} />
      {invites && invites.length > 0 && (
        <ul class="plain">
          {invites.map((open) => (
            <li key={open.id} class="inline">
              <Badge kind="available">open</Badge> <span>for a new {open.role}</span>
              <button class="quiet" onClick={() => act(() => api("DELETE", `/api/invites/${open.id}`).then(reload))}>
                Withdraw
              </button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

function Tokens(): JSX.Element | null {
  const { data: tokens, reload } = useLoad(() => api<ApiToken[]>("GET", "/api/tokens"));
  const { error, act } = useAction();
  if (!tokens || tokens.length === 0) return null;
  return (
    <section class="card">
      <h2>API tokens</h2>
      <p class="hint">A token can do what its owner can do. Tokens end with a new password.</p>
      <Problem text={error} />
      <ul class="plain">
        {tokens.map((token) => (
          <li key={token.id} class="inline">
            <bdi>{token.user}</bdi> <b>{token.name}</b> <span class="hint">since {new Date(1000 * token.created).toLocaleDateString()}</span>
            <button class="quiet" onClick={() => act(() => api("DELETE", `/api/tokens/${token.id}`).then(reload))}>
              Revoke
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
