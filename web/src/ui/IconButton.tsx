import type { ButtonHTMLAttributes } from "react";
import { Icon, type IconName } from "./Icon";

interface Given extends ButtonHTMLAttributes<HTMLButtonElement> {
  icon: IconName;
  label: string;
}

/** A button that shows an icon and says `label`. */
export function IconButton({ icon, label, className = "", ...others }: Given) {
  return (
    <button type="button" className={`icon-button ${className}`} aria-label={label} title={label} {...others}>
      <Icon name={icon} />
    </button>
  );
}
