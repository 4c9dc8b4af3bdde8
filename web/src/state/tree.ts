// The messages of a conversation as a tree: an edit or another answer is a sibling, and one branch is shown at a time.
import type { Message } from "../api/types";

/** Parents stand before their children, older siblings before younger ones. */
export type Tree = readonly Message[];

/** The messages from the root down to `leaf`; [] when it is not there. */
export function branch(tree: Tree, leaf: string | null): Message[] {
  const byId = new Map(tree.map((message) => [message.id, message]));
  const path: Message[] = [];
  for (let at = leaf ? byId.get(leaf) : undefined; at; at = at.parent_id ? byId.get(at.parent_id) : undefined) {
    path.unshift(at);
  }
  return path;
}

/** All messages under the parent of `message`, itself included, oldest first. */
export function versions(tree: Tree, message: Message): Message[] {
  return tree.filter(({ parent_id }) => parent_id === message.parent_id);
}

/** The leaf that one reaches from `id` by going to the youngest child each time. */
export function newestLeaf(tree: Tree, id: string): string {
  const children = tree.filter(({ parent_id }) => parent_id === id);
  const youngest = children.at(-1);
  return youngest ? newestLeaf(tree, youngest.id) : id;
}

/** The tree with `changed` in it: in the place of the message of that id, else at the end. */
export function withMessage(tree: Tree, changed: Message): Message[] {
  const known = tree.some(({ id }) => id === changed.id);
  return known ? tree.map((message) => (message.id === changed.id ? changed : message)) : [...tree, changed];
}
