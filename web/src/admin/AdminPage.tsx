import * as server from "../api/server";
import { Keys } from "../account/Keys";
import { go, partsOf, usePath } from "../router";
import { IconButton } from "../ui/IconButton";
import { useWords } from "../words";
import type { Words } from "../words/en";
import { AnyConversation } from "./AnyConversation";
import { Audit } from "./Audit";
import { Comparisons } from "./Comparisons";
import { Exports } from "./Exports";
import { Overview } from "./Overview";
import { Ratings } from "./Ratings";
import { ServerSettings } from "./ServerSettings";
import { Users } from "./Users";

const PLACES: [path: string, word: keyof Words][] = [
  ["", "overview"],
  ["users", "users"],
  ["feedback", "ratings"],
  ["comparisons", "comparisons"],
  ["exports", "exports"],
  ["audit", "audit"],
  ["settings", "adminSettings"],
  ["keys", "apiKeys"],
];

const listKeys = () => server.allKeys({ limit: 200 });

/** What an operator sees and does. The server refuses all of it to anyone else. */
export default function AdminPage({ openList }: { openList(): void }) {
  const words = useWords();
  const [, place = "", id = ""] = partsOf(usePath());
  return (
    <>
      <header className="bar">
        <IconButton icon="menu" label={words.openList} className="narrow" onClick={openList} />
        <h1 className="bar-heading">{words.admin}</h1>
      </header>
      <nav className="tabs" aria-label={words.admin}>
        {PLACES.map(([path, word]) => {
          const address = path ? `/admin/${path}` : "/admin";
          return (
            <a
              key={path}
              href={address}
              aria-current={path === place ? "page" : undefined}
              onClick={(event) => {
                event.preventDefault();
                go(address);
              }}
            >
              {words[word] as string}
            </a>
          );
        })}
      </nav>
      <main className="scroll" tabIndex={-1}>
        <div className={place === "conversations" ? "" : "desk"}>
          {place === "" && <Overview />}
          {place === "users" && <Users />}
          {place === "feedback" && <Ratings />}
          {place === "comparisons" && <Comparisons />}
          {place === "exports" && <Exports />}
          {place === "audit" && <Audit />}
          {place === "settings" && <ServerSettings />}
          {place === "conversations" && <AnyConversation id={id} />}
          {place === "keys" && (
            <section className="card">
              <Keys list={listKeys} create={server.createAnyKey} revoke={server.revokeAnyKey} owners />
            </section>
          )}
        </div>
      </main>
    </>
  );
}
