package registers

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// Dial returns the ways to a cluster whose nodes serve gRPC at the addresses: a plain gRPC connection
// through each node, in order, and then the Go client, which goes to the owners. Nodes tell the
// client their advertised addresses, which are to be found in the same order: they need not be what
// they are reached by from here.
func Dial(addrs, advertised []string) (stubs []Stub, closeAll func(), err error) {
	var closers []func()
	closeAll = func() {
		for _, c := range closers {
			c()
		}
	}
	for _, addr := range addrs {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second}))
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("connect to %s: %w", addr, err)
		}
		closers = append(closers, func() { _ = conn.Close() })
		plain := classesv1.NewRegisterClient(conn)
		stubs = append(stubs, func(object string) (context.Context, classesv1.RegisterClient) {
			return metadata.AppendToOutgoingContext(context.Background(), "holdfast-name", object), plain
		})
	}
	from := make(map[string]string)
	for i, addr := range advertised {
		from[addr] = addrs[i]
	}
	quick, err := client.New(addrs, client.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		if here, ok := from[addr]; ok {
			addr = here
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	})))
	if err != nil {
		closeAll()
		return nil, nil, err
	}
	closers = append(closers, quick.Close)
	stubs = append(stubs, func(object string) (context.Context, classesv1.RegisterClient) {
		return context.Background(), classesv1.NewRegisterClient(quick.Name("Register", object))
	})
	return stubs, closeAll, nil
}
