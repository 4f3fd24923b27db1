import { DurableObject } from "cloudflare:workers";

interface Limit {
  capacity: number;
  perSecond: number;
}

interface Env {
  LIMITS: DurableObjectNamespace<Bucket>;
  LIMIT: Limit;
}

interface Level {
  tokens: number;
  /** When that was so, in milliseconds. */
  time: number;
}

/** A bucket of tokens. A call takes some out; they come back at a steady rate, up to a limit. */
export class Bucket extends DurableObject<Env> {
  /** Takes tokens if there are enough, and says when to try again if not. */
  async take(tokens: number): Promise<{ allowed: boolean; remaining: number; retryAfterMs: number }> {
    const { capacity, perSecond } = this.env.LIMIT;
    const now = Date.now();
    const last = (await this.ctx.storage.get<Level>("level")) ?? { tokens: capacity, time: now };
    // Nothing runs to fill the bucket: what came back since is computed when somebody asks. A clock
    // that was set back takes nothing away.
    const level = Math.min(capacity, last.tokens + (Math.max(0, now - last.time) / 1000) * perSecond);
    const allowed = level >= tokens;
    const left = allowed ? level - tokens : level;
    // A token is not worth a wait for a majority of disks: if a node dies at the wrong moment,
    // somebody gets a few calls more.
    await this.ctx.storage.put<Level>("level", { tokens: left, time: now }, { allowUnconfirmed: true });
    return {
      allowed,
      remaining: Math.floor(left),
      retryAfterMs: allowed ? 0 : Math.ceil(((tokens - level) / perSecond) * 1000),
    };
  }
}

export default {
  /** GET /KEY takes a token of the key, or ?tokens=N of them: 200, or 429 with Retry-After. */
  async fetch(request, env): Promise<Response> {
    const url = new URL(request.url);
    const key = decodeURIComponent(url.pathname.slice(1)) || request.headers.get("cf-connecting-ip") || "anybody";
    const tokens = Number(url.searchParams.get("tokens") ?? 1);
    if (!(tokens > 0 && tokens <= env.LIMIT.capacity)) {
      return new Response(`tokens: more than 0, at most ${env.LIMIT.capacity}\n`, { status: 400 });
    }
    const taken = await env.LIMITS.getByName(key).take(tokens);
    if (taken.allowed) {
      return Response.json(taken);
    }
    const seconds = Math.ceil(taken.retryAfterMs / 1000);
    return Response.json(taken, { status: 429, headers: { "retry-after": String(seconds) } });
  },
} satisfies ExportedHandler<Env>;
