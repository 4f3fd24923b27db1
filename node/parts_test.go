package node

import (
	"net"
	"runtime/debug"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/holdfast-io/holdfast/peer"
)

// A node that runs on an old copy of its disk is refused, and goes on being refused when the one
// that refuses it has restarted (P1).
func TestBootBookRefusesOldCopies(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	hello := func(boot uint64, nonce string) peer.Hello {
		return peer.Hello{Node: 7, Name: "n7", Boot: boot, Nonce: nonce}
	}
	refused := []string{"n7", "old copy of its disk", "empty data directory"}
	for _, step := range []struct {
		name  string
		hello peer.Hello
		want  []string // in the refusal; none: admitted
	}{
		{"first seen", hello(5, "a"), nil},
		{"again", hello(5, "a"), nil},
		{"the same boot of another process", hello(5, "b"), refused},
		{"a lower boot", hello(4, "c"), refused},
		{"a lower boot with the nonce of the latest", hello(4, "a"), refused},
		{"still the same", hello(5, "a"), nil},
		{"restarted", hello(6, "d"), nil},
		{"the boot before", hello(5, "a"), refused},
	} {
		// Each step on a store that was opened again, and each twice: from the disk and from memory.
		s := openStore(t, fs)
		book := &bootBook{store: s}
		for range 2 {
			if err := book.admit(step.hello); (err == nil) != (len(step.want) == 0) {
				t.Errorf("%s: got %v", step.name, err)
			} else {
				wantError(t, err, step.want...)
			}
		}
		if err := book.admit(peer.Hello{Node: 8, Boot: 1, Nonce: "x"}); err != nil {
			t.Errorf("another node: %v", err)
		}
		closeStore(t, s)
	}
}

// A book that can't be read admits nobody.
func TestBootBookRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	s := openStore(t, vfs.NewMem())
	defer closeStore(t, s)
	h := peer.Hello{Node: 7, Boot: 5}
	if err := s.SetMeta("boot/"+h.Node.String(), []byte("{")); err != nil {
		t.Fatal(err)
	}
	wantError(t, (&bootBook{store: s}).admit(h), "stored boot of 0000000000000007")
}

func TestMemoryLimit(t *testing.T) { // not parallel: it changes the process's memory limit
	if got := memoryLimit(123); got != 123 {
		t.Errorf("got %d, want what was configured", got)
	}
	if got := memoryLimit(0); got < 64<<20 || got > 1<<50 {
		t.Errorf("got %d, which no machine has", got)
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(3 << 30))
	if got := memoryLimit(0); got != 3<<30 {
		t.Errorf("got %d, want the runtime's own limit", got)
	}
}

func TestAdvertise(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		cfg        Config
		host, ip   string
		wantsOther bool // any address but an unspecified one
	}{
		{name: "an IP", cfg: Config{Advertise: "10.1.2.3", Gossip: ":7946"}, host: "10.1.2.3", ip: "10.1.2.3"},
		{name: "a name", cfg: Config{Advertise: "localhost", Gossip: ":7946"}, host: "localhost", ip: "127.0.0.1"},
		{name: "the listen address", cfg: Config{Gossip: "127.0.0.1:7946"}, host: "127.0.0.1", ip: "127.0.0.1"},
		{name: "no host", cfg: Config{Gossip: ":7946"}, wantsOther: true},
		{name: "all IPv4", cfg: Config{Gossip: "0.0.0.0:7946"}, wantsOther: true},
		{name: "all IPv6", cfg: Config{Gossip: "[::]:7946"}, wantsOther: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			host, ip, err := advertise(tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if parsed := net.ParseIP(ip); parsed == nil || parsed.IsUnspecified() {
				t.Errorf("%q is nothing that others could dial", ip)
			}
			if !tt.wantsOther && (host != tt.host || ip != tt.ip) {
				t.Errorf("got %q, %q, want %q, %q", host, ip, tt.host, tt.ip)
			}
		})
	}
	_, _, err := advertise(Config{Advertise: "no such host"})
	wantError(t, err, `--advertise "no such host"`)
}
