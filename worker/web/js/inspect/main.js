// The inspect chunk: how console shows values, which is how Node.js shows them.

import { format, formatWithOptions, inspect, stripVTControlCharacters } from "node-inspect-extracted";

export { format, formatWithOptions, inspect, stripVTControlCharacters };

/** What console.table prints: rows and columns as Node.js draws them. */
export function table(data, only) {
  const rows = [];
  const columns = [];
  let values = false;
  const entries = data instanceof Map || data instanceof Set ? [...data.values()].entries() : Object.entries(data);
  for (const [index, row] of entries) {
    const cells = {};
    if (typeof row === "object" && row !== null) {
      for (const key of only ?? Object.keys(row)) {
        if (!columns.includes(key)) {
          columns.push(key);
        }
        if (Object.hasOwn(row, key)) {
          cells[key] = inspect(row[key], { depth: 0 });
        }
      }
    } else {
      values = true;
      cells.value = inspect(row);
    }
    rows.push([`${index}`, cells]);
  }
  const head = ["(index)", ...columns, ...(values ? ["Values"] : [])];
  const lines = rows.map(([index, cells]) => [index, ...columns.map((c) => cells[c] ?? ""), ...(values ? [cells.value ?? ""] : [])]);
  const widths = head.map((h, i) => Math.max(h.length, ...lines.map((l) => l[i].length)) + 2);
  const rule = (left, middle, right) => left + widths.map((w) => "─".repeat(w)).join(middle) + right;
  const line = (cells) => `│${cells.map((c, i) => ` ${c.padEnd(widths[i] - 1)}`).join("│")}│`;
  return [rule("┌", "┬", "┐"), line(head), rule("├", "┼", "┤"), ...lines.map(line), rule("└", "┴", "┘")].join("\n");
}
