import * as server from "../api/server";
import { useWords } from "../words";
import { Select, Table, When } from "./parts";
import { useListed } from "./useListed";

export function Comparisons() {
  const words = useWords();
  const { filters, setFilter, ...list } = useListed(server.comparisons);
  const choices = { a: words.preferA, b: words.preferB, tie: words.tie, both_bad: words.bothBad };
  return (
    <>
      <div className="filters" role="search">
        <Select
          label={words.choice}
          value={filters.choice ?? ""}
          options={[["", words.anyChoice], ...Object.entries(choices)]}
          onChange={(choice) => setFilter("choice", choice)}
        />
      </div>
      <Table
        {...list}
        label={words.comparisons}
        heads={[words.choice, words.asked, words.answerA, words.answerB, words.text, words.user, words.time]}
      >
        {list.found?.items.map((one) => (
          <tr key={one.id}>
            <td>{one.choice ? choices[one.choice] : words.undecided}</td>
            <td dir="auto" className="long">
              <span>{one.question}</span>
            </td>
            {one.answers.map((answer) => (
              <td key={answer.message_id} dir="auto" className="long">
                <span>{answer.content}</span>
                {answer.model && <small className="note">{answer.model}</small>}
              </td>
            ))}
            <td dir="auto" className="long">
              <span>{one.text}</span>
            </td>
            <td dir="auto">
              {one.user_name}
              {one.consent && <span title={words.withConsent}> ✓</span>}
            </td>
            <td>
              <When at={one.updated_at} />
            </td>
          </tr>
        ))}
      </Table>
    </>
  );
}
