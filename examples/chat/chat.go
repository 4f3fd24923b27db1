// Package chat is a class of chat rooms: what is posted goes to everybody who is subscribed, and is
// there for those who come later.
//
//	holdfast call Room lobby Post '{"author": "ann", "text": "hello"}'
package chat

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/chat/chatv1"
)

// Messages are under messagePrefix and their numbers, with zeros before them, so that the order of the
// keys is the order of the messages.
const messagePrefix = "message/"

func messageKey(number int64) string { return fmt.Sprintf("%s%019d", messagePrefix, number) }

const (
	textMax   = 4000 // bytes
	authorMax = 100  // bytes
)

// Class describes the class to a node.
func Class() actor.Class {
	return actor.NewClass("Room", &chatv1.Room_ServiceDesc, func(s *actor.State) chatv1.RoomServer {
		return &Room{state: s, storage: s.Storage()}
	})
}

// Room is one chat room.
type Room struct {
	chatv1.UnimplementedRoomServer

	state   *actor.State
	storage *actor.Storage
	last    int64 // the number of the newest message
}

// Init implements actor.Initializer: it reads what the room keeps in memory.
func (r *Room) Init(context.Context) error {
	for e, err := range r.storage.List(actor.ListOptions{Prefix: messagePrefix, Reverse: true, Limit: 1}) {
		if err != nil {
			return err
		}
		var m chatv1.Message
		if err := e.Decode(&m); err != nil {
			return err
		}
		r.last = m.GetNumber()
	}
	return nil
}

// Post says something. Those who are subscribed wait for r.last to grow.
func (r *Room) Post(_ context.Context, req *chatv1.PostRequest) (*chatv1.Message, error) {
	if n := len(req.GetText()); n < 1 || n > textMax {
		return nil, status.Errorf(codes.InvalidArgument, "text: must have 1 to %d bytes, has %d", textMax, n)
	}
	if n := len(req.GetAuthor()); n > authorMax {
		return nil, status.Errorf(codes.InvalidArgument, "author: at most %d bytes, has %d", authorMax, n)
	}
	m := &chatv1.Message{Number: r.last + 1, Author: req.GetAuthor(), Text: req.GetText(), PostedAtMs: time.Now().UnixMilli()}
	if err := actor.Put(r.storage, messageKey(m.GetNumber()), m); err != nil {
		return nil, err
	}
	r.last = m.GetNumber()
	return m, nil
}

// roomToSend is after how many messages Subscribe makes sure that the subscriber takes them.
const roomToSend = 256

// Subscribe sends every message after a number, in order and without a gap, until the caller leaves.
func (r *Room) Subscribe(req *chatv1.SubscribeRequest, stream grpc.ServerStreamingServer[chatv1.Message]) error {
	ctx := stream.Context()
	for next := max(req.GetAfter(), 0) + 1; ; next++ {
		if err := r.state.Wait(ctx, func() bool { return r.last >= next }); err != nil {
			return err
		}
		if next%roomToSend == 0 { // It may be far behind.
			if err := r.state.WaitSent(ctx); err != nil {
				return err
			}
		}
		m, ok, err := actor.Get[*chatv1.Message](r.storage, messageKey(next))
		if err != nil {
			return err
		}
		if !ok {
			return status.Errorf(codes.DataLoss, "message %d is not there", next)
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}
