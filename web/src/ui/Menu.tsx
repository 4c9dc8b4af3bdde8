import { type KeyboardEvent, type ReactNode, useId, useLayoutEffect, useRef, useState } from "react";
import { Icon, type IconName } from "./Icon";

export interface MenuItem {
  icon: IconName;
  label: string;
  danger?: boolean;
  onChoose(): void;
}

interface Given {
  label: string;
  className?: string;
  /** Whether what the button shows is its name, and `label` the menu's alone. */
  named?: boolean;
  items: MenuItem[];
  children: ReactNode;
}

const GAP = 4; // pixels between the button and its menu

/** A button that opens a menu in the browser's top layer; arrow keys go through it, Esc closes it. */
export function Menu({ label, className = "icon-button", named = false, items, children }: Given) {
  const id = useId();
  const [open, setOpen] = useState(false);
  const button = useRef<HTMLButtonElement>(null);
  const menu = useRef<HTMLDivElement>(null);

  useLayoutEffect(() => {
    const [from, list] = [button.current, menu.current];
    if (!open || !from || !list) return;
    const { left, top, bottom } = from.getBoundingClientRect();
    const below = bottom + GAP + list.offsetHeight <= innerHeight;
    list.style.left = `${Math.max(GAP, Math.min(left, innerWidth - list.offsetWidth - GAP))}px`;
    list.style.top = `${below ? bottom + GAP : Math.max(GAP, top - GAP - list.offsetHeight)}px`;
    list.querySelector<HTMLButtonElement>("button")?.focus();
  }, [open]);

  function move(event: KeyboardEvent): void {
    const buttons = [...(menu.current?.querySelectorAll("button") ?? [])];
    const at = buttons.indexOf(document.activeElement as HTMLButtonElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (event.key === "Tab") menu.current?.hidePopover();
    if (to === undefined) return;
    event.preventDefault();
    buttons.at(to % buttons.length)?.focus();
  }

  return (
    <>
      <button
        type="button"
        ref={button}
        className={className}
        aria-label={named ? undefined : label}
        title={label}
        aria-haspopup="menu"
        aria-expanded={open}
        popoverTarget={id}
      >
        {children}
      </button>
      <div
        ref={menu}
        id={id}
        popover="auto"
        role="menu"
        aria-label={label}
        className="menu"
        onToggle={(event) => setOpen(event.newState === "open")}
        onKeyDown={move}
      >
        {open &&
          items.map((item) => (
            <button
              key={item.label}
              type="button"
              role="menuitem"
              className={item.danger ? "danger" : ""}
              onClick={() => {
                menu.current?.hidePopover();
                item.onChoose();
              }}
            >
              <Icon name={item.icon} />
              {item.label}
            </button>
          ))}
      </div>
    </>
  );
}
