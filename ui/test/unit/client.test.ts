import { afterEach, describe, expect, test, vi } from "vitest";
import type { Request, Response } from "../../src/flame/worker";

/** A worker whose pattern "slow" never ends, and holds up whatever comes after it. */
class FakeWorker {
  onmessage: ((event: { data: Response }) => void) | null = null;
  onerror: (() => void) | null = null;
  private stuck = false;

  postMessage(request: Request): void {
    if (request.kind !== "match") throw new Error(request.kind);
    if (request.pattern === "slow") this.stuck = true;
    const { id, names } = request;
    if (!this.stuck) queueMicrotask(() => this.onmessage?.({ data: { id, matched: new Uint8Array(names.length).fill(1) } }));
  }

  terminate(): void {
    this.onmessage = null;
  }
}

vi.stubGlobal("Worker", FakeWorker);
const { match, PatternError } = await import("../../src/flame/client");
const kept = new AbortController().signal;

describe("match", () => {
  afterEach(() => void vi.useRealTimers());

  test("a pattern that takes too long is given up alone", async () => {
    vi.useFakeTimers();
    const slow = match(["a"], "slow", kept).catch((err: unknown) => err);
    const other = match(["a", "b"], "x", kept);
    await vi.advanceTimersByTimeAsync(3000);
    expect(await slow).toBeInstanceOf(PatternError);
    expect([...(await other)]).toEqual([1, 1]);
  });

  test("each has its time from when it runs", async () => {
    vi.useFakeTimers();
    let ended = 0;
    const both = [1, 2].map(() => match(["a"], "slow", kept).catch(() => ended++));
    await vi.advanceTimersByTimeAsync(4000);
    expect(ended).toBe(1);
    await vi.advanceTimersByTimeAsync(2000);
    expect(ended).toBe(2);
    await Promise.all(both);
  });

  test("what nobody waits for any more is not run", async () => {
    vi.useFakeTimers();
    const abort = new AbortController();
    const slow = match(["a"], "slow", kept).catch(() => undefined);
    const unwanted = match(["a"], "slow", abort.signal).catch(() => "not run");
    const next = match(["a"], "x", kept);
    abort.abort();
    await vi.advanceTimersByTimeAsync(3000);
    await slow;
    expect(await unwanted).toBe("not run");
    expect([...(await next)]).toEqual([1]);
  });
});
