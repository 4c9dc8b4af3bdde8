import type { ReactNode } from "react";
import { Icon } from "./Icon";

/** Says that something went wrong, to screen readers at once. */
export function Failure({ children }: { children: ReactNode }) {
  return (
    <div className="failure" role="alert">
      <Icon name="warning" />
      <div>{children}</div>
    </div>
  );
}
