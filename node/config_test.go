package node

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/actor"
	counterclass "github.com/holdfast-io/holdfast/examples/counter"
)

// Each wrong field is refused by the name of its flag, with what was given and the limit (P7).
func TestValidateNamesFlagAndLimit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   []string // none: valid
	}{
		{"the least that is needed", func(*Config) {}, nil},
		{"no name", func(c *Config) { c.Name = "" }, []string{`--name ""`, "1 to 63"}},
		{"name with a space", func(c *Config) { c.Name = "a b" }, []string{`--name "a b"`, "letters, digits"}},
		{"name that begins with a dash", func(c *Config) { c.Name = "-a" }, []string{"--name", "beginning with a letter or digit"}},
		{"name of 63 bytes", func(c *Config) { c.Name = strings.Repeat("n", 63) }, nil},
		{"name of 64 bytes", func(c *Config) { c.Name = strings.Repeat("n", 64) }, []string{"--name", "1 to 63"}},
		{"no data directory", func(c *Config) { c.DataDir = "" }, []string{"--data-dir"}},
		{"most shards", func(c *Config) { c.Shards = 4096 }, nil},
		{"too many shards", func(c *Config) { c.Shards = 4097 }, []string{"--shards 4097", "1 to 4096"}},
		{"negative shards", func(c *Config) { c.Shards = -1 }, []string{"--shards -1", "1 to 4096"}},
		{"even replicas", func(c *Config) { c.Replicas = 2 }, []string{"--replicas 2", "1, 3, 5 or 7"}},
		{"too many replicas", func(c *Config) { c.Replicas = 9 }, []string{"--replicas 9", "1, 3, 5 or 7"}},
		{"negative replicas", func(c *Config) { c.Replicas = -1 }, []string{"--replicas -1"}},
		{"address without a port", func(c *Config) { c.GRPC = "localhost" }, []string{`--grpc "localhost"`, "HOST:PORT"}},
		{"peer address", func(c *Config) { c.Peer = "1:2:3" }, []string{`--peer "1:2:3"`, "HOST:PORT"}},
		{"gossip address", func(c *Config) { c.Gossip = "x" }, []string{`--gossip "x"`}},
		{"http address", func(c *Config) { c.HTTP = "x" }, []string{`--http "x"`}},
		{"admin address", func(c *Config) { c.Admin = "x" }, []string{`--admin "x"`}},
		{"gossip key of 32 bytes", func(c *Config) { c.GossipKey = make([]byte, 32) }, nil},
		{"gossip key of 15 bytes", func(c *Config) { c.GossipKey = make([]byte, 15) }, []string{"--gossip-key-file", "16, 24 or 32 bytes", "is 15"}},
		{"negative join after", func(c *Config) { c.RingJoinAfter = -time.Second }, []string{"--ring-join-after -1s", "negative"}},
		{"negative dead after", func(c *Config) { c.RingDeadAfter = -1 }, []string{"--ring-dead-after"}},
		{"negative stable", func(c *Config) { c.LeaderStable = -1 }, []string{"--leader-stable"}},
		{"negative drain", func(c *Config) { c.DrainTimeout = -1 }, []string{"--drain-timeout"}},
		{"negative memory", func(c *Config) { c.MemoryLimit = -1 }, []string{"--memory-limit -1", "negative"}},
		{"negative tick", func(c *Config) { c.Tick = -1 }, []string{"tick", "negative"}},
		{"a class", func(c *Config) { c.Classes = []actor.Class{counterclass.Class()} }, nil},
		{"a class twice", func(c *Config) { c.Classes = []actor.Class{counterclass.Class(), counterclass.Class()} }, []string{`class "Counter"`, "twice"}},
		{"a class without a name", func(c *Config) { c.Classes = []actor.Class{{}} }, []string{`class ""`, "1 to 63"}},
		{"a reserved class", func(c *Config) { c.Classes = []actor.Class{{Name: "holdfast.Mine"}} }, []string{`class "holdfast.Mine"`, "reserved"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Name: "n1", DataDir: "data"}
			tt.change(&cfg)
			wantError(t, cfg.Validate(), tt.want...)
		})
	}
}

// All that is wrong is said at once, and in the same words each time.
func TestValidateSaysAllAtOnce(t *testing.T) {
	t.Parallel()
	cfg := Config{Shards: -1, Replicas: 2, GRPC: "x", Peer: "x", Gossip: "x", HTTP: "x", Admin: "x", DrainTimeout: -1}
	err := cfg.Validate()
	wantError(t, err, "--name", "--data-dir", "--shards", "--replicas", "--grpc", "--peer", "--gossip", "--http", "--admin", "--drain-timeout")
	if n := strings.Count(err.Error(), "\n") + 1; n != 10 {
		t.Errorf("%d lines for 10 problems:\n%v", n, err)
	}
	for range 10 {
		if again := cfg.Validate(); again.Error() != err.Error() {
			t.Fatalf("first:\n%v\nthen:\n%v", err, again)
		}
	}
}
