import { useState } from "react";
import * as server from "../api/server";
import type { AdminUser } from "../api/types";
import { useUser } from "../state/session";
import { Confirm } from "../ui/Confirm";
import { CopyButton } from "../ui/CopyButton";
import { Dialog } from "../ui/Dialog";
import { Failure } from "../ui/Failure";
import { Icon } from "../ui/Icon";
import { Menu, type MenuItem } from "../ui/Menu";
import { useTask } from "../ui/useTask";
import { explain, useWords, wordFor } from "../words";
import { Select, Table, When } from "./parts";
import { useListed } from "./useListed";

export function Users() {
  const words = useWords();
  const me = useUser();
  const list = useListed(server.users);
  const { failure, run } = useTask();
  const [asking, setAsking] = useState<{ about: AdminUser; what: "reset" | "delete" } | null>(null);
  const [password, setPassword] = useState<string | null>(null);

  const change = (user: AdminUser, fresh: Parameters<typeof server.changeUser>[1]) =>
    run(async () => {
      await server.changeUser(user.id, fresh);
      await list.refresh();
    });

  function items(user: AdminUser): MenuItem[] {
    const admin = user.role === "admin";
    return [
      ...(user.role === "guest"
        ? []
        : [
            {
              icon: "shield" as const,
              label: admin ? words.makeUser : words.makeAdmin,
              onChoose: () => void change(user, { role: admin ? "user" : "admin" }),
            },
            { icon: "again" as const, label: words.resetPassword, onChoose: () => setAsking({ about: user, what: "reset" }) },
          ]),
      {
        icon: "stop" as const,
        label: user.disabled ? words.enable : words.disable,
        onChoose: () => void change(user, { disabled: !user.disabled }),
      },
      { icon: "bin" as const, label: words.remove, danger: true, onChoose: () => setAsking({ about: user, what: "delete" }) },
    ];
  }

  const roles = ["admin", "user", "guest"].map((role): [string, string] => [role, wordFor(words, "role_", role)]);
  return (
    <>
      <div className="filters" role="search">
        <input
          type="search"
          aria-label={words.searchUsers}
          placeholder={words.searchUsers}
          value={list.filters.search ?? ""}
          onChange={(event) => list.setFilter("search", event.target.value)}
        />
        <Select
          label={words.role}
          value={list.filters.role ?? ""}
          options={[["", words.anyRole], ...roles]}
          onChange={(role) => list.setFilter("role", role)}
        />
      </div>
      {failure !== null && <Failure>{explain(words, failure)}</Failure>}
      <Table
        {...list}
        label={words.users}
        heads={[words.name, words.role, words.state, words.consent, words.conversations, words.messages, words.ratings, words.lastSeen, ""]}
      >
        {list.found?.items.map((user) => (
          <tr key={user.id} className={user.disabled ? "faint" : ""}>
            <th scope="row" dir="auto">
              {user.name}
            </th>
            <td>{wordFor(words, "role_", user.role)}</td>
            <td>{user.disabled ? words.disabled : words.active}</td>
            <td>{user.consent ? words.yes : words.no}</td>
            <td className="number">{user.conversations}</td>
            <td className="number">{user.messages}</td>
            <td className="number">{user.feedback}</td>
            <td>
              <When at={user.last_seen_at} />
            </td>
            <td>
              {user.id !== me.id && (
                <Menu label={words.optionsFor(user.name)} items={items(user)}>
                  <Icon name="more" />
                </Menu>
              )}
            </td>
          </tr>
        ))}
      </Table>
      {asking?.what === "delete" && (
        <Confirm
          title={words.deleteUserTitle}
          text={words.deleteUserText(asking.about.name)}
          action={words.remove}
          onClose={() => setAsking(null)}
          onConfirm={async () => {
            await server.deleteUser(asking.about.id);
            await list.refresh();
          }}
        />
      )}
      {asking?.what === "reset" && (
        <Confirm
          title={words.resetTitle}
          text={words.resetText(asking.about.name)}
          action={words.resetPassword}
          onClose={() => setAsking(null)}
          onConfirm={async () => setPassword((await server.resetPassword(asking.about.id)).password)}
        />
      )}
      {password && !asking && (
        <Dialog title={words.resetPassword} onClose={() => setPassword(null)}>
          <p>{words.passwordOnce}</p>
          <div className="joined">
            <input readOnly aria-label={words.newPassword} value={password} onFocus={(event) => event.target.select()} />
            <CopyButton text={password} label={words.copy} />
          </div>
        </Dialog>
      )}
    </>
  );
}
