package main

import (
	"net/netip"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/worker/web/outbound"
)

// fetchFlags bound the HTTP requests that workers make of others.
type fetchFlags struct {
	Allow       []netip.Prefix `name:"fetch-allow" help:"Addresses that workers may fetch from although they are refused by default (loopback, link-local, metadata services, multicast)." placeholder:"PREFIX"`
	DenyPrivate bool           `name:"fetch-deny-private" help:"Refuse workers private addresses too."`
	InFlight    int64          `name:"fetch-in-flight" help:"How many requests workers may have under way; more wait." default:"256"`
	HeaderMax   size           `name:"fetch-header-max" help:"How large the head of a response may be." default:"64KiB"`
	BodyMax     size           `name:"fetch-body-max" help:"How large the body of a response may be, decompressed." default:"128MiB"`
	HeadTime    time.Duration  `name:"fetch-head-time" help:"How long the head of a response may take, redirects included." default:"60s"`
	IdleTime    time.Duration  `name:"fetch-idle-time" help:"How long the body of a response may pause." default:"60s"`
}

// config is that of the client by which workers fetch; what is named in also is allowed as --fetch-allow is.
func (f fetchFlags) config(also ...netip.Prefix) outbound.Config {
	return outbound.Config{
		Allow: slices.Concat(also, f.Allow), DenyPrivate: f.DenyPrivate, InFlightMax: f.InFlight,
		HeaderBytesMax: int64(f.HeaderMax), BodyBytesMax: int64(f.BodyMax), HeadTime: f.HeadTime, IdleTime: f.IdleTime,
	}
}
