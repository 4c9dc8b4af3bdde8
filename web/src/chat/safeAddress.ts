/** An address that a model's link may lead to: http, https, mail, or a place in the message; else "". */
export function safeAddress(address: string): string {
  if (address.startsWith("#")) return address;
  try {
    return ["http:", "https:", "mailto:"].includes(new URL(address).protocol) ? address : "";
  } catch {
    return ""; // a relative address: a model knows no page of ours
  }
}
