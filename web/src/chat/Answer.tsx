import { Markdown } from "./Markdown";

export function Answer({ id, content, running }: { id: string; content: string; running: boolean }) {
  return (
    <div className={running ? "said running" : "said"} dir="auto">
      <Markdown id={id} content={content} />
    </div>
  );
}
