package worker_test

import (
	"testing"

	"go.uber.org/goleak"
)

// A probe that memberlist has under way when it is shut down ends some seconds later, by itself.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}
