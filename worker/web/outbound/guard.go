package outbound

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
)

// guard says which addresses may be dialled.
type guard struct {
	allow       []netip.Prefix
	denyPrivate bool
}

// DeniedError says that an address was refused, and which setting allows it.
type DeniedError struct {
	Addr netip.Addr
	Kind string // loopback, link-local, private, …
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("connecting to %s is refused, since that is a %s address: the setting fetch-allow names addresses that workers may reach all the same", e.Addr, e.Kind)
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// kinds are refused in this order. What is "this network" is dialled as loopback by Linux.
var kinds = []struct {
	name     string
	private  bool // only with denyPrivate
	prefixes []netip.Prefix
}{
	{"loopback", false, prefixes("127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128")},
	{"link-local", false, prefixes("169.254.0.0/16", "fe80::/10")},
	// Metadata services that are not link-local: AWS, Alibaba, Oracle, Azure.
	{"metadata", false, prefixes("fd00:ec2::254/128", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32")},
	{"multicast or broadcast", false, prefixes("224.0.0.0/4", "ff00::/8", "255.255.255.255/32")},
	{"private", true, prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10")},
}

// Addresses of IPv6 that stand for one of IPv4, and where that is in them.
var embedded = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},   // NAT64
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12}, // NAT64 of one's own
	{netip.MustParsePrefix("2002::/16"), 2},       // 6to4
	{netip.MustParsePrefix("::/96"), 12},          // IPv4-compatible
}

func (g guard) check(addr netip.Addr) error {
	addr = addr.WithZone("").Unmap()
	for _, p := range g.allow {
		if p.Contains(addr) {
			return nil
		}
	}
	for _, k := range kinds {
		if k.private && !g.denyPrivate {
			continue
		}
		for _, p := range k.prefixes {
			if p.Contains(addr) {
				return &DeniedError{Addr: addr, Kind: k.name}
			}
		}
	}
	for _, e := range embedded {
		if e.prefix.Contains(addr) {
			b := addr.As16()
			return g.check(netip.AddrFrom4([4]byte(b[e.at : e.at+4])))
		}
	}
	return nil
}

// control is called by the dialer with the address that it is about to connect to.
func (g guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %s %q: %w", network, address, err)
	}
	return g.check(ap.Addr())
}
