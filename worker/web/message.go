package web

import (
	"encoding/json"
	"fmt"
	"io"
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

// wireHead is a Head as fetch.js reads and writes it. Values of headers are strings whose characters are bytes.
type wireHead struct {
	Method     string   `json:"method,omitempty"`
	URL        string   `json:"url,omitempty"`
	Redirect   string   `json:"redirect,omitempty"`
	Status     int      `json:"status,omitempty"`
	StatusText string   `json:"statusText,omitempty"`
	Redirected bool     `json:"redirected,omitempty"`
	EncodeBody string   `json:"encodeBody,omitempty"`
	Headers    []string `json:"headers"`
	Length     *int64   `json:"length,omitempty"`
}

func (h *Head) marshal() (string, error) {
	w := wireHead{
		Method: h.Method, URL: h.URL, Redirect: h.Redirect, Status: h.Status, StatusText: fromLatin1([]byte(h.StatusText)),
		Redirected: h.Redirected, EncodeBody: h.EncodeBody, Headers: make([]string, len(h.Header)),
	}
	for i, s := range h.Header {
		w.Headers[i] = fromLatin1([]byte(s))
	}
	if h.Length >= 0 {
		w.Length = &h.Length
	}
	text, err := json.Marshal(w)
	return string(text), err
}

func unmarshalHead(text string) (*Head, error) {
	var w wireHead
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return nil, fmt.Errorf("head of a message: %w", err)
	}
	h := &Head{
		Method: w.Method, URL: w.URL, Redirect: w.Redirect, Status: w.Status, Redirected: w.Redirected, EncodeBody: w.EncodeBody,
		Header: make([]string, len(w.Headers)), Length: -1,
	}
	for i, s := range append(w.Headers, w.StatusText) {
		b, ok := latin1(s)
		if !ok {
			return nil, fmt.Errorf("head of a message: %q is no string of bytes", s)
		}
		if i < len(h.Header) {
			h.Header[i] = string(b)
		} else {
			h.StatusText = string(b)
		}
	}
	if w.Length != nil {
		h.Length = *w.Length
	}
	return h, nil
}
