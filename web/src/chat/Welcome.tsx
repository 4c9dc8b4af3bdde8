import { useUser } from "../state/session";
import { useWords } from "../words";

/** What stands where there is no message yet. */
export function Welcome({ onAsk }: { onAsk(text: string): void }) {
  const words = useWords();
  const user = useUser();
  return (
    <div className="welcome">
      <img src="/icon.svg" alt="" width="52" height="52" />
      <h1>{user.role === "guest" ? words.greeting : words.greetingNamed(user.name)}</h1>
      <p>{words.about}</p>
      <ul className="starters">
        {[words.starter1, words.starter2, words.starter3, words.starter4].map((starter) => (
          <li key={starter}>
            <button type="button" onClick={() => onAsk(starter)}>
              {starter}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
