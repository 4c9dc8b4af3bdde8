import { useCallback, useEffect, useRef, useState } from "react";
import type { Listed } from "../api/types";

type Filters = Record<string, string>;
type Read<Found> = (filters: Record<string, string | number>) => Promise<Found>;

const TYPING = 250; // milliseconds of rest before changed filters are asked

/** One page of a list under filters, read anew when either changes. */
export function useListed<Found extends Listed<unknown>>(read: Read<Found>, initial: Filters = {}) {
  const [filters, put] = useState(initial);
  const [page, setPage] = useState(1);
  const [found, setFound] = useState<Found | null>(null);
  const [failure, setFailure] = useState<unknown>(null);
  const wanted = useRef({ filters, page });
  wanted.current = { filters, page };
  const newest = useRef(0);
  // What is wanted when it is asked, and of several answers under way the last that was asked for.
  const refresh = useCallback(async () => {
    const turn = ++newest.current;
    const { filters, page } = wanted.current;
    try {
      const fresh = await read({ ...filters, page, limit: 50 });
      if (turn !== newest.current) return;
      setFound(fresh);
      setFailure(null);
    } catch (error) {
      if (turn === newest.current) setFailure(error);
    }
  }, [read]);
  useEffect(() => {
    const timer = setTimeout(() => void refresh(), found ? TYPING : 0);
    return () => clearTimeout(timer);
    // `found` alone is no reason to read again.
  }, [refresh, filters, page]);
  const setFilter = (name: string, value: string) => {
    put((before) => ({ ...before, [name]: value }));
    setPage(1);
  };
  return { found, failure, filters, setFilter, page, setPage, refresh };
}
