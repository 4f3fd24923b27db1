// Package scheduler is a class that does jobs when they are due, and again when they fail, though nodes
// die meanwhile: an HTTP POST each.
//
//	holdfast call Scheduler mail Schedule '{"id": "welcome-17", "url": "http://127.0.0.1:8000/", "delay_ms": 5000}'
package scheduler

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/actor"
	"github.com/holdfast-io/holdfast/examples/scheduler/schedulerv1"
)

// A job is stored under jobPrefix and its id. A second key, which has nothing but its place, puts those
// that wait in the order in which they are due, and the others in that in which they ended.
const (
	jobPrefix   = "job/"
	duePrefix   = "due/"
	endedPrefix = "ended/"
)

const (
	idMax             = 256     // bytes
	urlMax            = 2048    // bytes
	bodyMax           = 1 << 20 // bytes
	delayMax          = 10 * 365 * 24 * time.Hour
	attemptsMax       = 100
	defaultAttempts   = 5
	defaultRetryDelay = time.Second
	retryDelayMax     = time.Hour
	attemptTime       = 10 * time.Second // that one attempt may take
	endedKeptFor      = 24 * time.Hour
	errorMax          = 500 // bytes
)

// Class describes the class to a node.
func Class() actor.Class {
	return actor.NewClass("Scheduler", &schedulerv1.Scheduler_ServiceDesc, func(s *actor.State) schedulerv1.SchedulerServer {
		return &Scheduler{state: s, storage: s.Storage()}
	})
}

// Scheduler is one queue of jobs. It does one at a time.
type Scheduler struct {
	schedulerv1.UnimplementedSchedulerServer

	state   *actor.State
	storage *actor.Storage
}

// Schedule adds a job, in place of one with the same id.
func (s *Scheduler) Schedule(_ context.Context, req *schedulerv1.ScheduleRequest) (*schedulerv1.Job, error) {
	job, err := jobOf(req)
	if err != nil {
		return nil, err
	}
	if old, ok, err := s.job(job.GetId()); err != nil {
		return nil, err
	} else if ok {
		if err := s.remove(old); err != nil {
			return nil, err
		}
	}
	if err := s.put(job); err != nil {
		return nil, err
	}
	return job, s.setAlarm()
}

// Cancel takes a job out that is not done.
func (s *Scheduler) Cancel(_ context.Context, req *schedulerv1.CancelRequest) (*schedulerv1.CancelResponse, error) {
	job, ok, err := s.job(req.GetId())
	if err != nil {
		return nil, err
	}
	if !ok || job.GetState() != schedulerv1.Job_STATE_WAITING {
		return nil, status.Errorf(codes.NotFound, "no job %q waits", req.GetId())
	}
	if err := s.remove(job); err != nil {
		return nil, err
	}
	return &schedulerv1.CancelResponse{}, s.setAlarm()
}

// Get returns a job.
func (s *Scheduler) Get(_ context.Context, req *schedulerv1.GetRequest) (*schedulerv1.Job, error) {
	job, ok, err := s.job(req.GetId())
	if err == nil && !ok {
		err = status.Errorf(codes.NotFound, "there is no job %q", req.GetId())
	}
	return job, err
}

// Alarm implements actor.Alarmer: it tries the first job that is due, and sets the alarm for the next.
//
// An alarm runs at least once: when the node is lost after the POST and before its outcome is durable,
// the job is done again elsewhere. Idempotency-Key is for the receiver to notice that.
func (s *Scheduler) Alarm(ctx context.Context, _ actor.AlarmInfo) error {
	if err := s.forget(time.Now().Add(-endedKeptFor).UnixMilli()); err != nil {
		return err
	}
	job, ok, err := s.first(duePrefix)
	if err != nil {
		return err
	}
	if !ok || job.GetDueMs() > time.Now().UnixMilli() {
		return s.setAlarm()
	}
	var failure error
	// Others may schedule, cancel and ask meanwhile.
	if err := s.state.Yield(ctx, func(ctx context.Context) error {
		failure = attempt(ctx, job)
		return nil
	}); err != nil {
		return err
	}
	now, ok, err := s.job(job.GetId())
	if err != nil {
		return err
	}
	if ok && proto.Equal(now, job) { // Not cancelled or replaced meanwhile.
		if err := s.remove(job); err != nil {
			return err
		}
		if err := s.put(after(job, failure)); err != nil {
			return err
		}
	}
	return s.setAlarm()
}

// attempt makes a job's POST. Any 2xx is success.
func attempt(ctx context.Context, job *schedulerv1.Job) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, job.GetUrl(), bytes.NewReader(job.GetBody()))
	if err != nil {
		return err
	}
	req.Header.Set("Idempotency-Key", job.GetId())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

// after returns what becomes of a job by an attempt.
func after(job *schedulerv1.Job, failure error) *schedulerv1.Job {
	job = proto.CloneOf(job)
	now := time.Now()
	job.DueMs = now.UnixMilli()
	if failure == nil {
		job.State, job.Error = schedulerv1.Job_STATE_DONE, ""
		return job
	}
	job.Tried++
	text := failure.Error()
	job.Error = strings.ToValidUTF8(text[:min(len(text), errorMax)], "")
	if job.GetTried() >= job.GetAttempts() {
		job.State = schedulerv1.Job_STATE_FAILED
		return job
	}
	delay := time.Duration(job.GetRetryDelayMs()) * time.Millisecond
	for range job.GetTried() - 1 {
		delay = min(2*delay, retryDelayMax)
	}
	job.DueMs = now.Add(delay).UnixMilli()
	return job
}

// setAlarm sets the object's one alarm for the job that is due first. It is called by every method that
// changes when that is; in the alarm's handler too, which is the last to do so.
func (s *Scheduler) setAlarm() error {
	job, ok, err := s.first(duePrefix)
	switch {
	case err != nil:
		return err
	case ok:
		return s.state.SetAlarm(time.UnixMilli(job.GetDueMs()))
	default:
		return s.state.DeleteAlarm()
	}
}

// forget removes jobs that ended before a time, two at most: more than one run adds.
func (s *Scheduler) forget(before int64) error {
	for range 2 {
		job, ok, err := s.first(endedPrefix)
		if err != nil || !ok || job.GetDueMs() >= before {
			return err
		}
		if err := s.remove(job); err != nil {
			return err
		}
	}
	return nil
}

// first returns the first job of those that wait or of those that have ended.
func (s *Scheduler) first(prefix string) (*schedulerv1.Job, bool, error) {
	for e, err := range s.storage.List(actor.ListOptions{Prefix: prefix, Limit: 1}) {
		if err != nil {
			return nil, false, err
		}
		return s.job(e.Key[len(orderKey(prefix, 0, "")):])
	}
	return nil, false, nil
}

func (s *Scheduler) job(id string) (*schedulerv1.Job, bool, error) {
	return actor.Get[*schedulerv1.Job](s.storage, jobPrefix+id)
}

// put writes a job under its two keys.
func (s *Scheduler) put(job *schedulerv1.Job) error {
	if err := actor.Put(s.storage, jobPrefix+job.GetId(), job); err != nil {
		return err
	}
	return actor.Put(s.storage, place(job), true)
}

// remove removes a job as it is stored.
func (s *Scheduler) remove(job *schedulerv1.Job) error {
	_, err := s.storage.DeleteMany(jobPrefix+job.GetId(), place(job))
	return err
}

// place is the second key of a job.
func place(job *schedulerv1.Job) string {
	if job.GetState() == schedulerv1.Job_STATE_WAITING {
		return orderKey(duePrefix, job.GetDueMs(), job.GetId())
	}
	return orderKey(endedPrefix, job.GetDueMs(), job.GetId())
}

func orderKey(prefix string, ms int64, id string) string {
	return fmt.Sprintf("%s%019d/%s", prefix, ms, id)
}

// jobOf checks a request and makes the job that it asks for.
func jobOf(req *schedulerv1.ScheduleRequest) (*schedulerv1.Job, error) {
	job := &schedulerv1.Job{
		Id: req.GetId(), Url: req.GetUrl(), Body: req.GetBody(), State: schedulerv1.Job_STATE_WAITING,
		Attempts: defaultAttempts, RetryDelayMs: defaultRetryDelay.Milliseconds(),
		DueMs: time.Now().UnixMilli() + req.GetDelayMs(),
	}
	if req.Attempts != nil {
		job.Attempts = req.GetAttempts()
	}
	if req.RetryDelayMs != nil {
		job.RetryDelayMs = req.GetRetryDelayMs()
	}
	target, err := url.Parse(job.GetUrl())
	switch {
	case len(job.GetId()) < 1 || len(job.GetId()) > idMax:
		return nil, status.Errorf(codes.InvalidArgument, "id: must have 1 to %d bytes, has %d", idMax, len(job.GetId()))
	case err != nil || target.Scheme != "http" && target.Scheme != "https" || target.Host == "" || len(job.GetUrl()) > urlMax:
		return nil, status.Errorf(codes.InvalidArgument, "url: must be http://… or https://… and have at most %d bytes", urlMax)
	case len(job.GetBody()) > bodyMax:
		return nil, status.Errorf(codes.InvalidArgument, "body: at most %d bytes, has %d", bodyMax, len(job.GetBody()))
	case req.GetDelayMs() < 0 || req.GetDelayMs() > delayMax.Milliseconds():
		return nil, status.Errorf(codes.InvalidArgument, "delay_ms: must be 0 to %d, is %d", delayMax.Milliseconds(), req.GetDelayMs())
	case job.GetAttempts() < 1 || job.GetAttempts() > attemptsMax:
		return nil, status.Errorf(codes.InvalidArgument, "attempts: must be 1 to %d, is %d", attemptsMax, job.GetAttempts())
	case job.GetRetryDelayMs() < 1 || job.GetRetryDelayMs() > retryDelayMax.Milliseconds():
		return nil, status.Errorf(codes.InvalidArgument, "retry_delay_ms: must be 1 to %d, is %d", retryDelayMax.Milliseconds(), job.GetRetryDelayMs())
	}
	return job, nil
}
