//go:build linux

// Command faults does to a container, from inside it, what networks and disks do to machines. It is
// in the image beside the node, and run with 'docker exec' in containers that have NET_ADMIN: so the machine that runs
// Docker needs neither root for us nor iptables and tc, and the kernel meant is always the one that
// runs the containers. Faults of the network are rules of the container's own network namespace, and
// end with it or with 'heal'.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const usage = `usage: faults COMMAND
  probe                say which of drop, loss, delay and slow the kernel has
  drop HOST…           take no packet from these hosts
  loss PERCENT         lose so many of the packets that come in
  delay TIME JITTER    send every packet so much later
  slow BITS            send at most so many bits a second
  heal                 end all of these, and print how many packets were lost by them
  skew FILE TIME       write the offset of the node's clock
  fill FILE            make a file as large as the disk has room for
  free FILE            remove it
  hold                 wait to be stopped`

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	command, args := args[0], args[1:]
	want := map[string]int{"loss": 1, "delay": 2, "slow": 1, "skew": 2, "fill": 1, "free": 1}
	if n, ok := want[command]; ok && len(args) != n {
		return fmt.Errorf("%s takes %d arguments, got %d\n%s", command, n, len(args), usage)
	}
	switch command {
	case "probe":
		return probe()
	case "drop":
		return drop(args)
	case "loss":
		percent, err := strconv.ParseUint(args[0], 10, 8)
		if err != nil || percent > 100 {
			return fmt.Errorf("loss %q: must be 0 to 100", args[0])
		}
		return lose(uint32(percent))
	case "delay":
		by, err := time.ParseDuration(args[0])
		if err != nil {
			return err
		}
		jitter, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		return shape(outward, delayed(by, jitter))
	case "slow":
		bits, err := strconv.ParseUint(args[0], 10, 32)
		if err != nil {
			return err
		}
		return shape(outward, slowed(bits))
	case "heal":
		lost, err := heal()
		if err == nil {
			_, err = fmt.Fprintln(os.Stdout, lost)
		}
		return err
	case "skew":
		return skew(args[0], args[1])
	case "fill":
		return fill(args[0])
	case "free":
		return os.Remove(args[0])
	case "hold":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
		<-stop
		return nil
	default:
		return fmt.Errorf("unknown command %q\n%s", command, usage)
	}
}

// probe tries every fault on the loopback interface, where it does no harm, and prints a line for
// each: its name, then why it can't be had, if so.
func probe() error {
	for _, p := range []struct {
		name string
		try  func() error
	}{
		{"drop", func() error { return dropFrom([]net.IP{net.IPv4(192, 0, 2, 1)}) }},
		{"loss", func() error { return lose(0) }},
		{"delay", func() error { return shape(loopback, delayed(time.Millisecond, 0)) }},
		{"slow", func() error { return shape(loopback, slowed(1e9)) }},
	} {
		err := p.try()
		if _, healErr := heal(); err == nil {
			err = healErr
		}
		unshape(loopback)
		if err != nil {
			_, _ = fmt.Fprintf(os.Stdout, "%s %v\n", p.name, err)
		} else {
			_, _ = fmt.Fprintln(os.Stdout, p.name)
		}
	}
	return nil
}

func drop(hosts []string) error {
	var from []net.IP
	for _, host := range hosts {
		ips, err := net.DefaultResolver.LookupIP(context.Background(), "ip4", host)
		if err != nil {
			return err
		}
		from = append(from, ips...)
	}
	return dropFrom(from)
}

// skew writes the file in one step: the node reads it all the time.
func skew(file, offset string) error {
	if _, err := time.ParseDuration(offset); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", []byte(offset), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// fill writes until nothing more fits.
func fill(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for _, size := range []int{1 << 20, 4 << 10} {
		block := make([]byte, size)
		for err == nil {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		err = nil
	}
	at, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = fmt.Fprintln(os.Stdout, at)
	}
	return err
}
