package gateway

import (
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/fault"
	"github.com/holdfast-io/holdfast/peer/frame"
)

// P7: a refusal names what was refused, also when only the method names the service.
func TestReservedNamesAreRefusedByName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ class, method, want string }{
		{"holdfast.System", "Facts", `class "holdfast.System"`},
		{"holdfast.", "", `class "holdfast."`},
		{"", "/holdfast.system.v1.System/Facts", `service "holdfast.system.v1.System"`},
		{"", "/holdfast.system.v1.System", `service "holdfast.system.v1.System"`},
		{"holdfast", "holdfast.system.v1", ""},
		{"", "/holdfast.v1.Mine/Get", ""},
		{"Counter", "Get", ""},
	} {
		err := checkReserved(&frame.Request{Class: tt.class, Method: tt.method})
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%q %q: got %v", tt.class, tt.method, err)
		case tt.want != "" && (fault.ReasonOf(err) != fault.UnknownClass || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%q %q: got %v, want %s", tt.class, tt.method, err, tt.want)
		}
	}
}
