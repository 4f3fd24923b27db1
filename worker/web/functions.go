package web

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"time"
)

// Random bytes that JavaScript may ask for at a time: a longer key or array is none.
const randomBytesMax = 1 << 20

// args are the arguments of a host function: each is a string, a number (float64), a bool, bytes, or nil. Only the
// JavaScript of the platform calls these functions; but workers can change what it leans on, String.prototype say, so
// what does not fit is an error of the call: a badArgument, in a panic.
type args []any

type badArgument string

func arg[T any](a args, i int) T {
	if i >= len(a) || a[i] == nil {
		var zero T
		return zero
	}
	v, ok := a[i].(T)
	if !ok {
		panic(badArgument(fmt.Sprintf("argument %d of a host function is a %T", i, a[i])))
	}
	return v
}

func (a args) str(i int) string   { return arg[string](a, i) }
func (a args) bytes(i int) []byte { return arg[[]byte](a, i) }
func (a args) int(i int) int64    { return int64(arg[float64](a, i)) }
func (a args) bool(i int) bool    { return arg[bool](a, i) }

// content is an argument that is bytes or their text.
func (a args) content(i int) []byte {
	if i < len(a) {
		if text, ok := a[i].(string); ok {
			return []byte(text)
		}
	}
	return a.bytes(i)
}

// orNull is what url.js and encoding.js expect of a function that says with null that something is not valid.
func orNull(s string, ok bool) any {
	if !ok {
		return nil
	}
	return s
}

// hostFunctions are what JavaScript calls as host.NAME. A result is nil, a string, a number, a bool, bytes, or a
// list of these.
var hostFunctions = map[string]func(*Platform, args) (any, error){
	"abortFetch": func(p *Platform, a args) (any, error) {
		p.fetches.end(a.int(0), errAborted)
		return nil, nil
	},
	"atob":       func(_ *Platform, a args) (any, error) { return orNull(atob(a.str(0))), nil },
	"btoa":       func(_ *Platform, a args) (any, error) { return orNull(btoa(a.str(0))), nil },
	"cancelRead": func(p *Platform, a args) (any, error) { p.cancelRead(a.int(0)); return nil, nil },
	"closeWrite": func(p *Platform, a args) (any, error) {
		if len(a) > 1 && a[1] != nil {
			p.closeWrite(a.int(0), errors.New(a.str(1)))
		} else {
			p.closeWrite(a.int(0), nil)
		}
		return nil, nil
	},
	"code": func(p *Platform, a args) (any, error) {
		out, err := p.coders.code(a.int(0), a.bytes(1), a.bool(2))
		if out == nil {
			return nil, named("TypeError", err)
		}
		return out, named("TypeError", err)
	},
	"decodeText": func(_ *Platform, a args) (any, error) {
		text, left, err := decodeText(a.str(0), a.bytes(1), a.bool(2), a.bool(3))
		return []any{text, left}, named("TypeError", err)
	},
	"encodeUTF8": func(_ *Platform, a args) (any, error) { return []byte(a.str(0)), nil },
	"encodingOf": func(_ *Platform, a args) (any, error) { return encodingOf(a.str(0)), nil },
	"equalBytes": func(_ *Platform, a args) (any, error) {
		return subtle.ConstantTimeCompare(a.bytes(0), a.bytes(1)) == 1, nil
	},
	"fetch": func(p *Platform, a args) (any, error) {
		return p.fetch(a.int(0), a.str(1), a.content(2), a.int(3), a.bool(4))
	},
	"freeCoder": func(p *Platform, a args) (any, error) { p.coders.free(a.int(0)); return nil, nil },
	"log":       func(p *Platform, a args) (any, error) { p.host.Log(Level(a.int(0)), a.str(1)); return nil, nil },
	"newCoder": func(p *Platform, a args) (any, error) {
		return p.coders.add(a.str(0), a.bool(1))
	},
	"now": func(p *Platform, _ args) (any, error) { return float64(p.host.Now().UnixMilli()), nil },
	"parseURL": func(_ *Platform, a args) (any, error) {
		url, base := a.str(0), a.str(1)
		if base == "" {
			if hostEnd, pathStart, queryStart, ok := plainURL(url); ok {
				return hostEnd | pathStart<<10 | queryStart<<20, nil
			}
		}
		return orNull(parseURL(url, base)), nil
	},
	"parseMultipart": func(_ *Platform, a args) (any, error) {
		index, contents, err := parseMultipart(a.bytes(0), a.str(1))
		return []any{index, contents}, named("TypeError", err)
	},
	"percentDecode": func(_ *Platform, a args) (any, error) { return percentDecode(a.str(0)), nil },
	"random": func(p *Platform, a args) (any, error) {
		n := a.int(0)
		if n < 0 || n > randomBytesMax {
			return nil, named("QuotaExceededError", fmt.Errorf("%d random bytes are more than %d", n, randomBytesMax))
		}
		b := make([]byte, n)
		p.host.Random(b)
		return b, nil
	},
	"randomUUID": func(p *Platform, _ args) (any, error) {
		var b [16]byte
		p.host.Random(b[:])
		b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // version 4, variant 1
		return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
	},
	"read":    func(p *Platform, a args) (any, error) { return nil, p.read(a.int(0), a.int(1)) },
	"readAll": func(p *Platform, a args) (any, error) { return nil, p.readAll(a.int(0), a.int(1)) },
	"setURL":  func(_ *Platform, a args) (any, error) { return setURL(a.str(0), a.str(1), a.str(2)), nil },
	"startTimer": func(p *Platform, a args) (any, error) {
		return nil, p.host.StartTimer(a.int(0), time.Duration(a.int(1))*time.Millisecond)
	},
	"stopTimer": func(p *Platform, a args) (any, error) { p.host.StopTimer(a.int(0)); return nil, nil },
	"subtle": func(p *Platform, a args) (any, error) {
		in := make([][]byte, 0, len(a))
		for i := 2; i < len(a); i++ {
			in = append(in, a.bytes(i))
		}
		out, err := p.crypto.Do(a.str(0), a.str(1), in...)
		list := make([]any, len(out))
		for i, b := range out {
			list[i] = b
		}
		return list, named("OperationError", err)
	},
	"write": func(p *Platform, a args) (any, error) { return nil, p.write(a.int(0), a.bytes(1), a.int(2)) },
}
