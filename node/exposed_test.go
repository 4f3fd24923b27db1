package node

import (
	"bytes"
	"log/slog"
	"regexp"
	"slices"
	"testing"
)

// Nothing between nodes is encrypted or authenticated: an operator is told of every port that others
// reach, those between nodes first of all.
func TestPortsBeyondLoopbackAreWarnedOf(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		host string
		key  []byte
		want []string
	}{
		"everywhere":            {"", nil, []string{"grpc", "peer", "http", "admin", "gossip"}},
		"everywhere, any":       {"0.0.0.0", nil, []string{"grpc", "peer", "http", "admin", "gossip"}},
		"with a gossip key":     {"", make([]byte, 32), []string{"grpc", "peer", "http", "admin"}},
		"loopback":              {"127.0.0.1", nil, nil},
		"loopback, by its name": {"localhost", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			addr := tt.host + ":0"
			l, err := listen(Config{
				GRPC: addr, Peer: addr, Gossip: addr, HTTP: addr, Admin: addr, GossipKey: tt.key,
				Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			var got []string
			for _, m := range regexp.MustCompile(`level=WARN .* port=(\w+) .* risk="whoever`).FindAllStringSubmatch(log.String(), -1) {
				got = append(got, m[1])
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("warned of %v, want %v\n%s", got, tt.want, log.String())
			}
		})
	}
}
