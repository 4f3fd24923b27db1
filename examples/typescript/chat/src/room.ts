import { DurableObject } from "cloudflare:workers";

export interface Message {
  number: number;
  time: number;
  author: string;
  text: string;
}

interface Env {
  KEEP: number;
}

const PREFIX = "message:";

/** Keys are in the order of their bytes: padded numbers are in the order of the conversation. */
const keyOf = (number: number) => PREFIX + String(number).padStart(12, "0");

/** What is said in one room: numbered without a gap, and kept. */
export class Room extends DurableObject<Env> {
  /** The number of the last message. It is memory, so the constructor finds it again. */
  #last = 0;
  /** Those who wait for the next message. They are memory too: when the object moves, they ask again. */
  #waiting = new Set<() => void>();

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    // No call comes in before this is done.
    void ctx.blockConcurrencyWhile(async () => {
      const last = await ctx.storage.list<Message>({ prefix: PREFIX, reverse: true, limit: 1 });
      for (const message of last.values()) {
        this.#last = message.number;
      }
    });
  }

  async post(author: string, text: string): Promise<Message> {
    const message = { number: ++this.#last, time: Date.now(), author, text };
    await this.ctx.storage.put(keyOf(message.number), message);
    await this.ctx.storage.delete(keyOf(message.number - this.env.KEEP));
    for (const wake of this.#waiting) {
      wake();
    }
    return message;
  }

  /** The messages after the number, at most 100 of them. It waits for the first, but not for ever. */
  async messages(after: number, waitMs: number): Promise<Message[]> {
    if (this.#last <= after && waitMs > 0) {
      await this.#next(waitMs);
    }
    const found = await this.ctx.storage.list<Message>({
      start: keyOf(after + 1),
      end: PREFIX + "~",
      limit: 100,
    });
    return [...found.values()];
  }

  /** Waits for the next message, or until the time is up. Others have their turns meanwhile. */
  #next(waitMs: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, waitMs);
      this.#waiting.add(wake);
    });
  }
}
