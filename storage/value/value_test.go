package value_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/holdfast-io/holdfast/examples/counter/counterv1"
	holdfastv1 "github.com/holdfast-io/holdfast/proto/holdfast/v1"
	"github.com/holdfast-io/holdfast/storage/value"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := value.Encode(v)
	if err != nil {
		t.Fatalf("encode %T: %v", v, err)
	}
	return b
}

// What is on disks must not change.
func TestEncodingsNeverChange(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		v    any
		want string
	}{
		{nil, "f6"},
		{true, "f5"},
		{int64(0), "00"},
		{int64(23), "17"},
		{int64(24), "1818"},
		{int64(-1), "20"},
		{int64(-24), "37"},
		{int64(-25), "3818"},
		{int64(-500), "3901f3"},
		{int64(math.MaxInt64), "1b7fffffffffffffff"},
		{int64(math.MinInt64), "3b7fffffffffffffff"},
		{int8(-25), "3818"},
		{uint64(math.MaxUint64), "1bffffffffffffffff"},
		{1.0, "fb3ff0000000000000"},
		{float32(1), "fa3f800000"},
		{math.NaN(), "f97e00"},
		{"", "60"},
		{"ä", "62c3a4"},
		{[]byte{}, "40"},
		{[]byte("a"), "4161"},
		{[]any{int64(1), "a"}, "82016161"},
		{map[string]int64{"a": 1}, "a1616101"},
		{struct{ B, A int64 }{1, 2}, "a2614201614102"},
		{time.Date(2026, 9, 1, 12, 0, 0, 5, time.UTC), "c0781e" + hex.EncodeToString([]byte("2026-09-01T12:00:00.000000005Z"))},
		{&counterv1.GetResponse{Value: 5}, "d99e98827828" + hex.EncodeToString([]byte("holdfast.examples.counter.v1.GetResponse")) + "420805"},
		{&counterv1.GetResponse{}, "d99e98827828" + hex.EncodeToString([]byte("holdfast.examples.counter.v1.GetResponse")) + "40"},
	} {
		if got := hex.EncodeToString(encode(t, tc.v)); got != tc.want {
			t.Errorf("%T %v: got %s, want %s", tc.v, tc.v, got, tc.want)
		}
	}
}

func TestTagsNeverChange(t *testing.T) {
	t.Parallel()
	for want, tag := range map[int]int{
		40600: value.TagProto, 40602: value.TagDate, 40603: value.TagRegExp, 40604: value.TagMap, 40605: value.TagSet,
		40606: value.TagError, 40607: value.TagView, 40608: value.TagSparse, 40610: value.TagArrayBuffer,
		40611: value.TagDataView, 40612: value.TagBoxed, 40613: value.TagReplaced,
	} {
		if tag != want {
			t.Errorf("a tag is %d and was %d", tag, want)
		}
	}
}

// through encodes v and decodes it into another T.
func through[T any](t *testing.T, v T) {
	t.Helper()
	var got T
	if err := value.Decode(encode(t, v), &got); err != nil {
		t.Errorf("%T %v: %v", v, v, err)
		return
	}
	if diff := cmp.Diff(v, got, cmpopts.EquateNaNs(), protocmp.Transform(), cmp.Comparer(func(a, b *big.Int) bool { return a.Cmp(b) == 0 })); diff != "" {
		t.Errorf("%T (-want +got):\n%s", v, diff)
	}
}

type level int

type record struct {
	Name    string
	Level   level
	Tags    []string
	Raw     []byte
	Counts  map[int]uint8
	Inner   *record
	Skipped string `cbor:"-"`
	Short   string `cbor:"s,omitempty"`
}

func TestValuesComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	through(t, true)
	through(t, 42)
	through(t, level(-3))
	through(t, uint64(math.MaxUint64))
	through(t, 0.1)
	through(t, math.Inf(-1))
	through(t, math.NaN())
	through(t, math.Copysign(0, -1))
	through(t, float32(0.1))
	through(t, "")
	through(t, "a\x00ä\U0001f600")
	through(t, []byte{0, 1, 255})
	through(t, []int{})
	through(t, [3]string{"a", "b", "c"})
	through(t, map[string]any{"a": "b", "list": []any{true, nil, "x"}})
	through(t, map[int]string{1: "a", -1: "b"})
	through(t, record{Name: "n", Level: 2, Tags: []string{"x"}, Raw: []byte{1}, Counts: map[int]uint8{7: 8}, Inner: &record{Name: "i"}})
	through(t, new("pointed at"))
	through(t, new(big.Int).Lsh(big.NewInt(-5), 100))
	through(t, time.Date(1, 2, 3, 4, 5, 6, 7, time.UTC))
	through(t, time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.FixedZone("", -3600)))
	through(t, strings.Repeat("x", 2<<20))
	through(t, any(nil))
	through(t, any(map[string]any{"a": []any{"b", []byte{1}, 1.5, true}}))
}

func TestIntegersTakeEveryForm(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		encoded string
		want    int64
	}{
		{"00", 0},
		{"1800", 0}, // Not the shortest form, but an item.
		{"1b0000000000000005", 5},
		{"38ff", -256},
		{"c24105", 5}, // bignums
		{"c34104", -5},
	} {
		raw, err := hex.DecodeString(tc.encoded)
		if err != nil {
			t.Fatal(err)
		}
		var got int64
		if err := value.Decode(raw, &got); err != nil || got != tc.want {
			t.Errorf("%s: got %d, %v, want %d", tc.encoded, got, err, tc.want)
		}
	}
	for _, encoded := range []string{
		"", "18", "1c", "1f", "0000", "190001ff", "1b8000000000000000", "3b8000000000000000", "3bffffffffffffffff",
		"fb3ff8000000000000", "fb4008000000000000", "6131", "4131", "c249010000000000000000",
	} {
		raw, err := hex.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		got := int64(77)
		if err := value.Decode(raw, &got); err == nil || got != 77 {
			t.Errorf("%s: got %d, %v", encoded, got, err)
		}
	}
	var small int8
	if err := value.Decode(encode(t, int64(300)), &small); err == nil {
		t.Errorf("300 as an int8: got %d", small)
	}
}

func TestProtobufMessagesComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	nested, err := structpb.NewStruct(map[string]any{"a": []any{1.5, nil, map[string]any{"b": "c"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []proto.Message{
		&counterv1.GetResponse{Value: -1},
		&counterv1.GetResponse{},
		&holdfastv1.CallRequest{Class: "C", Object: &holdfastv1.CallRequest_Name{Name: ""}, Method: "M", Json: "{}"},
		nested,
	} {
		got := want.ProtoReflect().New().Interface()
		if err := value.Decode(encode(t, want), got); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	through(t, &counterv1.GetResponse{Value: 9})
}

// Fields that the message has and the stored one lacks must not keep what was there before.
func TestAProtobufMessageIsReplacedAndNotMerged(t *testing.T) {
	t.Parallel()
	got := &holdfastv1.CallRequest{Method: "left over"}
	if err := value.Decode(encode(t, &holdfastv1.CallRequest{Class: "C"}), got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&holdfastv1.CallRequest{Class: "C"}, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAProtobufMessageOfAnotherTypeIsRefused(t *testing.T) {
	t.Parallel()
	stored := encode(t, &counterv1.GetResponse{Value: 5})
	err := value.Decode(stored, new(counterv1.IncrementResponse))
	if !errors.Is(err, value.ErrWrongMessage) || !strings.Contains(err.Error(), "v1.GetResponse") || !strings.Contains(err.Error(), "v1.IncrementResponse") {
		t.Errorf("got %v", err)
	}
	var pointer *counterv1.IncrementResponse
	if err := value.Decode(stored, &pointer); !errors.Is(err, value.ErrWrongMessage) {
		t.Errorf("by pointer: got %v", err)
	}
	date := encode(t, cbor.Tag{Number: value.TagDate, Content: 5})
	if err := value.Decode(date, new(counterv1.GetResponse)); !errors.Is(err, value.ErrWrongMessage) {
		t.Errorf("another tag: got %v", err)
	}
	for _, v := range []any{
		int64(1), "text",
		[]any{"holdfast.examples.counter.v1.GetResponse", []byte{8, 5}},
		cbor.Tag{Number: value.TagProto, Content: 5},
		cbor.Tag{Number: value.TagProto, Content: []any{}},
		cbor.Tag{Number: value.TagProto, Content: []any{"holdfast.examples.counter.v1.GetResponse", "text"}},
		cbor.Tag{Number: value.TagProto, Content: []any{"holdfast.examples.counter.v1.GetResponse", []byte{0xff}}},
	} {
		if err := value.Decode(encode(t, v), new(counterv1.GetResponse)); err == nil {
			t.Errorf("%v was taken for a message", v)
		}
	}
}

// Browsers of stored data do not have the class's types.
func TestAnythingCanBeReadWithoutItsType(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ v, want any }{
		{int64(5), uint64(5)},
		{int64(-5), int64(-5)},
		{[]byte("a"), []byte("a")},
		{struct{ A string }{"x"}, map[string]any{"A": "x"}},
		{&counterv1.GetResponse{Value: 5}, cbor.Tag{Number: value.TagProto, Content: []any{"holdfast.examples.counter.v1.GetResponse", []byte{8, 5}}}},
		{cbor.Tag{Number: value.TagDate, Content: 1.5}, cbor.Tag{Number: value.TagDate, Content: 1.5}},
	} {
		var got any
		if err := value.Decode(encode(t, tc.v), &got); err != nil {
			t.Errorf("%v: %v", tc.v, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tc.v, diff)
		}
	}
}

func TestDecodeRefusesWhatIsNotOneCBORItem(t *testing.T) {
	t.Parallel()
	for _, raw := range [][]byte{
		nil,
		{},
		{0xff},
		{0x1c},
		{0x61},
		{0x42, 0x00},
		{0x61, 0xff},
		{0x81},
		{0xa1, 0x01},
		{0x01, 0x02},
		{0xf6, 0xf6},
		{0xf8, 0x10},
		[]byte(`{"json": true}`),
		{0xd9, 0x9e, 0x98},
		encode(t, "whole")[:3],
		append(encode(t, &counterv1.GetResponse{Value: 5}), 0),
	} {
		into := map[string]any{"any": new(any), "int64": new(int64), "string": new(string), "message": new(counterv1.GetResponse), "pointer": new(*counterv1.GetResponse), "map": new(map[string]any)}
		for name, target := range into {
			if err := value.Decode(raw, target); err == nil {
				t.Errorf("%x into %s: no error", raw, name)
			}
		}
	}
}

func TestDecodeNeedsSomewhereToDecodeTo(t *testing.T) {
	t.Parallel()
	for _, into := range []any{nil, 5, "x", record{}, (*int)(nil), (*record)(nil)} {
		if err := value.Decode([]byte{0x01}, into); err == nil {
			t.Errorf("%T: no error", into)
		}
	}
}

func nest(depth int) []byte { return append(bytes.Repeat([]byte{0x81}, depth), 0x01) }

// A few bytes must not cost memory or stack beyond what they are.
func TestDecodeHasLimits(t *testing.T) {
	t.Parallel()
	var got any
	if err := value.Decode(nest(value.DepthMax), &got); err != nil {
		t.Errorf("as deep as may be: %v", err)
	}
	for name, raw := range map[string][]byte{
		"a level more":    nest(value.DepthMax + 1),
		"a million":       nest(1 << 20),
		"a vast array":    {0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"a large array":   {0x9a, 0x00, 0xff, 0xff, 0xff, 0x01},
		"a vast map":      {0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"a vast string":   {0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"vast bytes":      {0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"an endless list": bytes.Repeat([]byte{0x9f}, 1000),
	} {
		if err := value.Decode(raw, &got); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestEncodeRefusesWhatCBORCannotSay(t *testing.T) {
	t.Parallel()
	for _, v := range []any{
		make(chan int), func() {}, complex(1, 1),
		struct{ C chan int }{},
		time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
		&holdfastv1.CallRequest{Class: "\xff"},
	} {
		if b, err := value.Encode(v); err == nil || !strings.HasPrefix(err.Error(), "encode value: ") {
			t.Errorf("%T: got %x, %v", v, b, err)
		}
	}
}

func TestDiagnoseShowsValuesToPeople(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		raw  []byte
		want string
	}{
		{encode(t, int64(-5)), "-5"},
		{encode(t, map[string]any{"a": []any{"b", []byte{1}, nil}}), `{"a": ["b", h'01', null]}`},
		{encode(t, &counterv1.GetResponse{Value: 5}), `40600(["holdfast.examples.counter.v1.GetResponse", h'0805'])`},
		{[]byte{0x61}, "not CBOR: h'61'"},
		{[]byte{0x01, 0x02}, "not CBOR: h'0102'"},
		{nil, "not CBOR: h''"},
	} {
		if got := value.Diagnose(tc.raw); got != tc.want {
			t.Errorf("%x: got %s, want %s", tc.raw, got, tc.want)
		}
	}
}

// reference is the library alone, without the path that integers have of their own.
func reference(t *testing.T) cbor.DecMode {
	t.Helper()
	mode, err := cbor.DecOptions{MaxNestedLevels: 256, MaxArrayElements: 1 << 24, MaxMapPairs: 1 << 24}.DecMode()
	if err != nil {
		t.Fatal(err)
	}
	return mode
}

func FuzzDecode(f *testing.F) {
	for _, v := range []any{
		nil, true, int64(-500), uint64(math.MaxUint64), 1.5, "text", []byte("bytes"),
		[]any{int64(1), "a"},
		map[string]any{"a": map[string]any{}},
		time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC), &counterv1.GetResponse{Value: 5},
		cbor.Tag{Number: value.TagMap, Content: []any{}},
		record{Name: "n", Inner: &record{}},
		new(big.Int).Lsh(big.NewInt(1), 70),
	} {
		b, err := value.Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append(b, 0))
	}
	f.Add(nest(40))
	f.Add([]byte{0x9f, 0x01, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		given := bytes.Clone(b)
		var number, want int64
		err := value.Decode(b, &number)
		if wantErr := reference(t).Unmarshal(b, &want); (err == nil) != (wantErr == nil) || number != want {
			t.Errorf("as an integer: got %d, %v, want %d, %v", number, err, want, wantErr)
		}
		for _, into := range []any{new(string), new([]byte), new(record), new(map[string]any), new([]int), new(time.Time), new(*counterv1.GetResponse), new(*holdfastv1.CallRequest)} {
			if err := value.Decode(b, into); err != nil && err.Error() == "" {
				t.Errorf("%T: an error without words", into)
			}
		}
		message := new(counterv1.GetResponse)
		if value.Decode(b, message) == nil {
			again := new(counterv1.GetResponse)
			raw, err := value.Encode(message)
			if err != nil {
				t.Fatal(err)
			}
			if err := value.Decode(raw, again); err != nil || !proto.Equal(message, again) {
				t.Errorf("message: got %v, %v, want %v", again, err, message)
			}
		}
		var v any
		if value.Decode(b, &v) == nil {
			if raw, err := value.Encode(v); err == nil {
				var again any
				if err := value.Decode(raw, &again); err != nil {
					t.Errorf("what was decoded from %x can't be read again from %x: %v", b, raw, err)
				}
			}
			if strings.HasPrefix(value.Diagnose(b), "not CBOR") && len(b) < 32 {
				t.Errorf("%x: decoded to %v, but diagnosed as %s", b, v, value.Diagnose(b))
			}
		}
		_ = value.Diagnose(b)
		if !bytes.Equal(b, given) {
			t.Error("the input was changed")
		}
	})
}

func FuzzIntegersAreCBORIntegers(f *testing.F) {
	for _, n := range []int64{0, 23, 24, 255, 256, 65535, 65536, 1<<32 - 1, 1 << 32, math.MaxInt64, -1, -24, -25, -256, -257, math.MinInt64} {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, n int64) {
		want, err := cbor.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := value.Encode(n)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d: got %x, %v, want %x", n, got, err, want)
		}
		var back int64
		if err := value.Decode(got, &back); err != nil || back != n {
			t.Errorf("%d: came back as %d, %v", n, back, err)
		}
		if shown := value.Diagnose(got); shown != fmt.Sprint(n) {
			t.Errorf("%d: shown as %s", n, shown)
		}
	})
}
