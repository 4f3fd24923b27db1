package outbound

import (
	"net/netip"
	"testing"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]struct{ normal, strict bool }{
		"93.184.216.34":             {true, true},
		"2606:2800:220:1::1":        {true, true},
		"10.1.2.3":                  {true, false},
		"172.31.0.1":                {true, false},
		"192.168.1.1":               {true, false},
		"100.64.0.1":                {true, false},
		"fd12::1":                   {true, false},
		"127.0.0.1":                 {},
		"127.9.9.9":                 {},
		"::1":                       {},
		"::":                        {},
		"0.0.0.0":                   {},
		"::ffff:127.0.0.1":          {},
		"::ffff:169.254.169.254":    {},
		"169.254.1.1":               {},
		"fe80::1":                   {},
		"fe80::1%eth0":              {},
		"fd00:ec2::254":             {},
		"100.100.100.200":           {},
		"168.63.129.16":             {},
		"224.0.0.1":                 {},
		"255.255.255.255":           {},
		"64:ff9b::7f00:1":           {},
		"64:ff9b::5db8:d822":        {true, true},
		"64:ff9b::a00:1":            {true, false},
		"2002:7f00:1::1":            {},
		"2002:a9fe:a9fe::":          {},
		"::127.0.0.1":               {},
		"64:ff9b:1:0:0:0:a9fe:a9fe": {},
	} {
		a := netip.MustParseAddr(addr)
		if got := (guard{}).check(a) == nil; got != want.normal {
			t.Errorf("%s: allowed %v, want %v", addr, got, want.normal)
		}
		if got := (guard{denyPrivate: true}).check(a) == nil; got != want.strict {
			t.Errorf("%s without private addresses: allowed %v, want %v", addr, got, want.strict)
		}
		if (guard{denyPrivate: true, allow: []netip.Prefix{netip.PrefixFrom(a.WithZone("").Unmap(), a.WithZone("").Unmap().BitLen())}}).check(a) != nil {
			t.Errorf("%s: refused although it is on the list", addr)
		}
	}
}
