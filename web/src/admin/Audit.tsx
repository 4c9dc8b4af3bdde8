import * as server from "../api/server";
import { useWords } from "../words";
import { Select, Table, When } from "./parts";
import { useListed } from "./useListed";

const ACTIONS = [
  "login_failed",
  "signup_refused",
  "account_created",
  "account_deleted",
  "password_changed",
  "user_changed",
  "user_deleted",
  "password_reset",
  "settings_changed",
  "key_created",
  "key_revoked",
  "conversation_viewed",
  "exported",
  "share_created",
  "share_deleted",
  "admin_created",
];

export function Audit() {
  const words = useWords();
  const { filters, setFilter, ...list } = useListed(server.audit);
  return (
    <>
      <div className="filters" role="search">
        <Select
          label={words.action}
          value={filters.action ?? ""}
          options={[["", words.anyAction], ...ACTIONS.map((action): [string, string] => [action, action])]}
          onChange={(action) => setFilter("action", action)}
        />
        <input
          type="search"
          aria-label={words.actor}
          placeholder={words.actor}
          value={filters.actor ?? ""}
          onChange={(event) => setFilter("actor", event.target.value)}
        />
      </div>
      <Table {...list} label={words.audit} heads={[words.time, words.actor, words.action, words.target, words.details, words.source]}>
        {list.found?.items.map((entry) => (
          <tr key={entry.id}>
            <td>
              <When at={entry.at} />
            </td>
            <td dir="auto">{entry.actor_name ?? "–"}</td>
            <td>
              <code>{entry.action}</code>
            </td>
            <td className="long">
              <span>{entry.target}</span>
            </td>
            <td className="long">
              <span>{Object.keys(entry.details).length > 0 && JSON.stringify(entry.details)}</span>
            </td>
            <td>{entry.source}</td>
          </tr>
        ))}
      </Table>
    </>
  );
}
