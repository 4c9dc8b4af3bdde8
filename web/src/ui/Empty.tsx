import { go } from "../router";
import { useWords } from "../words";
import { IconButton } from "./IconButton";

/** A page with nothing to show, and the way back. */
export function Empty({ title, text, openList }: { title: string; text: string; openList?: () => void }) {
  const words = useWords();
  return (
    <>
      {openList && (
        <header className="bar">
          <IconButton icon="menu" label={words.openList} className="narrow" onClick={openList} />
        </header>
      )}
      <main className="scroll" tabIndex={-1}>
        <div className="welcome">
          <h1>{title}</h1>
          <p>{text}</p>
          <button type="button" className="button primary" onClick={() => go("/")}>
            {words.home}
          </button>
        </div>
      </main>
    </>
  );
}
