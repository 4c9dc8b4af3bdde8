import { useState } from "react";
import * as server from "../api/server";
import { useConfig } from "../state/session";
import { Icon } from "../ui/Icon";
import { useWords, wordFor } from "../words";
import { Day, Select } from "./parts";

const KINDS = ["feedback", "conversations", "comparisons"];

export function Exports() {
  const words = useWords();
  const { models } = useConfig();
  const [filters, setFilters] = useState({ model: "", since: "", until: "", per_user: "" });
  const filter = (name: keyof typeof filters) => ({
    value: filters[name],
    onChange: (value: string) => setFilters((before) => ({ ...before, [name]: value })),
  });
  return (
    <section className="card">
      <p className="hint">{words.exportsText}</p>
      <div className="filters">
        <Select
          label={words.model}
          {...filter("model")}
          options={[["", words.anyModel], ...models.map(({ id }): [string, string] => [id, id])]}
        />
        <Day label={words.from} {...filter("since")} />
        <Day label={words.until} {...filter("until")} end />
        <label className="day">
          {words.perUser}
          <input type="number" min={1} value={filters.per_user} onChange={(event) => filter("per_user").onChange(event.target.value)} />
        </label>
      </div>
      {KINDS.map((kind) => {
        const name = wordFor(words, "export_", kind);
        return (
          <div key={kind} className="line">
            <span>{name}</span>
            <a className="button" href={server.exportPath(kind, filters)} download aria-label={`${words.download} JSONL: ${name}`}>
              <Icon name="download" />
              JSONL
            </a>
          </div>
        );
      })}
    </section>
  );
}
