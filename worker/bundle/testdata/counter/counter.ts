import { DurableObject } from "cloudflare:workers";

export class Counter extends DurableObject {
  async value(): Promise<number> {
    return (await this.ctx.storage.get<number>("value")) ?? 0;
  }

  async increment(amount = 1): Promise<number> {
    const value = (await this.value()) + amount;
    await this.ctx.storage.put("value", value);
    return value;
  }
}
