import { useEffect, useState } from "react";
import * as server from "../api/server";
import type { Load, Model, ServerLoad } from "../api/types";
import { Failure } from "../ui/Failure";
import { explain, useWords, wordFor } from "../words";

const EVERY = 3000; // milliseconds

/** The live load and the models, read anew every few seconds while the page is seen. */
export function Overview() {
  const words = useWords();
  const [load, setLoad] = useState<ServerLoad | null>(null);
  const [models, setModels] = useState<(Model & { load: Load })[]>([]);
  const [failure, setFailure] = useState<unknown>(null);
  useEffect(() => {
    const read = async () => {
      if (document.hidden) return;
      try {
        const [now, loaded] = await Promise.all([server.load(), server.modelLoads()]);
        setLoad(now);
        setModels(loaded.items);
        setFailure(null);
      } catch (error) {
        setFailure(error);
      }
    };
    void read();
    const timer = setInterval(() => void read(), EVERY);
    return () => clearInterval(timer);
  }, []);
  return (
    <>
      {failure !== null && <Failure>{explain(words, failure)}</Failure>}
      {!load && failure === null && <p className="loading">{words.loading}</p>}
      {load && (
        <dl className="figures">
          <Figure name={words.running} value={String(load.answers.running)} note={words.ofPlaces(load.answers.at_once)} />
          <Figure name={words.waiting} value={String(load.answers.waiting)} note={words.ofPlaces(load.answers.places)} />
          <Figure name={words.tokensPerSecond} value={figure(load.tokens_per_second)} />
          <Figure name={words.firstToken} value={seconds(load.ttft_seconds.p50)} note={`${words.p95} ${seconds(load.ttft_seconds.p95)}`} />
          <Figure name={words.wholeAnswer} value={seconds(load.answer_seconds.p50)} note={`${words.p95} ${seconds(load.answer_seconds.p95)}`} />
          <Figure name={words.signedIn} value={String(load.signed_in)} />
          <Figure
            name={words.database}
            value={load.database.size_bytes === null ? "–" : `${figure(load.database.size_bytes / 2 ** 20)} MiB`}
            note={load.database.kind}
          />
          <Figure name={words.uptime} value={duration(load.uptime_seconds)} />
        </dl>
      )}
      {models.map((model) => (
        <section key={model.id} className="card model-card" aria-label={`${words.model} ${model.id}`}>
          <h2>{model.id}</h2>
          <dl>
            <Pair name={words.context} value={String(model.context)} />
            <Pair name={words.fingerprint} value={model.fingerprint} />
            {Object.entries(model.load)
              .filter(([, value]) => typeof value !== "object" || value === null)
              .map(([name, value]) => (
                <Pair key={name} name={wordFor(words, "load_", name)} value={typeof value === "number" ? figure(value) : String(value ?? "–")} />
              ))}
          </dl>
        </section>
      ))}
    </>
  );
}

function Figure({ name, value, note }: { name: string; value: string; note?: string }) {
  return (
    <div className="figure">
      <dt>{name}</dt>
      <dd>
        {value} {note && <small>{note}</small>}
      </dd>
    </div>
  );
}

function Pair({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

/** A number with three digits that say something; "–" for none. */
export function figure(value: number | null): string {
  if (value === null) return "–";
  return Math.abs(value) >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toPrecision(3);
}

/** 0.00709 seconds are "7.09 ms". */
export function seconds(value: number | null): string {
  if (value === null) return "–";
  return value < 1 ? `${figure(value * 1000)} ms` : `${figure(value)} s`;
}

/** 93784 is "1 d 2 h", 3700 is "1 h 1 min". */
export function duration(all: number): string {
  const [days, hours, minutes] = [Math.floor(all / 86400), Math.floor((all % 86400) / 3600), Math.floor((all % 3600) / 60)];
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min`;
}
