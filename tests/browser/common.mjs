// What the long runs have in common.

import { accessSync } from "node:fs";

const MOST_LINES = 8;

/** Numbers from 0 up to 1: always the same ones for the same seed and name. */
export function chance(seed, name) {
  let state = 2_166_136_261;
  for (const letter of `${seed} ${name}`) state = Math.imul(state ^ letter.codePointAt(0), 16_777_619);
  state ||= 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

export function seconds(time) {
  return `${(time / 1000).toFixed(1)} s`;
}

export function some(lines, most = MOST_LINES) {
  return lines.length > most ? [...lines.slice(0, most), `and ${lines.length - most} more`] : lines;
}

/** Throws an error that names the remedy, unless a file is there. */
export function present(file, mode, remedy) {
  try {
    accessSync(file, mode);
  } catch {
    throw new Error(`${file} is not there; ${remedy}`);
  }
}
