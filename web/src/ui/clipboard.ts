// The clipboard, also where browsers have none for pages: on plain http from another machine.

/** Copy `text`; whether that went well. `near`: what was pressed, for in a dialog nothing outside of it can be marked. */
export async function copyText(text: string, near: HTMLElement): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text); // undefined on plain http
    return true;
  } catch {
    return copyMarked(text, near);
  }
}

/** Mark the text in a box that nobody sees, and copy it as people do. Deprecated, and kept by every browser. */
function copyMarked(text: string, near: HTMLElement): boolean {
  const box = document.createElement("textarea");
  box.value = text;
  box.readOnly = true; // no keyboard opens on a phone
  box.className = "unseen";
  (near.closest("dialog") ?? document.body).append(box);
  box.select();
  const copied = document.execCommand("copy");
  box.remove();
  near.focus();
  return copied;
}
