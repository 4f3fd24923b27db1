package worker_test

import (
	"strings"
	"testing"
	"time"
)

const targetTests = caller + `
class Cell extends RpcTarget {
	n = 0;
	add(by) { return (this.n += by); }
}
export class T extends DurableObject {
	made = Math.random();
	log = [];
	since() { return this.made; }
	lines() { return this.log; }
	cell() { return new Cell(); }
	cells(n) { return Array.from({ length: n }, () => new Cell()); }
	// many makes as many as there may be, and one more.
	async many() {
		const peer = this.env.T.getByName(this.ctx.id.name + ' peer');
		const held = await peer.cells(1000);
		await throws(() => peer.cell(), Error, 'Too many stubs: others may have stubs of at most 1000 functions and RpcTargets of one Durable Object at a time. Dispose of those that are not needed any more.');
		equal(await held[999].add(2), 2);
		for (const stub of held) stub[Symbol.dispose]();
		for (let i = 0; ; i++) {
			try {
				return await peer.cell().add(1);
			} catch (e) {
				if (i === 1000) throw e;
				await scheduler.wait(1); // They are on their way.
			}
		}
	}
	async hold() {
		const peer = this.env.T.getByName(this.ctx.id.name + ' peer');
		this.held = await peer.cell();
		return [await this.held.add(1), await peer.since()];
	}
	async stay() {
		await this.hold();
		while (!this.told) await scheduler.wait(5);
	}
	stays() { return this.held !== undefined; }
	tell() { this.told = true; }
	async another() { this.more = await this.env.T.getByName(this.ctx.id.name + ' peer').cell(); }
	held2() { return this.held.add(1); }
	abortPeer() { return this.env.T.getByName(this.ctx.id.name + ' peer').aborts().catch(() => {}); }
	aborts() { this.ctx.abort('on purpose'); }
	async forged() {
		const peer = this.env.T.getByName(this.ctx.id.name + ' peer');
		await peer.cell();
		for (const name of ['!', '!x.1', '!x.1!', '!00000000-0000-0000-0000-000000000000.1/add']) {
			await throws(() => peer[name](1), TypeError, 'The RPC receiver does not implement the method "' + name + '".');
		}
	}
	async sends(f) { return f(1); }
	async gated() {
		const peer = this.env.T.getByName(this.ctx.id.name + ' peer');
		await this.ctx.storage.put('sum', 0);
		const add = async (n) => {
			const sum = await this.ctx.storage.get('sum');
			await this.ctx.storage.put('sum', sum + n);
		};
		await Promise.all(Array.from({ length: 20 }, () => peer.sends(add)));
		return this.ctx.storage.get('sum');
	}
	keep(f) { this.kept = f; }
	keepDup(f) { this.kept = f.dup(); }
	callKept() { return this.kept(1); }
	async kept() {
		const peer = this.env.T.getByName(this.ctx.id.name + ' peer');
		await peer.keep((n) => n);
		await throws(() => peer.callKept(), Error, 'RPC stub used after being disposed.');
		await peer.keepDup((n) => n + 1);
		equal(await peer.callKept(), 2);
	}
	callback() { return this.env.T.getByName('x').sends((n) => n + 5); }
}
`

func TestStubsOfTargets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, targetTests)
	if got := w.ok("T", "many", "many"); got != 1.0 {
		t.Errorf("after all were disposed of: %v", got)
	}
	w.ok("T", "forged", "forged")
	w.ok("T", "kept", "kept")
	if got := w.ok("T", "gated", "gated"); got != 20.0 {
		t.Errorf("20 callbacks at once added up to %v", got)
	}
	if got := w.ok("T", "callback", "callback"); got != 6.0 {
		t.Errorf("got %v", got)
	}
	w.ok("T", "held", "hold")
	w.ok("T", "held", "abortPeer")
	w.ok("T", "held", "another") // In the same place of the next instance.
	a := w.call("T", "held", "held2")
	if a.Error == nil || !a.Error.DurableObjectReset || !strings.HasPrefix(a.Error.Message, "The RPC stub is broken") {
		t.Errorf("after its object was reset: %+v", a.Error)
	}
	// A worker's own handler has nothing that others could call.
	a = w.call("T", "x", "sends")
	if a.Error == nil || a.Error.Name != "TypeError" {
		t.Errorf("got %+v", a)
	}
}

// An object stays in memory as long as another holds a stub of what is its own, and no longer.
func TestStubsKeepObjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t, targetTests, func(w *world) { w.idle = 50 * time.Millisecond })
	since := func() any { return w.ok("T", "a peer", "since") }
	made := since()
	eventually(t, "an object that nobody calls leaves", func() bool { <-time.After(100 * time.Millisecond); return since() != made })
	stayed := make(chan any, 1)
	go func() { stayed <- w.ok("T", "a", "stay") }() // In memory, with the stub, until it is told.
	eventually(t, "the other has a stub", func() bool { return w.ok("T", "a", "stays") == true })
	made = since()
	<-time.After(500 * time.Millisecond) // Ten times what an object that nobody calls is given.
	if since() != made {
		t.Error("an object left that another has a stub of")
	}
	w.ok("T", "a", "tell")
	<-stayed
	eventually(t, "it leaves when the other has", func() bool { <-time.After(150 * time.Millisecond); return since() != made })
}
