// Who is here, what the operator allows, and with that the language and the look of the page.
import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useState } from "react";
import { keepToken, whenSignedOut } from "../api/http";
import * as server from "../api/server";
import type { Language, Session, Settings, Theme, User } from "../api/types";
import { LANGUAGES, LOCALES, preferred, WordsContext } from "../words";
import { kept, keep } from "./kept";

interface Here {
  session: Session;
  /** Whether the session ended without being asked to: by time, or from another device. */
  ended: boolean;
  /** Take over a session that the server answered with. */
  setSession(session: Session): void;
  /** Change settings: of the account, and of this browser for who has none. */
  change(settings: Partial<Settings>): Promise<void>;
}

const SessionContext = createContext<Here | null>(null);

export function useHere(): Here {
  const here = useContext(SessionContext);
  if (!here) throw new Error("outside of SessionProvider");
  return here;
}

export const useConfig = () => useHere().session.config;

/** The person here; for parts of the page that only people with a session see. */
export function useUser(): User {
  const { user } = useHere().session;
  if (!user) throw new Error("nobody is signed in");
  return user;
}

interface Given {
  children: ReactNode;
  /** What to show until the server has answered, and when it does not. */
  waiting(failure: unknown, retry: () => void): ReactNode;
}

export function SessionProvider({ children, waiting }: Given) {
  const [session, put] = useState<Session | null>(null);
  const [ended, setEnded] = useState(false);
  const [failure, setFailure] = useState<unknown>(null);
  const [own, setOwn] = useState<{ language: Language | null; theme: Theme | null }>(kept);

  const setSession = useCallback((fresh: Session) => {
    keepToken(fresh.csrf_token);
    put(fresh);
    if (!fresh.user) return;
    setEnded(false);
    const { language, theme } = fresh.user.settings;
    setOwn((before) => keep({ language: language ?? before.language, theme: theme ?? before.theme }));
  }, []);
  const ask = useCallback(() => {
    setFailure(null);
    server.session().then(setSession, setFailure);
  }, [setSession]);
  useEffect(ask, [ask]);

  const signedIn = Boolean(session?.user);
  useEffect(() => {
    whenSignedOut(() => {
      if (!signedIn) return;
      setEnded(true);
      server.session().then(setSession, () => undefined); // what was asked says that it failed
    });
  }, [signedIn, setSession]);
  const change = useCallback(
    async (settings: Partial<Settings>) => {
      const { language, theme } = settings;
      setOwn((before) => keep({ ...before, ...(language !== undefined && { language }), ...(theme !== undefined && { theme }) }));
      if (signedIn) setSession(await server.changeAccount({ settings }));
    },
    [signedIn, setSession],
  );

  const language = own.language ?? preferred(navigator.languages);
  useEffect(() => {
    document.documentElement.lang = LOCALES[language];
    if (own.theme) document.documentElement.dataset.theme = own.theme;
    else delete document.documentElement.dataset.theme;
  }, [language, own.theme]);

  const words = useMemo(() => ({ language, words: LANGUAGES[language] }), [language]);
  const here = useMemo(() => session && { session, ended, setSession, change }, [session, ended, setSession, change]);
  return (
    <WordsContext value={words}>
      {here ? <SessionContext value={here}>{children}</SessionContext> : waiting(failure, ask)}
    </WordsContext>
  );
}
