package node

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strconv"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/placement"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/storage"
)

// pendingAlarm and deadAlarmAnswer are how the owner of a shard lists its alarms to another node.
type pendingAlarm struct {
	ID    placement.ObjectID
	Name  *string
	Alarm storage.Alarm
}

type deadAlarmAnswer struct {
	ID    placement.ObjectID
	Name  *string
	Alarm storage.DeadAlarm
}

// readName returns the name of an object, or nil when it has none or does not exist.
func readName(r storage.ObjectReader) (*string, error) {
	record, err := r.Record()
	if err != nil || record == nil {
		return nil, err
	}
	return record.Name, nil
}

// listAlarms lists pending alarms from a position on.
func (n *Node) listAlarms(q shardQuery) ([]pendingAlarm, error) {
	// What is due later than ever is not there: all is due.
	list, err := n.store.PendingAlarms(q.Shard, q.Class, q.From, 1<<62, q.Limit)
	if err != nil {
		return nil, err
	}
	out := make([]pendingAlarm, 0, len(list))
	for _, at := range list[:min(len(list), q.Limit)] {
		r := n.store.Object(q.Shard, storage.ObjectRef{Class: q.Class, ID: at.ID})
		alarm, err := r.Alarm()
		if err != nil {
			return nil, err
		}
		if alarm == nil || alarm.Due != at.Due { // It has changed since the list was read.
			alarm = &storage.Alarm{Due: at.Due, Scheduled: at.Due}
		}
		name, err := readName(r)
		if err != nil {
			return nil, err
		}
		out = append(out, pendingAlarm{at.ID, name, *alarm})
	}
	return out, nil
}

// listDeadAlarms lists dead alarms after an object.
func (n *Node) listDeadAlarms(q shardQuery) ([]deadAlarmAnswer, error) {
	list, err := n.store.DeadAlarms(q.Shard, q.Class, q.After, q.Limit)
	if err != nil {
		return nil, err
	}
	out := make([]deadAlarmAnswer, 0, len(list))
	for _, d := range list {
		name, err := readName(n.store.Object(q.Shard, storage.ObjectRef{Class: q.Class, ID: d.ID}))
		if err != nil {
			return nil, err
		}
		out = append(out, deadAlarmAnswer{d.ID, name, d.Alarm})
	}
	return out, nil
}

// rearm arms a dead alarm of an object that this node owns, or discards it. An error says that it
// certainly has not, and may be tried again.
func (n *Node) rearm(ctx context.Context, q shardQuery, ref storage.ObjectRef) ([]byte, error) {
	class, ok := n.facts.NameOf(q.Class)
	if !ok {
		return nil, errNotOwner
	}
	return refusal(n.manager.RearmAlarm(ctx, q.Shard, ref, class, q.Discard))
}

// refused is what an owner answers that was asked to do something: Refused is empty when it did.
type refused struct {
	Refused fault.Reason
	Message string
}

// refusal encodes what became of what an owner was asked to do. An error says that it certainly did not
// do it, and may be asked again.
func refusal(err error) ([]byte, error) {
	switch reason := fault.ReasonOf(err); {
	case err == nil:
		return json.Marshal(refused{})
	case reason.Retryable():
		return nil, err
	case reason != "":
		f, _ := err.(*fault.Error) //nolint:errorlint // not wrapped
		if f != nil {
			return json.Marshal(refused{reason, f.Message})
		}
	}
	return json.Marshal(refused{fault.OutcomeUnknown, err.Error()})
}

// err is what it answered as an error.
func (r *refused) err() error {
	if r.Refused == "" {
		return nil
	}
	return fault.New(r.Refused, "%s", r.Message)
}

// alarmPages walks the shards of a class, page by page. list asks the owner of a shard for at most want
// of them from a position on, which it encodes as text, and returns how many came and where the next
// ones begin.
func (n *Node) alarmPages(ctx context.Context, req *holdfastv1.ListAlarmsRequest,
	list func(q shardQuery, from string) (came int, next string, err error),
) (token string, err error) {
	f, err := n.class(ctx, req.GetClass())
	if err != nil {
		return "", err
	}
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return "", err
	}
	shard, from, err := cutPageToken(req.GetPageToken())
	if err != nil {
		return "", err
	}
	for left := size; shard < n.id.Shards; shard, from = shard+1, "" {
		q := shardQuery{Shard: placement.ShardID(shard), Class: f.UniqueKey, Limit: left} //nolint:gosec // below MaxShards
		came, next, err := list(q, from)
		if err != nil {
			return "", err
		}
		if left -= came; left == 0 {
			return strconv.Itoa(shard) + "/" + next, nil
		}
	}
	return "", nil
}

// ListAlarms implements holdfastv1.AdminServer.
func (a *adminServer) ListAlarms(ctx context.Context, req *holdfastv1.ListAlarmsRequest) (*holdfastv1.ListAlarmsResponse, error) {
	out := &holdfastv1.ListAlarmsResponse{}
	var err error
	out.NextPageToken, err = a.n.alarmPages(ctx, req, func(q shardQuery, from string) (int, string, error) {
		if from != "" {
			at, err := parseAlarmPosition(from)
			if err != nil {
				return 0, "", err
			}
			q.From = at.Next()
		}
		var list []pendingAlarm
		if err := a.n.ask(ctx, queryAlarms, q, &list); err != nil || len(list) == 0 {
			return 0, "", err
		}
		for _, p := range list {
			out.Alarms = append(out.Alarms, &holdfastv1.PendingAlarm{
				Id: p.ID.String(), Name: p.Name, DueUnixMs: p.Alarm.Due, ScheduledUnixMs: p.Alarm.Scheduled, Retries: p.Alarm.Retries,
			})
		}
		last := list[len(list)-1]
		return len(list), formatAlarmPosition(storage.AlarmPosition{Due: last.Alarm.Due, ID: last.ID}), nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ListDeadAlarms implements holdfastv1.AdminServer.
func (a *adminServer) ListDeadAlarms(ctx context.Context, req *holdfastv1.ListAlarmsRequest) (*holdfastv1.ListDeadAlarmsResponse, error) {
	out := &holdfastv1.ListDeadAlarmsResponse{}
	var err error
	out.NextPageToken, err = a.n.alarmPages(ctx, req, func(q shardQuery, from string) (int, string, error) {
		if from != "" {
			id, err := placement.ParseID(from)
			if err != nil {
				return 0, "", errPageToken()
			}
			q.After = &id
		}
		var list []deadAlarmAnswer
		if err := a.n.ask(ctx, queryDead, q, &list); err != nil || len(list) == 0 {
			return 0, "", err
		}
		for i := range list {
			out.Alarms = append(out.Alarms, deadAlarm(list[i].ID, list[i].Name, &list[i].Alarm))
		}
		return len(list), list[len(list)-1].ID.String(), nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func deadAlarm(id placement.ObjectID, name *string, d *storage.DeadAlarm) *holdfastv1.DeadAlarm {
	return &holdfastv1.DeadAlarm{Id: id.String(), Name: name, ScheduledUnixMs: d.Scheduled, DiedUnixMs: d.Died, Retries: d.Retries, Error: d.Error}
}

// RearmAlarm implements holdfastv1.AdminServer.
func (a *adminServer) RearmAlarm(ctx context.Context, req *holdfastv1.RearmAlarmRequest) (*holdfastv1.RearmAlarmResponse, error) {
	_, named := req.GetObject().(*holdfastv1.RearmAlarmRequest_Name)
	if err := a.n.askRearm(ctx, req.GetClass(), req.GetName(), req.GetId(), named, false); err != nil {
		return nil, err
	}
	return &holdfastv1.RearmAlarmResponse{}, nil
}

// DiscardAlarm implements holdfastv1.AdminServer.
func (a *adminServer) DiscardAlarm(ctx context.Context, req *holdfastv1.DiscardAlarmRequest) (*holdfastv1.DiscardAlarmResponse, error) {
	_, named := req.GetObject().(*holdfastv1.DiscardAlarmRequest_Name)
	if err := a.n.askRearm(ctx, req.GetClass(), req.GetName(), req.GetId(), named, true); err != nil {
		return nil, err
	}
	return &holdfastv1.DiscardAlarmResponse{}, nil
}

func (n *Node) askRearm(ctx context.Context, class, name, id string, named, discard bool) error {
	f, oid, err := n.object(ctx, class, name, id, named)
	if err != nil {
		return err
	}
	q := shardQuery{Shard: placement.ShardOf(oid, n.id.Shards), Class: f.UniqueKey, ID: oid, Discard: discard}
	var answer refused
	if err := n.ask(ctx, queryRearm, q, &answer); err != nil {
		return err
	}
	return answer.err()
}

func formatAlarmPosition(at storage.AlarmPosition) string {
	return hex.EncodeToString(append(storage.AlarmDueKey(at.Due), at.ID[:]...))
}

func parseAlarmPosition(text string) (storage.AlarmPosition, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != 8+len(placement.ObjectID{}) {
		return storage.AlarmPosition{}, errPageToken()
	}
	return storage.AlarmPosition{Due: int64(binary.BigEndian.Uint64(raw)), ID: placement.ObjectID(raw[8:])}, nil //nolint:gosec // what it was made from
}
