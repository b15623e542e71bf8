// One frame in numbers. Always there and always the same height, so that nothing jumps.

import { percent, value } from "../format";
import { changeText } from "../flame/draw";
import { Kind, type Hit } from "../flame/layout";
import { delta } from "../flame/tree";
import type { Shown } from "../flame/view";
import type { Top, TopRow } from "../wire";

/** What is known of a function beside the tree: its row of the table. */
export type Rows = (name: string) => TopRow | undefined;

/** Looks through the table each time: one is asked of seldom, and an index of it would be made before the first picture. */
export function rowsOf(top: Top | null): Rows {
  return (name) => top?.rows.find((r) => r.function === name);
}

export function Details({ shown, hit, rows }: { shown: Shown; hit: Hit; rows: Rows }) {
  const { tree, whole, focus } = shown;
  if (hit.kind === Kind.Above) {
    return (
      <div class="details" data-testid="details">
        <p class="name mono">{shown.above[hit.node]?.name}</p>
        <p class="facts"><span class="muted">Click to zoom out to this caller.</span></p>
      </div>
    );
  }
  const node = hit.node;
  const name = tree.names[tree.name[node]!]!;
  if (hit.kind === Kind.Pruned) {
    const total = tree.prunedValue[node]!;
    // Below a root nothing more can be fetched; the table always has all of them.
    const more = node === 0 ? "the table has them" : "click to load them";
    return (
      <div class="details" data-testid="details">
        <p class="name mono">{`${tree.prunedCount[node]} functions called by ${name}, too small to draw: ${more}`}</p>
        <p class="facts">
          <Fact label="total" text={value(total, tree.unit)} />
          <Fact label="of all" text={percent(total, whole)} />
          <Fact label="of parent" text={percent(total, tree.total[node]!)} />
        </p>
      </div>
    );
  }
  const total = tree.total[node]!;
  const parent = tree.parent[node]!;
  const row = rows(name);
  const binary = tree.binaries[tree.binaryOf[tree.name[node]!]!]!;
  return (
    <div class="details" data-testid="details">
      <p class="name mono" title={name}>{name}</p>
      <p class="facts">
        {tree.b && <Fact label="change" text={changeText(delta(tree, node), whole)} />}
        <Fact label="self" text={value(tree.self[node]!, tree.unit)} more={percent(tree.self[node]!, whole)} />
        <Fact label={tree.b ? "A" : "total"} text={value(total, tree.unit)} />
        {tree.b && <Fact label="B" text={value(tree.b.total[node]!, tree.unit)} />}
        {!tree.b && <Fact label="of all" text={percent(total, whole)} />}
        {parent >= 0 && <Fact label="of parent" text={percent(total, tree.total[parent]!)} />}
        {focus > 0 || shown.base.length > 0 ? <Fact label="of view" text={percent(total, tree.total[focus]!)} /> : null}
        {row && row.total !== total && <Fact label="in all places" text={value(row.total, tree.unit)} more={percent(row.total, whole)} />}
        {binary !== "" && <Fact label="binary" text={binary} />}
        {row?.file && <Fact label="file" text={row.file} />}
      </p>
    </div>
  );
}

function Fact({ label, text, more }: { label: string; text: string; more?: string }) {
  return <span class="fact"><span class="muted">{label}</span> <b title={text}>{text}</b>{more && <span class="muted"> {more}</span>}</span>;
}
