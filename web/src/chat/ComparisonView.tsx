import { useState } from "react";
import type { Choice, Comparison, Message } from "../api/types";
import { useWords } from "../words";
import { AnswerText, type Acts } from "./MessageView";
import { Remark } from "./Remark";

interface Given {
  comparison: Comparison;
  answers: Message[];
  busy: boolean;
  acts: Acts;
}

/** Two answers side by side, and which of them is better. */
export function ComparisonView({ comparison, answers, busy, acts }: Given) {
  const words = useWords();
  const [text, setText] = useState(comparison.text);
  const choices: [Choice, string][] = [
    ["a", words.preferA],
    ["b", words.preferB],
    ["tie", words.tie],
    ["both_bad", words.bothBad],
  ];
  return (
    <section className="comparison" aria-label={words.comparison}>
      <div className="sides">
        {answers.map((answer, index) => (
          <article key={answer.id} className="message answer" aria-label={index ? words.answerB : words.answerA}>
            <h3>{index ? words.answerB : words.answerA}</h3>
            <AnswerText message={answer} />
          </article>
        ))}
      </div>
      {!busy && (
        <div className="choices" role="group" aria-label={words.which}>
          <strong>{words.which}</strong>
          <Remark label={words.whyPrefer} rows={1} text={text} onChange={setText} />
          <div className="buttons">
            {choices.map(([choice, label]) => (
              <button
                key={choice}
                type="button"
                className="button"
                aria-pressed={comparison.choice === choice}
                onClick={() => void acts.choose(comparison, choice, text.trim())}
              >
                {label}
              </button>
            ))}
          </div>
        </div>
      )}
    </section>
  );
}

/** What was chosen, and the way to choose anew. */
export function Chosen({ comparison, answers, busy, acts }: Given) {
  const words = useWords();
  const [open, setOpen] = useState(false);
  const { text } = comparison;
  const said = { a: words.answerA, b: words.answerB, tie: words.tie, both_bad: words.bothBad }[comparison.choice ?? "tie"];
  return (
    <>
      <p className="ended">
        <span className="note" dir="auto">
          {words.preferred(said)}
          {text && ` · ${text}`}
        </span>
        <button type="button" className="button small" aria-expanded={open} onClick={() => setOpen(!open)}>
          {words.changeChoice}
        </button>
      </p>
      {open && <ComparisonView comparison={comparison} answers={answers} busy={busy} acts={acts} />}
    </>
  );
}
