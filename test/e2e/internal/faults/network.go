//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The interfaces: the one by which containers reach each other, and the one that nobody uses.
const (
	outward  = "eth0"
	loopback = "lo"
)

// tableName is the nftables table of our rules.
const tableName = "holdfast_faults"

// dropAll adds rules to the way in, each of which drops what it matches. On the way in a lost packet
// is lost without a trace; on the way out its sender would be told.
func dropAll(matches ...[]expr.Any) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	chain := c.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	for _, match := range matches {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(match, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

func dropFrom(from []net.IP) error {
	var matches [][]expr.Any
	for _, ip := range from {
		v4 := ip.To4()
		if v4 == nil {
			return fmt.Errorf("%s is not an IPv4 address, of which the network is", ip)
		}
		const sourceOffset = 12 // in the IPv4 header
		matches = append(matches, []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: sourceOffset, Len: net.IPv4len},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: v4},
		})
	}
	return dropAll(matches...)
}

// lose drops packets at random, those of the loopback interface excepted.
func lose(percent uint32) error {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, loopback)
	return dropAll([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: name},
		&expr.Numgen{Register: 1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4}, // cmp compares bytes
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.BigEndian.AppendUint32(nil, percent)},
	})
}

// heal ends what dropAll and shape began, and returns how many packets were dropped.
func heal() (dropped uint64, err error) {
	unshape(outward)
	c, err := nftables.New()
	if err != nil {
		return 0, err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return 0, nil //nolint:nilerr // a kernel without nftables has no rule of ours
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName })
	if i < 0 {
		return 0, nil
	}
	rules, err := c.GetRules(tables[i], &nftables.Chain{Name: "input", Table: tables[i]})
	if err != nil {
		return 0, err
	}
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				dropped += counter.Packets
			}
		}
	}
	c.DelTable(tables[i])
	return dropped, c.Flush()
}

// shape makes a queueing discipline that of an interface.
func shape(link string, qdisc func(netlink.QdiscAttrs) netlink.Qdisc) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	q := qdisc(netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT})
	if err := netlink.QdiscReplace(q); err != nil {
		return fmt.Errorf("sch_%s: %w", q.Type(), err)
	}
	return nil
}

// unshape gives an interface its plain queue back. That it had it is no error.
func unshape(link string) {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return
	}
	qdiscs, err := netlink.QdiscList(l)
	if err != nil {
		return
	}
	for _, q := range qdiscs {
		if q.Attrs().Handle == netlink.MakeHandle(1, 0) {
			_ = netlink.QdiscDel(q)
		}
	}
}

func delayed(by, jitter time.Duration) func(netlink.QdiscAttrs) netlink.Qdisc {
	return func(attrs netlink.QdiscAttrs) netlink.Qdisc {
		return netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{Latency: uint32(by.Microseconds()), Jitter: uint32(jitter.Microseconds()), Limit: 10_000}) //nolint:gosec // minutes fit
	}
}

func slowed(bits uint64) func(netlink.QdiscAttrs) netlink.Qdisc {
	return func(attrs netlink.QdiscAttrs) netlink.Qdisc {
		rate := bits / 8
		const burst = 32 << 10 // more than the largest packet, which offloading makes up to 64 KiB and the kernel then cuts
		return &netlink.Tbf{QdiscAttrs: attrs, Rate: rate, Limit: 1 << 20, Buffer: netlink.Xmittime(rate, burst)}
	}
}
