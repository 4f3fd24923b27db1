package scheduler_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/client"
	"github.com/holdfast-io/holdfast/examples/internal/onenode"
	"github.com/holdfast-io/holdfast/examples/scheduler"
	"github.com/holdfast-io/holdfast/examples/scheduler/schedulerv1"
)

// receiver takes POSTs one by one: each waits until the test has taken it and says how it is answered.
type receiver struct {
	*httptest.Server

	got    chan post
	answer chan int
}

type post struct{ key, body string }

func receive(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{got: make(chan post), answer: make(chan int)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		select {
		case r.got <- post{req.Header.Get("Idempotency-Key"), string(body)}:
			w.WriteHeader(<-r.answer)
		case <-req.Context().Done():
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// next takes a POST and answers it.
func (r *receiver) next(status int) post {
	got := <-r.got
	r.answer <- status
	return got
}

func TestTriesAgainUntilItIsDone(t *testing.T) {
	t.Parallel()
	r := receive(t)
	s := schedulerv1.NewSchedulerClient(onenode.Start(t, scheduler.Class()).Name("Scheduler", "mail"))
	schedule(t, s, &schedulerv1.ScheduleRequest{Id: "a", Url: r.URL, Body: []byte("hello"), RetryDelayMs: proto.Int64(1)})
	for _, status := range []int{500, 404, 200} {
		if got := r.next(status); got != (post{"a", "hello"}) {
			t.Errorf("got %v", got)
		}
	}
	if job := ended(t, s, "a"); job.GetState() != schedulerv1.Job_STATE_DONE || job.GetTried() != 2 || job.GetError() != "" {
		t.Errorf("got %v", job)
	}
}

func TestGivesUp(t *testing.T) {
	t.Parallel()
	r := receive(t)
	s := schedulerv1.NewSchedulerClient(onenode.Start(t, scheduler.Class()).Name("Scheduler", "mail"))
	schedule(t, s, &schedulerv1.ScheduleRequest{Id: "a", Url: r.URL, Attempts: proto.Uint32(2), RetryDelayMs: proto.Int64(1)})
	r.next(500)
	r.next(503)
	if job := ended(t, s, "a"); job.GetState() != schedulerv1.Job_STATE_FAILED || job.GetTried() != 2 || !strings.Contains(job.GetError(), "503") {
		t.Errorf("got %v", job)
	}
	if _, err := s.Cancel(t.Context(), &schedulerv1.CancelRequest{Id: "a"}); status.Code(err) != codes.NotFound {
		t.Errorf("canceled a job that had failed: got %v", err)
	}
}

// Jobs run in the order in which they are due; while one runs others are scheduled, canceled and replaced.
func TestOrderAndChangesMeanwhile(t *testing.T) {
	t.Parallel()
	r := receive(t)
	s := schedulerv1.NewSchedulerClient(onenode.Start(t, scheduler.Class()).Name("Scheduler", "mail"))
	schedule(t, s, &schedulerv1.ScheduleRequest{Id: "first", Url: r.URL})
	if got := <-r.got; got.key != "first" {
		t.Errorf("got %v", got)
	}
	schedule(t, s, &schedulerv1.ScheduleRequest{Id: "late", Url: r.URL, DelayMs: 2000})
	schedule(t, s, &schedulerv1.ScheduleRequest{Id: "early", Url: r.URL})
	schedule(t, s, &schedulerv1.ScheduleRequest{Id: "canceled", Url: r.URL})
	if _, err := s.Cancel(t.Context(), &schedulerv1.CancelRequest{Id: "canceled"}); err != nil {
		t.Fatal(err)
	}
	schedule(t, s, &schedulerv1.ScheduleRequest{Id: "first", Url: r.URL, Body: []byte("anew")})
	r.answer <- http.StatusOK
	for _, want := range []post{{"early", ""}, {"first", "anew"}, {"late", ""}} {
		if got := r.next(http.StatusOK); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

func TestJobsOutliveTheNode(t *testing.T) {
	t.Parallel()
	r := receive(t)
	c := onenode.Restart(t, func(c *client.Client) {
		s := schedulerv1.NewSchedulerClient(c.Name("Scheduler", "mail"))
		schedule(t, s, &schedulerv1.ScheduleRequest{Id: "a", Url: r.URL, DelayMs: 300})
	}, scheduler.Class())
	if got := r.next(http.StatusOK); got.key != "a" { // Nobody has called the object.
		t.Errorf("got %v", got)
	}
	if job := ended(t, schedulerv1.NewSchedulerClient(c.Name("Scheduler", "mail")), "a"); job.GetState() != schedulerv1.Job_STATE_DONE {
		t.Errorf("got %v", job)
	}
}

func TestRefusesWhatItCouldNotDo(t *testing.T) {
	t.Parallel()
	s := schedulerv1.NewSchedulerClient(onenode.Start(t, scheduler.Class()).Name("Scheduler", "mail"))
	for _, req := range []*schedulerv1.ScheduleRequest{
		{Url: "http://x"},
		{Id: "a", Url: "file:///x"},
		{Id: "a", Url: "http://"},
		{Id: "a", Url: "http://x", DelayMs: -1},
		{Id: "a", Url: "http://x", Attempts: proto.Uint32(0)},
		{Id: "a", Url: "http://x", RetryDelayMs: proto.Int64(0)},
	} {
		if _, err := s.Schedule(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: got %v", req, err)
		}
	}
	if _, err := s.Get(t.Context(), &schedulerv1.GetRequest{Id: "a"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
}

func schedule(t *testing.T, s schedulerv1.SchedulerClient, req *schedulerv1.ScheduleRequest) {
	t.Helper()
	if _, err := s.Schedule(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// ended waits until a job waits no longer.
func ended(t *testing.T, s schedulerv1.SchedulerClient, id string) *schedulerv1.Job {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		job, err := s.Get(t.Context(), &schedulerv1.GetRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		if job.GetState() != schedulerv1.Job_STATE_WAITING {
			return job
		}
		<-tick.C
	}
}
