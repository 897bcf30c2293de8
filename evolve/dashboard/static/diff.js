// Line differences by Myers' greedy algorithm (An O(ND) difference algorithm, 1986).

const MOST = 4000;

/** [["=", i, j], ["-", i, null], ["+", null, j], ...]: lines of a and b by number from 0. */
export function lineDiff(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let endA = a.length;
  let endB = b.length;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) {
    endA--;
    endB--;
  }
  const head = Array.from({ length: start }, (_, i) => ["=", i, i]);
  const tail = Array.from({ length: a.length - endA }, (_, i) => ["=", endA + i, endB + i]);
  return [...head, ...middle(a, b, start, endA, endB), ...tail];
}

function middle(a, b, start, endA, endB) {
  const n = endA - start;
  const m = endB - start;
  const trace = [];
  const front = new Map([[1, 0]]);
  for (let d = 0; d <= Math.min(n + m, MOST); d++) {
    trace.push(new Map(front));
    for (let k = -d; k <= d; k += 2) {
      let x =
        k === -d || (k !== d && (front.get(k - 1) ?? -1) < (front.get(k + 1) ?? -1))
          ? (front.get(k + 1) ?? 0)
          : (front.get(k - 1) ?? 0) + 1;
      while (x < n && x - k < m && a[start + x] === b[start + x - k]) x++;
      front.set(k, x);
      if (x >= n && x - k >= m) return walk(trace, start, n, m);
    }
  }
  return [
    ...Array.from({ length: n }, (_, i) => ["-", start + i, null]),
    ...Array.from({ length: m }, (_, j) => ["+", null, start + j]),
  ];
}

function walk(trace, start, n, m) {
  const steps = [];
  let [x, y] = [n, m];
  for (let d = trace.length - 1; d >= 0 && (x > 0 || y > 0); d--) {
    const front = trace[d];
    const k = x - y;
    const down = k === -d || (k !== d && (front.get(k - 1) ?? -1) < (front.get(k + 1) ?? -1));
    const before = down ? k + 1 : k - 1;
    const x0 = d === 0 ? 0 : (front.get(before) ?? 0);
    const y0 = d === 0 ? 0 : x0 - before;
    while (x > x0 && y > y0 && x > 0 && y > 0) steps.push(["=", start + --x, start + --y]);
    if (d === 0) break;
    if (down) steps.push(["+", null, start + --y]);
    else steps.push(["-", start + --x, null]);
  }
  return steps.reverse();
}
