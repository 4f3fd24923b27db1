package chat_test

import (
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/chat"
	"github.com/holdfast-io/holdfast/examples/chat/chatv1"
	"github.com/holdfast-io/holdfast/examples/internal/onenode"
)

// Who subscribes gets what was said before, also before a restart and by more messages than a stream
// may have waiting, and then what is said now.
func TestSubscribersMissNothing(t *testing.T) {
	t.Parallel()
	const old = 1500
	c := onenode.Restart(t, func(c *client.Client) {
		room := chatv1.NewRoomClient(c.Name("Room", "lobby"))
		for i := range old {
			post(t, room, strconv.Itoa(i+1))
		}
	}, chat.Class())
	room := chatv1.NewRoomClient(c.Name("Room", "lobby"))

	ann, err := room.Subscribe(t.Context(), &chatv1.SubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	bob, err := room.Subscribe(t.Context(), &chatv1.SubscribeRequest{After: old})
	if err != nil {
		t.Fatal(err)
	}
	post(t, room, strconv.Itoa(old+1))
	post(t, room, strconv.Itoa(old+2))
	for i := range old + 2 {
		got, err := ann.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got.GetNumber() != int64(i+1) || got.GetText() != strconv.Itoa(i+1) || got.GetAuthor() != "cy" || got.GetPostedAtMs() == 0 {
			t.Fatalf("message %d: got %v", i+1, got)
		}
	}
	for i := old; i < old+2; i++ {
		if got, err := bob.Recv(); err != nil || got.GetNumber() != int64(i+1) {
			t.Fatalf("message %d: got %v, %v", i+1, got, err)
		}
	}
}

func TestRefusesAnEmptyText(t *testing.T) {
	t.Parallel()
	room := chatv1.NewRoomClient(onenode.Start(t, chat.Class()).Name("Room", "lobby"))
	if _, err := room.Post(t.Context(), &chatv1.PostRequest{Author: "cy"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

func post(t *testing.T, room chatv1.RoomClient, text string) {
	t.Helper()
	if _, err := room.Post(t.Context(), &chatv1.PostRequest{Author: "cy", Text: text}); err != nil {
		t.Fatal(err)
	}
}
