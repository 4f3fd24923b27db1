package node

import (
	"context"
	"log/slog"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	systemv1 "github.com/holdfast-io/holdfast/proto/holdfast/system/v1"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
)

// classEnds is which deleted classes have ended in which shards, as far as this node has seen. It belongs
// to the node's watch.
type classEnds struct {
	ended    map[classEnd]bool
	proposed map[classEnd]bool
	// answers has room for everything that is proposed at a time: who answers never waits.
	answers chan classEndAnswer
}

type classEnd struct {
	shard placement.ShardID
	key   string
}

type classEndAnswer struct {
	end classEnd
	err error
}

// classEndsMax is how many ends are proposed at a time.
const classEndsMax = 64

func newClassEnds() *classEnds {
	return &classEnds{ended: make(map[classEnd]bool), proposed: make(map[classEnd]bool), answers: make(chan classEndAnswer, classEndsMax)}
}

// endClasses ends the deleted classes in the shards that this node owns: whoever owns a shard does, so that
// nobody has to stay alive for it. What fails is tried again the next time.
func (n *Node) endClasses(c *classEnds) {
	for len(c.answers) > 0 {
		a := <-c.answers
		delete(c.proposed, a.end)
		if a.err != nil {
			n.log.Debug("end of a class", slog.String("key", a.end.key), slog.Int("shard", int(a.end.shard)), slog.Any("error", a.err))
		}
	}
	for _, key := range n.facts.Ended() {
		for i := range n.id.Shards {
			end := classEnd{placement.ShardID(i), key} //nolint:gosec // below MaxShards
			if c.ended[end] || c.proposed[end] || len(c.proposed) == classEndsMax {
				continue
			}
			if owner, _, ok := n.host.Leader(end.shard); !ok || owner != n.id.Node {
				continue
			}
			switch ended, err := n.store.ClassEnded(end.shard, key); {
			case err != nil:
				n.log.Error("read the end of a class", slog.String("key", key), slog.Int("shard", i), slog.Any("error", err))
			case ended:
				c.ended[end] = true
			default:
				c.proposed[end] = true
				n.host.EndClass(end.shard, key, func(err error) { c.answers <- classEndAnswer{end, err} })
			}
		}
	}
}

// RenameClass implements holdfastv1.AdminServer.
func (a *adminServer) RenameClass(ctx context.Context, req *holdfastv1.RenameClassRequest) (*holdfastv1.RenameClassResponse, error) {
	for field, name := range map[string]string{"from": req.GetFrom(), "to": req.GetTo()} {
		if name == "" {
			return nil, fault.New(fault.InvalidArgument, "%s: must be given", field)
		}
	}
	err := a.n.facts.ask(ctx, "ChangeClasses", &systemv1.ChangeClassesRequest{Changes: []*systemv1.ClassChange{{From: req.GetFrom(), To: req.GetTo()}}})
	if err != nil {
		return nil, err
	}
	return &holdfastv1.RenameClassResponse{}, nil
}

// DeleteClass implements holdfastv1.AdminServer.
func (a *adminServer) DeleteClass(ctx context.Context, req *holdfastv1.DeleteClassRequest) (*holdfastv1.DeleteClassResponse, error) {
	class, err := a.n.class(ctx, req.GetClass())
	if err != nil {
		return nil, err
	}
	err = a.n.facts.ask(ctx, "ChangeClasses", &systemv1.ChangeClassesRequest{Changes: []*systemv1.ClassChange{{From: class.Name}}})
	if err != nil {
		return nil, err
	}
	return &holdfastv1.DeleteClassResponse{UniqueKey: class.UniqueKey}, nil
}
