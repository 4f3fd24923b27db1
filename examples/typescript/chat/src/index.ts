import { Room } from "./room";

export { Room };

interface Env {
  ROOMS: DurableObjectNamespace<Room>;
}

export default {
  /**
   * POST /ROOM with {"author", "text"} says something. GET /ROOM?after=N says what was said after
   * number N; with &wait=SECONDS it waits for it if there is nothing yet.
   */
  async fetch(request, env): Promise<Response> {
    const url = new URL(request.url);
    const name = decodeURIComponent(url.pathname.slice(1));
    if (!name) {
      return new Response("which room? ask for /NAME\n", { status: 404 });
    }
    const room = env.ROOMS.getByName(name);
    if (request.method === "POST") {
      const said = await request.json<{ author?: unknown; text?: unknown }>().catch(() => null);
      if (typeof said?.author !== "string" || typeof said.text !== "string" || said.text.length > 4096) {
        return new Response('say {"author": "…", "text": "…"}, the text at most 4,096 characters\n', { status: 400 });
      }
      return Response.json(await room.post(said.author, said.text), { status: 201 });
    }
    const after = Number(url.searchParams.get("after") ?? 0);
    const seconds = Number(url.searchParams.get("wait") ?? 0);
    if (!(after >= 0) || !(seconds >= 0 && seconds <= 25)) {
      return new Response("after: a number; wait: seconds, at most 25\n", { status: 400 });
    }
    return Response.json(await room.messages(after, seconds * 1000));
  },
} satisfies ExportedHandler<Env>;
