import { DurableObject } from "cloudflare:workers";

interface Env {
  REMINDERS: DurableObjectNamespace<Reminders>;
}

interface Reminder {
  due: number;
  text: string;
}

const DUE = "due:";
const DONE = "done:";

/** The reminders of one person: those that are due some time, and those that were. */
export class Reminders extends DurableObject<Env> {
  async add(text: string, delayMs: number): Promise<Reminder> {
    const reminder = { due: Date.now() + delayMs, text };
    await this.ctx.storage.put(keyOf(DUE, reminder.due), reminder);
    // An object has one alarm: it is for the earliest.
    const alarm = await this.ctx.storage.getAlarm();
    if (alarm === null || reminder.due < alarm) {
      await this.ctx.storage.setAlarm(reminder.due);
    }
    return reminder;
  }

  async list(): Promise<{ due: Reminder[]; done: Reminder[] }> {
    const due = await this.ctx.storage.list<Reminder>({ prefix: DUE });
    const done = await this.ctx.storage.list<Reminder>({ prefix: DONE, reverse: true, limit: 20 });
    return { due: [...due.values()], done: [...done.values()] };
  }

  /**
   * Runs when the alarm is due, wherever the object is then, and runs again if it fails. A reminder
   * is moved in one atomic write, so however often this runs, each is done once.
   */
  override async alarm(): Promise<void> {
    const due = await this.ctx.storage.list<Reminder>({ prefix: DUE, limit: 100 });
    for (const [key, reminder] of due) {
      if (reminder.due > Date.now()) {
        await this.ctx.storage.setAlarm(reminder.due);
        return;
      }
      console.log(`reminder: ${reminder.text}`);
      await this.ctx.storage.delete(key);
      await this.ctx.storage.put(DONE + key.slice(DUE.length), reminder);
    }
    if (due.size === 100) {
      await this.ctx.storage.setAlarm(Date.now()); // there may be more
    }
  }
}

/** The time comes first in a key, so that listing begins with the earliest. */
function keyOf(prefix: string, time: number): string {
  return prefix + String(time).padStart(15, "0") + ":" + crypto.randomUUID();
}

export default {
  /** POST /NAME with {"text", "seconds"} sets a reminder; GET /NAME lists them. */
  async fetch(request, env): Promise<Response> {
    const name = decodeURIComponent(new URL(request.url).pathname.slice(1));
    if (!name) {
      return new Response("whose reminders? ask for /NAME\n", { status: 404 });
    }
    const reminders = env.REMINDERS.getByName(name);
    if (request.method !== "POST") {
      return Response.json(await reminders.list());
    }
    const asked = await request.json<{ text?: unknown; seconds?: unknown }>().catch(() => null);
    if (typeof asked?.text !== "string" || typeof asked.seconds !== "number" || !(asked.seconds >= 0)) {
      return new Response('say {"text": "…", "seconds": 60}\n', { status: 400 });
    }
    return Response.json(await reminders.add(asked.text, asked.seconds * 1000), { status: 201 });
  },
} satisfies ExportedHandler<Env>;
