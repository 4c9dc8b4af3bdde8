import * as server from "../api/server";
import { go } from "../router";
import { useConfig } from "../state/session";
import { Icon } from "../ui/Icon";
import { useWords, wordFor } from "../words";
import { Day, Select, Table, When } from "./parts";
import { useListed } from "./useListed";

/** The thumbs with their reasons, under filters, and the way to the conversation behind each. */
export function Ratings() {
  const words = useWords();
  const { models, feedback_tags } = useConfig();
  const { filters, setFilter, ...list } = useListed(server.feedback);
  const tags = [...new Set([...feedback_tags.up, ...feedback_tags.down])];
  const filter = (name: string) => ({ value: filters[name] ?? "", onChange: (value: string) => setFilter(name, value) });
  return (
    <>
      <div className="filters" role="search">
        <input
          type="search"
          aria-label={words.searchFeedback}
          placeholder={words.searchFeedback}
          value={filters.search ?? ""}
          onChange={(event) => setFilter("search", event.target.value)}
        />
        <Select label={words.vote} {...filter("vote")} options={[["", words.anyVote], ["up", words.up], ["down", words.down]]} />
        <Select
          label={words.tags}
          {...filter("tag")}
          options={[["", words.anyTag], ...tags.map((tag): [string, string] => [tag, wordFor(words, "tag_", tag)])]}
        />
        <Select
          label={words.model}
          {...filter("model")}
          options={[["", words.anyModel], ...models.map(({ id }): [string, string] => [id, id])]}
        />
        <Select
          label={words.consent}
          {...filter("consent")}
          options={[["", words.anyConsent], ["true", words.withConsent], ["false", words.withoutConsent]]}
        />
        <Day label={words.from} {...filter("since")} />
        <Day label={words.until} {...filter("until")} end />
      </div>
      {list.found && (
        <p className="counts">
          <Icon name="up" /> {list.found.counts.up} {words.up} <Icon name="down" /> {list.found.counts.down} {words.down}
        </p>
      )}
      <Table
        {...list}
        label={words.ratings}
        heads={[words.vote, words.asked, words.answered, words.tags, words.text, words.model, words.user, words.time, ""]}
      >
        {list.found?.items.map((rated) => (
          <tr key={`${rated.message_id}-${rated.user_id}`}>
            <td>
              <span className={rated.vote === "up" ? "vote good" : "vote bad"}>
                <Icon name={rated.vote} />
                {words[rated.vote]}
              </span>
            </td>
            <td dir="auto" className="long">
              <span>{rated.question}</span>
            </td>
            <td dir="auto" className="long">
              <span>{rated.answer}</span>
            </td>
            <td>{rated.tags.map((tag) => wordFor(words, "tag_", tag)).join(", ")}</td>
            <td dir="auto" className="long">
              <span>{rated.text}</span>
            </td>
            <td>{rated.model}</td>
            <td dir="auto">
              {rated.user_name}
              {rated.consent && <span title={words.withConsent}> ✓</span>}
            </td>
            <td>
              <When at={rated.updated_at} />
            </td>
            <td>
              <a
                className="button small"
                href={`/admin/conversations/${rated.conversation_id}#m-${rated.message_id}`}
                aria-label={words.openConversation}
                onClick={(event) => {
                  event.preventDefault();
                  go(`/admin/conversations/${rated.conversation_id}#m-${rated.message_id}`);
                }}
              >
                <Icon name="right" />
              </a>
            </td>
          </tr>
        ))}
      </Table>
    </>
  );
}
