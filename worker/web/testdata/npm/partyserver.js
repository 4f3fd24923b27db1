import { Server, routePartykitRequest } from "partyserver";

class Room extends Server {
  async onRequest(request) {
    return Response.json({ room: this.name, method: request.method, body: await request.text() });
  }
}

// A namespace of one object per name, as the runtime gives it.
const rooms = new Map();
const namespace = {
  idFromName: (name) => ({ name, toString: () => name }),
  get(id) {
    if (!rooms.has(id.name)) {
      const storage = new Map();
      const ctx = {
        id,
        blockConcurrencyWhile: (f) => f(),
        getWebSockets: () => [],
        storage: { get: async (k) => storage.get(k), put: async (k, v) => void storage.set(k, v), deleteAlarm: async () => {} },
      };
      rooms.set(id.name, new Room(ctx, env));
    }
    return rooms.get(id.name);
  },
};
const env = { Room: { ...namespace, getByName: (name) => namespace.get(namespace.idFromName(name)) } };

export default async function run() {
  const out = [];
  for (const [path, init] of [["/parties/room/one", { method: "POST", body: "hi" }], ["/parties/room/two"], ["/other"]]) {
    const r = await routePartykitRequest(new Request(`https://a.example${path}`, init), env);
    out.push(`${path} ${r ? `${r.status} ${await r.text()}` : r}`);
  }
  return out.join("\n");
}
