package classes

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/test/e2e/internal/classes/classesv1"
)

// Feed describes the class Feed.
func Feed() actor.Class {
	return actor.NewClass("Feed", &classesv1.Feed_ServiceDesc, func(s *actor.State) classesv1.FeedServer {
		return &feed{state: s, live: make(map[grpc.ServerStreamingServer[classesv1.Entry]]bool)}
	})
}

type feed struct {
	classesv1.UnimplementedFeedServer

	state *actor.State
	last  int64 // of the entries
	live  map[grpc.ServerStreamingServer[classesv1.Entry]]bool
}

const lastKey = "last"

func entryKey(number int64) string { return fmt.Sprintf("entry/%016d", number) }

// Init implements actor.Initializer.
func (f *feed) Init(context.Context) (err error) {
	f.last, _, err = actor.Get[int64](f.state.Storage(), lastKey)
	return err
}

// post writes an entry and sends it to those who are there.
func (f *feed) post(text string) (*classesv1.Entry, error) {
	entry := &classesv1.Entry{Number: f.last + 1, Text: text}
	if err := actor.Put(f.state.Storage(), entryKey(entry.GetNumber()), text); err != nil {
		return nil, err
	}
	if err := actor.Put(f.state.Storage(), lastKey, entry.GetNumber()); err != nil {
		return nil, err
	}
	f.last++
	for stream := range f.live {
		_ = stream.Send(entry) // Whose stream has ended is about to leave.
	}
	return entry, nil
}

// Post implements classesv1.FeedServer.
func (f *feed) Post(_ context.Context, req *classesv1.PostRequest) (*classesv1.Entry, error) {
	return f.post(req.GetText())
}

// Follow implements classesv1.FeedServer.
func (f *feed) Follow(req *classesv1.FollowRequest, stream grpc.ServerStreamingServer[classesv1.Entry]) error {
	ctx := stream.Context()
	for next := req.GetAfter() + 1; ; next++ {
		if err := f.state.Wait(ctx, func() bool { return f.last >= next }); err != nil {
			return err
		}
		if next%256 == 0 { // It may be far behind.
			if err := f.state.WaitSent(ctx); err != nil {
				return err
			}
		}
		text, _, err := actor.Get[string](f.state.Storage(), entryKey(next))
		if err != nil {
			return err
		}
		if err := stream.Send(&classesv1.Entry{Number: next, Text: text}); err != nil {
			return err
		}
	}
}

// Live implements classesv1.FeedServer.
func (f *feed) Live(_ *classesv1.FollowRequest, stream grpc.ServerStreamingServer[classesv1.Entry]) error {
	f.live[stream] = true
	defer delete(f.live, stream)
	if err := stream.Send(&classesv1.Entry{}); err != nil {
		return err
	}
	return f.state.Wait(stream.Context(), nil)
}

// Talk implements classesv1.FeedServer.
func (f *feed) Talk(stream grpc.BidiStreamingServer[classesv1.PostRequest, classesv1.Entry]) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		entry, err := f.post(req.GetText())
		if err != nil {
			return err
		}
		if err := stream.Send(entry); err != nil {
			return err
		}
	}
}

// Import implements classesv1.FeedServer.
func (f *feed) Import(stream grpc.ClientStreamingServer[classesv1.PostRequest, classesv1.Entry]) error {
	last := &classesv1.Entry{}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(last)
		}
		if err != nil {
			return err
		}
		if last, err = f.post(req.GetText()); err != nil {
			return err
		}
	}
}
