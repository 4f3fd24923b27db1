package e2e_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxy stands between nodes that are started with --via: each connection begins with a line that
// says who calls whom, so that the way from one node to another can be made bad while the way back
// stays good.
type proxy struct {
	l     net.Listener
	names map[string]string // peer address to node
	ctx   context.Context   //nolint:containedctx // ends with the proxy
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu      sync.Mutex
	ways    map[way]trouble
	changed chan struct{} // closed and made anew when ways change
	conns   map[net.Conn]way
}

// way is the direction in which a connection was dialled. What comes back on it goes the same way.
type way struct{ from, to string }

// trouble is what happens on a way. The zero value is none.
type trouble struct {
	// delay is what every byte takes in each direction.
	delay time.Duration
	// drop lets nothing through, as a network does that loses everything: connections stay, and what
	// was sent arrives when it is over.
	drop bool
	// cut ends connections and refuses new ones.
	cut bool
}

func startProxy(t *testing.T, nodes []*process) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, names: make(map[string]string), ways: make(map[way]trouble), changed: make(chan struct{}), conns: make(map[net.Conn]way)}
	p.ctx, p.stop = context.WithCancel(context.Background())
	for _, n := range nodes {
		p.names[n.ports["peer"]] = n.name
		n.args = append(n.args, "--via", l.Addr().String())
	}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		p.stop()
		_ = l.Close()
		p.mu.Lock()
		for c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

// set makes ways bad, or good again with no trouble.
func (p *proxy) set(t trouble, ways ...way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range ways {
		p.ways[w] = t
		for c, of := range p.conns {
			if of == w && t.cut {
				_ = c.Close()
			}
		}
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *proxy) way(w way) (trouble, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ways[w], p.changed
}

// pass waits until a way lets through what came at a time; false: it never will.
func (p *proxy) pass(w way, came time.Time) bool {
	for {
		t, changed := p.way(w)
		if t.cut || p.ctx.Err() != nil {
			return false
		}
		if !t.drop && time.Since(came) >= t.delay {
			return true
		}
		var due <-chan time.Time
		if !t.drop {
			due = time.After(t.delay - time.Since(came))
		}
		select {
		case <-p.ctx.Done():
			return false
		case <-changed:
		case <-due:
		}
	}
}

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

// hold notes a connection, which the proxy's end closes, and so does a cut.
func (p *proxy) hold(c net.Conn, w way) (release func()) {
	p.mu.Lock()
	p.conns[c] = w
	if p.ctx.Err() != nil {
		_ = c.Close()
	}
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
		_ = c.Close()
	}
}

func (p *proxy) serve(c net.Conn) {
	began := time.Now()
	defer p.hold(c, way{})()
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	from, addr, ok := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || !ok {
		return
	}
	w := way{from, p.names[addr]}
	if !p.pass(w, began) {
		return
	}
	target, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer p.hold(target, w)()
	defer p.hold(c, w)()
	if _, err := io.WriteString(c, "open\n"); err != nil {
		return
	}
	done := make(chan struct{}, 2)
	for _, d := range []struct {
		from io.Reader
		to   net.Conn
	}{{r, target}, {target, c}} {
		p.wg.Go(func() {
			p.relay(w, d.from, d.to)
			done <- struct{}{}
		})
	}
	<-done // Either direction ends both.
}

// relay passes on in order, each piece as late as the way makes it.
func (p *proxy) relay(w way, from io.Reader, to net.Conn) {
	type piece struct {
		data []byte
		came time.Time
	}
	pieces := make(chan piece, 256)
	ended := make(chan struct{})
	p.wg.Go(func() {
		defer close(pieces)
		for {
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if n > 0 {
				select {
				case pieces <- piece{buf[:n], time.Now()}:
				case <-ended:
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	defer close(ended)
	for one := range pieces {
		if !p.pass(w, one.came) {
			return
		}
		if _, err := to.Write(one.data); err != nil {
			return
		}
	}
}
