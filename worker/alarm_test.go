package worker_test

import (
	"fmt"
	"testing"
	"time"
)

const alarmTests = caller + `
export class T extends DurableObject {
	async set(ms) { await this.ctx.storage.setAlarm(Date.now() + ms); }
	async alarm(info) {
		const { storage } = this.ctx;
		const seen = (await storage.get('seen')) ?? [];
		seen.push([info.retryCount, info.isRetry, typeof info.scheduledTime, await storage.getAlarm()]);
		await storage.put('seen', seen);
		await scheduler.wait(5);
		if (await storage.get('fail')) {
			await storage.delete('fail');
			throw new Error('failed');
		}
		if (await storage.get('again')) {
			await storage.delete('again');
			await storage.setAlarm(Date.now() + 1);
		}
	}
	async put(k, v) { await this.ctx.storage.put(k, v); }
	async seen() { return (await this.ctx.storage.get('seen')) ?? []; }
	async api() {
		const s = this.ctx.storage;
		equal(await s.getAlarm(), null);
		const at = Date.now() + 3600_000;
		await s.setAlarm(at + 0.7);
		equal(await s.getAlarm(), at);
		await s.setAlarm(new Date(at + 5));
		equal(await s.getAlarm(), at + 5);
		await s.deleteAlarm();
		equal(await s.getAlarm(), null);
		await throws(() => s.setAlarm('soon'), TypeError, "Failed to execute 'setAlarm' on 'DurableObjectStorage': parameter 1 is not of type 'date'.");
		await throws(() => s.setAlarm(0), TypeError, 'setAlarm() cannot be called with an alarm time <= 0');
		await throws(() => s.setAlarm(-1), TypeError, 'setAlarm() cannot be called with an alarm time <= 0');
		const before = Date.now();
		await s.setAlarm(5);
		equal((await s.getAlarm()) >= before, true, 'one that has passed is now');
		await s.deleteAlarm();
		await s.transaction(async (tx) => { await tx.setAlarm(at); equal(await tx.getAlarm(), at); tx.rollback(); });
		equal(await s.getAlarm(), null);
		await s.setAlarm(at);
		await s.deleteAll();
		equal(await s.getAlarm(), null, 'deleteAll deletes it too');
	}
}
export class None extends DurableObject {
	constructor(ctx, env) {
		super(ctx, env);
		ctx.storage.setAlarm(Date.now() + 3600_000);
	}
	async set() { await throws(() => this.ctx.storage.setAlarm(Date.now() + 10), TypeError, 'Your Durable Object class must have an alarm() handler in order to call setAlarm()'); }
}
`

func TestAlarms(t *testing.T) {
	t.Parallel()
	w := newWorld(t, alarmTests)
	w.ok("T", "api", "api")
	w.ok("NONE", "none", "set")

	seen := func(name string, n int) []any {
		var got []any
		eventually(t, fmt.Sprintf("%d runs of the alarm of %s", n, name), func() bool {
			got, _ = w.ok("T", name, "seen").([]any)
			return len(got) >= n
		})
		return got
	}
	w.ok("T", "once", "set", 10)
	if got := fmt.Sprint(seen("once", 1)); got != "[[0 false number <nil>]]" {
		t.Errorf("got %v", got)
	}
	w.ok("T", "again", "put", "again", true)
	w.ok("T", "again", "set", 1)
	seen("again", 2)

	w.ok("T", "fails", "put", "fail", true)
	w.ok("T", "fails", "set", 1)
	start := time.Now()
	if got := fmt.Sprint(seen("fails", 2)); got != "[[0 false number <nil>] [1 true number <nil>]]" {
		t.Errorf("got %v", got)
	}
	if d := time.Since(start); d < 1500*time.Millisecond {
		t.Errorf("tried again after %v, want 2 s", d)
	}
	w.ok("T", "survives", "set", 1500)
	w.restart()
	seen("survives", 1)
}
