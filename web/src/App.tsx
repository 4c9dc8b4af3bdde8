// Which page is shown, by the address and by who is here.
import { lazy, Suspense, useEffect, useState } from "react";
import { Entry } from "./account/Entry";
import { SettingsPage } from "./account/SettingsPage";
import { ChatPage } from "./chat/ChatPage";
import { SharedPage } from "./chat/SharedPage";
import { go, partsOf, usePath } from "./router";
import { Shortcuts, useShortcuts } from "./sidebar/Shortcuts";
import { Sidebar } from "./sidebar/Sidebar";
import { ConversationsProvider } from "./state/conversations";
import { fold, folded } from "./state/kept";
import { useOnline } from "./state/online";
import { SayProvider } from "./state/say";
import { SessionProvider, useHere } from "./state/session";
import { Boundary } from "./ui/Boundary";
import { Empty } from "./ui/Empty";
import { Failure } from "./ui/Failure";
import { Icon } from "./ui/Icon";
import { explain, useWords } from "./words";

const AdminPage = lazy(() => import("./admin/AdminPage"));

export function App() {
  return (
    <SessionProvider waiting={(failure, retry) => <Waiting failure={failure} retry={retry} />}>
      <SayProvider>
        <Offline />
        <Boundary instead={<Broken />}>
          <Place />
        </Boundary>
      </SayProvider>
    </SessionProvider>
  );
}

function Waiting({ failure, retry }: { failure: unknown; retry(): void }) {
  const words = useWords();
  if (failure === null) return <p className="loading">{words.loading}</p>;
  return (
    <main className="welcome">
      <Failure>
        <p>{explain(words, failure)}</p>
        <button type="button" className="button small" onClick={retry}>
          {words.retry}
        </button>
      </Failure>
    </main>
  );
}

/** A part of the page could not be drawn or fetched; perhaps the server has a newer page by now. */
function Broken() {
  const words = useWords();
  return <Waiting failure={words.error_failed} retry={() => location.reload()} />;
}

function Offline() {
  const words = useWords();
  const online = useOnline();
  return (
    <div role="status" className={online ? "unseen" : "offline"}>
      {online ? "" : words.offline}
    </div>
  );
}

function Place() {
  const path = usePath();
  const { user } = useHere().session;
  const [first = "", second = ""] = partsOf(path);
  if (first === "share") return <SharedPage token={second} />;
  if (!user) return <Entry way={first === "signup" ? "signup" : "login"} />;
  if (user.role === "guest" && (first === "login" || first === "signup")) return <Entry key={first} way={first} />;
  return (
    <ConversationsProvider key={user.id}>
      <Frame first={first} second={second} />
    </ConversationsProvider>
  );
}

/** Whether the page is so narrow that the sidebar covers it. */
const narrow = () => matchMedia("(max-width: 52rem)").matches; // as in frame.css

/** The sidebar and, beside it, the page itself. */
function Frame({ first, second }: { first: string; second: string }) {
  const words = useWords();
  const { user } = useHere().session;
  const [listed, setListed] = useState(false); // on a phone: whether the sidebar covers the page
  const [away, setAway] = useState(folded); // elsewhere: whether it is folded away
  const [explaining, setExplaining] = useState(false);
  const foldList = (to: boolean) => {
    fold(to);
    setAway(to);
  };
  const openList = () => (narrow() ? setListed(true) : foldList(false));
  const id = first === "c" && second ? second : null;
  const chatting = first === "" || id !== null || first === "login" || first === "signup";
  useEffect(() => {
    if (!listed) return;
    const onKey = (event: KeyboardEvent) => event.key === "Escape" && setListed(false);
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, [listed]);
  useShortcuts({
    newChat: () => go("/"),
    search: () => {
      openList();
      requestAnimationFrame(() => document.getElementById("search")?.focus()); // once it is to be seen
    },
    list: () => (narrow() ? setListed(!listed) : foldList(!away)),
    write: () => document.getElementById("question")?.focus(),
    shortcuts: () => setExplaining(true),
  });
  return (
    <div className={`frame${listed ? " listed" : ""}${away ? " folded" : ""}`}>
      {chatting && (
        <a
          className="skip"
          href="#question"
          onClick={(event) => {
            event.preventDefault();
            document.getElementById("question")?.focus();
          }}
        >
          {words.skip}
        </a>
      )}
      <Sidebar
        current={id}
        onLeave={() => setListed(false)}
        onFold={() => foldList(true)}
        onExplain={() => setExplaining(true)}
      />
      {listed && (
        <button type="button" className="veil" aria-label={words.closeList} onClick={() => setListed(false)}>
          <Icon name="close" />
        </button>
      )}
      <div className="page">
        {chatting && <ChatPage id={id} openList={openList} />}
        {first === "settings" && <SettingsPage openList={openList} />}
        {first === "admin" && user?.role === "admin" && (
          <Suspense fallback={<p className="loading">{words.loading}</p>}>
            <AdminPage openList={openList} />
          </Suspense>
        )}
        {!chatting && first !== "settings" && !(first === "admin" && user?.role === "admin") && (
          <Empty title={words.notFound} text={words.notFoundText} openList={openList} />
        )}
      </div>
      {explaining && <Shortcuts onClose={() => setExplaining(false)} />}
    </div>
  );
}
