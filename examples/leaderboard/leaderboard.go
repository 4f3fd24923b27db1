// Package leaderboard is a class that keeps players in the order of their scores, by the order of the
// keys in its storage.
//
//	holdfast call Leaderboard tetris Submit '{"player": "ann", "score": 4200}'
package leaderboard

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/leaderboard/leaderboardv1"
)

// Each player is stored twice: under playerPrefix, to find the score, and under scorePrefix, where the
// keys have the order of the scores.
const (
	playerPrefix = "player/" // and the name: the best score
	scorePrefix  = "score/"  // and the score, "/", and the name: nothing more
)

// scoreKey pads the score with zeros, because keys are ordered by their bytes: "score/9" would come
// after "score/10". 20 digits are enough for every uint64.
func scoreKey(score uint64, player string) string {
	return fmt.Sprintf("%s%020d/%s", scorePrefix, score, player)
}

// playerOf returns the name in a scoreKey.
func playerOf(key string) string { return key[len(scorePrefix)+20+1:] }

const (
	playerMax  = 1024 // bytes
	limitMax   = 1000
	limitUsual = 10
)

// Class describes the class to a node.
func Class() actor.Class {
	return actor.NewClass("Leaderboard", &leaderboardv1.Leaderboard_ServiceDesc, func(s *actor.State) leaderboardv1.LeaderboardServer {
		return &Leaderboard{storage: s.Storage()}
	})
}

// Leaderboard is one game's best players.
type Leaderboard struct {
	leaderboardv1.UnimplementedLeaderboardServer

	storage *actor.Storage
}

// Submit keeps the score if it is the player's best.
func (l *Leaderboard) Submit(_ context.Context, req *leaderboardv1.SubmitRequest) (*leaderboardv1.SubmitResponse, error) {
	player := req.GetPlayer()
	if n := len(player); n < 1 || n > playerMax {
		return nil, status.Errorf(codes.InvalidArgument, "player: must have 1 to %d bytes, has %d", playerMax, n)
	}
	best, known, err := actor.Get[uint64](l.storage, playerPrefix+player)
	if err != nil || known && req.GetScore() <= best {
		return &leaderboardv1.SubmitResponse{Best: best}, err
	}
	// One event's writes become durable together: the two keys never contradict each other.
	if known {
		if _, err := l.storage.Delete(scoreKey(best, player)); err != nil {
			return nil, err
		}
	}
	if err := actor.Put(l.storage, playerPrefix+player, req.GetScore()); err != nil {
		return nil, err
	}
	if err := actor.Put(l.storage, scoreKey(req.GetScore(), player), req.GetScore()); err != nil {
		return nil, err
	}
	return &leaderboardv1.SubmitResponse{Best: req.GetScore()}, nil
}

// Top returns the best players, best first. It reads as many keys as it returns, however many there are.
func (l *Leaderboard) Top(_ context.Context, req *leaderboardv1.TopRequest) (*leaderboardv1.TopResponse, error) {
	limit := uint32(limitUsual)
	if req.Limit != nil {
		limit = req.GetLimit()
	}
	if limit < 1 || limit > limitMax {
		return nil, status.Errorf(codes.InvalidArgument, "limit: must be 1 to %d, is %d", limitMax, limit)
	}
	out := &leaderboardv1.TopResponse{}
	for e, err := range l.storage.List(actor.ListOptions{Prefix: scorePrefix, Reverse: true, Limit: int(limit)}) {
		if err != nil {
			return nil, err
		}
		entry := &leaderboardv1.Entry{Player: playerOf(e.Key)}
		if err := e.Decode(&entry.Score); err != nil {
			return nil, err
		}
		out.Entries = append(out.Entries, entry)
	}
	return out, nil
}

// Rank returns a player's place. It counts those who are better, one by one.
func (l *Leaderboard) Rank(_ context.Context, req *leaderboardv1.RankRequest) (*leaderboardv1.RankResponse, error) {
	score, known, err := actor.Get[uint64](l.storage, playerPrefix+req.GetPlayer())
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, status.Errorf(codes.NotFound, "player %q has no score", req.GetPlayer())
	}
	out := &leaderboardv1.RankResponse{Score: score, Rank: 1}
	for _, err := range l.storage.List(actor.ListOptions{Prefix: scorePrefix, StartAfter: scoreKey(score, req.GetPlayer())}) {
		if err != nil {
			return nil, err
		}
		out.Rank++
	}
	return out, nil
}
