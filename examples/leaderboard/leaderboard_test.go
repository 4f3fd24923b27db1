package leaderboard_test

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/examples/internal/onenode"
	"github.com/holdfast-io/holdfast/examples/leaderboard"
	"github.com/holdfast-io/holdfast/examples/leaderboard/leaderboardv1"
)

func TestBestFirst(t *testing.T) {
	t.Parallel()
	board := leaderboardv1.NewLeaderboardClient(onenode.Start(t, leaderboard.Class()).Name("Leaderboard", "tetris"))
	for _, s := range []struct {
		player      string
		score, best uint64
	}{
		{"ann", 9, 9},
		{"bob", 10, 10},
		{"a/b", 2, 2},
		{"max", math.MaxUint64, math.MaxUint64},
		{"zero", 0, 0},
		{"bob", 3, 10}, // Not his best.
		{"ann", 100, 100},
	} {
		got, err := board.Submit(t.Context(), &leaderboardv1.SubmitRequest{Player: s.player, Score: s.score})
		if err != nil || got.GetBest() != s.best {
			t.Errorf("%+v: got %v, %v", s, got, err)
		}
	}
	want := []string{"max", "ann", "bob", "a/b", "zero"}
	for _, limit := range []*uint32{nil, new(uint32(2))} {
		top, err := board.Top(t.Context(), &leaderboardv1.TopRequest{Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		var players []string
		for _, e := range top.GetEntries() {
			players = append(players, e.GetPlayer())
		}
		expected := want
		if limit != nil {
			expected = want[:*limit]
		}
		if strings.Join(players, " ") != strings.Join(expected, " ") || top.GetEntries()[1].GetScore() != 100 {
			t.Errorf("got %v, want %v", top.GetEntries(), expected)
		}
	}
	for i, player := range want {
		if got, err := board.Rank(t.Context(), &leaderboardv1.RankRequest{Player: player}); err != nil || got.GetRank() != uint64(i+1) {
			t.Errorf("%s: got %v, %v; want rank %d", player, got, err, i+1)
		}
	}
	if _, err := board.Rank(t.Context(), &leaderboardv1.RankRequest{Player: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestRefusesWhatIsOutOfRange(t *testing.T) {
	t.Parallel()
	board := leaderboardv1.NewLeaderboardClient(onenode.Start(t, leaderboard.Class()).Name("Leaderboard", "tetris"))
	for _, player := range []string{"", strings.Repeat("x", 1025)} {
		if _, err := board.Submit(t.Context(), &leaderboardv1.SubmitRequest{Player: player}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a name of %d bytes: got %v", len(player), err)
		}
	}
	for _, limit := range []uint32{0, 1001} {
		if _, err := board.Top(t.Context(), &leaderboardv1.TopRequest{Limit: &limit}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("limit %d: got %v", limit, err)
		}
	}
}
