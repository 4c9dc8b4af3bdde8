import { Boundary } from "../ui/Boundary";
import { Markdown } from "./Markdown";

export function Answer({ id, content, running }: { id: string; content: string; running: boolean }) {
  return (
    <div className={running ? "said running" : "said"} dir="auto">
      <Boundary instead={<p className="plain">{content}</p>}>
        <Markdown id={id} content={content} />
      </Boundary>
    </div>
  );
}
