// What views are given and what they give.

import type { Candidate, GridView, Lineage, Overview, Runs, Shapes, Story } from "./documents.js";

/** Where documents come from: this file, or a server. */
export interface Source {
  live: boolean;
  runs: string[];
  connection: string;
  clockAhead?: number;
  allRuns(): Promise<Runs>;
  overview(run: string): Promise<Overview>;
  lineage(run: string): Promise<Lineage>;
  grid(run: string): Promise<GridView>;
  story(run: string): Promise<Story>;
  shapes(run: string): Promise<Shapes>;
  candidate(run: string, id: number): Promise<Candidate | null>;
  search(run: string, text: string): Promise<number[]>;
  timeline?(run: string): string;
  follow(run: string | undefined, heard: (news: News) => void): void;
}

/** What a look at the server brought: whether the run, or the list of runs, says something new. */
export interface News {
  run: boolean;
  runs: boolean;
  back?: boolean;
}

/** Where the reader is. */
export interface Place {
  source: Source;
  run: string;
  values: Record<string, string>;
}

/** What is shown there; main.js says when each part is used. */
export interface Shown {
  root: HTMLElement;
  keys?: Record<string, () => unknown>;
  says?: string;
  failed?: boolean;
  ready?: () => void;
  leave?: () => void;
  update?: () => Promise<void>;
  busy?: () => boolean;
}
