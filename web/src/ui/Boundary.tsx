import { Component, type ReactNode } from "react";

interface Given {
  /** What stands in the place of a part that could not be drawn. */
  instead: ReactNode;
  children: ReactNode;
}

/** Keeps what goes wrong in drawing a part of the page, or in fetching it, from taking the rest away. */
export class Boundary extends Component<Given, { broken: boolean }> {
  override state = { broken: false };

  static getDerivedStateFromError(): { broken: boolean } {
    return { broken: true };
  }

  override render(): ReactNode {
    return this.state.broken ? this.props.instead : this.props.children;
  }
}
