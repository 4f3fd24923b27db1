package web

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

// What was parsed once is parsed to the same again, and its record has nine fields.
func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"http://a.example/x?y#z", "HTTP://u:p@[::1]:80/../ü", "data:x y", "file:///C|/x", "//a", "http://1.2", "blob:https://a/"} {
		f.Add(s, "https://b.example/c/d")
	}
	f.Fuzz(func(t *testing.T, input, base string) {
		if !utf8.ValidString(input) || !utf8.ValidString(base) {
			return // JavaScript hands in no others
		}
		record, ok := parseURL(input, base)
		if !ok {
			return
		}
		fields := strings.Split(record, "\n")
		if len(fields) != 9 {
			t.Fatalf("%q has %d fields", record, len(fields))
		}
		for _, component := range []string{"protocol", "username", "host", "port", "pathname", "search", "hash"} {
			if n := strings.Count(setURL(fields[0], component, base), "\n"); n != 8 {
				t.Errorf("%s set to %q: %d fields", component, base, n+1)
			}
		}
	})
}

// A plain URL is what the parser makes of it, and its parts are where plainURL says.
func FuzzPlainURL(f *testing.F) {
	for _, s := range []string{
		"http://a.example/", "https://a.example:8787/x/y.z?q=%41&r=a+b", "http://1.2.3.4:81/?a", "http://1.2.3.04/", "http://1.2.3/", "http://0x7f.1/",
		"http://a.0x7/", "http://a.1/", "http://a./", "http://.a/", "http://a..b/", "http://xn--a/", "http://a-/", "http://a:80/", "https://a:443/",
		"https://a:80/", "http://a:08/", "http://a:65536/", "http://a:/", "http://a", "http://a/.", "http://a/../b", "http://a/.x", "http://a/%2e/",
		"http://a/?", "http://a/?'", "http://a/#", "http://u@a/", "HTTP://a/", "http://A/", "http://256.1.1.1/", "http:///a", "http://-a/", "http://a.-b/",
		"http://a\n/", "http://\u00fc/", "http://a/\u00fc", "http://1.2.3.4./", "http://1.2.3.-4/", "http://a/;x=1,2", "http://a/|", "http://a/^", "http://a/[", "http://a/?[",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		hostEnd, pathStart, queryStart, ok := plainURL(s)
		if !ok {
			return
		}
		begin := strings.Index(s, "//") + 2
		want := strings.Join([]string{
			s, s[:begin-2], "", "", s[begin:hostEnd], strings.TrimPrefix(s[hostEnd:pathStart], ":"), s[pathStart:queryStart], s[queryStart:], "",
		}, "\n")
		if got, ok := parseURL(s, ""); !ok || got != want {
			t.Errorf("%q is %q (%t), not %q", s, got, ok, want)
		}
	})
}

// A text in pieces is the text as a whole.
func FuzzDecodeText(f *testing.F) {
	f.Add([]byte("a\xe2\x82\xac\xf0\x9f\x98\x80\xff\xc3"), 3)
	f.Add([]byte("\x82\xa0\x00\xd8"), 1)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		if cut < 0 || cut > len(in) {
			return
		}
		for _, name := range []string{"utf-8", "utf-16le", "windows-1252", "shift_jis", "gbk", "big5", "euc-kr", "gb18030"} {
			whole, left, err := decodeText(name, in, false, false)
			if err != nil || left != 0 {
				t.Fatalf("%s: %d bytes left, %v", name, left, err)
			}
			first, left, err := decodeText(name, in[:cut], false, true)
			if err != nil || left > cut {
				t.Fatalf("%s: %d of %d bytes left, %v", name, left, cut, err)
			}
			second, _, err := decodeText(name, in[cut-left:], false, false)
			if err != nil || first+second != whole {
				t.Errorf("%s: %q + %q is not %q (%v)", name, first, second, whole, err)
			}
		}
	})
}

func FuzzMultipart(f *testing.F) {
	f.Add([]byte("--x\r\nContent-Disposition: form-data; name=\"a\"; filename=f\r\n\r\n1\r\n--x--\r\n"), "multipart/form-data; boundary=x")
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		index, contents, err := parseMultipart(body, contentType)
		if err != nil {
			return
		}
		var parts []part
		if err := json.Unmarshal([]byte(index), &parts); err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			contents = contents[p.Size:]
		}
		if len(contents) != 0 {
			t.Errorf("%d bytes belong to no part", len(contents))
		}
	})
}

// What is compressed comes back, however it is cut; what is not compressed gives an error or ends.
func FuzzCoder(f *testing.F) {
	f.Add([]byte("holdfast holdfast"), 5)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		if cut < 0 || cut > len(in) {
			return
		}
		for _, format := range []string{"gzip", "deflate", "deflate-raw"} {
			small, err := through(format, false, in[:cut], in[cut:])
			if err != nil {
				t.Fatal(err)
			}
			at := min(cut, len(small))
			back, err := through(format, true, small[:at], small[at:])
			if err != nil || !bytes.Equal(back, in) {
				t.Errorf("%s: %q came back as %q, %v", format, in, back, err)
			}
			_, _ = through(format, true, in[:cut], in[cut:])
		}
	})
}

func through(format string, decompress bool, pieces ...[]byte) ([]byte, error) {
	c, err := newCoder(format, decompress)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var out bytes.Buffer
	for i, in := range pieces {
		if in == nil {
			in = []byte{}
		}
		for {
			b, err := c.code(in, i == len(pieces)-1)
			if err != nil {
				return nil, err
			}
			if b == nil {
				break
			}
			if out.Len()+len(b) > 1<<20 {
				return nil, io.ErrShortBuffer
			}
			out.Write(b)
			in = nil
		}
	}
	return out.Bytes(), nil
}
