package web

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// encodingOf is the name of the encoding that a label of the Encoding standard means, in lower case; "" if it
// means none. The replacement encoding is none, as for TextDecoder.
func encodingOf(label string) string {
	e, err := htmlindex.Get(strings.Trim(label, "\t\n\f\r "))
	if err != nil {
		return ""
	}
	name, err := htmlindex.Name(e)
	if err != nil || name == "replacement" {
		return ""
	}
	return name
}

var errMalformed = errors.New("the encoded data was not valid for its encoding")

// decodeText decodes bytes from an encoding that encodingOf named. A byte order mark stays. What is malformed
// becomes U+FFFD, or errMalformed when fatal. When more is to come, the bytes of a character that is not
// complete at the end are left; their number is returned.
func decodeText(name string, in []byte, fatal, more bool) (text string, left int, err error) {
	if name == "utf-8" && utf8.Valid(in) {
		return string(in), 0, nil
	}
	e, err := decoderOf(name)
	if err != nil {
		return "", 0, err
	}
	d := e.NewDecoder()
	var out strings.Builder
	buf := make([]byte, 4096)
	for src := in; ; {
		n, consumed, err := d.Transform(buf, src, !more)
		out.Write(buf[:n])
		src = src[consumed:]
		switch {
		case errors.Is(err, transform.ErrShortDst):
			continue
		case errors.Is(err, transform.ErrShortSrc):
			left = len(src)
		case err != nil:
			return "", 0, err
		}
		break
	}
	text = out.String()
	if fatal && strings.ContainsRune(text, utf8.RuneError) && hasMalformed(e, name, in[:len(in)-left], text) {
		return "", 0, errMalformed
	}
	return text, left, nil
}

func decoderOf(name string) (encoding.Encoding, error) {
	switch name {
	case "utf-8":
		return unicode.UTF8, nil
	case "utf-16le":
		return unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM), nil
	case "utf-16be":
		return unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM), nil
	default:
		return htmlindex.Get(name)
	}
}

// hasMalformed says whether a U+FFFD in text stands for malformed input. The decoders don't tell, but only a
// Unicode encoding can encode U+FFFD itself.
func hasMalformed(e encoding.Encoding, name string, in []byte, text string) bool {
	if !strings.HasPrefix(name, "utf-") && name != "gb18030" {
		return true
	}
	back, err := e.NewEncoder().String(text)
	return err != nil || back != string(in)
}

// percentDecode decodes %XX, and then UTF-8 with what is malformed as U+FFFD.
func percentDecode(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if hi, lo := unhex(s[i+1]), unhex(s[i+2]); hi >= 0 && lo >= 0 {
				b.WriteByte(byte(hi<<4 | lo))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	text, _, err := decodeText("utf-8", []byte(b.String()), false, false)
	if err != nil {
		return s
	}
	return text
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	default:
		return -1
	}
}

func isASCII[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// latin1 is the bytes of a string whose characters are all below 256.
func latin1(s string) ([]byte, bool) {
	if isASCII(s) {
		return []byte(s), true
	}
	out := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			return nil, false
		}
		out = append(out, byte(r))
	}
	return out, true
}

// fromLatin1 is the string with one character for each byte.
func fromLatin1(b []byte) string {
	if isASCII(b) {
		return string(b)
	}
	var out strings.Builder
	out.Grow(len(b))
	for _, c := range b {
		out.WriteRune(rune(c))
	}
	return out.String()
}

func btoa(s string) (string, bool) {
	b, ok := latin1(s)
	return base64.StdEncoding.EncodeToString(b), ok
}

// atob is the forgiving decoding of the Infra standard.
func atob(s string) (string, bool) {
	s = strings.Map(func(r rune) rune {
		if strings.ContainsRune("\t\n\f\r ", r) {
			return -1
		}
		return r
	}, s)
	if len(s)%4 == 0 {
		s = strings.TrimSuffix(strings.TrimSuffix(s, "="), "=")
	}
	if strings.ContainsAny(s, "=") {
		return "", false
	}
	b, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return "", false
	}
	return fromLatin1(b), true
}
