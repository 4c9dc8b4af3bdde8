import { useEffect, useMemo, useState } from "react";
import * as server from "../api/server";
import { Thread } from "../chat/Thread";
import { newestLeaf } from "../state/tree";
import { Failure } from "../ui/Failure";
import { explain, useWords } from "../words";

/** The conversation behind a rating, to be read; the rated answer is marked, and its branch shown. */
export function AnyConversation({ id }: { id: string }) {
  const words = useWords();
  const [found, setFound] = useState<Awaited<ReturnType<typeof server.anyConversation>> | null>(null);
  const [failure, setFailure] = useState<unknown>(null);
  const marked = location.hash.startsWith("#m-") ? location.hash.slice(3) : undefined;
  useEffect(() => {
    server.anyConversation(id).then(setFound, setFailure);
  }, [id]);
  useEffect(() => {
    if (found && marked) document.getElementById(`m-${marked}`)?.scrollIntoView({ block: "center" });
  }, [found, marked]);
  const shown = useMemo(() => {
    if (!found || !marked || !found.messages.some((message) => message.id === marked)) return found;
    return { ...found, current_id: newestLeaf(found.messages, marked) };
  }, [found, marked]);
  if (failure !== null) {
    return (
      <div className="column">
        <Failure>{explain(words, failure)}</Failure>
      </div>
    );
  }
  if (!shown) return <p className="loading">{words.loading}</p>;
  return (
    <>
      <div className="column shared-head">
        <h2 dir="auto">{shown.title || words.untitled}</h2>
        <p className="hint">
          {words.conversationOf(shown.user.name)} · {words.viewLogged}
        </p>
      </div>
      <Thread conversation={shown} marked={marked} />
    </>
  );
}
