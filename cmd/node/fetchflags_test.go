package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

func TestFetchFlags(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args []string
		want outbound.Config
	}{
		{nil, outbound.Config{
			Allow: []netip.Prefix{netip.MustParsePrefix("::1/128")}, InFlightMax: 256, HeaderBytesMax: 64 << 10, BodyBytesMax: 128 << 20,
			HeadTime: time.Minute, IdleTime: time.Minute,
		}},
		{[]string{
			"--fetch-allow=10.0.0.0/8,169.254.1.1/32", "--fetch-deny-private", "--fetch-in-flight=2", "--fetch-header-max=1KiB", "--fetch-body-max=1MiB",
			"--fetch-head-time=1s", "--fetch-idle-time=2s",
		}, outbound.Config{
			Allow:       []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("169.254.1.1/32")},
			DenyPrivate: true, InFlightMax: 2, HeaderBytesMax: 1 << 10, BodyBytesMax: 1 << 20, HeadTime: time.Second, IdleTime: 2 * time.Second,
		}},
	} {
		var f fetchFlags
		parser, err := kong.New(&f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(tc.args); err != nil {
			t.Errorf("%q: %v", tc.args, err)
			continue
		}
		if d := cmp.Diff(tc.want, f.config(netip.MustParsePrefix("::1/128")), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
			t.Errorf("%q: %s", tc.args, d)
		}
	}
}
