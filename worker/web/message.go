package web

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Head is that of a request (Method to Redirect) or of a response (Status to Redirected); URL and Header are of
// both.
type Head struct {
	Method   string
	URL      string
	Redirect string // follow, manual or error

	Status     int
	StatusText string
	Redirected bool
	// EncodeBody is "manual" when the body is already in its Content-Encoding.
	EncodeBody string

	// Header is a flat list of names and values: name, value, name, value… Values are bytes, and a name may come
	// more than once.
	Header []string
	// Length is the length of the body in bytes, or -1 if it is not known.
	Length int64
}

// Body is the body of a message: bytes that are all there, or a stream, or neither. The owner of a stream closes
// it; Close may be called while a Read is under way, and ends it.
type Body struct {
	Bytes  []byte
	Stream io.ReadCloser
}

// headerText is what fetch.js reads headers from: names and values, with line feeds between them. Their characters
// are bytes.
func (h *Head) headerText() (string, error) {
	for _, s := range h.Header {
		if strings.ContainsRune(s, '\n') {
			return "", &jsError{"TypeError", fmt.Errorf("a header has a line feed in it: %q", s)}
		}
	}
	return fromLatin1([]byte(strings.Join(h.Header, "\n"))), nil
}

// The lines of what fetch.js gives for a head: these, and then names and values of headers.
const (
	lineMethod = iota
	lineURL
	lineRedirect
	lineStatus
	lineStatusText
	lineRedirected
	lineEncodeBody
	lineLength
	lineHeaders
)

// linesOf are the lines of a text whose characters are bytes.
func linesOf(text string) (lines []string, ok bool) {
	bytes, ok := latin1(text)
	return strings.Split(string(bytes), "\n"), ok
}

// parseHeaders reads names and values of headers: their characters are bytes.
func parseHeaders(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	lines, ok := linesOf(text)
	if !ok || len(lines)%2 != 0 {
		return nil, fmt.Errorf("%.1000q is no headers of a message", text)
	}
	return lines, nil
}

// parseHead reads what fetch.js gives for a head: its characters are bytes. It is only wrong where a worker has changed what
// fetch.js leans on.
func parseHead(text string) (*Head, error) {
	lines, ok := linesOf(text)
	if !ok || len(lines) < lineHeaders || (len(lines)-lineHeaders)%2 != 0 {
		return nil, fmt.Errorf("%.1000q is no head of a message", text)
	}
	h := &Head{
		Method: lines[lineMethod], URL: lines[lineURL], Redirect: lines[lineRedirect], StatusText: lines[lineStatusText],
		Redirected: lines[lineRedirected] != "", EncodeBody: lines[lineEncodeBody], Header: lines[lineHeaders:], Length: -1,
	}
	var err error
	if s := lines[lineStatus]; s != "" {
		if h.Status, err = strconv.Atoi(s); err != nil {
			return nil, fmt.Errorf("status of a message: %w", err)
		}
	}
	if s := lines[lineLength]; s != "" {
		if h.Length, err = strconv.ParseInt(s, 10, 64); err != nil {
			return nil, fmt.Errorf("length of a message: %w", err)
		}
	}
	return h, nil
}
