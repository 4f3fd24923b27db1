package value_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-io/holdfast/storage/value"
)

func TestFromJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ json, diagnostic, back string }{
		{`null`, `null`, `null`},
		{` [true, false] `, `[true, false]`, `[true,false]`},
		{`{"b":1,"a":{"c":[]}}`, `{"b": 1, "a": {"c": []}}`, `{"b":1,"a":{"c":[]}}`},
		{`"é\n"`, `"\u00e9\n"`, `"é\n"`},
		{`1e3`, `1000`, `1000`},
		{`-1`, `-1`, `-1`},
		{`1.5`, `1.5_3`, `1.5`},
		{`-0`, `-0.0_3`, `-0`},
		{`9007199254740991`, `9007199254740991`, `9007199254740991`},
		{`9007199254740993`, `9007199254740992.0_3`, `9007199254740992`},
		{`1e999`, `Infinity`, `null`},
	} {
		item, err := value.FromJSON([]byte(c.json))
		if err != nil {
			t.Errorf("%s: %v", c.json, err)
			continue
		}
		if got := diagnose(t, item); got != c.diagnostic {
			t.Errorf("%s is %s, want %s", c.json, got, c.diagnostic)
		}
		if back, err := value.ToJSON(item); err != nil || string(back) != c.back {
			t.Errorf("%s back is %s, %v", c.json, back, err)
		}
	}
	for _, bad := range []string{``, `{`, `[1,`, `1 2`, `{"a"}`, `nul`, `{"a":1]`, strings.Repeat("[", value.DepthMax+2) + strings.Repeat("]", value.DepthMax+2)} {
		if item, err := value.FromJSON([]byte(bad)); err == nil {
			t.Errorf("%.40s was taken as %x", bad, item)
		}
	}
}

// diagnose shows how wide floats are.
func diagnose(t *testing.T, item []byte) string {
	t.Helper()
	mode, err := cbor.DiagOptions{FloatPrecisionIndicator: true}.DiagMode()
	if err != nil {
		t.Fatal(err)
	}
	text, err := mode.Diagnose(item)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestToJSON(t *testing.T) {
	t.Parallel()
	large, _ := new(big.Int).SetString("-18446744073709551617", 10)
	for _, c := range []struct {
		v    any
		want string
	}{
		{[]byte{1, 2, 3}, `"AQID"`},
		{uint64(math.MaxUint64), `18446744073709551615`},
		{int64(math.MinInt64), `-9223372036854775808`},
		{large, `-18446744073709551617`},
		{math.NaN(), `null`},
		{math.Inf(-1), `null`},
		{float32(0.5), `0.5`},
		{map[int]string{-1: "x"}, `{"-1":"x"}`},
		{cbor.Tag{Number: value.TagDate, Content: 5}, `5`},
		{wrapperspb.String("x"), `["google.protobuf.StringValue","CgF4"]`},
		{"<>", `"\u003c\u003e"`},
	} {
		item, err := value.Encode(c.v)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := value.ToJSON(item); err != nil || string(got) != c.want {
			t.Errorf("%v is %s, %v; want %s", c.v, got, err, c.want)
		}
	}
	for in, want := range map[string]string{
		"f93c00":                 `1`,
		"f90001":                 `5.960464477539063e-8`,
		"f9fc00":                 `null`,
		"9f01ff":                 `[1]`,
		"bf6161f7ff":             `{"a":null}`,
		"7f61616162ff":           `"ab"`,
		"5f41014102ff":           `"AQI="`,
		"c249010000000000000000": `18446744073709551616`,
		"82f701":                 `[null,1]`,
		"d9011143eda080":         `"\ufffd\ufffd\ufffd"`,
		// References: to what was before, to what is around them, to nothing, in what is referred to.
		"82d81ca1616101d81d00":       `[{"a":1},{"a":1}]`,
		"d81c8101":                   `[1]`,
		"d81c81d81d00":               `[null]`,
		"83d81c81d81c80d81d01d81d00": `[[[]],[],[[]]]`,
		"82d81c81d81d00d81d00":       `[[null],[null]]`,
		"81d81d05":                   `[null]`,
		"81d81d40":                   `[null]`,
	} {
		item, _ := hex.DecodeString(in)
		if got, err := value.ToJSON(item); err != nil || string(got) != want {
			t.Errorf("%s is %s, %v; want %s", in, got, err, want)
		}
	}
	// A few bytes may refer to more than there is memory for.
	bomb := []byte{0x98, 100, 0xd8, 0x1c, 0x80}
	for i := range byte(99) {
		bomb = append(bomb, 0xd8, 0x1c, 0x82, 0xd8, 0x1d, 0x18, i, 0xd8, 0x1d, 0x18, i)
	}
	if got, err := value.ToJSON(bomb); err != nil || len(got) > 64<<20 {
		t.Errorf("a bomb becomes %d bytes, %v", len(got), err)
	}
	for _, in := range []string{"d99ea500", "81d99ea5816161", "a16161d99ea58100"} { // what stands for a function
		item, _ := hex.DecodeString(in)
		if got, err := value.ToJSON(item); err == nil {
			t.Errorf("%s is %s", in, got)
		}
	}
	if _, err := value.ToJSON([]byte{0x82, 1}); err == nil {
		t.Error("what is cut off was taken")
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{``: `[]`, ` `: `[]`, `[]`: `[]`, `[1,[2]]`: `[1, [2]]`, `{"a":1}`: `[{"a": 1}]`, `null`: `[null]`} {
		args, err := value.ArgumentsFromJSON([]byte(in))
		if err != nil || value.Diagnose(args) != want {
			t.Errorf("%q: %s, %v", in, value.Diagnose(args), err)
		}
	}
	args, err := value.EncodeArguments(int64(1), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	items, err := value.SplitArguments(args)
	if err != nil || len(items) != 3 || value.Diagnose(items[1]) != `"x"` {
		t.Errorf("%x, %v", items, err)
	}
	for _, bad := range [][]byte{nil, {0x01}, {0x82, 0x01}, {0x80, 0x80}} {
		if items, err := value.SplitArguments(bad); err == nil {
			t.Errorf("%x was taken as %x", bad, items)
		}
	}
}

// What is well-formed has JSON, and that, taken back, has the same again.
func FuzzToJSON(f *testing.F) {
	for _, seed := range []string{"f6", "83010203", "a16161f5", "d99e9900", "c24101", "5f4101ff", "bf61610000ff", "fb7ff0000000000000"} {
		item, _ := hex.DecodeString(seed)
		f.Add(item)
	}
	f.Fuzz(func(t *testing.T, item []byte) {
		text, err := value.ToJSON(item)
		if err != nil {
			return
		}
		if !json.Valid(text) {
			t.Fatalf("%x: no JSON: %s", item, text)
		}
		back, err := value.FromJSON(text)
		if err != nil {
			t.Fatalf("%x: %v", item, err)
		}
		once, err := value.ToJSON(back)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := value.FromJSON(once); err != nil || !bytes.Equal(again, back) {
			t.Fatalf("%x: %x, then %x, %v", item, back, again, err)
		}
	})
}
